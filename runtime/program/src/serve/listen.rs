//! Where the server listens, and what becomes of a connection: by its first byte, lines or HTTP.

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, ToSocketAddrs};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use overmask_cli::{CodedError, ExitCode};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::connections::{Admission, Connection};
use super::link::Link;
use super::server::Server;
use super::{http, lines};

/// How long nothing is accepted after an error, which is one of the system's limits.
const PAUSE: Duration = Duration::from_millis(100);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Address::Unix(path.into())),
            Some(("tcp", port)) if port.parse::<u16>().is_ok() => Self::tcp(&format!("127.0.0.1:{port}")),
            Some(("tcp", address)) => Self::tcp(address),
            _ => Err("must be unix:PATH, tcp:ADDRESS:PORT, or tcp:PORT on this machine alone".to_owned()),
        }
    }
}

impl Address {
    fn tcp(address: &str) -> Result<Self, String> {
        let found = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?.next();
        found.map(Address::Tcp).ok_or_else(|| format!("{address}: no such address"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// A socket that listens; one that was made here goes with it.
pub(super) struct Listener {
    socket: Socket,
    pub(super) address: String,
    /// The file of a Unix socket, and which one it is.
    made: Option<(PathBuf, u64)>,
}

enum Socket {
    Unix(StdUnixListener),
    Tcp(StdTcpListener),
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another server may have put its own there.
        if let Some((path, inode)) = &self.made
            && fs::symlink_metadata(path).is_ok_and(|found| found.ino() == *inode)
        {
            let _ = fs::remove_file(path);
        }
    }
}

impl Listener {
    /// Listens at an address.
    ///
    /// # Errors
    /// When that is not possible, or another server does.
    pub(super) fn bind(address: &Address) -> anyhow::Result<Listener> {
        let code = ExitCode::DeviceOrStore;
        let failed = || CodedError { message: format!("cannot listen at {address}"), code };
        match address {
            Address::Unix(path) => {
                let (socket, inode) = bind_unix(path).with_context(failed)?;
                let made = Some((path.clone(), inode));
                Ok(Listener { socket: Socket::Unix(socket), address: address.to_string(), made })
            }
            Address::Tcp(asked) => {
                if !asked.ip().is_loopback() {
                    log::warn!(
                        "{address} is open to other machines: who reaches it can ask, as there are no passwords"
                    );
                }
                Self::tcp(StdTcpListener::bind(asked).with_context(failed)?)
            }
        }
    }

    /// The sockets that systemd has opened for this process.
    ///
    /// # Errors
    /// When one is none to serve on.
    pub(super) fn inherited() -> anyhow::Result<Vec<Listener>> {
        let mut passed = listenfd::ListenFd::from_env();
        let mut all = Vec::new();
        for place in 0..passed.len() {
            if let Ok(Some(socket)) = passed.take_unix_listener(place) {
                let path = socket.local_addr()?.as_pathname().map(|path| path.display().to_string());
                let address = format!("unix:{} (systemd)", path.unwrap_or_default());
                all.push(Listener { socket: Socket::Unix(socket), address, made: None });
            } else {
                let message = format!("socket {place} of systemd is neither a stream of Unix nor of TCP");
                let code = ExitCode::Usage;
                let socket = passed.take_tcp_listener(place).with_context(|| CodedError { message, code })?;
                all.extend(socket.map(Self::tcp).transpose()?);
            }
        }
        Ok(all)
    }

    fn tcp(socket: StdTcpListener) -> anyhow::Result<Listener> {
        let address = format!("tcp:{}", socket.local_addr()?);
        Ok(Listener { socket: Socket::Tcp(socket), address, made: None })
    }

    /// Serves connections until the server stops.
    pub(super) async fn serve(self, server: Arc<Server>) -> io::Result<()> {
        match &self.socket {
            Socket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                let socket = UnixListener::from_std(socket.try_clone()?)?;
                let accept = || async { Ok(Stream::Unix(socket.accept().await?.0)) };
                accepts(&server, accept).await;
            }
            Socket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                let socket = TcpListener::from_std(socket.try_clone()?)?;
                let accept = || async { Ok(Stream::Tcp(socket.accept().await?.0)) };
                accepts(&server, accept).await;
            }
        }
        Ok(())
    }
}

/// Makes a Unix socket that its user alone can connect to; returns its inode, too. At no moment can others, and what a
/// server has left that is gone is replaced.
fn bind_unix(path: &Path) -> io::Result<(StdUnixListener, u64)> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other("something else than a socket is there; name another place, or remove it"));
        }
        Ok(_) if StdUnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there; stop it first"));
        }
        _ => {}
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("this names no file"))?.to_string_lossy();
    let place = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_dir_all(&place);
    DirBuilder::new().mode(0o700).create(&place)?;
    let bound = place.join("s");
    let bind = || {
        let socket = StdUnixListener::bind(&bound)?;
        fs::set_permissions(&bound, Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&bound)?.ino();
        fs::rename(&bound, path)?;
        Ok((socket, inode))
    };
    let result = bind();
    let _ = fs::remove_dir_all(&place);
    result
}

/// A connection's stream.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Accepts connections until the server stops.
async fn accepts<F: Future<Output = io::Result<Stream>>>(server: &Arc<Server>, accept: impl Fn() -> F) {
    let mut stopping = server.stopping();
    let mut warned = false;
    loop {
        let accepted = tokio::select! {
            accepted = accept() => accepted,
            () = async { drop(stopping.wait_for(|stops| *stops).await) } => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    log::warn!("a connection cannot be accepted: {error}");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let admission = server.connections.admit();
        if !matches!(admission, Admission::Taken(_)) {
            server.metrics.refused_connection();
        }
        if let Admission::Taken(connection) | Admission::InPlaceOfAnother(connection) = admission {
            tokio::spawn(one(Open { server: Arc::clone(server), connection }, stream));
        }
    }
}

/// A connection that is open as long as this is there.
pub(super) struct Open {
    pub(super) server: Arc<Server>,
    pub(super) connection: Arc<Connection>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.connections.end(&self.connection);
    }
}

/// Serves a connection to its end.
async fn one(open: Open, stream: Stream) {
    let Open { server, connection } = &open;
    let patience = server.limits.io_timeout;
    match stream {
        Stream::Tcp(stream) => {
            let _ = stream.set_nodelay(true);
            http::serve(server, connection, Link::new(stream, Vec::new(), patience)).await;
        }
        Stream::Unix(mut stream) => {
            let mut first = [0];
            let mut stopping = server.stopping();
            let read = tokio::select! {
                read = stream.read(&mut first) => read.unwrap_or(0),
                () = connection.closed() => 0,
                () = async { drop(stopping.wait_for(|stops| *stops).await) } => 0,
            };
            match &first[..read] {
                [] => {}
                // A method of HTTP; no JSON begins so.
                [letter] if letter.is_ascii_uppercase() => {
                    http::serve(server, connection, Link::new(stream, first.to_vec(), patience)).await;
                }
                _ => {
                    let ends = stream.split();
                    let ended = lines::serve(server, connection, first.to_vec(), ends, Some(patience)).await;
                    if let Err(error) = ended {
                        log::debug!("a connection ended: {error}");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unix_or_tcp_and_loopback_unless_told() {
        let read = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        assert_eq!(read("unix:/run/x.sock").unwrap(), "unix:/run/x.sock");
        assert_eq!(read("tcp:80").unwrap(), "tcp:127.0.0.1:80");
        assert_eq!(read("tcp:[::]:80").unwrap(), "tcp:[::]:80");
        assert_eq!(read("tcp:0.0.0.0:80").unwrap(), "tcp:0.0.0.0:80");
        for wrong in ["", "unix:", "80", "http://x", "tcp:", "tcp:99999", "tcp:127.0.0.1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_socket_is_its_users_and_no_other_server_is_pushed_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let address = Address::Unix(path.clone());
        let first = Listener::bind(&address).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = Listener::bind(&address).err().unwrap();
        assert!(format!("{error:#}").contains("another server listens"), "{error:#}");
        // What a killed server has left.
        let mut first = first;
        first.made = None;
        drop(first);
        assert!(path.exists());
        let second = Listener::bind(&address).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(Listener::bind(&address).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
