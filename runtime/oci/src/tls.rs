//! Whose certificates are believed, and what goes wrong on the way to a registry, in words.

use std::path::Path;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::OciError;

/// The largest file of certificates that is read.
const MAX_FILE: u64 = 16 << 20;

/// Believes the certificates of a file, else those of the system; where it has none, those that browsers believe.
pub(crate) fn config(ca_file: Option<&Path>) -> Result<TlsConfig, OciError> {
    let roots = match ca_file {
        Some(path) => RootCerts::new_with_certs(&read(path)?),
        None => system(),
    };
    Ok(TlsConfig::builder().root_certs(roots).build())
}

fn read(path: &Path) -> Result<Vec<Certificate<'static>>, OciError> {
    let refused = |reason: String| OciError::File { path: path.to_owned(), reason };
    let bytes = overmask::fs::read_at_most(path, MAX_FILE).map_err(OciError::file(path))?;
    let bytes = bytes.ok_or_else(|| refused(format!("it has more than {MAX_FILE} bytes")))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&bytes) {
        match item.map_err(|error| refused(format!("it is no PEM file: {error}")))? {
            PemItem::Certificate(certificate) => certificates.push(certificate),
            _ => log::info!("{} holds something else than certificates, too", path.display()),
        }
    }
    match certificates.is_empty() {
        true => Err(refused("it holds no certificate (PEM)".to_owned())),
        false => Ok(certificates),
    }
}

fn system() -> RootCerts {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        log::info!("certificates of this system: {error}");
    }
    if found.certs.is_empty() {
        log::info!("this system has no certificates (Debian: the package ca-certificates); those of browsers are used");
        return RootCerts::WebPki;
    }
    let certificates = found.certs.iter().map(|der| Certificate::from_der(der).to_owned());
    RootCerts::new_with_certs(&certificates.collect::<Vec<_>>())
}

/// Why nothing came back, and what to do.
pub(crate) fn reason(error: &ureq::Error) -> String {
    // How each library of the chain says it is not part of what it promises: the hints hang on words.
    let said = match error {
        ureq::Error::Io(source) => source.to_string(),
        error => error.to_string(),
    };
    let hint = if said.contains("certificate") {
        "; --ca-file names the certificate of a private CA"
    } else if said.contains("InvalidContentType") || said.contains("InvalidMessage") {
        "; it does not speak TLS: is it the right port? (--plain-http speaks without TLS)"
    } else if matches!(error, ureq::Error::Timeout(_)) {
        "; it says nothing"
    } else {
        ""
    };
    overmask::text::printable(&format!("{said}{hint}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_reason_is_what_the_system_says() {
        let reason = |source: io::Error| reason(&ureq::Error::Io(source));
        assert_eq!(reason(io::Error::other("Connection refused")), "Connection refused");
        assert!(reason(io::Error::other("invalid peer certificate")).contains("--ca-file"));
    }
}
