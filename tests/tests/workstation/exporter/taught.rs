//! Who teaches a run from outside: soft labels in the data, teachers of its own, and texts without a label.

use overmask_tests::{failed, json_lines, ran};
use serde_json::Value;

use super::Place;

/// The texts of a place with fields of their own, which `more` makes of whether a text is good.
fn with(place: &Place, name: &str, more: impl Fn(bool) -> String) {
    let texts = std::fs::read_to_string(place.path("texts.jsonl")).unwrap();
    let line = |line: &str| {
        let example: Value = serde_json::from_str(line).unwrap();
        format!("{{\"text\":{}{}}}\n", example["text"], more(example["label"] == "up"))
    };
    place.write(name, texts.lines().map(line).collect::<String>().as_bytes());
}

const QUICK: [&str; 8] = ["--max-tokens", "16", "--threads", "1", "--dev-fraction", "0.25", "--max-steps", "6"];

#[test]
fn soft_labels_stand_in_the_data() {
    let place = Place::new();
    with(&place, "soft.jsonl", |up| format!(",\"probs\":{}", if up { "[0.1,0.9]" } else { "[0.75,0.25]" }));
    // A list alone does not name the labels.
    failed(&ran(&mut place.train_on("soft.jsonl", &QUICK)), 3, &["soft.jsonl:1", "`probs`", "make it an object"]);
    with(&place, "soft.jsonl", |up| {
        let [down, up] = if up { [0.1, 0.9] } else { [0.75, 0.25] };
        format!(",\"probs\":{{\"up\":{up},\"down\":{down}}}")
    });
    let got = ran(&mut place.train_on("soft.jsonl", &[&QUICK[..], &["--teacher-weight", "1"]].concat()));
    let trained = &json_lines(&got)[0];
    assert_eq!((got.code, &trained["data"]["soft"], &trained["teachers"]), (0, &40.into(), &Value::Null), "{got:?}");
    assert!(got.stderr.contains("40 with soft labels"), "{got:?}");
    with(&place, "soft.jsonl", |up| format!(",\"label\":{up},\"logits\":[0.5,{}]", if up { "1e2" } else { "1" }));
    assert_eq!(ran(&mut place.train_on("soft.jsonl", &QUICK)).code, 0);
    for (more, said) in [
        (",\"label\":\"up\",\"probs\":{\"up\":0.5}", "field `probs` sums to 0.5000"),
        (",\"label\":\"up\",\"probs\":[0.5,0.5]", "2 numbers for 1 labels"),
        (",\"label\":\"up\",\"logits\":{\"sideways\":1}", "names `sideways`"),
    ] {
        with(&place, "wrong.jsonl", |_| more.to_owned());
        failed(&ran(&mut place.train_on("wrong.jsonl", &QUICK)), 3, &["wrong.jsonl:1", said]);
    }
    let got = ran(&mut place.train(&["--teacher-weight", "0.5"]));
    failed(&got, 2, &["--teacher-weight: is for --teacher, --teacher-folds", "`probs`"]);
}

#[test]
fn teachers_of_a_runs_own_teach_it_texts_without_a_label() {
    let place = Place::new();
    with(&place, "more.jsonl", |_| ",\"label\":[\"not looked at\"]".to_owned());
    let more = place.path("more.jsonl");
    let got = ran(place.train(&["--teacher-folds", "2", "--unlabelled"]).arg(&more));
    let trained = &json_lines(&got)[0];
    assert_eq!(got.code, 0, "{got:?}");
    assert_eq!((&trained["teachers"]["folds"], &trained["data"]["unlabelled"]), (&2.into(), &40.into()));
    assert!(trained["teachers"]["held_out"].as_f64().unwrap() > 0.5, "{trained}");
    assert_eq!((&trained["train_texts"], &trained["dev_texts"]), (&70.into(), &10.into()));
    for said in
        ["teacher 2 of 2: learns 15 examples, teaches 15", "40 texts without a label", "each did not learn: accuracy"]
    {
        assert!(got.stderr.contains(said), "{said}: {got:?}");
    }
    let teacher = place.path("teacher.pack");
    std::fs::rename(place.path("out/tiny.pack"), &teacher).unwrap();
    let got = ran(place.train(&["--unlabelled"]).arg(&more).arg("--teacher").arg(&teacher));
    assert_eq!((got.code, &json_lines(&got)[0]["train_texts"]), (0, &70.into()), "{got:?}");
    // Texts that are measured, too, are told.
    let got =
        ran(place.train(&["--unlabelled"]).arg(&more).arg("--teacher").arg(&teacher).arg("--eval-data").arg(&more));
    failed(&got, 3, &["more.jsonl:1", "field `label` is a list"]);
    let texts = place.path("texts.jsonl");
    let got =
        ran(place.train(&["--unlabelled"]).arg(&more).arg("--teacher").arg(&teacher).arg("--eval-data").arg(texts));
    assert!(got.code == 0 && got.stderr.contains("more.jsonl: 40 texts are also among the"), "{got:?}");

    failed(&ran(place.train(&["--unlabelled"]).arg(&more)), 2, &["--unlabelled: texts without a label need a teacher"]);
    failed(&ran(&mut place.train(&["--teacher-folds", "31"])), 2, &["--teacher-folds: 31 parts of 30 examples"]);
    failed(&ran(&mut place.train(&["--teacher-folds", "1"])), 2, &["--teacher-folds"]);
    let both = ran(place.train(&["--teacher-folds", "2", "--teacher"]).arg(&teacher));
    failed(&both, 2, &["--teacher", "cannot be used with"]);
    place.write("more.jsonl", b"{\"text\":\"a\"}\n{\"label\":\"up\"}\n");
    let got = ran(place.train(&["--teacher-folds", "2", "--unlabelled"]).arg(&more));
    failed(&got, 3, &["more.jsonl:2", "field `text` is missing"]);
}
