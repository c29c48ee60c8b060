//! The real base against what PyTorch computed (`benches/reference_minilm.py`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use overmask::engine::TokenBatch;
use overmask::pack::Pooling;
use overmask::task::{Tokenizer, Tokens, pool};
use serde_json::Value;

/// How many of each token's values the reference has, the first ones.
const OF_TOKEN: usize = 8;
/// How many of each text's.
const OF_TEXT: usize = 16;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn rows(value: &Value) -> Vec<Vec<i64>> {
    let row = |row: &Value| row.as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect();
    value.as_array().unwrap().iter().map(row).collect()
}

#[track_caller]
fn assert_close(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() < 1e-4, "{what}[{i}]: {a}, PyTorch {b}");
    }
}

fn reference() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/minilm_reference.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn texts_become_the_reference_tokenizers_numbers() {
    let reference = reference();
    let tokenizer = Tokenizer::open(&overmask_tests::base()).unwrap();
    let texts = reference["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().into());
    let tokens = tokenizer.encode_batch(&texts.collect::<Vec<_>>(), 128).unwrap();
    let batch = tokenizer.pad(&tokens.iter().collect::<Vec<_>>());
    assert_eq!(batch.input_ids, rows(&reference["input_ids"]).concat());
    assert_eq!(batch.attention_mask, rows(&reference["attention_mask"]).concat());
}

#[test]
fn both_engines_agree_with_pytorch() {
    let reference = reference();
    let (ids, mask) = (rows(&reference["input_ids"]), rows(&reference["attention_mask"]));
    let (batch, sequence) = (ids.len(), ids[0].len());
    let tokens = TokenBatch {
        batch,
        sequence,
        input_ids: ids.concat(),
        attention_mask: mask.concat(),
        token_type_ids: vec![0; batch * sequence],
    };
    for kind in ["ort", "tract"] {
        let mut engine = overmask_tests::engine(kind, &overmask_tests::base());
        let task = engine.load(&[], &[]).unwrap();
        let hidden = engine.encode(task, &tokens).unwrap();
        let recorded = reference["hidden"].as_array().unwrap();
        assert_eq!(recorded.len(), batch);
        for (text, positions) in recorded.iter().enumerate() {
            let positions = positions.as_array().unwrap();
            assert_eq!(positions.len(), tokens.row_length(text));
            for (position, values) in positions.iter().enumerate() {
                let at = (text * hidden.sequence + position) * hidden.hidden;
                let ours = &hidden.data[at..at + OF_TOKEN];
                assert_close(ours, &numbers(values), &format!("{kind}: text {text}, token {position}"));
            }
        }
        let lengths = (0..batch).map(|text| tokens.row_length(text));
        let texts: Vec<Tokens> =
            lengths.map(|n| Tokens { ids: vec![0; n], segments: vec![0; n], firsts: Vec::new() }).collect();
        let pooled = pool(&hidden, &texts.iter().collect::<Vec<_>>(), Pooling::Mean);
        let recorded = reference["pooled"].as_array().unwrap();
        assert_eq!(pooled.len(), recorded.len());
        for (ours, theirs) in pooled.iter().zip(recorded) {
            let ours = ours[0].as_ref().unwrap();
            assert_close(&ours[..OF_TEXT], &numbers(theirs), &format!("{kind}: pooled"));
        }
    }
}
