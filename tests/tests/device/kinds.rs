//! `overmask run` with every kind of task: what it takes, what it answers, what it refuses.

use std::path::{Path, PathBuf};
use std::process::Command;

use overmask::pack::{Input, Pack, Pooling, TaskKind};
use overmask::task::{Answer, Runner};
use overmask_tests::{Recipe, base, base_dir, engine, failed, json_lines, program, ran, ran_with};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A made-up pack of a kind.
fn pack(name: &'static str, kind: TaskKind, pair: bool, labels: &[&str]) -> Pack {
    // The recipe's own packs classify texts.
    let recipe = Recipe { name, labels: labels.len(), seed: 3, ..Default::default() };
    let Pack { mut document, masks, head, .. } = recipe.pack(&base());
    let pooling = if kind == TaskKind::Tag { Pooling::First } else { Pooling::Mean };
    (document.kind, document.text.pooling, document.text.pair) = (kind, pooling, pair);
    document.labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Pack::new(document, masks, head, Vec::new()).unwrap()
}

fn classify_pairs() -> Pack {
    pack("pairs", TaskKind::Classify, true, &["no", "perhaps", "yes"])
}

fn multilabel() -> Pack {
    pack("topics", TaskKind::Multilabel, false, &["a", "b", "c", "d", "e", "f", "g", "h"])
}

fn regress() -> Pack {
    pack("stars", TaskKind::Regress, false, &["value"])
}

/// A pack that tags words.
pub(super) fn tag() -> Pack {
    pack("names", TaskKind::Tag, false, &["B-LOC", "B-PER", "I-LOC", "I-PER", "O"])
}

/// A folder with a pack in it.
fn folder(pack: &Pack) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{}.pack", pack.document.name));
    pack.write(&path, Some(&base())).unwrap();
    (dir, path)
}

/// `overmask run` with the real base.
fn run(pack: &Path, arguments: &[&str]) -> Command {
    let mut command = program("overmask");
    command.args(["run", "--base"]).arg(base_dir()).arg("--pack").arg(pack).args(arguments);
    command
}

/// What the library answers.
fn answers(pack: &Pack, inputs: &[Input]) -> Vec<Answer> {
    let runner = Runner::new(engine("native", &base()), base()).unwrap();
    let task = runner.add_pack(pack.clone()).unwrap();
    runner.predict(task, inputs).unwrap()
}

fn near(value: &Value, expected: f32) {
    let value = value.as_f64().unwrap();
    assert!((value - f64::from(expected)).abs() < 1e-5, "{value} is not {expected}");
}

fn words(text: &str) -> Input {
    Input::Words { words: text.split(' ').map(str::to_owned).collect() }
}

const PAIRS: [(&str, &str); 3] = [("Where is Lima?", "In Peru."), ("In Peru.", "Where is Lima?"), ("one", "")];

#[test]
fn pairs_are_two_texts_with_a_tab_or_two_fields() {
    let pack = classify_pairs();
    let (_dir, path) = folder(&pack);
    let expected = answers(&pack, &PAIRS.map(|(a, b)| Input::Pair(a.into(), b.into())));
    let lines: Vec<String> = PAIRS.iter().map(|(a, b)| format!("{a}\t{b}")).collect();
    let objects: Vec<String> = PAIRS.iter().map(|(a, b)| json!({"text": a, "text_pair": b}).to_string()).collect();
    let arguments: Vec<&str> = lines.iter().map(String::as_str).collect();
    for got in [
        ran(run(&path, &["--json"]).args(arguments)),
        ran_with(&mut run(&path, &["--json"]), lines.join("\n").as_bytes()),
        ran_with(&mut run(&path, &["--json", "--jsonl"]), objects.join("\n").as_bytes()),
    ] {
        assert_eq!((got.code, got.stderr.as_str()), (0, ""));
        let rows = json_lines(&got);
        assert_eq!(rows.len(), 3);
        for ((i, row), answer) in rows.iter().enumerate().zip(&expected) {
            let Answer::Label(prediction) = answer else { panic!("{answer:?}") };
            assert_eq!((&row["line"], &row["task"]), (&(i + 1).into(), &"pairs".into()));
            assert_eq!(row["label"], prediction.label.as_str());
            near(&row["score"], prediction.score);
            near(&row["scores"]["perhaps"], prediction.scores[1]);
        }
        // The order of the texts matters.
        assert_ne!(rows[0]["scores"], rows[1]["scores"]);
    }
    let got = ran_with(&mut run(&path, &["--jsonl"]), objects.join("\n").as_bytes());
    let columns: Vec<Vec<&str>> = got.stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((got.code, columns.len()), (0, 3));
    assert!(["no", "perhaps", "yes"].contains(&columns[0][0]) && columns[0][1].parse::<f32>().is_ok());
    assert_eq!(columns[0][2..], ["Where is Lima?", "In Peru."]);
}

#[test]
fn a_pair_that_is_none_is_named_by_its_line() {
    let (_dir, path) = folder(&classify_pairs());
    let got = ran_with(&mut run(&path, &[]), b"one\ttwo\nonly one\nthree\tfour");
    failed(&got, 3, &["stdin, line 2", "`pairs` reads two texts", "tab", "1 of 3 inputs have no answer"]);
    assert_eq!(got.stdout.lines().count(), 2);
    failed(&ran(&mut run(&path, &["a\tb", "c"])), 3, &["text 2", "two texts"]);
    let got = ran_with(&mut run(&path, &["--jsonl"]), br#"{"text": "one"}"#);
    failed(&got, 3, &["stdin, line 1", "two texts"]);
    let got = ran_with(&mut run(&path, &["--jsonl"]), br#"{"tokens": ["one", "two"]}"#);
    failed(&got, 3, &["stdin, line 1", "`pairs` reads two texts", "a list of words"]);
}

#[test]
fn any_number_of_labels_may_apply() {
    let pack = multilabel();
    let (_dir, path) = folder(&pack);
    let texts = ["Where is Lima?", "Who wrote Hamlet?", "a film"];
    let expected = answers(&pack, &texts.map(Input::from));
    let got = ran(run(&path, &["--json"]).args(texts));
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
    let rows = json_lines(&got);
    let plain = ran(run(&path, &[]).args(texts));
    for (((row, line), answer), text) in rows.iter().zip(plain.stdout.lines()).zip(&expected).zip(texts) {
        let Answer::Labels { chosen, scores, .. } = answer else { panic!("{answer:?}") };
        let names: Vec<&str> = chosen.iter().map(|i| pack.document.labels[*i].as_str()).collect();
        assert_eq!((&row["labels"], &row["text"]), (&json!(names), &text.into()));
        assert!(row["label"].is_null() && row["score"].is_null());
        for (label, score) in pack.document.labels.iter().zip(scores) {
            near(&row["scores"][label], *score);
            assert_eq!(names.contains(&label.as_str()), *score > 0.5);
        }
        let columns: Vec<&str> = line.split('\t').collect();
        assert_eq!((columns[0], columns[2]), (names.join(",").as_str(), text));
        assert_eq!(columns[1].split(',').filter(|score| !score.is_empty()).count(), names.len());
    }
    assert_eq!((rows.len(), plain.stdout.lines().count()), (3, 3));
    let chosen = |row: &Value| row["labels"].as_array().unwrap().len();
    assert!(rows.iter().any(|row| chosen(row) > 1), "one label each tells nothing: {rows:?}");
}

#[test]
fn a_regression_answers_with_a_number() {
    let pack = regress();
    let (_dir, path) = folder(&pack);
    let texts = ["a film", "not a good film"];
    let expected = answers(&pack, &texts.map(Input::from));
    let got = ran(run(&path, &["--json"]).args(texts));
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
    let plain = ran(run(&path, &[]).args(texts));
    for ((row, line), answer) in json_lines(&got).iter().zip(plain.stdout.lines()).zip(&expected) {
        let Answer::Value(value) = answer else { panic!("{answer:?}") };
        near(&row["value"], *value);
        assert!(row["label"].is_null() && row["scores"].is_null());
        assert_eq!(line, format!("{value:.4}\t{}", row["text"].as_str().unwrap()));
    }
    assert_eq!((json_lines(&got).len(), plain.stdout.lines().count()), (2, 2));
    for engine in ["ort", "tract"] {
        let other = json_lines(&ran(run(&path, &["--json", "--engine", engine]).args(texts)));
        let values = |rows: &[Value]| -> Vec<f64> { rows.iter().map(|row| row["value"].as_f64().unwrap()).collect() };
        for (a, b) in values(&other).iter().zip(values(&json_lines(&got))) {
            assert!((a - b).abs() < 1e-4, "{engine}: {a} {b}");
        }
    }
}

/// Text of a span by characters, as the offsets count.
fn cut(text: &str, span: &Value) -> String {
    let [start, end] = ["start", "end"].map(|field| span[field].as_u64().unwrap() as usize);
    text.chars().skip(start).take(end - start).collect()
}

#[test]
fn spans_of_a_text_are_at_their_characters() {
    let pack = tag();
    let (_dir, path) = folder(&pack);
    // Characters of more than one byte, and more than one space.
    let texts = ["José flew  to Zürich, not to Łódź.", "東京 is in Japan", ""];
    let input = texts.map(|text| format!("{text}\n")).concat();
    let got = ran_with(&mut run(&path, &["--json"]), input.as_bytes());
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
    let rows = json_lines(&got);
    let plain = ran_with(&mut run(&path, &[]), input.as_bytes());
    let mut lines = plain.stdout.lines();
    let mut found = 0;
    for (number, (row, text)) in rows.iter().zip(texts).enumerate() {
        assert_eq!(row["text"], text);
        let words: Vec<&str> = row["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        assert_eq!(words.len(), row["tags"].as_array().unwrap().len());
        assert_eq!(words.concat(), text.split_whitespace().collect::<String>());
        for span in row["spans"].as_array().unwrap() {
            found += 1;
            let words = span["text"].as_str().unwrap();
            assert_eq!(cut(text, span), words, "{span}");
            assert!(["LOC", "PER"].contains(&span["label"].as_str().unwrap()), "{span}");
            assert!((0.0..=1.0).contains(&span["score"].as_f64().unwrap()));
            let columns: Vec<&str> = lines.next().unwrap().split('\t').collect();
            let [start, end] = ["start", "end"].map(|field| span[field].to_string());
            let shown = [span["label"].as_str().unwrap(), columns[2], &start, &end, words];
            assert_eq!((columns[0], &columns[1..]), ((number + 1).to_string().as_str(), &shown[..]));
        }
    }
    assert_eq!((rows.len(), lines.next()), (3, None));
    assert!(found > 1, "too few spans to tell anything: {rows:?}");
    // Words and punctuation marks are tagged one by one.
    assert_eq!(rows[0]["tags"].as_array().unwrap().len(), 9);
    assert_eq!((&rows[2]["tags"], &rows[2]["spans"]), (&json!([]), &json!([])));
}

#[test]
fn a_text_has_the_words_and_tags_that_a_data_set_has() {
    let pack = tag();
    let given = ["Ms. O'Neil sent an e-mail from the U.S. .", "AT&T 's Jean-Luc lost 10,000 at 10:30 ..."];
    let joined = given.map(Input::from);
    // As people write.
    let plain =
        ["Ms. O'Neil sent an e-mail from the U.S. .", "AT&T's Jean-Luc lost 10,000 at 10:30..."].map(Input::from);
    let tags = |inputs: &[Input]| -> Vec<_> {
        let tags = |answer| match answer {
            Answer::Tags { words, tags, .. } => {
                (words, tags.into_iter().map(|tag| tag.map(|tag| tag.label)).collect::<Vec<_>>())
            }
            other => panic!("{other:?}"),
        };
        answers(&pack, inputs).into_iter().map(tags).collect()
    };
    let mut given = given.map(words);
    if let Input::Words { words } = &mut given[0] {
        // What the text gives as two words: no rule knows every abbreviation.
        words.splice(0..1, ["Ms", "."].map(String::from));
    }
    assert_eq!(tags(&joined), tags(&given));
    assert_eq!(tags(&plain), tags(&given));
}

#[test]
fn given_tokens_keep_their_places() {
    let pack = tag();
    let (_dir, path) = folder(&pack);
    let given = ["José flew to Zürich", "Lima"];
    let expected = answers(&pack, &given.map(words));
    let lines = given.map(|text| json!({"tokens": text.split(' ').collect::<Vec<_>>()}).to_string());
    let got = ran_with(&mut run(&path, &["--json", "--jsonl"]), lines.join("\n").as_bytes());
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
    let rows = json_lines(&got);
    assert_eq!(rows.len(), 2);
    for ((row, text), answer) in rows.iter().zip(given).zip(&expected) {
        let Answer::Tags { tags, .. } = answer else { panic!("{answer:?}") };
        let tags: Vec<_> = tags.iter().map(|tag| tag.as_ref().map(|tag| tag.label.as_str())).collect();
        assert_eq!((&row["tags"], &row["text"]), (&json!(tags), &Value::Null));
        let tokens: Vec<&str> = text.split(' ').collect();
        assert_eq!(row["words"], json!(tokens));
        for span in row["spans"].as_array().unwrap() {
            let [start, end] = ["start", "end"].map(|field| span[field].as_u64().unwrap() as usize);
            assert_eq!(span["text"], tokens[start..end].join(" "));
        }
    }
    // More words than the task reads: those behind have no tag.
    let many = json!({"tokens": vec!["word"; 80]}).to_string();
    let got = ran_with(&mut run(&path, &["--json", "--jsonl"]), many.as_bytes());
    assert!(
        got.code == 0 && got.stderr.contains("stdin, line 1: the task `names` reads 64 tokens, 18 more"),
        "{got:?}"
    );
    let row = &json_lines(&got)[0];
    assert_eq!((&row["tokens"], &row["truncated"]), (&64.into(), &true.into()));
    let tags = row["tags"].as_array().unwrap();
    assert_eq!((tags.len(), tags.iter().filter(|tag| tag.is_string()).count()), (80, 62));
}

#[test]
fn a_line_that_is_no_input_is_answered_in_its_place() {
    let (_dir, path) = folder(&multilabel());
    let cases: [(&[u8], &str); 9] = [
        (b"plain text", "--jsonl takes objects"),
        (br#"["a"]"#, "--jsonl takes objects"),
        (br#"{"text": 1}"#, "`text` must be a string"),
        (b"{\"text\": \"\xff\"}", "is not UTF-8 from byte 11 on"),
        (b"{}", "either `text` or `tokens`"),
        (br#"{"text": "a", "tokens": ["a"]}"#, "either `text` or `tokens`"),
        (br#"{"tokens": "a b", "id": 7}"#, "`topics` reads one text; this is a list of words"),
        (br#"{"text": "a", "text_pair": "b"}"#, "`topics` reads one text; this is a pair of texts"),
        (&[b'x'; (1 << 20) + 1], "longer than 1024 KiB"),
    ];
    // A byte-order mark at the start, good lines between the bad, and blank lines, which are none.
    let mut input = "\u{feff}".as_bytes().to_vec();
    for (line, _) in cases {
        input.extend(
            [br#"{"text": "a", "id": [1.0, 12345678901234567890], "label": "x"}"#, &b"\n"[..], line, b"\n \n"].concat(),
        );
    }
    let got = ran_with(&mut run(&path, &["--json", "--jsonl"]), &input);
    failed(&got, 3, &["9 of 18 inputs have no answer"]);
    let rows = json_lines(&got);
    for ((i, row), (_, said)) in rows.chunks(2).enumerate().zip(cases) {
        let [good, bad] = row else { panic!("{row:?}") };
        assert_eq!((&good["line"], &good["text"], &good["tokens"]), (&(3 * i + 1).into(), &"a".into(), &3.into()));
        assert!(good["labels"].is_array() && good["error"].is_null(), "{good}");
        assert_eq!(good["given"]["label"], "x");
        assert_eq!(bad["line"], 3 * i + 2);
        assert!(bad["error"].as_str().unwrap().contains(said), "{bad}");
        assert!(bad["labels"].is_null() && bad["tokens"].is_null(), "{bad}");
    }
    assert!(got.stdout.contains(r#""given":{"id":[1.0, 12345678901234567890],"label":"x"}"#), "{}", got.stdout);
    assert_eq!((&rows[13]["given"]["id"], &rows[13]["task"]), (&7.into(), &"topics".into()));
    // In plain form on stderr.
    let plain = ran_with(&mut run(&path, &["--jsonl"]), &input);
    assert_eq!((plain.code, plain.stdout.lines().count()), (3, 9));
    for (i, (_, said)) in cases.iter().enumerate() {
        let line = format!("stdin, line {}: ", 3 * i + 2);
        assert!(plain.stderr.lines().any(|told| told.contains(&line) && told.contains(said)), "{line}{said}");
    }
    // The first one ends it, if that is wanted.
    let strict = ran_with(&mut run(&path, &["--json", "--jsonl", "--strict"]), &input);
    failed(&strict, 3, &["stdin, line 2: is no JSON object"]);
    assert_eq!(json_lines(&strict), rows[..2]);
    let fine = ran_with(&mut run(&path, &["--jsonl", "--strict"]), b"{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n\n");
    assert_eq!((fine.code, fine.stdout.lines().count(), fine.stderr.as_str()), (0, 2, ""));
    // Without --jsonl an object is a text like others.
    let got = ran(&mut run(&path, &["--json", r#"{"tokens": ["a"]}"#]));
    assert_eq!((got.code, &json_lines(&got)[0]["text"]), (0, &r#"{"tokens": ["a"]}"#.into()));

    let (_dir, path) = folder(&tag());
    for (line, said) in [
        (r#"{"text": "a", "text_pair": "b"}"#, "or one text to find them in; this is a pair of texts"),
        (r#"{"tokens": ["a"], "text_pair": "b"}"#, "`text_pair` goes with `text`"),
    ] {
        failed(&ran_with(&mut run(&path, &["--jsonl"]), line.as_bytes()), 3, &["stdin, line 1", said]);
    }
}

#[test]
fn tasks_of_several_kinds_answer_the_same_text() {
    let dir = tempfile::tempdir().unwrap();
    let paths = [multilabel(), regress(), tag()].map(|pack| {
        let path = dir.path().join(format!("{}.pack", pack.document.name));
        pack.write(&path, Some(&base())).unwrap();
        path
    });
    let mut command = run(&paths[0], &["--json", "José is in Lima", "one"]);
    let got = ran(command.arg("--pack").arg(&paths[1]).arg("--pack").arg(&paths[2]));
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
    let rows = json_lines(&got);
    let fields = ["labels", "value", "spans"];
    for (i, row) in rows.iter().enumerate() {
        assert_eq!((&row["line"], &row["task"]), (&(i / 3 + 1).into(), &["topics", "stars", "names"][i % 3].into()));
        for (j, field) in fields.iter().enumerate() {
            assert_eq!(row[*field].is_null(), i % 3 != j, "{row}");
        }
    }
    assert_eq!(rows.len(), 6);
    let mut command = run(&paths[1], &["one"]);
    let got = ran(command.arg("--pack").arg(&paths[2]));
    assert!(got.stdout.starts_with("stars\t"), "with several tasks each line names its own: {}", got.stdout);
}
