//! What a device pays: memory, start and size of the program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use overmask::base::Base;
use overmask::pack::PackFile;
use overmask::task::{Runner, Tokenizer};

use crate::contenders::{Contender, OnnxRuntime, call_self, median, options};
use crate::rows::Rows;

/// How this program calls itself: memory is that of a process.
pub(crate) const CHILD: &str = "memory-of-a-process";

/// Tasks that are resident at once.
const TASKS: usize = 50;

/// Starts of the program.
const STARTS: usize = 41;

/// Texts that the processes run.
const TEXT: &str = "What is the capital of Peru?";

/// Measures memory with the packs of a `weight` and a `block:32x1` task, and the program.
pub(crate) fn run(base: &Path, program: &Path, weight: &Path, block: &Path, rows: &mut Rows) -> Result<()> {
    let opened = Base::open(base)?;
    let cache = tempfile::tempdir()?;
    let cache = cache.path().to_str().context("the directory of temporary files has a name that is not UTF-8")?;
    let environment = [("OVERMASK_CACHE", cache)];
    for (pack, granularity) in [(block, "block:32x1"), (weight, "weight")] {
        let packs = copies(&opened, pack)?;
        let memory = |count: usize| -> Result<f64> {
            let args: Vec<&Path> = [Path::new("native"), base]
                .into_iter()
                .chain(packs.1.iter().take(count).map(PathBuf::as_path))
                .collect();
            // Twice: the first process makes the derived files, which take memory to make.
            call_self(CHILD, &args, &environment)?;
            pss(&call_self(CHILD, &args, &environment)?)
        };
        let (one, all) = (memory(1)?, memory(TASKS)?);
        let each = (all - one) / (TASKS - 1) as f64;
        if granularity == "weight" {
            let weights: usize = opened.manifest().maskable.iter().map(|tensor| tensor.outputs * tensor.inputs).sum();
            let head = PackFile::open(pack)?.head().weight.len() * 4;
            let bits = (each - head as f64) * 8.0 / weights as f64;
            rows.add(format!("a further resident task, {granularity}: PSS"), "bytes", each, None, "");
            rows.add(format!("a further resident task, {granularity}, less head"), "bits/weight", bits, None, "<= 1.1");
        } else {
            rows.add(format!("a further resident task, {granularity}: PSS"), "bytes", each, None, "<= 100000");
            let peer = pss(&call_self(CHILD, &[Path::new("dense"), base], &[])?)?;
            let name =
                format!("{TASKS} tasks of {granularity}, whole process, against a dense ONNX Runtime session: PSS");
            rows.add(name, "bytes", all, Some(peer), "<= 1.5");
        }
    }
    for (pack, granularity) in [(block, "block:32x1"), (weight, "weight")] {
        let time = start(program, base, pack, cache)?;
        rows.add(format!("start to first label, {granularity}"), "ms", time, None, "<= 60");
    }
    let bytes = std::fs::metadata(program)?.len();
    rows.add("size of the program, native engine only".to_owned(), "bytes", bytes as f64, None, "<= 5000000");
    Ok(())
}

/// Packs that differ in name only, so that no two share a page.
fn copies(base: &Base, pack: &Path) -> Result<(tempfile::TempDir, Vec<PathBuf>)> {
    let dir = tempfile::tempdir()?;
    let mut pack = PackFile::open(pack)?.decode(Some(base))?;
    let name = pack.document.name.clone();
    let mut paths = Vec::new();
    for i in 0..TASKS {
        pack.document.name = format!("{name}-{i}");
        let path = dir.path().join(format!("{i}.pack"));
        std::fs::write(&path, pack.to_bytes(Some(base))?)?;
        paths.push(path);
    }
    Ok((dir, paths))
}

/// `native BASE PACK...` runs a text with each pack's task, `dense BASE` in ONNX Runtime; both
/// print the memory of the process.
pub(crate) fn child(args: &[PathBuf]) -> Result<()> {
    let [kind, base, packs @ ..] = args else { bail!("what, and with which base?") };
    let base = Arc::new(Base::open(base)?);
    if kind.as_os_str() == OsStr::new("dense") {
        let mut session = OnnxRuntime::new(&base, 1, None)?;
        let tokenizer = Tokenizer::open(&base)?;
        let tokens = tokenizer.encode(&TEXT.into(), 64)?;
        session.pass(&tokenizer.batch([&tokens]).into())?;
        return print_pss();
    }
    let engine = overmask_cli::start("native".parse()?, &base, &options(1)?)?;
    let runner = Runner::new(engine, base)?;
    for pack in packs {
        let task = runner.add(pack)?;
        runner.run(&[(TEXT, [task])])?;
    }
    print_pss()
}

fn print_pss() -> Result<()> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").context("this system does not tell about memory")?;
    let line = text.lines().find(|line| line.starts_with("Pss:")).context("no PSS")?;
    println!("{line}");
    Ok(())
}

/// Bytes of a line `Pss: N kB`.
fn pss(line: &str) -> Result<f64> {
    let number = line.split_whitespace().nth(1).context("no PSS")?;
    Ok(number.parse::<f64>()? * 1024.0)
}

/// Milliseconds from the start of the program to its end, with one text; the middle of many.
fn start(program: &Path, base: &Path, pack: &Path, cache: &str) -> Result<f64> {
    let mut times = Vec::new();
    for i in 0..STARTS + 2 {
        let start = Instant::now();
        let mut command = Command::new(program);
        command.args(["run", "--engine", "native", "--base"]).arg(base).arg("--pack").arg(pack).arg(TEXT);
        let output = command.env("OVERMASK_CACHE", cache).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success() && !output.stdout.is_empty(), "{} failed", program.display());
        // The first makes the derived files.
        if i >= 2 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(median(&mut times))
}
