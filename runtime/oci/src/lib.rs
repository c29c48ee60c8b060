//! Packs and bases as artifacts of OCI registries, which fleets run anyway: [`push()`] brings them, [`flash`] pulls them
//! into a [store](overmask::store).
//!
//! An artifact is an image manifest of OCI's image specification 1.1 with an `artifactType`, an empty config and one layer
//! a file, titled with the file's name, so that `oras`, `skopeo`, podman and registries' own tools list, copy and pull it.
//! A base lies beside its packs, in the same repository, under the tag [`base_tag`].
//!
//! Layers are named by SHA-256, as a store names what arrives: so what breaks off goes on where it stopped, and
//! what the store has is not pulled. A title is nothing but a name to show.

mod answer;
pub mod artifact;
mod client;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod login;
mod pull;
mod push;
mod reference;
mod target;
#[cfg(test)]
mod tests;
mod tls;

pub use artifact::base_tag;
pub use client::{Access, Options, Registry};
pub use error::OciError;
pub use pull::{Flash, flash};
pub use push::{Push, Pushed, push};
pub use reference::Reference;
pub use ureq::Proxy;
