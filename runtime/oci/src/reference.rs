//! The name of an artifact: `HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]`.

use std::fmt;
use std::str::FromStr;

use overmask::fs::is_sha256;

use crate::OciError;

/// The most bytes that host and repository have together, and a tag.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// How Docker Hub is named; it answers, and keeps logins, under other names.
const DOCKER_HUB: &str = "docker.io";

/// The tag of a reference that has none.
const LATEST: &str = "latest";

/// Names an artifact in a registry, or the repository that it is in.
///
/// As `oras` has it, the registry is always named: there is no default one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Where the registry is: `host` or `host:port`.
    pub host: String,
    /// The repository, as in `tasks/trec`.
    pub repository: String,
    /// The tag, if one was named.
    pub tag: Option<String>,
    /// The SHA-256 of the manifest in lower-case hex, if it was named.
    pub sha256: Option<String>,
}

impl Reference {
    /// What a manifest is asked for by: the digest, else the tag, else `latest`.
    pub fn name(&self) -> String {
        match (&self.sha256, &self.tag) {
            (Some(sha256), _) => format!("sha256:{sha256}"),
            (None, Some(tag)) => tag.clone(),
            (None, None) => LATEST.to_owned(),
        }
    }

    /// Another artifact of the same repository.
    pub fn with_tag(&self, tag: &str) -> Self {
        Reference { tag: Some(tag.to_owned()), sha256: None, ..self.clone() }
    }

    /// Host and repository.
    pub fn place(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// Whether it is in Docker Hub.
    pub(crate) fn is_in_docker_hub(&self) -> bool {
        self.host == DOCKER_HUB
    }

    /// The host without its port.
    pub fn host_name(&self) -> &str {
        match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => &self.host,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.sha256.is_some() { '@' } else { ':' };
        write!(f, "{}{separator}{}", self.place(), self.name())
    }
}

impl FromStr for Reference {
    type Err = OciError;

    fn from_str(text: &str) -> Result<Self, OciError> {
        let wrong = |reason| Err(OciError::Reference { text: text.to_owned(), reason });
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let sha256 = match digest {
            None => None,
            Some(digest) => match digest.strip_prefix("sha256:").filter(|hex| is_sha256(hex)) {
                Some(hex) => Some(hex.to_owned()),
                None => return wrong("what follows `@` is not `sha256:` and 64 lower-case hex digits"),
            },
        };
        let Some((host, path)) = name.split_once('/') else {
            return wrong("it names no repository of a registry");
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if host.contains("://") || text.contains("://") {
            return wrong("it begins with a scheme; leave that out (--plain-http says what is not HTTPS)");
        }
        if !is_host(host) {
            return wrong("it does not begin with the host of a registry");
        }
        if host.len() + repository.len() > MAX_NAME || !repository.split('/').all(is_component) {
            return wrong("a repository is made of lower-case letters, digits, `.`, `_`, `-` and `/`");
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return wrong("a tag is made of letters, digits, `.`, `_` and `-`, at most 128 of them");
        }
        let (host, repository, tag) = (host.to_owned(), repository.to_owned(), tag.map(str::to_owned));
        Ok(Reference { host, repository, tag, sha256 })
    }
}

/// `host` or `host:port`; the host is a name, an IPv4 address, or an IPv6 address in brackets. As elsewhere, what has
/// neither a dot nor a port is no host, but for `localhost`.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port);
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(|label| {
            let is_plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            is_plain && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
        }),
    };
    let is_named = name.contains('.') || name.starts_with('[') || name == "localhost" || port.is_some();
    is_name && is_named && port.is_none_or(is_port)
}

/// A part of a repository's name: lower-case letters and digits, between which there may be `.`, `_`, `__` or dashes.
fn is_component(part: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(is_alphanumeric) && bytes.last().is_some_and(is_alphanumeric);
    let mut separators = bytes.split(is_alphanumeric).filter(|between| !between.is_empty());
    ends && separators.all(|between| matches!(between, b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=MAX_TAG).contains(&tag.len())
        && tag.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
        && tag.bytes().next().is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let digest = "0123456789abcdef".repeat(4);
        for (text, host, repository, name) in [
            ("localhost/trec", "localhost", "trec", "latest"),
            ("localhost:5000/tasks/trec:3", "localhost:5000", "tasks/trec", "3"),
            ("127.0.0.1:5000/a__b/c-d.e:V_1.0-x", "127.0.0.1:5000", "a__b/c-d.e", "V_1.0-x"),
            ("[::1]:5000/trec:3", "[::1]:5000", "trec", "3"),
            ("registry.example/tasks/trec:3", "registry.example", "tasks/trec", "3"),
        ] {
            let reference: Reference = text.parse().unwrap();
            let (tag, shown) = (reference.name(), reference.to_string());
            assert_eq!((&*reference.host, &*reference.repository, &*tag), (host, repository, name), "{text}");
            assert_eq!(shown, format!("{host}/{repository}:{name}"));
            let pinned: Reference = format!("{text}@sha256:{digest}").parse().unwrap();
            assert_eq!(pinned.name(), format!("sha256:{digest}"));
            assert_eq!(pinned.to_string(), format!("{host}/{repository}@sha256:{digest}"));
        }
        assert_eq!("[::1]:5000/a".parse::<Reference>().unwrap().host_name(), "[::1]");
        assert_eq!("[::1]/a".parse::<Reference>().unwrap().host_name(), "[::1]");
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for text in [
            "",
            "trec",
            "tasks/trec:3",
            "https://registry.example/trec",
            "registry.example",
            "registry.example/",
            "registry.example//trec",
            "registry.example/../trec",
            "registry.example/a/./b",
            "registry.example/a?b=c",
            "registry.example/a#b",
            "registry.example/a b",
            "registry.example/a%2fb",
            "registry.example/Trec",
            "registry.example/trec:",
            "registry.example/trec:-x",
            "registry.example/trec:a/b",
            "registry.example:0/trec",
            "registry.example:99999/trec",
            "user@registry.example/trec",
            "registry.example/trec@sha256:abc",
            "registry.example/trec@md5:abc",
            "-registry.example/trec",
            "registry..example/trec",
            "registry.example/trec\r\nHost: x",
            "[::x]/trec",
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert_eq!(error.kind(), overmask::error::ErrorKind::Usage, "{text:?}: {error}");
        }
        assert!(format!("registry.example/{}", "a".repeat(300)).parse::<Reference>().is_err());
        assert!(format!("registry.example/a:{}", "a".repeat(129)).parse::<Reference>().is_err());
    }
}
