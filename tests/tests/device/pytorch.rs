//! The real base against what PyTorch computed (`benches/reference_minilm.py`).
use std::path::Path;

use overmask::engine::{Changes, TokenBatch};
use overmask::pack::Pooling;
use overmask::task::{Tokenizer, Tokens, pool};
use overmask_graph::encoder::Padded;
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
    let tokens: Vec<Tokens> = texts.map(|text| tokenizer.encode(&text, 128).unwrap()).collect();
    let batch = Padded::from(&tokenizer.batch(&tokens));
    assert_eq!(batch.input_ids, rows(&reference["input_ids"]).concat());
    assert_eq!(batch.attention_mask, rows(&reference["attention_mask"]).concat());
}

#[test]
fn both_engines_agree_with_pytorch() {
    let reference = reference();
    let (ids, mask) = (rows(&reference["input_ids"]), rows(&reference["attention_mask"]));
    let mut tokens = TokenBatch::new(0);
    for (ids, mask) in ids.iter().zip(&mask) {
        let real = ids.iter().zip(mask).filter(|(_, mask)| **mask == 1);
        let ids: Vec<u32> = real.map(|(id, _)| *id as u32).collect();
        tokens.push(&ids, &vec![0; ids.len()]);
    }
    for kind in ["ort", "tract"] {
        let engine = overmask_tests::engine(kind, &overmask_tests::base());
        let task = engine.add(Changes::NONE).unwrap();
        let hidden = engine.encode(task, &tokens).unwrap();
        let width = hidden.width();
        let [recorded, pooled] = ["hidden", "pooled"].map(|name| reference[name].as_array().unwrap());
        assert_eq!((recorded.len(), pooled.len()), (hidden.len(), hidden.len()));
        for (text, ((vectors, positions), pooled)) in hidden.rows().zip(recorded).zip(pooled).enumerate() {
            let positions = positions.as_array().unwrap();
            assert_eq!(width * positions.len(), vectors.len());
            for (position, (ours, values)) in vectors.chunks(width).zip(positions).enumerate() {
                assert_close(&ours[..OF_TOKEN], &numbers(values), &format!("{kind}: text {text}, token {position}"));
            }
            let count = positions.len();
            let tokens = Tokens { ids: vec![0; count], segments: vec![0; count], firsts: Vec::new(), dropped: 0 };
            let ours = pool(vectors, width, &tokens, Pooling::Mean).remove(0).unwrap();
            assert_close(&ours[..OF_TEXT], &numbers(pooled), &format!("{kind}: pooled"));
        }
    }
}
