//! `cargo xtask bench --only instructions`: how many instructions a pass takes on 64-bit ARM, of ours and of others.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::bench;
use crate::setup;
use crate::work::{Run, Work};

/// Where the program of `benches/` runs.
const TARGET: &str = "aarch64-unknown-linux-gnu";

/// What emulates it, with plugins: the static one has none.
const EMULATOR: &str = "qemu-aarch64";

/// Builds the program of `benches/` for ARM, and counts.
pub(crate) fn run(work: &Work) -> Result<()> {
    ensure!(
        Run::new(EMULATOR).args("--version").works(),
        "{EMULATOR} is missing; install it and try again: sudo apt install qemu-user"
    );
    let ready = setup::everything(work)?;
    let cross = work.target.join("cross");
    let script = |name: &str| {
        Run::new("bash")
            .directory(&work.root)
            .env("CARGO_TARGET_DIR", &work.target)
            .arg(work.root.join("cross").join(name))
    };
    script("build.sh").arg("--setup").show()?;
    let path = std::env::join_paths(
        [cross.join("tools/bin")]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    work.cargo()
        .args("zigbuild --release --package overmask-benches --target")
        .arg(format!("{TARGET}.2.31"))
        .env("PATH", path)
        .show()?;
    let root = script("root.sh").arg("debian11-arm64").output()?;
    let library = cross.join("onnxruntime-aarch64");
    ready.run("overmask-export").args("fetch onnxruntime --platform linux-aarch64 -o").arg(&library).show()?;
    let library = setup::library_in(&library)?;
    let plugin = cross.join("count-instructions.so");
    let source = work.root.join("benches").join("count-instructions.c");
    Run::new("cc").args("-O2 -shared -fPIC -o").arg(&plugin).arg(source).show()?;

    let program = work.target.join(TARGET).join("release").join("bench");
    let mut named = std::ffi::OsString::from("ORT_DYLIB_PATH=");
    named.push(&library);
    // On one processor: what is decoded at the start would have threads, whose counts are lost.
    let run = bench::counting(&ready, work)?.args("taskset -c 0").arg(EMULATOR).arg("-plugin").arg(&plugin);
    let run = run.args("-cpu cortex-a76 -L").arg(PathBuf::from(root.trim())).arg("-E").arg(named).arg(program);
    run.show()
}
