//! `cargo xtask bench`: what is learnt, and how fast.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::features;
use crate::learn::{self, Method, TASKS, Task, number};
use crate::report::{percent, table};
use crate::setup::{self, Ready};
use crate::work::{Run, Work};

const SEEDS: [u64; 3] = [1, 2, 3];
const METHODS: [Method; 3] = [Method::Head, Method::Mask("block:32x1"), Method::Mask("weight")];

/// Learns every task with every method and seed, and prints means. A run that the same program
/// has done with the same settings is not repeated.
pub(crate) fn accuracy(work: &Work) -> Result<()> {
    let ready = setup::everything(work)?;
    let (dir, runs) = folders(work)?;
    let mut lines =
        vec![["task", "mask", "mean", "seeds", "zeros", "pack bytes", "seconds"].map(str::to_owned).to_vec()];
    let mut summary = Vec::new();
    for task in &TASKS {
        for method in METHODS {
            let mut done = Vec::new();
            for seed in SEEDS {
                done.push(one_run(&ready, work, &runs, task, method, seed)?);
            }
            let all = |field| -> Result<Vec<f64>> { done.iter().map(|r| number(r, field)).collect() };
            let accuracies = all("accuracy")?;
            let seeds: Vec<String> = accuracies.iter().map(|a| format!("{:.1}", 100.0 * a)).collect();
            lines.push(vec![
                task.name.to_owned(),
                method.name().to_owned(),
                percent(mean(&accuracies)),
                seeds.join(" "),
                percent(mean(&all("sparsity")?)),
                format!("{:.0}", mean(&all("pack_bytes")?)),
                format!("{:.0}", mean(&all("train_seconds")?)),
            ]);
            summary.push(json!({
                "task": task.name,
                "mask": method.name(),
                "mean_accuracy": mean(&accuracies),
                "mean_sparsity": mean(&all("sparsity")?),
                "runs": done,
            }));
            // After every row, so that an interrupted benchmark leaves what it has.
            let text = serde_json::to_string_pretty(&summary)? + "\n";
            write(&dir.join("accuracy.json"), &text)?;
        }
    }
    println!("{}", table(&lines));
    Ok(())
}

/// How small masks and packs are and how fast they are coded, beside others, on what seed 1 of the
/// accuracy benchmark has learnt.
pub(crate) fn codec(work: &Work) -> Result<()> {
    let ready = setup::everything(work)?;
    let (dir, runs) = folders(work)?;
    let mut packs = Vec::new();
    for task in &TASKS {
        for method in [Method::Mask("weight"), Method::Mask("block:32x1")] {
            packs.push(pack(&ready, work, &runs, task, method)?);
        }
    }
    packs.iter().fold(measure(&ready, work, "codec", &dir.join("codec.json"))?, Run::arg).show()
}

/// Where a pass spends its time, here and in ONNX Runtime.
pub(crate) fn budget(work: &Work) -> Result<()> {
    let ready = setup::everything(work)?;
    let (dir, _) = folders(work)?;
    let texts = learn::data(work, &TASKS[1], "test");
    let mut run = measure(&ready, work, "budget", &dir.join("budget.json"))?.arg(texts);
    for dtype in ["bf16", "int8"] {
        run = run.arg(variant(&ready, work, &dir, dtype)?);
    }
    run.show()
}

/// What several tasks on one text cost, which share what they have in common.
pub(crate) fn plans(work: &Work) -> Result<()> {
    let ready = setup::everything(work)?;
    let (dir, _) = folders(work)?;
    let texts = learn::data(work, &TASKS[1], "test");
    measure(&ready, work, "plans", &dir.join("plans.json"))?.arg(texts).show()
}

/// The encoders that `cargo xtask models` has imported, on the native engine and on ONNX Runtime.
pub(crate) fn encoders(work: &Work) -> Result<()> {
    let ready = setup::everything(work)?;
    let bases = crate::models::bases(work);
    ensure!(!bases.is_empty(), "there are no encoders yet; fetch and import them first: cargo xtask models");
    let (dir, _) = folders(work)?;
    setup::benches(work)?;
    let texts = learn::data(work, &TASKS[1], "test");
    let run = ready.run("bench").arg("encoders").arg(dir.join("encoders.json")).arg(texts);
    bases.iter().fold(run, Run::arg).show()
}

/// The native engine beside its peers, and what a device pays for it.
pub(crate) fn peers(work: &Work) -> Result<()> {
    let ready = setup::everything(work)?;
    let (dir, runs) = folders(work)?;
    let [trec, movie] = &TASKS;
    let methods = [Method::Mask("weight"), Method::Mask("block:32x1"), Method::Half("block:32x1")];
    let packs =
        methods.into_iter().map(|method| pack(&ready, work, &runs, trec, method)).collect::<Result<Vec<_>>>()?;
    let program = shipped(work)?;
    let texts = learn::data(work, movie, "test");
    let run = measure(&ready, work, "peers", &dir.join("report.json"))?.arg(texts).arg(program);
    packs.iter().fold(run, Run::arg).show()
}

/// The program as it is shipped; other features would make other dependencies, so it has its own folder.
fn shipped(work: &Work) -> Result<PathBuf> {
    let target = work.target.join("shipped");
    work.cargo().args("build --profile dist").args(features::SHIPPED).env("CARGO_TARGET_DIR", &target).show()?;
    Ok(target.join("dist").join(format!("overmask{}", std::env::consts::EXE_SUFFIX)))
}

/// The server beside the engine itself and beside ONNX Runtime behind FastAPI, which is fetched.
pub(crate) fn serve(work: &Work) -> Result<()> {
    let ready = setup::everything(work)?;
    let (dir, runs) = folders(work)?;
    let [trec, movie] = &TASKS;
    let python = python(work, "serve")?;
    let mut models = Vec::new();
    let block = Method::Mask("block:32x1");
    for task in [trec, movie] {
        models.push(exported(&ready, work, &pack(&ready, work, &runs, task, block)?)?);
    }
    let program = shipped(work)?;
    let texts = learn::data(work, movie, "test");
    let run = measure(&ready, work, "serve", &dir.join("serve.json"))?.arg(texts).arg(program);
    let run = run.arg(pack(&ready, work, &runs, trec, block)?).arg(python);
    models.iter().fold(run, Run::arg).show()
}

/// Bases in each precision, beside ONNX Runtime, OpenVINO and DeepSparse, which are fetched.
pub(crate) fn precisions(work: &Work) -> Result<()> {
    let ready = setup::everything(work)?;
    let (dir, runs) = folders(work)?;
    let texts = learn::data(work, &TASKS[1], "test");
    let run = measure(&ready, work, "precisions", &dir.join("precisions.json"))?.arg(texts);
    let mut run = run.arg(python(work, "precisions")?).arg(python(work, "deepsparse")?);
    for dtype in ["bf16", "int8"] {
        run = run.arg(variant(&ready, work, &dir, dtype)?);
    }
    let half = pack(&ready, work, &runs, &TASKS[0], Method::Half("block:32x1"))?;
    let model = exported(&ready, work, &half)?;
    run = run.arg(half).arg(model);
    for task in &TASKS {
        let pack = pack(&ready, work, &runs, task, Method::Mask("block:32x1"))?;
        let model = exported(&ready, work, &pack)?;
        run = run.arg(pack).arg(model).arg(learn::data(work, task, "test"));
    }
    run.show()
}

/// The base in another precision.
fn variant(ready: &Ready<'_>, work: &Work, dir: &Path, dtype: &str) -> Result<PathBuf> {
    let variant = dir.join(format!("base-{dtype}"));
    if variant.exists() {
        fs::remove_dir_all(&variant).with_context(|| format!("cannot remove {}", variant.display()))?;
    }
    let quantize = ready.run("overmask-export").args("quantize --dtype").arg(dtype).arg("--base");
    quantize.arg(work.assets().join("minilm-l6-base")).arg("-o").arg(&variant).show()?;
    Ok(variant)
}

/// A pack as a plain ONNX model, beside it.
fn exported(ready: &Ready<'_>, work: &Work, pack: &Path) -> Result<PathBuf> {
    let model = pack.with_extension("model");
    if model.exists() {
        fs::remove_dir_all(&model).with_context(|| format!("cannot remove {}", model.display()))?;
    }
    let export = ready.run("overmask-export").args("export --base").arg(work.assets().join("minilm-l6-base"));
    export.arg("--pack").arg(pack).arg("-o").arg(&model).show()?;
    Ok(model)
}

/// A Python with what a benchmark is measured beside.
fn python(work: &Work, bench: &str) -> Result<PathBuf> {
    let requirements = work.root.join(format!("benches/{bench}-requirements.txt"));
    let (venv, wanted) = (work.target.join(format!("{bench}-peer")), fs::read(&requirements)?);
    let (python, ready) = (venv.join("bin/python"), venv.join("ready"));
    if fs::read(&ready).ok().as_ref() != Some(&wanted) {
        Run::new("python3").args("-m venv").arg(&venv).show()?;
        let install = Run::new(&python).args("-m pip install --quiet --disable-pip-version-check -r");
        install.arg(&requirements).show()?;
        fs::write(&ready, wanted).with_context(|| format!("cannot write {}", ready.display()))?;
    }
    Ok(python)
}

/// The program of `benches/` that counts instructions, with all but the command that runs what is counted.
pub(crate) fn counting(ready: &Ready<'_>, work: &Work) -> Result<Run> {
    let (dir, runs) = folders(work)?;
    let [trec, movie] = &TASKS;
    let weight = pack(ready, work, &runs, trec, Method::Mask("weight"))?;
    let half = pack(ready, work, &runs, trec, Method::Half("block:32x1"))?;
    let texts = learn::data(work, movie, "test");
    let (base, models) = (work.assets().join("minilm-l6-base"), dir.join("onnxruntime-int8"));
    let script = Run::new(python(work, "precisions")?).arg(work.root.join("benches/precisions_peer.py"));
    script.args("onnxruntime").arg(base).arg(&models).show()?;
    let int8 = variant(ready, work, &dir, "int8")?;
    let run = measure(ready, work, "instructions", &dir.join("instructions.json"))?;
    let run = run.arg(texts).arg(weight).arg(half).arg(int8);
    Ok(run.arg(models.join("ort-int8.onnx")).arg(models.join("ort-fused-int8.onnx")))
}

/// The program of `benches/` with what all of its measurements take.
fn measure(ready: &Ready<'_>, work: &Work, name: &str, report: &Path) -> Result<Run> {
    setup::benches(work)?;
    Ok(ready.run("bench").arg(name).arg(report).arg(work.assets().join("minilm-l6-base")))
}

/// A pack of seed 1.
fn pack(ready: &Ready<'_>, work: &Work, runs: &Path, task: &Task, method: Method) -> Result<PathBuf> {
    one_run(ready, work, runs, task, method, SEEDS[0])?;
    Ok(runs.join(format!("{}.pack", run_name(task, method, SEEDS[0]))))
}

/// Where reports go, and what this build has learnt.
fn folders(work: &Work) -> Result<(PathBuf, PathBuf)> {
    let dir = work.target.join("bench");
    let runs = dir.join("accuracy").join(build(&work.program("overmask-export"))?);
    fs::create_dir_all(&runs).with_context(|| format!("cannot create {}", runs.display()))?;
    Ok((dir, runs))
}

fn run_name(task: &Task, method: Method, seed: u64) -> String {
    let half = if matches!(method, Method::Half(_)) { "-half" } else { "" };
    format!("{}-{}{half}-{seed}", task.name, method.name().replace(':', "-"))
}

/// A short name of a program's very bytes: another build may learn something else, also with
/// the same settings, whose defaults it decides.
fn build(program: &Path) -> Result<String> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    Ok(Sha256::digest(&bytes)[..6].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// One run, or its result from before.
fn one_run(ready: &Ready, work: &Work, runs: &Path, task: &Task, method: Method, seed: u64) -> Result<Value> {
    let name = run_name(task, method, seed);
    let path = runs.join(format!("{name}.json"));
    let settings = format!("{} --seed {seed}", method.args());
    if let Ok(text) = fs::read_to_string(&path)
        && let Ok(before) = serde_json::from_str::<Value>(&text)
        && before["settings"] == settings.as_str()
    {
        return Ok(before);
    }
    let base = work.assets().join("minilm-l6-base");
    let pack = runs.join(format!("{name}.pack"));
    let trained = learn::train(ready, work, &base, task, method, seed, &pack)?;
    let measured = learn::evaluate(ready, work, &base, task, &pack, None)?;
    let result = json!({
        "settings": settings,
        "seed": seed,
        "accuracy": number(&measured, "accuracy")?,
        "macro_f1": number(&measured, "macro_f1")?,
        "sparsity": number(&trained, "sparsity")?,
        "pack_bytes": number(&trained, "pack_bytes")?,
        "train_seconds": number(&trained, "train_seconds")?,
    });
    // Renamed when whole: a result that is there counts as done.
    let beside = runs.join(format!("{name}.json.part"));
    write(&beside, &(serde_json::to_string_pretty(&result)? + "\n"))?;
    fs::rename(&beside, &path).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("{name}: {}", percent(number(&result, "accuracy")?));
    Ok(result)
}

/// Measures the training step beside PyTorch's; `more` goes to the script.
pub(crate) fn step(work: &Work, more: &[&str]) -> Result<()> {
    let ready = setup::everything(work)?;
    let script = work.root.join("benches").join("step.sh");
    let mut run = ready
        .prepare(Run::new("bash"))
        .directory(&work.root)
        .env("CARGO_TARGET_DIR", &work.target)
        .env("BASE", work.assets().join("minilm-l6-base"))
        .env("EXPORTER", work.program("overmask-export"))
        .arg(script);
    for arg in more {
        run = run.arg(arg);
    }
    run.show()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_means() {
        assert_eq!(mean(&[1.0, 2.0, 6.0]), 3.0);
        assert_eq!(mean(&[]), 0.0);
    }
}
