//! Reports of whole files: what is in them, and that nothing in a file breaks the page.

use std::fs;
use std::path::PathBuf;

use overmask::error::ErrorKind;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Lines of a file, read.
fn read_lines(lines: &[Value]) -> Result<Input, ReportError> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    read_text(&text)
}

fn read_text(text: &str) -> Result<Input, ReportError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.jsonl");
    fs::write(&path, text).unwrap();
    read(&[path])
}

fn done(run: &str, task: &str, method: &str, seed: u64, train: Value) -> Value {
    json!({"run": run, "task": task, "method": method, "seed": seed, "options": {}, "status": "done",
           "train": train, "seconds": 9.5})
}

fn accuracy(dev: f64, eval: f64, bytes: u64) -> Value {
    json!({"name": "x", "metric": "accuracy", "dev": dev, "metrics": {"eval_accuracy": eval, "dev_accuracy": dev},
           "sparsity": 0.07, "pack_bytes": bytes, "steps": 10, "train_seconds": 8.0})
}

/// Whether every element that is opened is closed, in order: figures and tables come from many hands.
fn is_well_formed(html: &str) -> bool {
    const VOID: [&str; 3] = ["meta", "!DOCTYPE", "br"];
    let mut open = Vec::new();
    // What is in the style sheet is no markup.
    let html = match (html.find("<style>"), html.find("</style>")) {
        (Some(from), Some(to)) => format!("{}{}", &html[..from], &html[to + 8..]),
        _ => html.to_owned(),
    };
    for tag in html.split('<').skip(1) {
        let Some((tag, text)) = tag.split_once('>') else { return false };
        if text.contains('>') {
            return false;
        }
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        if tag.starts_with('/') {
            if open.pop() != Some(name) {
                return false;
            }
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    open.is_empty()
}

#[test]
fn seeds_become_means_and_the_best_run_is_chosen_by_dev() {
    let mut best = accuracy(0.95, 0.90, 300);
    best["confusion"] = json!({"labels": ["a", "b"], "counts": [[3, 1], [0, 4]]});
    best["classes"] = json!([{"label": "a", "precision": 1.0, "recall": 0.75, "f1": 0.857, "support": 4}]);
    best["intervals"] = json!({"eval_accuracy": [0.8, 0.97]});
    let lines = [
        done("1", "trec", "block", 1, accuracy(0.90, 0.92, 100)),
        done("2", "trec", "block", 2, best),
        done("3", "trec", "head", 1, accuracy(0.80, 0.99, 50)),
        json!({"run": "4", "task": "trec", "method": "head", "seed": 2, "options": {}, "status": "failed",
               "error": "first\nno space", "seconds": 1.0}),
    ];
    let report = Report::new(read_lines(&lines).unwrap());
    let [block, head] = &report.summary[..] else { panic!("{:?}", report.summary) };
    let held_out = block.held_out.unwrap();
    assert!((held_out.mean - 0.91).abs() < 1e-12 && (held_out.sd.unwrap() - 0.02 / 2f64.sqrt()).abs() < 1e-12);
    assert_eq!((held_out.n, held_out.min, held_out.max), (2, 0.90, 0.92));
    assert_eq!((head.runs, head.held_out.unwrap().sd, head.pack_bytes.unwrap().mean), (1, None, 50.0));
    // Held-out texts choose nothing.
    assert_eq!((report.best[0].run.as_str(), report.best[0].dev), ("2", 0.95));
    assert_eq!(report.runs[1].interval, Some([0.8, 0.97]));
    assert_eq!(report.failures.len(), 1);
    let page = html(&report).unwrap();
    assert!(is_well_formed(&page), "{page}");
    for part in ["91.00 ± 1.41", "80.00 to 97.00", "no space", "confusion matrix", "85.70", "3 runs, 1 task, 2 methods"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<script") && !page.contains("href=\"http") && !page.contains("src="));
    // The same numbers as JSON.
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["summary"][0]["held_out"]["n"], 2);
    assert_eq!(json["best"][0]["confusion"]["counts"][0][0], 3.0);
}

#[test]
fn single_runs_evaluations_and_baselines_are_reported() {
    let mut train = accuracy(0.9, 0.8, 100);
    let mistake = json!({"line": 7, "text": "what <b>is</b> it", "label": "a", "predicted": "b", "score": 0.987});
    for (name, value) in [
        ("schema", json!(1)),
        ("pack", json!("out/trec.pack")),
        ("name", json!("trec")),
        ("method", json!("mask")),
        ("granularity", json!("block:32x1")),
        ("seed", json!(3)),
        ("head", json!({"dev": 0.7, "eval": 0.65})),
        ("baselines", json!([{"baseline": "majority", "dev": 0.25, "eval": 0.2}])),
        ("mistakes", json!([mistake])),
    ] {
        train[name] = value;
    }
    let evaluation = json!({"pack": "a.pack", "name": "movie", "data": "test.jsonl", "metric": "accuracy", "n": 12,
        "accuracy": 0.75, "intervals": {"accuracy": [0.5, 0.9]}, "engine": "native", "precision": "f32",
        "mistakes": [{"line": 1, "tokens": ["x", "y"], "tags": ["O", "B"], "predicted": ["O", null], "score": 0.5}]});
    let baseline =
        json!({"baseline": "tf-idf", "data": "train.jsonl", "metric": "accuracy", "dev": 0.815, "eval": null});
    let report = Report::new(read_lines(&[train.clone(), evaluation.clone(), baseline]).unwrap());
    assert_eq!((report.runs[0].task.as_str(), report.runs[0].method.as_str()), ("trec", "mask block:32x1"));
    assert_eq!((report.evaluations[0].value(), report.baselines[0].dev), (Some(0.75), Some(0.815)));
    let page = html(&report).unwrap();
    assert!(is_well_formed(&page), "{page}");
    for part in [
        "1 run, 1 task, 1 method, 1 evaluation, 1 baseline",
        "what &lt;b&gt;is&lt;/b&gt; it",
        "0.99",
        "head alone",
        "25.00",
        "50.00 to 90.00",
        "81.50",
        "x y",
    ] {
        assert!(page.contains(part), "{part}");
    }
    // What is wrong is told by its line.
    train["seed"] = json!("three");
    let wrong = read_lines(&[evaluation, train]).unwrap_err().to_string();
    assert!(wrong.contains("line 2: is no result of training"), "{wrong}");
}

#[test]
fn a_run_counts_once_and_done_beats_failed() {
    let failed = |run: &str| json!({"run": run, "task": "t", "method": "m", "seed": 1, "status": "failed"});
    let one = |dev: f64| done("1", "t", "m", 1, json!({"dev": dev}));
    let report = Report::new(read_lines(&[failed("1"), one(0.5), one(0.6), failed("1"), failed("2")]).unwrap());
    assert_eq!(report.runs.len(), 1);
    assert_eq!((report.runs[0].dev, report.failures.len()), (Some(0.6), 1));
}

#[test]
fn what_a_run_leaves_out_is_taken_from_elsewhere() {
    let train = json!({"metrics": {"dev_accuracy": 0.9, "eval_accuracy": 0.8}});
    let report = Report::new(read_lines(&[done("1", "t", "m", 1, train)]).unwrap());
    let run = &report.runs[0];
    assert_eq!(
        (run.metric.as_str(), run.dev, run.held_out, run.train_seconds),
        ("accuracy", Some(0.9), Some(0.8), Some(9.5))
    );
}

#[test]
fn hostile_names_stay_text() {
    let evil = "</title><script>alert(1)</script>\"'&\u{202e}";
    let mut train = accuracy(0.9, 0.9, 10);
    train["confusion"] = json!({"labels": [evil, "b"], "counts": [[3, 1], [0, 4]]});
    train["classes"] = json!([{"label": evil, "f1": 1.0}]);
    train["curve"] = json!([{"epoch": 1, "step": 10, "loss": 0.5, "dev": 0.5, "sparsity": 0.05},
                            {"epoch": 2, "step": 20, "loss": 0.4, "dev": 0.6, "sparsity": 0.06}]);
    let lines = [
        done(evil, evil, evil, 1, train),
        json!({"run": "2", "task": evil, "method": evil, "seed": 2, "status": "failed", "error": evil}),
        json!({"analysis": "closeness", "pack": evil, "tensors": [{"tensor": evil, "layer": 0, "module": evil, "l1": 1.0, "angle": 0.2}]}),
        json!({"analysis": "overlap", "packs": [evil, "b\u{202e}"], "observed": [[1.0, 0.2], [0.2, 1.0]], "chance": [[0.1, 0.1], [0.1, 0.1]]}),
        json!({"analysis": "sensitivity", "pack": evil, "by": evil, "metric": evil, "base": 0.9,
               "groups": [{"group": evil, "metric": 0.8, "drop": 0.1}]}),
        json!({"analysis": "solutions", "metric": evil, "points": [{"task": evil, "sparsity": 0.1, "seed": 1, "metric": 0.9}],
               "groups": [{"task": evil, "sparsity": 0.1, "n": 1}]}),
    ];
    let page = html(&Report::new(read_lines(&lines).unwrap())).unwrap();
    assert!(is_well_formed(&page));
    assert!(!page.contains("<script") && !page.contains('\u{202e}'));
    assert!(page.contains("&lt;script&gt;alert(1)"));
    // All sections are there: the test would show nothing otherwise.
    for title in
        ["Summary", "pack size", "Learning curves", "Labels", "Closeness", "Overlap", "Sensitivity", "Solutions"]
    {
        assert!(page.contains(title), "{title}");
    }
}

#[test]
fn solutions_of_the_same_sparsity_are_a_row() {
    let shared = json!({"observed": 0.436, "chance": 0.072, "chance_by_magnitude": 0.082});
    let lines = [json!({"analysis": "solutions", "metric": "accuracy", "points": [
        {"task": "trec", "sparsity": 0.0712, "seed": 1, "metric": 0.9, "pack": "a.pack"}], "groups": [
        {"task": "trec", "sparsity": 0.0, "n": 1, "mean": 0.8, "sd": null, "min": 0.8, "max": 0.8, "overlap": null},
        {"task": "trec", "sparsity": 0.07, "n": 3, "mean": 0.9, "sd": 0.01, "min": 0.89, "max": 0.91,
         "overlap": shared}]})];
    let report = Report::new(read_lines(&lines).unwrap());
    let page = html(&report).unwrap();
    let row = |cells: &[&str]| cells.iter().map(|cell| format!("<td class=\"n\">{cell}</td>")).collect::<String>();
    for cells in [
        ["0", "1", "80.00", "–", "80.00", "80.00", "–", "–", "–"],
        ["7", "3", "90.00", "1.00", "89.00", "91.00", "43.60", "7.20", "8.20"],
    ] {
        assert!(page.contains(&format!("<td>accuracy (%)</td>{}", row(&cells))), "{cells:?}");
    }
    assert!(page.contains("trec: accuracy against sparsity, 1 solutions."));
    assert_eq!(serde_json::to_value(&report).unwrap()["analyses"][0]["groups"][1]["overlap"], shared);
    // Without groups there is no table of them.
    let points = json!({"analysis": "solutions", "points": []});
    let alone = json!({"analysis": "solutions", "points": [{"task": "t", "sparsity": 0.1, "metric": 0.9}]});
    let page = html(&Report::new(read_lines(&[points, alone]).unwrap())).unwrap();
    assert!(page.contains("t: metric against sparsity") && !page.contains("same sparsity"));
    assert!(page.contains("<td>metric</td><td class=\"n\">0.900</td>"));
}

#[test]
fn sensitivity_says_what_was_taken_away_or_kept_alone() {
    let groups = json!([{"group": "layer 0", "metric": 0.75, "drop": 0.125}]);
    let line = |only: bool| {
        json!({"analysis": "sensitivity", "pack": "trec", "by": "layer", "only": only, "metric": "accuracy",
               "base": 0.875, "groups": groups})
    };
    // As it was before groups could be kept alone, and with nothing but nulls.
    let older = json!({"analysis": "sensitivity", "pack": "old", "groups": groups});
    let nulls = json!({"analysis": "sensitivity", "pack": "nulls", "by": null, "only": null, "metric": null,
                       "base": null, "groups": [{"group": "a", "metric": null, "drop": null}]});
    let report = Report::new(read_lines(&[line(false), line(true), older, nulls]).unwrap());
    let page = html(&report).unwrap();
    for part in [
        "<figcaption>trec: loss of accuracy without a layer</figcaption>",
        "<figcaption>trec: loss of accuracy with a layer alone</figcaption>",
        "<figcaption>old: loss of metric without a group</figcaption>",
        "drop without it (%)",
        "drop with it alone (%)",
        ">accuracy without it (%)</th>",
        ">accuracy with it alone (%)</th>",
        ">metric without it</th>",
        "The whole pack: accuracy 87.50 %.",
        "<td class=\"n\">75.00</td><td class=\"n\">12.50</td>",
        "<td class=\"n\">0.750</td><td class=\"n\">0.125</td>",
        "All groups of nulls, without a group",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["analyses"][1]["only"], &json["analyses"][1]["base"]), (&true.into(), &0.875.into()));
}

#[test]
fn pairs_of_packs_have_chance_by_magnitude_where_it_is_known() {
    let square = |shared: f64| json!([[1.0, shared], [shared, 1.0]]);
    let mut line =
        json!({"analysis": "overlap", "packs": ["a", "b"], "observed": square(0.5), "chance": square(0.125)});
    let page = |line: &Value| html(&Report::new(read_lines(std::slice::from_ref(line)).unwrap())).unwrap();
    let cells = |by_magnitude: &str| {
        let cells = ["0.500", "0.125", by_magnitude, "4.000"];
        cells.map(|cell| format!("<td class=\"n\">{cell}</td>")).concat()
    };
    assert!(page(&line).contains(&cells("–")));
    line["chance_by_magnitude"] = square(0.25);
    assert!(page(&line).contains(&cells("0.250")));
    line["chance_by_magnitude"] = json!([[1.0, null], [null, 1.0]]);
    assert!(page(&line).contains(&cells("–")));
    line["chance_by_magnitude"] = json!([[1.0]]);
    let error = read_lines(&[line]).unwrap_err().to_string();
    assert!(error.contains("chance_by_magnitude: is not 2 rows of 2"), "{error}");
}

#[test]
fn what_cannot_be_read_is_named() {
    for (text, part) in [
        ("\n\nnot json\n", "line 3: is no JSON"),
        ("[1]\n", "line 1: is no JSON object"),
        (
            "{\"run\": \"1\", \"task\": \"t\", \"method\": \"m\", \"status\": \"lost\"}\n",
            "line 1: is no result of a sweep: unknown variant `lost`",
        ),
        (
            "{\"run\": \"1\", \"task\": \"t\", \"method\": \"m\", \"status\": \"done\", \"train\": {\"dev\": \"high\"}}\n",
            "invalid type: string \"high\", expected f64 at line 1 column",
        ),
        (
            "{\"run\": \"1\", \"task\": \"t\", \"method\": \"m\", \"status\": \"done\", \"train\": {\"dev\": NaN}}\n",
            "is no JSON",
        ),
        (
            "{\"run\": \"1\", \"task\": \"t\", \"method\": \"m\", \"status\": \"done\", \"train\": {\"confusion\": {\"labels\": [\"a\"], \"counts\": []}}}\n",
            "confusion: counts: is not 1 rows of 1 numbers",
        ),
        (
            "{\"analysis\": \"overlap\", \"packs\": [\"a\"], \"observed\": [[1, 2]], \"chance\": [[1]]}\n",
            "observed: is not 1 rows of 1",
        ),
        ("{\"analysis\": \"closeness\", \"pack\": \"a\"}\n", "is no such analysis: missing field `tensors`"),
        ("", "no runs and no analyses in"),
        ("{\"analysis\": \"astrology\"}\n{}\n", "no runs and no analyses in"),
    ] {
        let error = read_text(text).unwrap_err();
        assert!(error.to_string().contains(part), "{part}: {error}");
        assert_eq!(error.kind(), ErrorKind::InputData);
    }
    let error = read(&[PathBuf::from("absent.jsonl")]).unwrap_err();
    assert!(error.to_string().contains("absent.jsonl"), "{error}");
}

#[test]
fn what_is_unknown_or_cut_off_is_passed_over_with_a_word() {
    let line = done("1", "t", "m", 1, json!({"dev": 0.5, "news": [1]}));
    let input = read_text(&format!("{line}\n{{\"analysis\": \"astrology\"}}\n{{}}\n{{\"run\": \"2\", \"ta")).unwrap();
    assert_eq!(input.runs.len(), 1);
    let [unknown, neither, cut] = &input.warnings[..] else { panic!("{:?}", input.warnings) };
    assert!(unknown.contains("line 2: is an analysis of an unknown kind, \"astrology\""), "{unknown}");
    assert!(neither.contains("line 3: is no result of a sweep"), "{neither}");
    assert!(cut.contains("line 4: is cut off"), "{cut}");
}

/// Numbers as they should not be.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<f64>().prop_map(|x| json!(x)),
        (0u32..100).prop_map(|x| json!(x)),
        (-1.0f64..2.0).prop_map(|x| json!(x)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Whatever the numbers are, there is a page, and it is whole.
    #[test]
    fn any_numbers_make_a_page(
        numbers in prop::collection::vec(number(), 24),
        bytes in prop::option::of(any::<u64>()),
        metric in prop_oneof![Just("accuracy"), Just("mse"), Just("")],
        task in ".{0,30}",
    ) {
        let n = |i: usize| numbers[i].clone();
        let train = json!({
            "metric": metric, "dev": n(0), "sparsity": n(1), "pack_bytes": bytes, "train_seconds": n(2),
            "metrics": {"eval_accuracy": n(3), "eval_mse": n(4)},
            "curve": [{"epoch": n(5), "step": n(6), "loss": n(7), "dev": n(8), "sparsity": n(9)},
                      {"epoch": n(10), "step": n(11), "loss": n(12), "dev": n(13), "sparsity": n(14)}],
            "confusion": {"labels": [task, "b"], "counts": [[n(15), n(16)], [n(17), n(18)]]},
            "intervals": {"eval_accuracy": [n(3), n(4)]},
            "classes": [{"label": task, "precision": n(5), "recall": n(6), "f1": n(7), "support": n(8)}],
        });
        let lines = [
            done("1", &task, "m", 1, train),
            done("2", &task, "m", 2, json!({"metric": metric, "dev": n(19)})),
            json!({"analysis": "closeness", "pack": task, "tensors": [
                {"tensor": "a", "layer": 0, "module": "m", "l1": n(0), "angle": n(1), "l1_random": n(2)},
                {"tensor": "b", "layer": null, "module": null, "l1": n(3)}]}),
            json!({"analysis": "overlap", "packs": ["a", task], "observed": [[n(4), n(5)], [n(6), n(7)]],
                   "chance": [[n(8), n(9)], [n(10), n(11)]], "chance_by_magnitude": [[n(0), n(1)], [n(2), n(3)]]}),
            json!({"analysis": "sensitivity", "pack": task, "metric": metric, "base": n(16), "groups": [
                {"group": "a", "metric": n(12), "drop": n(13)}, {"group": "b", "metric": n(14), "drop": n(15)}]}),
            json!({"analysis": "solutions", "points": [
                {"task": task, "sparsity": n(20), "seed": 1, "metric": n(21)},
                {"task": task, "sparsity": n(22), "seed": null, "metric": n(23)}], "groups": [
                {"task": task, "sparsity": n(20), "n": 2, "mean": n(21), "sd": n(22), "min": n(23), "max": n(0),
                 "overlap": {"observed": n(1), "chance": n(2), "chance_by_magnitude": n(3)}}]}),
        ];
        let report = Report::new(read_lines(&lines).unwrap());
        let page = html(&report).unwrap();
        prop_assert!(is_well_formed(&page));
        prop_assert!(!page.contains("NaN\"") && !page.contains("inf\""));
        serde_json::to_string(&report).unwrap();
    }
}
