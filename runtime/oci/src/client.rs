//! A repository of a registry, over HTTP: as OCI's distribution specification 1.1 says, and no more trusting than that.
//!
//! Whatever the other side says, an answer has a limit, silence has an end, a redirection leads to HTTPS (or stays at
//! its host), and a login goes nowhere but to the registry and to whom it names for tokens.

use std::cell::RefCell;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use overmask::store::Part;
use overmask::text::printable;
use ureq::http::header::{self, HeaderName};
use ureq::http::{Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use crate::artifact::{Descriptor, MANIFEST, MAX_MANIFEST, digest};
use crate::login::{self, Challenge};
use crate::target::{Origin, encoded};
use crate::{OciError, Reference, answer, tls};

/// Where Docker Hub answers.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// The most redirections of one request.
const MAX_REDIRECTS: usize = 5;

/// The most bytes of an answer that is no blob: a token, an error.
const MAX_ANSWER: u64 = 1 << 20;

/// The fewest bytes that must come while [`Options::idle`] passes.
const LEAST: u64 = 1024;

/// How a registry is reached.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether it is reached without TLS. If nothing is said, `localhost` is, as `oras` has it, and nobody else.
    pub plain_http: Option<bool>,
    /// A PEM file of the certificates that may vouch for it, in place of the system's own (which `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` may name).
    pub ca_file: Option<PathBuf>,
    /// Files of logins, the first that has one counts; those that are missing hold none.
    pub auth_files: Vec<PathBuf>,
    /// What stands between.
    pub proxy: Option<ureq::Proxy>,
    /// How long it may say nothing.
    pub idle: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let idle = Duration::from_secs(60);
        Options { plain_http: None, ca_file: None, auth_files: Vec::new(), proxy: None, idle }
    }
}

/// What is to be done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Pull,
    /// Reading and writing.
    Push,
}

/// A repository of a registry.
#[derive(Debug)]
pub struct Registry {
    agent: Agent,
    reference: Reference,
    origin: Origin,
    access: Access,
    auth_files: Vec<PathBuf>,
    idle: Duration,
    /// What requests log in with, once the registry has asked.
    authorization: RefCell<Option<String>>,
}

/// What a request brings.
#[derive(Debug, Clone)]
pub(crate) enum Content<'a> {
    /// Nothing: GET and HEAD.
    None,
    Bytes(&'a [u8]),
    File(PathBuf),
}

type Answer = Response<Body>;

impl Registry {
    /// The repository that a reference is in; nothing is asked yet.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub fn open(reference: &Reference, access: Access, options: &Options) -> Result<Self, OciError> {
        let is_plain = options.plain_http.unwrap_or(reference.host_name() == "localhost");
        let host = if reference.is_in_docker_hub() { DOCKER_HUB_HOST } else { &reference.host };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("overmask/", env!("CARGO_PKG_VERSION")))
            .proxy(options.proxy.clone())
            .timeout_connect(Some(options.idle))
            .timeout_per_read(Some(options.idle))
            .timeout_per_write(Some(options.idle))
            // A registry reads what it was sent before it answers.
            .timeout_recv_response(Some(options.idle * 5));
        let config = if is_plain { config } else { config.tls_config(tls::config(options.ca_file.as_deref())?) };
        Ok(Registry {
            agent: config.build().new_agent(),
            reference: reference.clone(),
            origin: Origin::new(is_plain, host),
            access,
            auth_files: options.auth_files.clone(),
            idle: options.idle,
            authorization: RefCell::new(None),
        })
    }

    /// What it was opened with.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The bytes of a manifest, by tag or `sha256:` and digest; none where there is none.
    pub(crate) fn manifest(&self, name: &str) -> Result<Option<Vec<u8>>, OciError> {
        let response = self.get(&format!("manifests/{name}"), &[(header::ACCEPT, MANIFEST)])?;
        match response.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::OK => {}
            _ => return Err(self.refused(response)),
        }
        let what = format!("{} {name}", self.reference.place());
        let bytes = self.bytes(response, MAX_MANIFEST, &what)?;
        match name.strip_prefix("sha256:").filter(|sha256| *sha256 != digest(&bytes)) {
            Some(_) => Err(OciError::Answer { what, reason: format!("its sha256 is {}", digest(&bytes)) }),
            None => Ok(Some(bytes)),
        }
    }

    /// A blob that is small enough to be held in memory.
    pub(crate) fn blob(&self, blob: &Descriptor, limit: u64, what: &str) -> Result<Vec<u8>, OciError> {
        let wrong = |reason| OciError::Answer { what: what.to_owned(), reason };
        if blob.size > limit {
            return Err(wrong(format!("it has {} bytes, and may have {limit}", blob.size)));
        }
        let response = self.get(&format!("blobs/sha256:{}", blob.sha256()), &[])?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response));
        }
        let bytes = self.bytes(response, blob.size, what)?;
        if (bytes.len() as u64) < blob.size {
            return Err(self.broken(format!("it ended after {} of {} bytes of {what}", bytes.len(), blob.size)));
        }
        match digest(&bytes) {
            found if found == blob.sha256() => Ok(bytes),
            found => Err(wrong(format!("its sha256 is {found}, not {}", blob.sha256()))),
        }
    }

    /// What is missing of a blob that is arriving; no more is read than that. Returns how many bytes came.
    pub(crate) fn blob_into(&self, blob: &Descriptor, part: &mut Part, what: &str) -> Result<u64, OciError> {
        let wrong = |reason: &str| OciError::Answer { what: what.to_owned(), reason: reason.to_owned() };
        let cut = |part: &Part, why: String| {
            let (have, size) = (part.have(), blob.size);
            self.broken(format!("{why}, after {have} of {size} bytes of {what}; the same command goes on from there"))
        };
        let range = format!("bytes={}-", part.have());
        let headers = [(header::RANGE, range.as_str())];
        let path = format!("blobs/sha256:{}", blob.sha256());
        let response = self.get(&path, if part.have() > 0 { &headers } else { &[] })?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if part.have() > 0 => {
                let begin = format!("bytes {}-", part.have());
                if !text_of(&response, header::CONTENT_RANGE).starts_with(&begin) {
                    return Err(wrong("it sends another range than it was asked for"));
                }
                log::info!("{what} goes on after {} of {} bytes", part.have(), blob.size);
            }
            // A registry need not know of ranges.
            StatusCode::OK => part.restart()?,
            _ => return Err(self.refused(response)),
        }
        let missing = blob.size - part.have();
        if response.body().content_length().is_some_and(|length| length != missing) {
            return Err(wrong("it has another length than its manifest says"));
        }
        let mut from = response.into_body().into_reader().take(missing);
        let (mut buffer, mut since, mut bytes, mut came) = (vec![0; 1 << 16], Instant::now(), 0, 0);
        while came < missing {
            let n = match from.read(&mut buffer) {
                Ok(0) => return Err(cut(part, "it ended".to_owned())),
                Ok(n) => n,
                Err(error) => return Err(cut(part, error.to_string())),
            };
            part.write(&buffer[..n])?;
            (bytes, came) = (bytes + n as u64, came + n as u64);
            if since.elapsed() > self.idle {
                if bytes < LEAST {
                    return Err(cut(part, format!("only {bytes} bytes came in {:.0?}", self.idle)));
                }
                (since, bytes) = (Instant::now(), 0);
            }
        }
        Ok(came)
    }

    /// Whether the repository has a blob.
    pub(crate) fn has_blob(&self, sha256: &str) -> Result<bool, OciError> {
        let url = self.url(&format!("blobs/sha256:{sha256}"))?;
        let response = self.send(&Method::HEAD, url, &[], &Content::None)?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(response)),
        }
    }

    /// Brings a blob.
    pub(crate) fn push_blob(&self, sha256: &str, content: &Content<'_>) -> Result<(), OciError> {
        let begin = self.url("blobs/uploads/")?;
        let response = self.send(&Method::POST, begin.clone(), &[], &Content::Bytes(&[]))?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refused(response));
        }
        let location = text_of(&response, header::LOCATION);
        let target = self.origin.target(&begin, &location).map_err(|reason| self.wrong(reason))?;
        let separator = if target.query().is_some() { '&' } else { '?' };
        let target = format!("{target}{separator}digest=sha256:{sha256}");
        let target = target.parse().map_err(|_| self.wrong("it sends an upload nowhere".to_owned()))?;
        let headers = [(header::CONTENT_TYPE, "application/octet-stream")];
        let response = self.send(&Method::PUT, target, &headers, content)?;
        match response.status() {
            StatusCode::CREATED => Ok(()),
            _ => Err(self.refused(response)),
        }
    }

    /// Brings a manifest, under a tag or its digest.
    pub(crate) fn push_manifest(&self, name: &str, bytes: &[u8]) -> Result<(), OciError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let response = self.send(&Method::PUT, url, &[(header::CONTENT_TYPE, MANIFEST)], &Content::Bytes(bytes))?;
        match response.status() {
            StatusCode::CREATED | StatusCode::OK => Ok(()),
            _ => Err(self.refused(response)),
        }
    }

    /// An address in the repository.
    fn url(&self, path: &str) -> Result<Uri, OciError> {
        let url = format!("{}/v2/{}/{path}", self.origin, self.reference.repository);
        url.parse().map_err(|error| self.wrong(format!("{url} is no address: {error}")))
    }

    fn get(&self, path: &str, headers: &[(HeaderName, &str)]) -> Result<Answer, OciError> {
        self.send(&Method::GET, self.url(path)?, headers, &Content::None)
    }

    /// Asks; logs in where that is asked for, and follows redirections of what is read.
    fn send(
        &self,
        method: &Method,
        mut url: Uri,
        headers: &[(HeaderName, &str)],
        content: &Content<'_>,
    ) -> Result<Answer, OciError> {
        let (mut redirects, mut has_logged_in) = (0, false);
        loop {
            let is_registry = self.origin.is_of(&url);
            let authorization = self.authorization.borrow().clone().filter(|_| is_registry);
            let response = self.once(method, &url, headers, authorization.as_deref(), content)?;
            if response.status() == StatusCode::UNAUTHORIZED && is_registry && !has_logged_in {
                has_logged_in = true;
                self.log_in(&response)?;
            } else if is_redirect(response.status()) && matches!(content, Content::None) {
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    return Err(self.wrong(format!("it redirects more than {MAX_REDIRECTS} times")));
                }
                let location = text_of(&response, header::LOCATION);
                url = self.origin.target(&url, &location).map_err(|reason| self.wrong(reason))?;
            } else {
                return Ok(response);
            }
        }
    }

    fn once(
        &self,
        method: &Method,
        url: &Uri,
        headers: &[(HeaderName, &str)],
        authorization: Option<&str>,
        content: &Content<'_>,
    ) -> Result<Answer, OciError> {
        log::debug!("{method} {}", shown(url));
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers.iter().cloned().chain(authorization.map(|it| (header::AUTHORIZATION, it))) {
            request = request.header(name, value);
        }
        let asked = match content {
            Content::None => request.body(()).map_err(ureq::Error::from).and_then(|request| self.agent.run(request)),
            Content::Bytes(bytes) => {
                request.body(*bytes).map_err(ureq::Error::from).and_then(|request| self.agent.run(request))
            }
            Content::File(path) => {
                let file = overmask::fs::open(path).map_err(OciError::file(path))?;
                request.body(file).map_err(ureq::Error::from).and_then(|request| self.agent.run(request))
            }
        };
        asked.map_err(|error| {
            let host = url.authority().map_or_else(|| self.reference.host.clone(), ToString::to_string);
            OciError::Reach { registry: printable(&host), reason: tls::reason(&error) }
        })
    }

    /// Does what a registry asks for before it lets anybody in.
    fn log_in(&self, response: &Answer) -> Result<(), OciError> {
        let registry = || self.reference.host.clone();
        let headers = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let Some(challenge) = Challenge::of(headers.filter_map(|value| value.to_str().ok())) else {
            let reason = "it does not say how, or in a way that is not known here".to_owned();
            return Err(OciError::Login { registry: registry(), reason });
        };
        let login = login::find(&self.auth_files, &self.reference)?;
        let authorization = match (challenge, login) {
            (Challenge::Bearer { realm, service }, login) => {
                let login = login.map(|login| login.authorization());
                format!("Bearer {}", self.token(&realm, service.as_deref(), login.as_deref())?)
            }
            (Challenge::Basic, Some(login)) => login.authorization(),
            (Challenge::Basic, None) => {
                let host = registry();
                let reason = format!("there is none for it; `podman login {host}` or `docker login {host}` keeps one");
                return Err(OciError::Login { registry: host, reason });
            }
        };
        *self.authorization.borrow_mut() = Some(authorization);
        Ok(())
    }

    /// Has whom the registry names give a token for this repository.
    fn token(&self, realm: &str, service: Option<&str>, login: Option<&str>) -> Result<String, OciError> {
        let wrong = |reason: String| self.wrong(format!("the token that it asks for: {reason}"));
        let actions = if self.access == Access::Push { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{actions}", self.reference.repository);
        let mut query = format!("scope={}", encoded(&scope));
        if let Some(service) = service {
            query.push_str(&format!("&service={}", encoded(service)));
        }
        let separator = if realm.contains('?') { '&' } else { '?' };
        let base = self.url("")?;
        let url = self.origin.target(&base, &format!("{realm}{separator}{query}")).map_err(wrong)?;
        let response = self.once(&Method::GET, &url, &[], login, &Content::None)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let (registry, status) = (self.reference.host.clone(), response.status());
                let known = if login.is_some() { "the login that is kept is not taken" } else { "no login is kept" };
                let reason = format!("{known} ({status}); `podman login {registry}` makes one");
                return Err(OciError::Login { registry, reason });
            }
            _ => return Err(self.refused(response)),
        }
        let bytes = self.bytes(response, MAX_ANSWER, "a token")?;
        answer::token(&bytes).map_err(wrong)
    }

    /// Reads an answer, which may have so many bytes, and must come soon.
    fn bytes(&self, response: Answer, limit: u64, what: &str) -> Result<Vec<u8>, OciError> {
        let wrong = |reason| OciError::Answer { what: what.to_owned(), reason };
        let (begin, mut bytes, mut buffer) = (Instant::now(), Vec::new(), vec![0; 1 << 14]);
        let mut from = response.into_body().into_reader().take(limit + 1);
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(bytes),
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                Err(error) => return Err(self.broken(format!("{error}, after {} bytes of {what}", bytes.len()))),
            }
            if bytes.len() as u64 > limit {
                return Err(wrong(format!("it has more than {limit} bytes")));
            }
            if begin.elapsed() > self.idle * 5 {
                return Err(self.broken(format!("{what} was not there after {:.0?}", self.idle * 5)));
            }
        }
    }

    /// An answer that is no yes.
    fn refused(&self, response: Answer) -> OciError {
        let status = response.status();
        let told = self.bytes(response, MAX_ANSWER, "an error").map(|bytes| answer::told(&bytes)).unwrap_or_default();
        let todo = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; the login that is kept must allow it",
            StatusCode::TOO_MANY_REQUESTS => "; try again later",
            status if status.is_server_error() => "; try again later",
            status if is_redirect(status) => "; name the host that it leads to",
            _ => "",
        };
        let told = if told.is_empty() { told } else { format!(": {told}") };
        OciError::Refused { registry: self.reference.host.clone(), reason: format!("{status}{told}{todo}") }
    }

    /// What it says cannot be.
    fn wrong(&self, reason: String) -> OciError {
        OciError::Answer { what: self.reference.host.clone(), reason }
    }

    /// The connection has ended.
    fn broken(&self, reason: String) -> OciError {
        OciError::Reach { registry: self.reference.host.clone(), reason }
    }
}

/// What a header says; nothing where it is missing or no text.
fn text_of(response: &Answer, name: HeaderName) -> String {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn is_redirect(status: StatusCode) -> bool {
    [301, 302, 303, 307, 308].contains(&status.as_u16())
}

/// An address without its query, which may hold what is nobody's to read.
fn shown(url: &Uri) -> String {
    printable(url.to_string().split('?').next().unwrap_or_default())
}
