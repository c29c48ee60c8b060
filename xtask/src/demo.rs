//! `cargo xtask demo`: from a fresh machine to two tasks that run on one base.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::learn::{self, Method, TASKS, Task, number};
use crate::report::{percent, table};
use crate::setup::{self, Ready};
use crate::work::Work;

const GRANULARITY: &str = "block:32x1";
const SEED: u64 = 1;

/// Labels that differ that a message lists.
const LISTED: usize = 5;

/// Sets up, learns both tasks, measures and runs them, and writes the report.
pub(crate) fn run(work: &Work) -> Result<()> {
    let ready = setup::everything(work)?;
    let started = Instant::now();
    let dir = work.target.join("demo");
    let baseline = dir.join("baseline");
    fs::create_dir_all(&baseline).with_context(|| format!("cannot create {}", baseline.display()))?;
    let base = dir.join("base");
    setup::import(work, &base)?;

    let mut reports = Vec::new();
    for task in &TASKS {
        reports.push(one_task(&ready, work, &dir, &base, task)?);
    }
    let path = dir.join("report.json");
    let report = json!({ "tasks": reports });
    let text = serde_json::to_string_pretty(&report)?;
    fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;

    println!();
    for task in &TASKS {
        show_texts(&ready, &dir, &base, task)?;
    }
    println!("{}", table(&rows(&reports)?));
    println!("{}", work.times());
    println!(
        "{} s without set-up and build; base, packs and report.json are in {}",
        started.elapsed().as_secs(),
        dir.display()
    );
    Ok(())
}

/// Learns a task with and without a mask, and measures both on the held-out texts.
fn one_task(ready: &Ready, work: &Work, dir: &Path, base: &Path, task: &Task) -> Result<Value> {
    let file = format!("{}.pack", task.name);
    let head_pack = dir.join("baseline").join(&file);
    learn::train(ready, work, base, task, Method::Head, SEED, &head_pack)?;
    let head = learn::evaluate(ready, work, base, task, &head_pack, None)?;

    let pack = dir.join(&file);
    let method = Method::Mask(GRANULARITY);
    let trained = learn::train(ready, work, base, task, method, SEED, &pack)?;
    let predictions = dir.join(format!("{}.predictions.jsonl", task.name));
    let measured = learn::evaluate(ready, work, base, task, &pack, Some(&predictions))?;
    same_labels(ready, base, task, &pack, &predictions)?;
    Ok(json!({
        "name": task.name,
        "accuracy": number(&measured, "accuracy")?,
        "head_accuracy": number(&head, "accuracy")?,
        "sparsity": number(&trained, "sparsity")?,
        "granularity": trained["granularity"],
        "pack_bytes": trained["pack_bytes"],
        "train_seconds": number(&trained, "train_seconds")?,
    }))
}

/// Fails unless `overmask run` gives every held-out text the label that the exporter gave it.
fn same_labels(ready: &Ready, base: &Path, task: &Task, pack: &Path, predictions: &Path) -> Result<()> {
    let text = fs::read_to_string(predictions).with_context(|| format!("cannot read {}", predictions.display()))?;
    let exported = rows_of(&text, "predicted")?;
    let texts: Vec<String> = rows_of(&text, "text")?;
    ensure!(!texts.iter().any(|t| t.contains('\n')), "a held-out text has a line break");
    let answers = ready
        .run("overmask")
        .args("run --json --base")
        .arg(base)
        .arg("--pack")
        .arg(pack)
        .output_of((texts.join("\n") + "\n").as_bytes())?;
    let ran = rows_of(&answers, "label")?;
    ensure!(
        ran.len() == exported.len(),
        "{}: {} answers from `overmask run`, {} from `overmask-export evaluate`",
        task.name,
        ran.len(),
        exported.len()
    );
    let differing: Vec<usize> = (0..ran.len()).filter(|&i| ran[i] != exported[i]).collect();
    if differing.is_empty() {
        println!("{}: `overmask run` and `overmask-export evaluate` agree on all {} texts", task.name, ran.len());
        return Ok(());
    }
    let listed: Vec<String> =
        differing.iter().take(LISTED).map(|&i| format!("\n- {:?}: {} and {}", texts[i], ran[i], exported[i])).collect();
    bail!(
        "{}: `overmask run` and `overmask-export evaluate` differ on {} texts:{}",
        task.name,
        differing.len(),
        listed.concat()
    );
}

/// A text field of every line of JSON.
fn rows_of(text: &str, field: &str) -> Result<Vec<String>> {
    text.lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            let value = row[field].as_str();
            value.map(str::to_owned).with_context(|| format!("no text `{field}` in {line}"))
        })
        .collect()
}

fn show_texts(ready: &Ready, dir: &Path, base: &Path, task: &Task) -> Result<()> {
    let answers = ready
        .run("overmask")
        .args("run --json --base")
        .arg(base)
        .arg("--pack")
        .arg(dir.join(format!("{}.pack", task.name)))
        .output_of((task.texts.join("\n") + "\n").as_bytes())?;
    println!("{}:", task.name);
    for (text, label) in task.texts.iter().zip(rows_of(&answers, "label")?) {
        println!("  {label:<8}  {text}");
    }
    println!();
    Ok(())
}

fn rows(reports: &[Value]) -> Result<Vec<Vec<String>>> {
    let head = ["task", "accuracy", "frozen + head", "zeros", "granularity", "pack bytes", "seconds"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for report in reports {
        let text = |field: &str| report[field].as_str().unwrap_or_default().to_owned();
        rows.push(vec![
            text("name"),
            percent(number(report, "accuracy")?),
            percent(number(report, "head_accuracy")?),
            percent(number(report, "sparsity")?),
            text("granularity"),
            report["pack_bytes"].to_string(),
            format!("{:.0}", number(report, "train_seconds")?),
        ]);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_lines_are_read() {
        let text = "{\"label\":\"a\",\"x\":1}\n{\"label\":\"b\"}\n";
        assert_eq!(rows_of(text, "label").unwrap(), ["a", "b"]);
        assert!(rows_of(text, "x").is_err());
        assert!(rows_of("no JSON\n", "label").is_err());
    }

    #[test]
    fn the_report_becomes_a_table() {
        let report = json!({
            "name": "trec", "accuracy": 0.9123, "head_accuracy": 0.85, "sparsity": 0.07,
            "granularity": "block:32x1", "pack_bytes": 51234, "train_seconds": 61.7,
        });
        let rows = rows(&[report]).unwrap();
        assert_eq!(rows[1], ["trec", "91.23 %", "85.00 %", "7.00 %", "block:32x1", "51234", "62"]);
    }
}
