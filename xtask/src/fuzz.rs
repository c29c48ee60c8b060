//! `cargo xtask fuzz`: the fuzz targets, each for a while; and `cargo xtask miri`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::work::{Run, Work};

/// The version of cargo-fuzz that is installed where there is none.
const CARGO_FUZZ: &str = "0.13.2";

/// The most memory that a target may use, in MiB: far less than a hostile file could ask for.
const MEMORY_MIB: u32 = 1024;

/// Runs the tests of the kernels' safe parts in Miri, which sees undefined behaviour. It has no
/// vector instructions beyond a few: the address sanitizer of the fuzz target `kernels` sees those.
pub(crate) fn miri(work: &Work) -> Result<()> {
    if !Run::new("cargo").args("+nightly miri --version").works() {
        bail!("Miri is missing; install it: rustup toolchain install nightly --component miri,rust-src");
    }
    Run::new("cargo")
        .directory(&work.root)
        .env("CARGO_TARGET_DIR", work.target.join("miri"))
        // Tree borrows: `bitvec` is at odds with the older model, stacked borrows.
        .env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-tree-borrows -Zmiri-permissive-provenance")
        .env("PROPTEST_CASES", "2")
        .args("+nightly miri test -p overmask-kernels --lib")
        .show()
}

/// The names of the targets: each has a folder of seeds.
fn targets(seeds: &Path) -> Result<Vec<String>> {
    let context = || format!("cannot list {}", seeds.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(seeds).with_context(context)? {
        names.push(entry.with_context(context)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Fuzzes every target for so many seconds, or one.
pub(crate) fn run(work: &Work, seconds: &str, only: Option<&str>) -> Result<()> {
    seconds.parse::<u32>().with_context(|| format!("{seconds} is no number of seconds"))?;
    let place = work.root.join("tests").join("fuzz");
    let all = targets(&place.join("seeds"))?;
    let targets: Vec<&String> = all.iter().filter(|target| only.is_none_or(|only| only == *target)).collect();
    ensure!(!targets.is_empty(), "there is no target `{}`, only {}", only.unwrap_or_default(), all.join(", "));
    if !Run::new("c++").arg("--version").works() {
        bail!("a C++ compiler is missing, which libFuzzer needs; install it: sudo apt install g++");
    }
    let tools = work.target.join("tools");
    let program = tools.join("bin").join(format!("cargo-fuzz{}", std::env::consts::EXE_SUFFIX));
    if !program.is_file() {
        work.cargo().args("install cargo-fuzz --locked --version").arg(CARGO_FUZZ).arg("--root").arg(&tools).show()?;
    }
    for target in targets {
        // What libFuzzer finds on its way is kept, and not in the repository.
        let corpus = work.target.join("fuzz-corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot write {}", corpus.display()))?;
        let mut run = Run::new(&program)
            .directory(&work.root)
            // The sanitizer's flag is not stable yet; the compiler and its sanitizers are.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", work.target.join("fuzz"))
            // One program for all: it is linked once.
            .env("OVERMASK_FUZZ", target)
            .args("fuzz run --fuzz-dir")
            .arg(&place)
            .args("fuzz")
            .arg(&corpus);
        for kind in ["seeds", "regressions"] {
            run = run.arg(place.join(kind).join(target));
        }
        run.arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg(format!("-malloc_limit_mb={MEMORY_MIB}"))
            .args("-timeout=10 -max_len=20000 -print_final_stats=1 -verbosity=0 -print_funcs=0")
            .show()?;
    }
    Ok(())
}
