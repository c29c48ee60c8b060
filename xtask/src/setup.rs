//! From a fresh machine to one that can train, test and run. What is there already is kept.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::work::{Run, Work};

/// Version of the Python package `onnx`.
const CHECKER_VERSION: &str = "1.23.2";

/// Version of the Python package `prometheus_client`.
const PROMETHEUS_VERSION: &str = "0.26.0";

/// What `everything` has set up.
pub(crate) struct Ready<'a> {
    work: &'a Work,
    /// The ONNX Runtime library.
    pub(crate) library: PathBuf,
}

impl Ready<'_> {
    /// One of our programs, told where ONNX Runtime is.
    pub(crate) fn run(&self, program: &str) -> Run {
        self.prepare(Run::new(self.work.program(program)))
    }

    /// The program with the environment that our programs and tests expect.
    pub(crate) fn prepare(&self, run: Run) -> Run {
        run.env("ORT_DYLIB_PATH", &self.library)
            .env("OVERMASK_ASSETS", self.work.assets())
            .env("OVERMASK_CACHE", self.work.target.join("cache"))
    }
}

/// Sets up the programs, ONNX Runtime, a base and two data sets.
pub(crate) fn everything(work: &Work) -> Result<Ready<'_>> {
    pip()?;
    programs(work)?;
    assets(work)
}

/// Sets up what the tests need beyond that, the tests themselves among it.
pub(crate) fn for_tests(work: &Work) -> Result<Ready<'_>> {
    pip()?;
    // The programs are built with them, in one go.
    work.timed("building", || work.tests().arg("--no-run").show())?;
    let ready = assets(work)?;
    work.timed("fetching", || python(work))?;
    Ok(ready)
}

/// What fetches; asked for before the build, which takes minutes. A linker there is: it has linked us.
fn pip() -> Result<()> {
    if !Run::new("python3").args("-m pip --version").works() {
        bail!("Python 3 with pip is missing; install it and try again: sudo apt install python3-pip");
    }
    Ok(())
}

/// Builds the two programs and nothing else, and without tract, which takes as long to build as all the rest and which
/// nothing here runs. What they are made of has the same features here as in [`Work::tests`], so that the tests build
/// little of it again.
fn programs(work: &Work) -> Result<()> {
    const PROGRAMS: &str = "--package overmask-program --package overmask-exporter";
    const FEATURES: &str = "overmask-program/native,overmask-program/ort,overmask-program/serve";
    let run =
        work.cargo().args("build --release").args(PROGRAMS).args("--no-default-features --features").arg(FEATURES);
    work.timed("building", || run.show())
}

/// Builds the program of `benches/`. By itself: its peers ask dependencies for other features, and with the programs
/// in the same call, these would be other programs.
pub(crate) fn benches(work: &Work) -> Result<()> {
    work.timed("building", || work.cargo().args("build --release --package overmask-benches").show())
}

/// Fetches what the programs need.
fn assets(work: &Work) -> Result<Ready<'_>> {
    let library = match env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            // Children may run in other directories.
            let path = fs::canonicalize(&path).with_context(|| format!("ORT_DYLIB_PATH={}", path.display()))?;
            eprintln!("ONNX Runtime: {} (ORT_DYLIB_PATH)", path.display());
            path
        }
        None => {
            let dir = work.target.join("onnxruntime");
            fetch(work, "onnxruntime", &dir)?;
            library_in(&dir)?
        }
    };
    for name in ["minilm-l6", "movie", "trec"] {
        fetch(work, name, &work.assets().join(name))?;
    }
    let base = work.assets().join("minilm-l6-base");
    if is_older(&base.join("base.json"), &work.program("overmask-export")) {
        import(work, &base)?;
    }
    Ok(Ready { work, library })
}

/// Fetches what has this name into a directory, unless it is there.
pub(crate) fn fetch(work: &Work, name: &str, dir: &Path) -> Result<()> {
    let fetch = Run::new(work.program("overmask-export")).args("fetch").arg(name).arg("-o").arg(dir);
    work.timed("fetching", || fetch.show())
}

/// Imports the base bundle, in place of one that may be there.
pub(crate) fn import(work: &Work, base: &Path) -> Result<()> {
    if base.exists() {
        fs::remove_dir_all(base).with_context(|| format!("cannot remove {}", base.display()))?;
    }
    let import = Run::new(work.program("overmask-export"))
        .args("import hf")
        .arg(work.assets().join("minilm-l6"))
        .arg("-o")
        .arg(base)
        .args("--licence Apache-2.0 --source sentence-transformers/all-MiniLM-L6-v2");
    work.timed("importing", || import.show())
}

/// The library of ONNX Runtime in a directory.
pub(crate) fn library_in(dir: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("libonnxruntime.so") {
            return Ok(path);
        }
    }
    bail!("{} holds no ONNX Runtime library", dir.display());
}

/// Python packages that tests run: the checker of ONNX models, and the parser of what Prometheus reads.
fn python(work: &Work) -> Result<()> {
    package(work, "onnx-checker", "onnx", CHECKER_VERSION)?;
    package(work, "prometheus-client", "prometheus_client", PROMETHEUS_VERSION)
}

fn package(work: &Work, name: &str, package: &str, version: &str) -> Result<()> {
    let dir = work.assets().join(name);
    // What pip writes beside a package says which version it is.
    if dir.join(format!("{package}-{version}.dist-info")).is_dir() {
        return Ok(());
    }
    // Renamed when whole: a directory that is there is a whole one.
    let beside = work.assets().join(format!("{name}.part"));
    Run::new("python3")
        .args("-m pip install --quiet --disable-pip-version-check --upgrade --only-binary=:all: --target")
        .arg(&beside)
        .arg(format!("{package}=={version}"))
        .show()?;
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::rename(&beside, &dir).with_context(|| format!("cannot write {}", dir.display()))
}

/// Whether a file is missing or older than another: what an older program made may lack
/// something.
fn is_older(file: &Path, than: &Path) -> bool {
    let time = |path: &Path| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    match (time(file), time(than)) {
        (Some(file), Some(than)) => file < than,
        _ => true,
    }
}
