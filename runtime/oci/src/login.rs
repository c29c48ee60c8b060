//! Logins: what `docker login`, `podman login` and `oras login` leave in their files, and what a registry asks for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_auth::ChallengeParser;
use serde::Deserialize;

use crate::{OciError, Reference};

/// The largest file of logins that is read.
const MAX_FILE: u64 = 1 << 20;

/// The name that Docker Hub has in these files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    user: String,
    password: String,
}

/// Tells no password.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({:?})", self.user)
    }
}

impl Login {
    /// What a request says to log in.
    pub(crate) fn authorization(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }

    /// The value of `auth`.
    fn decode(auth: &str) -> Option<Login> {
        let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
        // Docker pads what it writes with zeros.
        let (user, password) = text.trim_end_matches('\0').split_once(':')?;
        Some(Login { user: user.to_owned(), password: password.to_owned() })
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    identitytoken: String,
}

/// The login for a repository: that of the first file that has one, in which the longest name counts.
///
/// # Errors
/// When a file cannot be read, or holds a login in a way that cannot be used here.
pub(crate) fn find(files: &[PathBuf], reference: &Reference) -> Result<Option<Login>, OciError> {
    for path in files {
        let refused = |reason: String| OciError::File { path: path.to_owned(), reason };
        let bytes = match overmask::fs::read_at_most(path, MAX_FILE) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(refused(format!("it has more than {MAX_FILE} bytes"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(refused(error.to_string())),
        };
        if let Some(login) = find_in(path, &bytes, reference)? {
            return Ok(Some(login));
        }
    }
    Ok(None)
}

/// The login for a repository in the bytes of a file; its path is for messages.
///
/// # Errors
/// As [`find`].
pub(crate) fn find_in(path: &Path, bytes: &[u8], reference: &Reference) -> Result<Option<Login>, OciError> {
    let file: File = serde_json::from_slice(bytes)
        .map_err(|error| OciError::File { path: path.to_owned(), reason: error.to_string() })?;
    file.login(path, &names(reference), &reference.host)
}

/// What an entry for a repository may be called: from the repository itself to its host.
fn names(reference: &Reference) -> Vec<String> {
    let place = reference.place();
    let cuts = place.char_indices().filter(|(_, c)| *c == '/').map(|(i, _)| i);
    let mut names: Vec<String> = cuts.chain([place.len()]).rev().map(|end| place[..end].to_owned()).collect();
    names.extend(["https://", "http://"].map(|scheme| format!("{scheme}{}", reference.host)));
    if reference.is_in_docker_hub() {
        names.push(DOCKER_HUB.to_owned());
    }
    names
}

impl File {
    fn login(&self, path: &Path, names: &[String], host: &str) -> Result<Option<Login>, OciError> {
        let elsewhere = |reason: String| OciError::Login { registry: host.to_owned(), reason };
        let shown = path.display();
        let cure = "this program runs no helpers; put a plain login into a file with \
                    `podman login --authfile FILE` and name it in REGISTRY_AUTH_FILE";
        let helper = names.iter().find_map(|name| self.cred_helpers.get(name));
        if let Some(helper) = helper {
            return Err(elsewhere(format!("{shown} leaves it to the helper `{helper}`, but {cure}")));
        }
        let is_same = |name: &str, key: &str| key.trim_end_matches('/') == name.trim_end_matches('/');
        let found = names.iter().find_map(|name| self.auths.iter().find(|(key, _)| is_same(name, key)));
        let Some((_, entry)) = found else { return Ok(None) };
        if !entry.auth.is_empty() {
            let wrong = || elsewhere(format!("`auth` in {shown} is not base64 of `user:password`; log in again"));
            return Login::decode(&entry.auth).map(Some).ok_or_else(wrong);
        }
        if !self.creds_store.is_empty() {
            return Err(elsewhere(format!("{shown} leaves it to the helper `{}`, but {cure}", self.creds_store)));
        }
        let is_token = !entry.identitytoken.is_empty();
        let what = if is_token { "an identity token" } else { "no `auth`" };
        Err(elsewhere(format!("{shown} has {what} for it, which cannot be used here; log in with a password")))
    }
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A user and a password.
    Basic,
    /// A token, which another address gives.
    Bearer {
        /// That address.
        realm: String,
        /// The registry's name there.
        service: Option<String>,
    },
}

impl Challenge {
    /// The one of these headers (`WWW-Authenticate`) that can be met, a token before a password.
    pub(crate) fn of<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
        let challenges: Vec<_> = headers.flat_map(ChallengeParser::new).filter_map(Result::ok).collect();
        let bearer = challenges.iter().filter(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"));
        let bearer = bearer.filter_map(|challenge| {
            let value = |name: &str| {
                let mut named = challenge.params.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
                named.next().map(|(_, value)| value.to_unescaped())
            };
            Some(Challenge::Bearer { realm: value("realm")?, service: value("service") })
        });
        let basic = challenges.iter().filter(|challenge| challenge.scheme.eq_ignore_ascii_case("basic"));
        bearer.chain(basic.map(|_| Challenge::Basic)).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, reference: &str) -> Result<Option<Login>, OciError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, file).unwrap();
        find(&[dir.path().join("none.json"), path], &reference.parse().unwrap())
    }

    #[test]
    fn the_longest_name_counts() {
        // a:1, b:2, c:3
        let file = r#"{"auths": {
            "registry.example": {"auth": "YToxAAA="}, "registry.example/tasks/trec": {"auth": "Yjoy"},
            "https://other.example/": {"auth": "YzozOjQ="}}, "other": 1}"#;
        let user =
            |reference| found(file, reference).unwrap().map(|login| format!("{}/{}", login.user, login.password));
        assert_eq!(user("registry.example/x").as_deref(), Some("a/1"));
        assert_eq!(user("registry.example/tasks/movie").as_deref(), Some("a/1"));
        assert_eq!(user("registry.example/tasks/trec:3").as_deref(), Some("b/2"));
        assert_eq!(user("registry.example/tasks/trec/x").as_deref(), Some("b/2"));
        assert_eq!(user("other.example/x").as_deref(), Some("c/3:4"));
        assert_eq!(user("registry.example:5000/x"), None);
        assert_eq!(user("third.example/x"), None);
        let login = found(file, "registry.example/x").unwrap().unwrap();
        assert_eq!(login.authorization(), "Basic YTox");
        assert_eq!(format!("{login:?}"), "Login(\"a\")");
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        for (file, said) in [
            (r#"{"credHelpers": {"registry.example": "ecr-login"}}"#, "the helper `ecr-login`"),
            (r#"{"auths": {"registry.example": {}}, "credsStore": "desktop"}"#, "the helper `desktop`"),
            (r#"{"auths": {"registry.example": {"auth": "%"}}}"#, "not base64"),
            (r#"{"auths": {"registry.example": {"auth": "YQ=="}}}"#, "not base64"),
            (r#"{"auths": {"registry.example": {"identitytoken": "x"}}}"#, "an identity token"),
            ("[", "auth.json"),
        ] {
            let error = found(file, "registry.example/x").unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        // Of no matter for others.
        assert_eq!(found(r#"{"auths": {"a.example": {}}, "credsStore": "x"}"#, "registry.example/x").unwrap(), None);
    }

    #[test]
    fn challenges_are_read() {
        let of = |header| Challenge::of([header].into_iter());
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        let header = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="x,y""#;
        assert_eq!(of(header), bearer("https://auth.example/token", Some("registry.example")));
        assert_eq!(of(r#"Basic realm="x", Bearer realm="y""#), bearer("y", None));
        assert_eq!(of("basic realm=\"Registry Realm\""), Some(Challenge::Basic));
        assert_eq!(of("Bearer service=\"x\""), None);
        for header in ["", ",", "Digest realm=\"x\"", "\"", "Bearer realm=", "Bearer realm=\"", "é", &"(".repeat(9999)]
        {
            assert_eq!(of(header), None, "{header}");
        }
    }
}
