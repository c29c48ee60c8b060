use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::base::tests::{bundle, write_manifest};
use crate::fs::file_digest;

/// A base of 10 tokens and 16 positions, with these settings in its tokenizer's file.
fn bundle_with(settings: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = bundle(dir.path());
    let path = dir.path().join(file::TOKENIZER);
    std::fs::write(&path, settings.to_string()).unwrap();
    manifest.tokenizer_sha256 = file_digest(&path).unwrap();
    manifest.digests.insert(file::TOKENIZER.to_owned(), manifest.tokenizer_sha256.clone());
    write_manifest(dir.path(), &manifest);
    dir
}

/// The tokenizer of such a base, and the base.
fn open(settings: Value) -> (Base, Result<Tokenizer, TaskError>) {
    let dir = bundle_with(&settings);
    let base = Base::open(dir.path()).unwrap();
    let tokenizer = Tokenizer::open(&base);
    (base, tokenizer)
}

/// Byte-level BPE that knows `a` and `b`, and each with a space before.
fn byte_level(prefix: bool) -> Value {
    let vocab = json!({"a": 0, "b": 1, "\u{120}": 2, "\u{120}a": 3, "\u{120}b": 4, "<pad>": 5});
    json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": [["\u{120}", "a"], ["\u{120}", "b"]]},
    })
}

/// Words as BERT has them.
fn word_level(segment: u32, tokens: &[&str]) -> Value {
    let vocab: serde_json::Map<_, _> = tokens.iter().zip(0..).map(|(t, id)| ((*t).to_owned(), json!(id))).collect();
    let special = json!({"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}});
    let text = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
    let cls = json!({"SpecialToken": {"id": "[CLS]", "type_id": 0}});
    json!({
        "version": "1.0",
        "added_tokens": [],
        "padding": {
            "strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 2,
            "pad_type_id": 0, "pad_token": "none"
        },
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [cls, text("A", segment)],
            "pair": [cls, text("A", 0), text("B", 0)],
            "special_tokens": special
        },
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"},
    })
}

const TOKENS: [&str; 5] = ["?", "[CLS]", "none", "a", "b"];

#[test]
fn given_words_have_the_tokens_of_their_text() {
    for settings in [byte_level(false), byte_level(true), word_level(0, &TOKENS)] {
        let tokenizer = open(settings).1.unwrap();
        let words = ["a", "b", "a"].map(String::from).to_vec();
        let text = tokenizer.encode(&Input::from(words.join(" ")), 16).unwrap();
        let tokens = tokenizer.encode(&Input::Words { words }, 16).unwrap();
        assert_eq!(tokens.ids, text.ids);
        let before = tokens.ids.len() - 3;
        assert_eq!(tokens.firsts, [Some(before), Some(before + 1), Some(before + 2)]);
    }
    let tokenizer = open(byte_level(false)).1.unwrap();
    let words = ["a", "", "b"].map(String::from).to_vec();
    let tokens = tokenizer.encode(&Input::Words { words }, 16).unwrap();
    assert_eq!((tokens.ids, tokens.firsts), (vec![0, 4], vec![Some(0), None, Some(1)]));
}

#[test]
fn a_tokenizer_that_makes_what_the_base_does_not_know_is_found() {
    let check = |settings| {
        let (base, tokenizer) = open(settings);
        tokenizer.unwrap().check(&base).map_err(|error| error.to_string())
    };
    let many = [&TOKENS[..], &["c", "d", "e", "f", "g", "h"]].concat();
    check(byte_level(false)).unwrap();
    check(word_level(0, &TOKENS)).unwrap();
    check(word_level(0, &many[..10])).unwrap();
    let error = check(word_level(0, &many)).unwrap_err();
    assert!(error.contains("has token 10, `h`, but the base's table of tokens ends at 9"), "{error}");
    let error = check(word_level(1, &TOKENS)).unwrap_err();
    assert!(error.contains("segment number 1, the base knows 0 to 0"), "{error}");
}

#[test]
fn others_cut_and_pad_with_its_file_as_we_do() {
    let tokenizer = open(word_level(0, &TOKENS)).1.unwrap();
    let theirs = tokenizers::Tokenizer::from_bytes(tokenizer.to_json(4).unwrap()).unwrap();
    for text in ["a b", "a b a b a"] {
        let ours = tokenizer.encode(&Input::from(text), 4).unwrap();
        assert_eq!(theirs.encode(text, true).unwrap().get_ids(), ours.ids);
    }
    for (first, second) in [("a b a b", "b"), ("a", "b b b b"), ("a a a", "b b b b")] {
        let ours = tokenizer.encode(&Input::Pair(first.into(), second.into()), 4).unwrap();
        assert_eq!(theirs.encode((first, second), true).unwrap().get_ids(), ours.ids);
    }
    let batch = theirs.encode_batch(vec!["a", "a b"], true).unwrap();
    assert_eq!((batch[0].get_ids(), batch[1].get_ids()), (&[1, 3, 2][..], &[1, 3, 4][..]));
    assert!(tokenizer.to_json(0).unwrap_err().to_string().contains("puts 1 tokens around a text"));
}

/// Unigram, which knows `a`, `b` and `ab`.
fn unigram() -> Value {
    let mut file = word_level(0, &TOKENS);
    let pieces = json!([["<unk>", 0.0], ["[CLS]", 0.0], ["none", -5.0], ["a", -1.0], ["b", -1.0], ["ab", -1.5]]);
    file["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": pieces});
    file
}

#[test]
fn others_have_the_tokens_of_our_unigram_from_its_file() {
    let tokenizer = open(unigram()).1.unwrap();
    assert!(matches!(tokenizer.inner.get_model(), Model::Unigram(_)));
    let theirs = tokenizers::Tokenizer::from_bytes(tokenizer.to_json(4).unwrap()).unwrap();
    for (text, tokens) in [("ab b", &[1, 5, 4][..]), ("bab xy none", &[1, 4, 5, 0]), ("", &[1])] {
        assert_eq!(tokenizer.encode(&Input::from(text), 4).unwrap().ids, tokens);
        assert_eq!(theirs.encode(text, true).unwrap().get_ids(), tokens);
    }
}

#[cfg(unix)]
#[test]
fn a_unigram_is_kept_and_its_json_not_read_again() {
    use crate::derived::KeptState;

    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(dir.path().join("cache")).unwrap();
    let kept = |base: &Base| Tokenizer::kept(base, Some(&directory)).unwrap();
    let files = || std::fs::read_dir(directory.path()).unwrap().count();

    // What the library reads by itself leaves nothing.
    let bundle = bundle_with(&word_level(0, &TOKENS));
    let base = Base::open(bundle.path()).unwrap();
    Tokenizer::open_in(&base, Some(&directory)).unwrap();
    assert!(kept(&base).is_none() && !Tokenizer::verify(&base, &directory).unwrap());
    assert_eq!(files(), 0);

    let bundle = bundle_with(&unigram());
    let base = Base::open(bundle.path()).unwrap();
    assert_eq!(kept(&base).unwrap().state, KeptState::Missing);
    let ids = || {
        let tokenizer = Tokenizer::open_in(&base, Some(&directory)).unwrap();
        tokenizer.encode(&Input::from("bab"), 16).unwrap().ids
    };
    assert_eq!(ids(), [1, 4, 5]);
    assert_eq!((kept(&base).unwrap().state, files()), (KeptState::Right, 1));
    assert!(Tokenizer::verify(&base, &directory).unwrap());
    let path = directory.path().join(Tokenizer::derived_name(&base).unwrap());
    let good = std::fs::read(&path).unwrap();
    assert_eq!(kept(&base).unwrap().bytes, good.len() as u64);

    // It is damaged, and made again.
    std::fs::write(&path, [&good[..good.len() - 1], b"?"].concat()).unwrap();
    assert_eq!(ids(), [1, 4, 5]);
    assert_eq!(std::fs::read(&path).unwrap(), good);

    // Without the JSON it does all the same; a file that it made no more is made without it.
    let json = bundle.path().join(file::TOKENIZER);
    std::fs::rename(&json, dir.path().join("away")).unwrap();
    assert_eq!(ids(), [1, 4, 5]);
    std::fs::remove_file(&path).unwrap();
    assert!(Tokenizer::open_in(&base, Some(&directory)).is_err());
    assert_eq!(files(), 0);
    // Nor of one that is not what the manifest says.
    std::fs::write(&json, unigram().to_string().replace("-1.5", "-2.5")).unwrap();
    assert!(matches!(Tokenizer::open_in(&base, Some(&directory)), Err(TaskError::Base(_))));
    assert_eq!(files(), 0);

    // Another file's values under its name, with their own right checksum: found, and removed.
    std::fs::rename(dir.path().join("away"), &json).unwrap();
    let forged = unigram().to_string().replace("-1.5", "-2.5");
    derived_file(&base, &directory).unwrap().make(Unigram::words(forged.as_bytes()).unwrap());
    assert_eq!((ids(), kept(&base).unwrap().state), (vec![1, 4, 3, 4], KeptState::Wrong));
    let error = Tokenizer::verify(&base, &directory).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::CorruptFile);
    assert_eq!((files(), ids()), (0, vec![1, 4, 5]));
}
