//! `cargo xtask features`: every form that a crate can be built in, each by itself, as whoever depends on it builds it.
//! In the workspace, one crate's wish for a feature hides that another forgot it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::setup;
use crate::work::Work;

/// The program as it is shipped to devices: our own engine, and the server.
pub(crate) const SHIPPED: &str = "--package overmask-program --no-default-features --features native,serve";

/// It reads packs, and says of each engine that it was built without it.
const NO_ENGINE: &str = "--package overmask-program --no-default-features";

/// The forms, as arguments of cargo; what has most features in common stands together, as dependencies are checked once
/// for each set of theirs.
const FORMS: [&str; 13] = [
    "--package overmask-exporter --no-default-features",
    "--package overmask-program --no-default-features --features tract",
    SHIPPED,
    NO_ENGINE,
    "--package overmask-program --no-default-features --features ort",
    "--package overmask-program --no-default-features --features oci",
    "--package overmask-oci",
    "--package overmask-tract",
    "--package overmask-ort",
    "--package overmask-graph",
    "--package overmask",
    "--package overmask --no-default-features",
    "--package overmask-kernels",
];

/// Programs that run, with the end-to-end tests (`tests/tests/device/shipped.rs`) that each must pass.
const PROGRAMS: [(&str, &str, &str); 2] = [("native", SHIPPED, "shipped::"), ("none", NO_ENGINE, "shipped::an_engine")];

/// Lints every form, and runs some.
pub(crate) fn run(work: &Work) -> Result<()> {
    for form in FORMS {
        let lint = work.cargo().args("clippy --quiet --release --all-targets").args(form).args("-- -D warnings");
        work.timed("linting", || lint.show())?;
    }
    let mut programs = Vec::new();
    for (name, form, tests) in PROGRAMS {
        work.timed("testing alone", || work.cargo().args("test --quiet --release").args(form).show())?;
        programs.push((copied(work, name)?, tests));
    }
    // This also puts the full program back.
    let ready = setup::for_tests(work)?;
    for (program, tests) in programs {
        // The tests are the workspace's own; the program takes the place of the full one.
        let run = work.tests().args("--test device --").arg(tests);
        work.timed("testing end to end", || ready.prepare(run).env("OVERMASK_PROGRAM", program).show())?;
    }
    println!("{}", work.times());
    Ok(())
}

/// The program that was built last, where the next build does not put another.
fn copied(work: &Work, name: &str) -> Result<PathBuf> {
    let built = work.program("overmask");
    let dir = work.target.join("features").join(name);
    let copy = dir.join(built.file_name().context("a program has a name")?);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    fs::copy(&built, &copy).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(copy)
}
