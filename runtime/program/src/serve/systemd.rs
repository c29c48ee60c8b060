//! What systemd is told (sd_notify): a datagram to the socket that `NOTIFY_SOCKET` names.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where systemd listens, if it started this process and wants to know.
pub(super) struct Notify(Option<(UnixDatagram, SocketAddr)>);

impl Notify {
    /// As the environment says.
    pub(super) fn from_environment() -> Self {
        let named = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let open = |name: &OsStr| io::Result::Ok((UnixDatagram::unbound()?, address(name)?));
        Notify(named.and_then(|name| open(&name).inspect_err(|error| log::warn!("NOTIFY_SOCKET: {error}")).ok()))
    }

    /// Says something, a `NAME=value` a line.
    pub(super) fn say(&self, state: &str) {
        if let Some((socket, to)) = &self.0
            && let Err(error) = socket.send_to_addr(state.as_bytes(), to)
        {
            log::warn!("systemd cannot be told `{state}`: {error}");
        }
    }
}

/// An address: a path, or with `@` in front a name of Linux's own.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(name)
}

/// How often systemd wants to hear that all is well, if it does.
pub(super) fn watchdog() -> Option<Duration> {
    let is_ours = env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    let micros = env::var("WATCHDOG_USEC").ok()?.parse().ok().filter(|micros| *micros > 0)?;
    is_ours.then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_what_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let hears = UnixDatagram::bind(&path).unwrap();
        let notify = Notify(Some((UnixDatagram::unbound().unwrap(), address(path.as_os_str()).unwrap())));
        notify.say("READY=1");
        let mut bytes = [0; 64];
        let length = hears.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1");
        Notify(None).say("to nobody");
        #[cfg(target_os = "linux")]
        assert!(address(OsStr::new("@overmask")).unwrap().as_pathname().is_none());
    }
}
