//! Flashing over ssh, one device and a fleet, with the system's own `ssh` and a real `sshd` on this machine: its own
//! keys, its own configuration, a port of 127.0.0.1. Each store is a device.
#![cfg(unix)]

mod fleet;
mod link;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use overmask::base::Base;
use overmask_exporter::import::hf;
use overmask_tests::{Ran, Recipe, failed, json_lines, program, ran};
use tempfile::TempDir;

/// A folder with a tiny base, packs, stores, and the server that leads to them.
struct Place {
    dir: TempDir,
    base: Base,
    server: Child,
    port: u16,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A program of the package openssh-server or openssh-client.
fn tool(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).chain(["/usr/sbin".into()]).map(|dir| dir.join(name));
    let missing = || panic!("`{name}` is missing; install the package `{package}` (Debian and Ubuntu: apt install)");
    found.into_iter().find(|path| path.is_file()).unwrap_or_else(missing)
}

fn done(got: Ran) -> Ran {
    assert_eq!((got.code, got.stderr.as_str()), (0, ""), "{got:?}");
    got
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for key in ["host_key", "other_host_key", "user_key"] {
            let mut keygen = Command::new(tool("ssh-keygen", "openssh-client"));
            done(ran(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path(key))));
        }
        fs::copy(path("user_key.pub"), path("authorized_keys")).unwrap();
        let known = |key: &str| format!("board.example {}", fs::read_to_string(path(key)).unwrap());
        fs::write(path("known_hosts"), known("host_key.pub")).unwrap();
        fs::write(path("other_known_hosts"), known("other_host_key.pub")).unwrap();
        // As root it wants this directory, which the service makes.
        if String::from_utf8(Command::new("id").arg("-u").output().unwrap().stdout).unwrap().trim() == "0" {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let (server, port) = (0..5).find_map(|_| serve(dir.path())).expect("sshd does not start, see above");
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
        // What a user has in ~/.ssh/config.
        let config = format!(
            "Host board*.example\n  HostName 127.0.0.1\n  Port {port}\n  User {}\n  IdentityFile {d}/user_key\n  \
             IdentitiesOnly yes\n  HostKeyAlias board.example\n  UserKnownHostsFile {d}/known_hosts\n  \
             GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n\
             Host nobody.example\n  HostName 127.0.0.1\n  Port {}\n",
            user.trim(),
            free_port(),
            d = dir.path().display(),
        );
        fs::write(path("ssh_config"), config).unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-bert");
        let base = hf::import(&fixture, &path("base"), &hf::Origin::default()).unwrap().base;
        Place { dir, base, server, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn base_dir(&self) -> PathBuf {
        self.path("base")
    }

    /// A pack of the task `demo`.
    fn pack(&self, revision: u64) -> PathBuf {
        let path = self.path(&format!("demo-{revision}.pack"));
        let recipe = Recipe { name: "demo", seed: revision, labels: 2, max_tokens: 16, ..Default::default() };
        let mut pack = recipe.pack(&self.base);
        pack.document.revision = revision;
        pack.write(&path, Some(&self.base)).unwrap();
        path
    }

    /// An empty store.
    fn store(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        done(ran(program("overmask").args(["store", "init", "--store"]).arg(&path)));
        path
    }

    /// The command that connects.
    fn ssh(&self) -> String {
        format!("{} -F {}", tool("ssh", "openssh-client").display(), self.path("ssh_config").display())
    }

    fn flash_to(&self, host: &str, store: &Path, ssh: &str) -> Command {
        let mut command = program("overmask");
        command.args(["flash", "--json", "--to", host, "--ssh", ssh, "--store"]).arg(store);
        command.arg("--program").arg(program("overmask").get_program()).arg("--base").arg(self.base_dir());
        // The program there has no store by itself.
        command.env("OVERMASK_STORE", "/no/such/store");
        command
    }

    /// Whether the task of a store answers.
    fn answers(&self, store: &Path) -> bool {
        let got = ran(program("overmask").args(["run", "--json", "a b c", "--store"]).arg(store));
        got.code == 0 && json_lines(&got)[0]["task"] == "demo"
    }
}

/// A server at a free port, if it was still free.
fn serve(dir: &Path) -> Option<(Child, u16)> {
    let (port, d) = (free_port(), dir.display());
    let config = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {d}/host_key\nAuthorizedKeysFile {d}/authorized_keys\n\
         PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin prohibit-password\nMaxStartups 100\nUseDNS no\nPrintMotd no\n"
    );
    fs::write(dir.join("sshd_config"), config).unwrap();
    let log = fs::File::create(dir.join("sshd.log")).unwrap();
    let mut command = Command::new(tool("sshd", "openssh-server"));
    command.args(["-D", "-e", "-f"]).arg(dir.join("sshd_config"));
    let mut server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(20) && server.try_wait().unwrap().is_none() {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some((server, port));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = server.kill();
    let _ = server.wait();
    eprintln!("sshd: {}", fs::read_to_string(dir.join("sshd.log")).unwrap());
    None
}

#[test]
fn a_device_is_flashed_over_ssh() {
    let place = Place::new();
    // A shell there reads the name.
    let store = place.store("it's a $(store)");
    let flash = |revision| ran(place.flash_to("board1.example", &store, &place.ssh()).arg(place.pack(revision)));
    let last = |got: Ran| json_lines(&done(got)).pop().unwrap();
    let first = last(flash(1));
    assert_eq!((first["to"].as_str(), first["generation"].as_u64()), (Some("board1.example"), Some(1)));
    assert!(first["sent"].as_u64().unwrap() > 10_000 && first["is_new"] == true, "{first}");
    assert!(place.answers(&store));
    let again = last(flash(1));
    assert!(again["sent"] == 0 && again["is_new"] == false, "{again}");
    // The base is there.
    let second = last(flash(2));
    assert_eq!(second["sent"], fs::metadata(place.pack(2)).unwrap().len());
    // What the store there refuses keeps its exit code.
    let got = flash(1);
    failed(&got, 3, &["board1.example: ", "revision 1", "older than the active one, 2"]);
    // From stdin.
    let bytes = fs::read(place.pack(3)).unwrap();
    let mut command = place.flash_to("board1.example", &store, &place.ssh());
    let third = last(overmask_tests::ran_with(command.arg("-"), &bytes));
    assert_eq!((third["generation"].as_u64(), third["sent"].as_u64()), (Some(3), Some(bytes.len() as u64)));
}

#[test]
fn what_cannot_be_reached_is_told() {
    let place = Place::new();
    let store = place.store("store");
    let try_it = |host: &str, ssh: &str| ran(&mut place.flash_to(host, &store, ssh));
    failed(&try_it("nobody.example", &place.ssh()), 8, &["cannot reach nobody.example", "refused"]);
    let other = format!("{} -o UserKnownHostsFile={}", place.ssh(), place.path("other_known_hosts").display());
    failed(&try_it("board1.example", &other), 8, &["Host key verification failed"]);
    // A key that the server does not know.
    let config = fs::read_to_string(place.path("ssh_config")).unwrap();
    fs::write(place.path("ssh_config"), config.replace("user_key", "other_host_key")).unwrap();
    let silent = format!("{} -o BatchMode=yes", place.ssh());
    failed(&try_it("board1.example", &silent), 8, &["Permission denied"]);
    fs::write(place.path("ssh_config"), config).unwrap();
    let mut command = program("overmask");
    command.args(["flash", "--to", "board1.example", "--program", "no-such-overmask", "--ssh", &place.ssh()]);
    failed(&ran(command.arg("--base").arg(place.base_dir())), 8, &["no-such-overmask", "must run there"]);
    let none = place.path("none");
    let got = ran(&mut place.flash_to("board1.example", &none, &place.ssh()));
    failed(&got, 8, &["store init"]);
    assert_eq!(overmask::store::Store::open(&store).unwrap().current().unwrap().number, 0);
}

/// Changes a store, so that nobody else can.
fn lock(store: &Path) -> overmask::store::Changing {
    overmask::store::Store::open(store).unwrap().change(|| true).unwrap()
}
