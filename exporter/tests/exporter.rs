//! That the program starts, and what pip is told. For the sake of these tests cargo builds the program before it
//! runs the workspace's tests, of which those in `tests/` run it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

#[test]
fn it_says_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_overmask-export")).arg("--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, concat!("overmask-export ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// pip runs what a source archive brings to build it, if the archive is the one that the manifest names.
#[test]
fn nothing_of_an_unknown_source_archive_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let (mark, links, out) = (dir.path().join("mark"), dir.path().join("links"), dir.path().join("out"));
    fs::create_dir(&links).unwrap();
    let project = "[build-system]\nrequires = []\nbuild-backend = 'own'\nbackend-path = ['.']\n";
    let own = format!("open({:?}, 'w').close()\n", mark.to_str().unwrap());
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, text) in [("p-1/pyproject.toml", project), ("p-1/own.py", &own), ("p-1/a.txt", "hello")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let archive = tar.into_inner().unwrap().finish().unwrap();
    fs::write(links.join("p-1.tar.gz"), &archive).unwrap();
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (digest, runs) in [("0".repeat(64), false), (hex(&Sha256::digest(&archive)), true)] {
        let manifest = dir.path().join("m.toml");
        let text = format!(
            "name = 'x'\nkind = 'base'\nabout = 'a'\nlicence = 'l'\n[[sources]]\ninside = ['p-1']\n[sources.package]\n\
             name = 'p'\nversion = '1'\narchive = 'sdist'\nsha256 = '{digest}'\n[[files]]\nname = 'a.txt'\nsize = 5\n\
             sha256 = '{}'\n",
            hex(&Sha256::digest("hello"))
        );
        fs::write(&manifest, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_overmask-export"))
            .args(["fetch", manifest.to_str().unwrap(), "-o", out.to_str().unwrap()])
            .envs([("PIP_NO_INDEX", "1".as_ref()), ("PIP_FIND_LINKS", links.as_os_str())])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // The little archive builds nothing, so that pip fails either way.
        assert_eq!((mark.exists(), output.status.success()), (runs, false), "{said}");
        assert_eq!(said.contains("HASHES"), !runs, "{said}");
    }
}
