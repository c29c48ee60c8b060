//! What a device refuses: a full disk, a limit, a disk that is read only, other owners and modes, links.
//!
//! Mounts and other users need root: where a test is another user's, it says that these were not tried.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use overmask_tests::{Ran, failed, ran};

use super::{Device, copy, files, flash, overmask, run, seen, tool, under, verify};

const NOBODY: u32 = 65_534;

/// Whether this is root's process.
fn is_root(what: &str) -> bool {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        eprintln!("not tried, as it takes root: {what}");
    }
    is_root
}

/// Runs a shell script in which mounts are its own.
fn mounted(script: &str) -> Ran {
    let got = ran(Command::new(tool("unshare", "util-linux")).args(["--mount", "sh", "-euc", script]));
    assert!(!got.stderr.contains("unshare:") && !got.stderr.contains("mount:"), "mounts cannot be made: {got:?}");
    got
}

/// A command line for a shell.
fn line(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let environment = command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)));
    let environment: Vec<String> = environment.map(|(name, value)| format!("{name}='{value}'")).collect();
    format!("env {} {}", environment.join(" "), words.join(" "))
}

/// Flashes a store on a small disk of its own, mounted with some option, and brings it back as it is afterwards.
fn on_a_small_disk(device: &Device, options: &str, fill: &str) -> (Ran, PathBuf) {
    let [disk, full, out] = ["disk", "full", "out"].map(|name| device.path(name));
    let _ = fs::create_dir(&disk);
    let _ = fs::remove_dir_all(&out);
    let [d, f, o] = [&disk, &full, &out].map(|path| path.display().to_string());
    let flash = line(&flash(&disk.join("store"), device.packs(3)));
    let script = format!(
        "mount -t tmpfs -o mode=755,{options} none {d}; cp -a {f} {d}/store; {fill}
         set +e; {flash}; code=$?; rm -f {d}/fill; cp -a {d}/store {o}; exit $code"
    );
    (mounted(&script), out)
}

#[test]
fn a_full_disk() {
    let device = Device::new();
    if !is_root("a full disk") {
        return;
    }
    device.full("full");
    let check = |(got, store): (Ran, PathBuf), said: &str| {
        let now = seen(&store);
        match got.code {
            0 => assert_eq!(now, "a 3, b 3"),
            _ => {
                failed(&got, 8, &[said]);
                assert_eq!(now, "a 2, b 2");
                assert_eq!(device.litter(&store), [] as [PathBuf; 0], "{got:?}");
            }
        }
        device.check(&store, &[&now], "full disk");
        got.code
    };
    // Before anything is written, room is asked for.
    let codes: Vec<i32> = [0, 100, 1000, 1100, 1600]
        .map(|kib| {
            let fill = format!(
                "left=$(df -k --output=avail {0} | tail -1); head -c $(((left - {kib}) * 1024)) /dev/zero > {0}/fill;",
                device.path("disk").display()
            );
            check(on_a_small_disk(&device, "size=8m", &fill), "make room")
        })
        .to_vec();
    assert_eq!((codes[0], codes[4]), (8, 0), "{codes:?}");
    // Then files cannot be made: at each stage, as there are so many left.
    let used = files(&device.path("full")).len() + 2;
    let codes: Vec<i32> = (0..14)
        .map(|more| {
            let options = format!("size=8m,nr_inodes={}", used + more);
            check(on_a_small_disk(&device, &options, ""), "No space left on device")
        })
        .collect();
    assert!(codes.contains(&8) && codes.ends_with(&[0]), "{codes:?}");
}

#[test]
fn a_limit_of_a_files_size() {
    let device = Device::new();
    let (full, store) = (device.full("full"), device.path("store"));
    let mut codes = Vec::new();
    for bytes in [0, 1, 100, 200, 400, 500, 600, 800, 1000, 1200, 1600, 2000, 4000, 8000, 20_000, 1 << 20] {
        copy(&full, &store);
        let limit = format!("--fsize={bytes}");
        let got = ran(&mut under([tool("prlimit", "util-linux"), &limit], &flash(&store, device.packs(3))));
        codes.push(got.code);
        if got.code == 0 {
            device.check(&store, &["a 3, b 3"], &limit);
            continue;
        }
        failed(&got, 8, &["cannot write", "ulimit -f", "store"]);
        assert_eq!(device.litter(&store), [] as [PathBuf; 0], "{got:?}");
        device.check(&store, &["a 2, b 2"], &limit);
    }
    assert!(codes.starts_with(&[8, 8]) && codes.ends_with(&[0]), "{codes:?}");
    // A base that is taken in.
    let empty = device.empty("empty");
    let mut first = flash(&empty, device.packs(1));
    let got =
        ran(&mut under([tool("prlimit", "util-linux"), "--fsize=50000"], first.arg("--base").arg(device.base_dir())));
    failed(&got, 8, &["cannot write", "ulimit -f"]);
    assert_eq!((seen(&empty), device.litter(&empty)), ("nothing".to_owned(), Vec::new()));
}

#[test]
fn a_disk_that_is_read_only() {
    let device = Device::new();
    if !is_root("a disk that is read only") {
        return;
    }
    let store = device.full("store");
    let s = store.display();
    let on_it =
        |command: &Command| mounted(&format!("mount --bind {s} {s}; mount -o remount,ro,bind {s}; {}", line(command)));
    failed(&on_it(&flash(&store, device.packs(3))), 8, &["lock", "Read-only file system"]);
    for command in [&["rollback"][..], &["gc"], &["remove", "a"]] {
        failed(&on_it(overmask("store", &store).args(command)), 8, &["Read-only file system"]);
    }
    // It runs and is verified all the same, and nothing is said: nothing is missing.
    assert_eq!(super::answered(&on_it(&run(&store))), "a 2, b 2");
    let got = on_it(&verify(&store));
    assert_eq!((got.code, got.stderr.as_str()), (0, ""), "{got:?}");
    failed(&on_it(overmask("store", Path::new("/proc/none")).arg("init")), 8, &["/proc/none"]);
    device.check(&store, &["a 2, b 2"], "read only");
}

#[test]
fn other_users() {
    let device = Device::new();
    if !is_root("other users") {
        return;
    }
    let store = device.full("store");
    fs::set_permissions(device.dir.path(), Permissions::from_mode(0o755)).unwrap();
    // Where it can be run by others.
    let copied = device.path("overmask");
    fs::copy(overmask("", &store).get_program(), &copied).unwrap();
    let nobody = |command: &Command| {
        let id = NOBODY.to_string();
        let mut as_nobody = Command::new(tool("setpriv", "util-linux"));
        as_nobody.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(&copied).args(command.get_args());
        as_nobody.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        ran(&mut as_nobody)
    };
    // Root's store: it can be read by all, and changed by root alone.
    failed(&nobody(&flash(&store, device.packs(3))), 8, &["belongs to user 0", "sudo -u '#0'"]);
    assert_eq!(super::answered(&nobody(&run(&store))), "a 2, b 2");
    let got = nobody(&verify(&store));
    assert_eq!(got.code, 0, "{got:?}");
    assert!(got.stdout.contains("it was not looked into") && got.stdout.contains("as the store's owner"), "{got:?}");
    failed(&nobody(overmask("store", &device.path("new")).arg("init")), 8, &["new", "Permission denied"]);

    // Somebody else's: root must not leave files in it.
    for path in files(&store).into_iter().chain([store.clone()]) {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    failed(&ran(&mut flash(&store, device.packs(3))), 8, &["belongs to user 65534", "sudo -u '#65534'"]);
    assert_eq!(seen(&store), "a 2, b 2");
    // Its owner, where a directory cannot be written to.
    for (name, said) in [("packs", "packs"), ("generations", "generations"), ("incoming", "incoming"), ("", "store")] {
        let dir = store.join(name);
        fs::set_permissions(&dir, Permissions::from_mode(0o555)).unwrap();
        failed(&nobody(&flash(&store, device.packs(3))), 8, &[said, "Permission denied"]);
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(super::answered(&nobody(&run(&store))), "a 2, b 2", "{name}");
        assert_eq!(device.litter(&store), [] as [PathBuf; 0], "{name}");
    }
    let got = nobody(&flash(&store, device.packs(3)));
    assert_eq!((got.code, got.stderr.as_str()), (0, ""), "{got:?}");
    assert_eq!(super::answered(&nobody(&run(&store))), "a 3, b 3");
    // One file of another owner.
    chown(store.join("current"), Some(0), Some(0)).unwrap();
    failed(&nobody(&run(&store)), 8, &["current", "belongs to user 0"]);
}

#[test]
fn planted_links_and_open_modes() {
    let device = Device::new();
    let (full, store) = (device.full("full"), device.path("store"));
    let victim = device.path("victim");
    let names = ["store.json", "current", "lock", "generations", "packs", "base", "derived", "incoming"];
    for name in names {
        copy(&full, &store);
        let (path, aside) = (store.join(name), device.path("aside"));
        let _ = (fs::remove_file(&aside), fs::remove_dir_all(&aside));
        fs::rename(&path, &aside).unwrap();
        symlink(&aside, &path).unwrap();
        for command in [&mut flash(&store, device.packs(3)), &mut run(&store), &mut verify(&store)] {
            failed(&ran(command), 8, &[path.to_str().unwrap(), "is a link"]);
        }
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        device.check(&store, &["a 2, b 2"], name);

        copy(&full, &store);
        let mode = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        failed(&ran(&mut flash(&store, device.packs(3))), 8, &[path.to_str().unwrap(), "by others", "chmod go-w"]);
        fs::set_permissions(&path, mode).unwrap();
        device.check(&store, &["a 2, b 2"], name);
    }
    // Where files will come to lie.
    copy(&full, &store);
    fs::write(&victim, b"precious").unwrap();
    let digest = overmask::fs::file_digest(&device.pack("a", 3)).unwrap();
    for name in [format!("incoming/{digest}"), format!("packs/{digest}.pack"), "generations/3".to_owned()] {
        let _ = fs::create_dir(store.join("incoming"));
        symlink(&victim, store.join(&name)).unwrap();
        let got = ran(&mut flash(&store, device.packs(3)));
        assert!([0, 4].contains(&got.code), "{name}: {got:?}");
        assert_eq!(fs::read(&victim).unwrap(), b"precious", "{name}");
        device.check(&store, &["a 2, b 2", "a 3, b 3"], &name);
        copy(&full, &store);
    }
    // A pipe is not waited for.
    for name in ["current", "store.json", "generations/2"] {
        copy(&full, &store);
        fs::remove_file(store.join(name)).unwrap();
        assert!(Command::new("mkfifo").arg(store.join(name)).status().unwrap().success());
        for command in [&mut flash(&store, device.packs(3)), &mut verify(&store)] {
            let got = ran(command);
            assert!([4, 8].contains(&got.code) && got.stderr.len() + got.stdout.len() > 0, "{name}: {got:?}");
        }
    }
    let _ = File::open(&victim).unwrap();
}
