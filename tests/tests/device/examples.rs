//! The library's examples (`runtime/examples/`) as a reader runs them.

use std::path::PathBuf;

use overmask::pack::Input;
use overmask::task::{Answer, Runner};
use overmask_tests::{Recipe, base, base_dir, classify, engine, example, failed, program, ran, ran_with};
use tempfile::TempDir;

use crate::kinds;

const TEXTS: [&str; 3] = ["Where is Lima?", "Who wrote Hamlet?", "How many legs has a spider?"];

/// A folder with the packs `a`, `b`, `c`, which classify texts, and `names`, which tags words.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        for (seed, name) in (1..).zip(["a", "b", "c"]) {
            let recipe = Recipe { name, seed, ..Default::default() };
            recipe.pack(&base()).write(&place.pack(name), Some(&base())).unwrap();
        }
        kinds::tag().write(&place.pack("names"), Some(&base())).unwrap();
        place
    }

    fn pack(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.pack"))
    }

    /// The labels that a pack gives to the texts.
    fn labels(&self, name: &str) -> Vec<String> {
        let runner = Runner::new(engine("native", &base()), base()).unwrap();
        let task = runner.add(self.pack(name)).unwrap();
        classify(&runner, task, &TEXTS).into_iter().map(|prediction| prediction.label).collect()
    }
}

#[test]
fn classify_prints_a_label_for_each_text() {
    let place = Place::new();
    let got = ran(example("classify").arg(base_dir()).arg(place.pack("a")).args(TEXTS));
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
    assert_eq!(got.stdout.lines().collect::<Vec<_>>(), place.labels("a"));
}

#[test]
fn many_tasks_answer_while_another_comes_and_goes() {
    let place = Place::new();
    let mut command = example("many_tasks");
    command.arg(base_dir()).args(["c", "a", "b"].map(|name| place.pack(name)));
    let got = ran_with(&mut command, (TEXTS.join("\n") + "\n").as_bytes());
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));

    let [a, b, c] = ["a", "b", "c"].map(|name| place.labels(name));
    let line = |name: &str, labels: &[String], i: usize| format!("{name}\t{}\t{}", labels[i], TEXTS[i]);
    let guest = (0..TEXTS.len()).map(|i| line("c", &c, i));
    let others = (0..TEXTS.len()).flat_map(|i| [line("a", &a, i), line("b", &b, i)]);
    assert_eq!(got.stdout.lines().collect::<Vec<_>>(), guest.chain(others).collect::<Vec<_>>());
}

#[test]
fn one_pass_answers_for_all_tasks_and_says_what_they_share() {
    let place = Place::new();
    let upper = Recipe { name: "upper", seed: 9, from_layer: 3, ..Default::default() };
    upper.pack(&base()).write(&place.pack("upper"), Some(&base())).unwrap();
    let mut command = example("one_pass");
    command.arg(base_dir()).args(["a", "upper"].map(|name| place.pack(name)));
    let got = ran_with(&mut command, (TEXTS.join("\n") + "\n").as_bytes());
    assert_eq!((got.code, got.stderr.as_str()), (0, "12 layers a text instead of 12\n"));
    let labels = ["a", "upper"].map(|name| place.labels(name));
    let line = |i: usize, task: usize| format!("{}\t{}\t{}", ["a", "upper"][task], labels[task][i], TEXTS[i]);
    let lines = (0..TEXTS.len()).flat_map(|i| [line(i, 0), line(i, 1)]);
    assert_eq!(got.stdout.lines().collect::<Vec<_>>(), lines.collect::<Vec<_>>());

    let mut command = example("one_pass");
    let got = ran_with(command.arg(base_dir()).args([place.pack("upper"), place.pack("upper")]), b"");
    assert_eq!(got.stderr, "6 layers a text instead of 12\n");
}

#[test]
fn signed_packs_takes_what_is_signed_and_nothing_else() {
    let place = Place::new();
    let keys = place.0.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    let maker = keys.join("maker");
    let key = maker.with_extension("key");
    let keygen = ran(program("overmask-export").args(["keygen", "--no-password", "-o"]).arg(&maker));
    assert_eq!(keygen.code, 0, "{keygen:?}");
    let sign = ran(program("overmask-export").arg("sign").arg(place.pack("a")).arg("--key").arg(&key));
    assert_eq!(sign.code, 0, "{sign:?}");

    let run = |name| ran(example("signed_packs").arg(base_dir()).arg(&keys).arg(place.pack(name)).arg(TEXTS[0]));
    let got = run("a");
    assert_eq!((got.code, got.stdout.trim()), (0, place.labels("a")[0].as_str()), "{got:?}");
    assert!(got.stderr.contains("a.pack: signed by "), "{}", got.stderr);
    failed(&run("b"), 1, &["MissingSignature", "b.pack.minisig"]);
}

#[test]
fn tags_prints_spans_with_offsets() {
    let place = Place::new();
    let text = "Ada Lovelace met Charles Babbage in London.";
    let got = ran(example("tags").arg(base_dir()).arg(place.pack("names")).arg(text));
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));

    let runner = Runner::new(engine("native", &base()), base()).unwrap();
    let task = runner.add_pack(kinds::tag()).unwrap();
    let mut answers = runner.predict(task, &[Input::from(text)]).unwrap();
    let Some(Answer::Tags { spans, .. }) = answers.pop() else { panic!("no tags") };
    assert!(!spans.is_empty());
    let lines: Vec<Vec<&str>> = got.stdout.lines().map(|line| line.split('\t').collect()).collect();
    let expected: Vec<_> = spans.iter().map(|s| (format!("{}..{}", s.start, s.end), &s.label, &s.text)).collect();
    let printed: Vec<_> =
        lines.iter().map(|line| (line[0].to_owned(), line[1].to_owned(), line[3].to_owned())).collect();
    assert_eq!(printed.len(), expected.len());
    for (printed, expected) in printed.iter().zip(&expected) {
        assert_eq!((&printed.0, &printed.1, &printed.2), (&expected.0, expected.1, expected.2));
    }

    failed(&ran(example("tags").arg(base_dir()).arg(place.pack("a")).arg(text)), 1, &["tags no words"]);
}

#[test]
fn without_arguments_each_says_what_it_takes() {
    for name in ["classify", "many_tasks", "signed_packs", "tags"] {
        failed(&ran(&mut example(name)), 1, &[&format!("usage: {name} BASE")]);
    }
}
