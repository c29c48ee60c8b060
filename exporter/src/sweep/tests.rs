//! Whole sweeps, with a shell script in the place of the training command.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use overmask::error::ErrorKind;
use serde_json::Value;
use tempfile::TempDir;

use super::*;

/// The options that these tests' training command has.
fn known() -> Vec<TrainOption> {
    let option = |name: &str, flag, path| TrainOption { name: name.to_owned(), flag, path };
    let mut known = vec![option("allow-cpu-fallback", true, false)];
    known.extend(["data", "eval-data", "log-losses"].map(|name| option(name, false, true)));
    known.extend(["epochs", "granularity", "threads", "initial-sparsity"].map(|name| option(name, false, false)));
    known
}

/// A directory with a base, texts and a sweep.
struct Place {
    dir: TempDir,
}

const SWEEP: &str = "base = 'base'\nseeds = [1, 2]\n[defaults]\nepochs = 3\n\
    [[tasks]]\nname = 'a'\ndata = 'a.jsonl'\n[[tasks]]\nname = 'b'\ndata = 'b.jsonl'\nepochs = 4\n\
    [[methods]]\nname = 'block'\ngranularity = 'block:32x1'\n[[methods]]\nname = 'weight'\nepochs = 9\n";

impl Place {
    fn new(sweep: &str) -> Self {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("base")).unwrap();
        for (name, text) in
            [("base/base.json", r#"{"base_id": "b"}"#), ("a.jsonl", "a"), ("b.jsonl", "b"), ("sweep.toml", sweep)]
        {
            fs::write(place.path(name), text).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn plan(&self) -> Result<Plan, SweepError> {
        Plan::read(&self.path("sweep.toml"), &known())
    }

    /// A sweep whose training command is this script; `$pack` is what it is to write.
    #[cfg(unix)]
    fn options(&self, script: &str) -> SweepOptions {
        use std::os::unix::fs::PermissionsExt;

        let program = self.path("train.sh");
        let text =
            format!("#!/bin/sh\nfor word; do [ \"$last\" = --output ] && pack=$word; last=$word; done\n{script}\n");
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        SweepOptions {
            program,
            dir: self.path("out"),
            workers: 1,
            threads: None,
            shard: Shard::WHOLE,
            retry_failed: false,
        }
    }
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn words(run: &Run) -> Vec<String> {
    run.arguments.iter().map(|word| word.to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_plan_is_the_product_with_later_tables_over_earlier_ones() {
    let place = Place::new(SWEEP);
    let runs = place.plan().unwrap().runs;
    let named: Vec<(&str, &str, u64)> = runs.iter().map(|r| (&*r.task, &*r.method, r.seed)).collect();
    assert_eq!(named[..3], [("a", "block", 1), ("a", "block", 2), ("a", "weight", 1)]);
    assert_eq!(named.len(), 8);
    let epochs: Vec<&Value> = runs.iter().map(|r| &r.options["epochs"]).collect();
    assert_eq!(epochs, [3, 3, 9, 9, 4, 4, 9, 9]);
    let data = format!("--data={}", place.path("a.jsonl").display());
    let base = format!("--base={}", place.path("base").display());
    let expected = ["train", &base, "--name=a", "--seed=1", &data, "--epochs=3", "--granularity=block:32x1"];
    assert_eq!(words(&runs[0]), expected);
}

#[test]
fn a_grid_makes_more_methods() {
    let place =
        Place::new(&format!("{SWEEP}[grid]\ninitial-sparsity = [0.05, 1e-5]\nallow-cpu-fallback = [true, false]"));
    let runs = place.plan().unwrap().runs;
    assert_eq!(runs.len(), 32);
    assert_eq!(runs[0].method, "block allow-cpu-fallback=true initial-sparsity=0.05");
    assert!(words(&runs[0]).contains(&"--allow-cpu-fallback".to_owned()));
    assert!(words(&runs[2]).contains(&"--initial-sparsity=0.00001".to_owned()));
    assert!(!words(&runs[4]).contains(&"--allow-cpu-fallback".to_owned()));
}

#[test]
fn an_id_is_that_of_the_content_wherever_it_lies() {
    let ids = |place: &Place| place.plan().unwrap().runs.into_iter().map(|r| r.id).collect::<Vec<_>>();
    let (place, other) = (Place::new(SWEEP), Place::new(SWEEP));
    let before = ids(&place);
    assert_eq!(before, ids(&other));
    assert!(before.iter().all(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    fs::rename(other.path("a.jsonl"), other.path("c.jsonl")).unwrap();
    fs::write(other.path("sweep.toml"), SWEEP.replace("a.jsonl", "c.jsonl")).unwrap();
    assert_eq!(before, ids(&other));
    // Other texts make other runs of this task, and of this task only.
    fs::write(place.path("a.jsonl"), "A").unwrap();
    let after = ids(&place);
    assert!(before[..4].iter().all(|id| !after.contains(id)));
    assert_eq!(before[4..], after[4..]);
    fs::write(place.path("base/base.json"), r#"{"base_id": "b", "licence": "MIT"}"#).unwrap();
    assert_eq!(ids(&place), after);
    fs::write(place.path("base/base.json"), r#"{"base_id": "c"}"#).unwrap();
    assert!(ids(&place).iter().all(|id| !after.contains(id)));
}

#[test]
fn what_is_wrong_with_a_sweep_is_named() {
    let method = "[[methods]]\nname = 'block'\n";
    for (from, to, part) in [
        ("epochs = 4", "epoch = 4", "[[tasks]] `b`: `epoch` is no option of the training command"),
        (
            "epochs = 3",
            "initial_sparsity = 0.1",
            "[defaults]: `initial_sparsity` is no option of the training command; it is written `initial-sparsity`",
        ),
        ("epochs = 9", "seed = 9", "[[methods]] `weight`: seed: not here: `seeds` at the top"),
        ("epochs = 9", "output = 'x'", "output: not here: each run has a place"),
        ("epochs = 9", "log-losses = 'x'", "log-losses: not here"),
        ("epochs = 9", "epochs = true", "epochs: takes a value"),
        ("seeds", "seed", "unknown field `seed`"),
        ("[1, 2]", "[1, 1]", "seeds: 1 is there twice"),
        ("[1, 2]", "[]", "seeds: there must be one"),
        ("name = 'b'", "name = 'a'", "[[tasks]]: name: `a` is there twice"),
        ("name = 'b'", "name = ' '", "[[tasks]]: name: \" \" is no name"),
        ("granularity = 'block:32x1'\n", "epochs = 9\n", "task `a`: methods `block` and `weight` ask for the same run"),
        (
            method,
            "[grid]\nepochs = [1]\n[[methods]]\nname = 'block'\n",
            "[[methods]] `weight`: epochs: [grid] sets it too",
        ),
        (
            method,
            "[grid]\ninitial-sparsity = []\n[[methods]]\nname = 'block'\n",
            "[grid]: initial-sparsity: must be a list",
        ),
    ] {
        assert!(SWEEP.contains(from), "{from}");
        let error = Place::new(&SWEEP.replace(from, to)).plan().unwrap_err();
        assert!(error.to_string().contains("sweep.toml: ") && error.to_string().contains(part), "{part}: {error}");
        assert_eq!(error.kind(), ErrorKind::InputData);
    }
    let place = Place::new(SWEEP);
    let texts = place.path("b.jsonl");
    fs::rename(&texts, place.path("elsewhere")).unwrap();
    let error = place.plan().unwrap_err().to_string();
    assert!(error.starts_with("cannot read") && error.contains("b.jsonl") && !error.contains("import"), "{error}");
    fs::rename(place.path("elsewhere"), &texts).unwrap();
    fs::write(place.path("base/base.json"), "{}").unwrap();
    let error = place.plan().unwrap_err().to_string();
    assert!(error.contains("base.json: not a base: missing field `base_id`"), "{error}");
    fs::remove_file(place.path("base/base.json")).unwrap();
    assert!(place.plan().unwrap_err().to_string().contains("base.json"));
}

/// Prints what a training command prints.
const GOOD: &str = "echo learning >&2; echo pack > \"$pack\"; echo '{\"dev\": 0.5}'";

#[cfg(unix)]
#[test]
fn a_sweep_runs_once_and_goes_on_where_it_was() {
    let place = Place::new(SWEEP);
    let plan = place.plan().unwrap();
    let mut options =
        place.options(&format!("case \"$*\" in *name=b*seed=2*) echo no luck >&2; exit 3;; esac\n{GOOD}"));
    let (mut started, mut ended) = (0, 0);
    let mut count = |event: Event| match event {
        Event::Started(_) => started += 1,
        Event::Ended(_) => ended += 1,
    };
    let summary = run(&plan, &options, &AtomicBool::new(false), &mut count).unwrap();
    assert_eq!((started, ended), (8, 8));
    assert_eq!((summary.runs, summary.done, summary.failed, summary.left), (8, 6, 2, 0));
    assert!(matches!(summary.check(), Err(SweepError::Failed { failed: 2, runs: 8, .. })));
    let got = lines(&summary.results);
    assert_eq!((got.len(), &got[0]["train"]["dev"], &got[0]["status"]), (8, &0.5.into(), &"done".into()));
    let failed: Vec<&Value> = got.iter().filter(|line| line["status"] == "failed").collect();
    assert_eq!(failed.len(), 2);
    assert!(failed.iter().all(|line| line["error"] == "no luck" && line.get("train").is_none()));
    assert!(plan.runs.iter().filter(|r| r.task == "a").all(|r| options.pack(r).is_file()));
    let log = place.path("out/logs").join(format!("{}.log", plan.runs[0].id));
    assert_eq!(fs::read_to_string(log).unwrap(), "learning\n");

    // Again: nothing is run.
    let again = run(&plan, &options, &AtomicBool::new(false), &mut |_| panic!("it ran")).unwrap();
    assert_eq!((again.skipped, again.failed, again.done), (6, 2, 0));
    // With a command that works now, and when asked to.
    options = place.options(GOOD);
    options.retry_failed = true;
    let again = run(&plan, &options, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert_eq!((again.skipped, again.failed, again.done), (6, 0, 2));
    again.check().unwrap();
    assert_eq!(lines(&summary.results).len(), 10);
}

#[cfg(unix)]
#[test]
fn shards_and_workers_share_a_plan_without_gaps() {
    let place = Place::new(&format!("devices = [3, 'GPU-5']\n{SWEEP}"));
    let plan = place.plan().unwrap();
    let mut options = place.options(
        "echo pack > \"$pack\"; echo \"{\\\"gpu\\\": \\\"$CUDA_VISIBLE_DEVICES\\\", \\\"words\\\": \\\"$*\\\"}\"",
    );
    options.workers = 3;
    options.threads = Some(5);
    let mut seen = Vec::new();
    for part in ["0/3", "1/3", "2/3"] {
        options.shard = part.parse().unwrap();
        let summary = run(&plan, &options, &AtomicBool::new(false), &mut |_| {}).unwrap();
        assert_eq!(summary.results, place.path("out").join(format!("results-{}.jsonl", part.replace('/', "of"))));
        seen.extend(lines(&summary.results));
    }
    let mut ids: Vec<&str> = seen.iter().map(|line| line["run"].as_str().unwrap()).collect();
    let mut expected: Vec<&str> = plan.runs.iter().map(|r| &*r.id).collect();
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    for line in &seen {
        assert!(["3", "GPU-5"].contains(&line["train"]["gpu"].as_str().unwrap()), "{line}");
        assert!(line["train"]["words"].as_str().unwrap().ends_with(".checkpoint --resume --threads=5"), "{line}");
        assert_eq!(line["threads"], 5);
    }
    // What the parts did needs not be done by the whole.
    options.shard = Shard::WHOLE;
    assert_eq!(run(&plan, &options, &AtomicBool::new(false), &mut |_| {}).unwrap().skipped, 8);
}

#[cfg(unix)]
#[test]
fn a_stopped_sweep_starts_nothing_more_and_records_no_half_run() {
    let place = Place::new(SWEEP);
    let plan = place.plan().unwrap();
    let options = place.options("echo half > \"$pack\"; echo '{\"dev\": 0.5, \"stopped\": true}'");
    let stop = AtomicBool::new(false);
    let stopping = |_: Event| stop.store(true, Ordering::Relaxed);
    // The first run is under way when the stop comes; depending on who is faster it ends before it.
    let summary = run(&plan, &options, &stop, &mut { stopping }).unwrap();
    assert!(summary.left >= 7, "{summary:?}");
    assert!(matches!(summary.check(), Err(SweepError::Stopped { runs: 8, .. })));
    assert_eq!(lines(&summary.results).len(), 8 - summary.left);
    let packs = fs::read_dir(place.path("out/packs")).unwrap().count();
    assert_eq!(packs, 8 - summary.left);
    // A run that came to its end all the same counts.
    let options = place.options(&format!("sleep 1\n{GOOD}"));
    let stop = AtomicBool::new(false);
    let before = summary.left;
    let summary = run(&plan, &options, &stop, &mut |_| stop.store(true, Ordering::Relaxed)).unwrap();
    assert_eq!((summary.done, summary.left), (1, before - 1));
}

#[cfg(unix)]
#[test]
fn a_run_that_ends_badly_says_how() {
    let place = Place::new(SWEEP);
    let plan = place.plan().unwrap();
    for (script, said) in [
        ("kill -9 $$", "signal: 9 (SIGKILL)"),
        ("exit 4", "exit status: 4"),
        ("echo hello", "it ended well, but printed no JSON object"),
        ("seq 30 >&2; exit 1", "21\n22\n23\n24\n25\n26\n27\n28\n29\n30"),
        ("echo '{\"dev\": 1}'; echo late >&2; exit 1", "late"),
    ] {
        let mut options = place.options(script);
        (options.retry_failed, options.shard) = (true, Shard::new(0, 8).unwrap());
        let summary = run(&plan, &options, &AtomicBool::new(false), &mut |_| {}).unwrap();
        assert_eq!(summary.failed, 1);
        let line = lines(&summary.results).pop().unwrap();
        assert_eq!((&line["error"], line.get("train")), (&said.into(), None), "{script}");
    }
    let mut options = place.options(GOOD);
    options.program = place.path("absent");
    let error = run(&plan, &options, &AtomicBool::new(false), &mut |_| {}).unwrap_err();
    assert!(matches!(error, SweepError::Start { .. }), "{error}");
}
