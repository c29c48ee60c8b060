//! Where requests may go: to the registry, and from there to HTTPS alone, or not away from its host.

use std::fmt;

use ureq::http::Uri;
use ureq::http::uri::Scheme;

/// The longest address that is followed.
const MAX_URL: usize = 8 << 10;

/// Scheme, host and port of a registry.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    is_plain: bool,
    authority: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_plain { "http" } else { "https" }, self.authority)
    }
}

impl Origin {
    pub(crate) fn new(is_plain: bool, authority: &str) -> Self {
        Origin { is_plain, authority: authority.to_owned() }
    }

    /// Whether an address is at the registry itself: then it may see a login.
    pub(crate) fn is_of(&self, url: &Uri) -> bool {
        let own = self.to_string().parse::<Uri>();
        own.is_ok_and(|own| own.scheme() == url.scheme() && host(&own) == host(url) && port(&own) == port(url))
    }

    /// The address that a registry leads to from another.
    ///
    /// # Errors
    /// Why it may not be followed.
    pub(crate) fn target(&self, from: &Uri, location: &str) -> Result<Uri, String> {
        let refused =
            |why: &str| Err(format!("it leads to {:?}, {why}", location.chars().take(200).collect::<String>()));
        if location.len() > MAX_URL {
            return refused("which is too long");
        }
        let whole = match (from.scheme_str(), from.authority()) {
            (Some(scheme), Some(authority)) if location.starts_with('/') && !location.starts_with("//") => {
                format!("{scheme}://{authority}{location}")
            }
            _ => location.to_owned(),
        };
        let Ok(url) = whole.parse::<Uri>() else { return refused("which is no address") };
        let Some(authority) = url.authority().filter(|_| url.scheme().is_some()) else {
            return refused("which is no whole address");
        };
        if authority.as_str().contains('@') {
            return refused("an address with a login in it");
        }
        let is_at_home = self.to_string().parse::<Uri>().is_ok_and(|own| host(&own) == host(&url));
        match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => Ok(url),
            Some(scheme) if *scheme == Scheme::HTTP && self.is_plain && is_at_home => Ok(url),
            _ => refused("which is not HTTPS"),
        }
    }
}

fn host(url: &Uri) -> Option<String> {
    url.host().map(str::to_ascii_lowercase)
}

fn port(url: &Uri) -> Option<u16> {
    let default = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    url.authority().map(|authority| authority.port_u16().unwrap_or(default))
}

/// A text as a part of a query.
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b',' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_see_a_login() {
        let of = |origin: &Origin, url: &str| origin.is_of(&url.parse().unwrap());
        let origin = Origin::new(false, "registry.example");
        assert!(of(&origin, "https://registry.example/v2/"));
        assert!(of(&origin, "https://REGISTRY.example:443/v2/"));
        for other in ["http://registry.example/", "https://registry.example:444/", "https://x.registry.example/"] {
            assert!(!of(&origin, other), "{other}");
        }
        let origin = Origin::new(true, "127.0.0.1:5000");
        assert!(of(&origin, "http://127.0.0.1:5000/"));
        assert!(!of(&origin, "http://127.0.0.1:5001/"));
        assert!(!of(&origin, "https://127.0.0.1:5000/"));
    }

    #[test]
    fn where_a_registry_may_lead() {
        let from = |origin: &Origin| format!("{origin}/v2/a").parse::<Uri>().unwrap();
        let secure = Origin::new(false, "registry.example");
        let to = |location: &str| secure.target(&from(&secure), location).map(|url| url.to_string());
        assert_eq!(to("/x?y=z").unwrap(), "https://registry.example/x?y=z");
        assert_eq!(to("https://cdn.example/x").unwrap(), "https://cdn.example/x");
        for location in [
            "",
            "x",
            "//cdn.example/x",
            "http://registry.example/x",
            "http://cdn.example/x",
            "file:///etc/passwd",
            "ftp://cdn.example/x",
            "https://user:password@cdn.example/x",
            "https:///x",
            "https://cdn.example/a b",
            "https://cdn.example/\r\nx",
        ] {
            assert!(to(location).is_err(), "{location:?}: {:?}", to(location));
        }
        assert!(to(&format!("https://cdn.example/{}", "x".repeat(MAX_URL))).is_err());
        let plain = Origin::new(true, "localhost:5000");
        let to = |location: &str| plain.target(&from(&plain), location).map(|url| url.to_string());
        assert_eq!(to("http://localhost:6000/x").unwrap(), "http://localhost:6000/x");
        assert_eq!(to("https://cdn.example/x").unwrap(), "https://cdn.example/x");
        assert!(to("http://cdn.example/x").unwrap_err().contains("not HTTPS"));
    }

    #[test]
    fn a_query_says_what_it_is_given() {
        assert_eq!(encoded("repository:a/b:pull,push"), "repository:a/b:pull,push");
        assert_eq!(encoded("a b&c=é"), "a%20b%26c%3D%C3%A9");
    }
}
