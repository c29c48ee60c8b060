//! Any bytes, as what a registry says or a file of logins holds: for the fuzz target `oci`, and no part of the interface.

use std::path::Path;

use ureq::http::Uri;

use crate::artifact::Manifest;
use crate::login::{self, Challenge};
use crate::target::Origin;
use crate::{Reference, answer};

/// A manifest, written again, and the digests that it names.
pub fn manifest(bytes: &[u8]) -> Option<(Vec<u8>, Vec<String>)> {
    let manifest = Manifest::parse("x", bytes).ok()?;
    let digests = manifest.layers.iter().map(|layer| layer.sha256().to_owned()).collect();
    Some((manifest.to_bytes().ok()?, digests))
}

/// The token that an answer gives.
pub fn token(bytes: &[u8]) -> Option<String> {
    answer::token(bytes).ok()
}

/// What is told of an answer that is no yes.
pub fn told(bytes: &[u8]) -> String {
    answer::told(bytes)
}

/// What a request says to log in, by a file of logins.
pub fn login(bytes: &[u8], reference: &Reference) -> Option<String> {
    Some(login::find_in(Path::new("x"), bytes, reference).ok()??.authorization())
}

/// What a header asks for: nothing or a password, or a token, from that address.
pub fn challenge(header: &str) -> Option<String> {
    match Challenge::of([header].into_iter())? {
        Challenge::Basic => None,
        Challenge::Bearer { realm, .. } => Some(realm),
    }
}

/// Where a location leads from a registry at this host.
pub fn target(is_plain: bool, host: &str, location: &str) -> Option<Uri> {
    let origin = Origin::new(is_plain, host);
    let from = format!("{origin}/v2/a").parse().ok()?;
    origin.target(&from, location).ok()
}
