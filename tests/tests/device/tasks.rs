//! Packs that do not fit the base, and how texts become tokens, on the real base.

use std::sync::Arc;

use overmask::engine::{Changes, Engine, EngineError, EngineInfo, Hidden, TaskId, TokenBatch};
use overmask::error::ErrorKind;
use overmask::pack::{Codec, Input, Pack, PackError, PackFile};
use overmask::task::{Runner, TaskError, Tokenizer};
use overmask_tests::{Recipe, base, engine};

#[test]
fn what_does_not_fit_is_named_by_field() {
    let base = base();
    let good = Recipe { codec: Codec::Plain, ..Default::default() }.pack(&base);
    good.check_base(&base).unwrap();
    type Case = (&'static str, fn(&mut Pack));
    let cases: [Case; 6] = [
        ("`base_id`", |p| p.document.base_id = "0".repeat(64)),
        ("`tokenizer_sha256`", |p| p.document.tokenizer_sha256 = "0".repeat(64)),
        ("`text/max_tokens`", |p| p.document.text.max_tokens = 513),
        ("`masks/2`", |p| p.masks[2].tensor = "embeddings.LayerNorm.weight".to_owned()),
        ("`masks/0`", |p| p.masks[0].mask = p.masks[4].mask.clone()),
        ("`head/weight`", |p| {
            p.head.hidden -= 1;
            p.head.weight.truncate(p.head.labels * p.head.hidden);
        }),
    ];
    for (field, change) in cases {
        let mut pack = good.clone();
        change(&mut pack);
        // Each is a sound pack; only it is for another base.
        let file = PackFile::from_bytes(&pack.to_bytes(None).unwrap()).unwrap();
        let pack = file.clone().decode(None).unwrap();
        for error in [file.decode(Some(&base)).unwrap_err(), pack.check_base(&base).unwrap_err()] {
            assert!(error.to_string().contains(field), "{field}: {error}");
            assert_eq!(error.kind(), ErrorKind::BaseMismatch);
        }
        let runner = Runner::new(engine("tract", &base), base.clone()).unwrap();
        assert!(matches!(runner.add_pack(pack), Err(TaskError::Pack(PackError::OtherBase { .. }))));
    }
}

#[test]
fn a_task_of_another_runner_is_an_error() {
    let base = base();
    let runner = || Runner::new(engine("tract", &base), base.clone()).unwrap();
    let one = runner();
    let task = one.add_pack(Recipe::default().pack(&base)).unwrap();
    assert_eq!(one.task(task).unwrap().name(), "random");
    assert!(matches!(runner().predict(task, &["text".into()]), Err(TaskError::NoTask)));
}

#[test]
fn long_texts_lose_their_end_and_keep_the_special_tokens() {
    let tokenizer = Tokenizer::open(&base()).unwrap();
    let encode = |text: &str, max_tokens| tokenizer.encode(&text.into(), max_tokens).unwrap().ids;
    let (start, end) = (101, 102);
    assert_eq!(encode("", 8), [start, end]);
    assert_eq!(encode("Terrible.", 8), [start, 6659, 1012, end]);
    let whole = encode(&"terrible . ".repeat(300), 1000);
    assert_eq!(whole.len(), 602, "the tokenizer's own limit of 128 tokens does not count");
    for max_tokens in [3, 4, 64, 601, 602] {
        let cut = encode(&"terrible . ".repeat(300), max_tokens);
        assert_eq!(cut.len(), max_tokens);
        assert_eq!(cut[..max_tokens - 1], whole[..max_tokens - 1]);
        assert_eq!(cut.last(), Some(&end));
    }
    // A special token's name in a text that is cut is cut like any other.
    let cut = encode("a b c d e [SEP] [SEP]", 5);
    assert_eq!(cut, [start, 1037, 1038, 1039, end]);
}

#[test]
fn a_pair_is_two_segments_and_the_longer_text_is_cut_first() {
    let tokenizer = Tokenizer::open(&base()).unwrap();
    let pair = |first: &str, second: &str, max_tokens| {
        tokenizer.encode(&Input::Pair(first.into(), second.into()), max_tokens).unwrap()
    };
    let tokens = pair("a b", "Terrible.", 10);
    assert_eq!(tokens.ids, [101, 1037, 1038, 102, 6659, 1012, 102]);
    assert_eq!(tokens.segments, [0, 0, 0, 0, 1, 1, 1]);
    for (first, second, expected) in [
        ("a b c d e", "Terrible.", vec![101, 1037, 1038, 1039, 102, 6659, 1012, 102]),
        ("a", "a b c d e f g", vec![101, 1037, 102, 1037, 1038, 1039, 1040, 102]),
        ("a b c d e", "a b c d e", vec![101, 1037, 1038, 1039, 102, 1037, 1038, 102]),
    ] {
        assert_eq!(pair(first, second, 8).ids, expected, "{first} | {second}");
    }
    assert_eq!(pair("a", "b", 3).ids, [101, 102, 102], "only special tokens have room");
    // What is cut off is let go: kept in pieces, each of one with each of the other, it would take gigabytes.
    let long = "a ".repeat(20_000);
    assert_eq!(pair(&long, &long, 5).ids, [101, 1037, 102, 1037, 102]);
}

#[test]
fn words_know_their_first_tokens() {
    let tokenizer = Tokenizer::open(&base()).unwrap();
    let words = ["unbelievably", "a", "\u{7f}", "b"].map(String::from).to_vec();
    let tokens = tokenizer.encode(&Input::Words { words: words.clone() }, 64).unwrap();
    let pieces = tokens.ids.len() - 4;
    assert!(pieces > 1, "one word of several pieces: {:?}", tokens.ids);
    assert_eq!(tokens.firsts, [Some(1), Some(pieces + 1), None, Some(pieces + 2)]);
    let cut = tokenizer.encode(&Input::Words { words }, pieces + 3).unwrap();
    assert_eq!(cut.firsts, [Some(1), Some(pieces + 1), None, None]);
    assert_eq!(cut.ids.last(), Some(&102));
}

/// An engine that fails at one token, and computes nothing that is a number for another.
struct Delicate(Arc<dyn Engine>);

const POISON: u32 = 6659;
const NAN: u32 = 1037;

impl Engine for Delicate {
    fn describe(&self) -> EngineInfo {
        self.0.describe()
    }

    fn add(&self, changes: Changes<'_>) -> Result<TaskId, EngineError> {
        self.0.add(changes)
    }

    fn remove(&self, task: TaskId) -> Result<(), EngineError> {
        self.0.remove(task)
    }

    fn encode(&self, task: TaskId, texts: &TokenBatch) -> Result<Hidden, EngineError> {
        if texts.ids().contains(&POISON) {
            return Err(EngineError::Batch("poison".to_owned()));
        }
        let hidden = self.0.encode(task, texts)?;
        let of_text = hidden.rows().zip(texts.rows());
        let data = of_text.flat_map(|(row, (ids, _))| {
            let spoilt = ids.contains(&NAN);
            row.iter().map(move |value| if spoilt { f32::NAN } else { *value })
        });
        Ok(Hidden::new(texts, hidden.width(), data.collect()))
    }
}

#[test]
fn an_input_that_an_engine_cannot_answer_costs_no_other() {
    let base = base();
    let runner = Runner::new(Arc::new(Delicate(engine("native", &base))) as Arc<dyn Engine>, base.clone()).unwrap();
    let recipe = |seed| Recipe { seed, ..Default::default() }.pack(&base);
    let tasks = [1, 2].map(|seed| runner.add_pack(recipe(seed)).unwrap());
    let pair = Input::Pair("one".to_owned(), "two".to_owned());
    let inputs: [Input; 6] = ["one".into(), "terrible".into(), "two".into(), "a".into(), pair, "six".into()];
    let requests: Vec<(&Input, [TaskId; 2])> = inputs.iter().map(|input| (input, tasks)).collect();
    let replies = runner.run_each(&requests);
    for (i, of_text) in replies.iter().enumerate() {
        assert_eq!(of_text.len(), 2);
        for (reply, task) in of_text.iter().zip(tasks) {
            match (i, reply) {
                (1, Err(TaskError::Engine(EngineError::Batch(reason)))) => assert_eq!(reason, "poison"),
                (3, Err(TaskError::NotFinite)) => {}
                (4, Err(TaskError::Text { .. })) => {}
                (0 | 2 | 5, Ok(reply)) => {
                    assert_eq!((reply.tokens, reply.dropped), (3, 0));
                    let alone = runner.predict(task, &inputs[i..=i]).unwrap().remove(0);
                    assert_eq!(alone.to_string(), reply.answer.to_string());
                }
                (_, other) => panic!("text {i}: {other:?}"),
            }
        }
    }
    // All or nothing tells which one it was.
    assert!(matches!(runner.run(&requests), Err(TaskError::Engine(_))));
    assert!(matches!(runner.run(&requests[4..]), Err(TaskError::Text { index: 0, .. })));
    // A task that is gone is missed alone.
    runner.remove(tasks[1]).unwrap();
    let left = &runner.run_each(&requests[..1])[0];
    assert!(left[0].is_ok() && matches!(left[1], Err(TaskError::NoTask)));
}
