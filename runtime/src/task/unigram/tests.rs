use std::fmt::Debug;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::{Encoding, Model as _};

use super::super::model::{Model, Whole};
use super::*;

/// A `tokenizer.json` as XLM-R has it, but for the table of its normalizer, with pieces and their scores.
fn xlm_r(vocab: &Value, byte_fallback: bool) -> Value {
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": content == "<mask>", "rstrip": false,
            "normalized": false, "special": true
        })
    };
    let token = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0, "<s>"), special(1, "</s>"), special(2, "<unk>"), special(3, "<mask>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("<s>"), text("A"), token("</s>")],
            "pair": [token("<s>"), text("A"), token("</s>"), token("</s>"), text("B"), token("</s>")],
            "special_tokens": {
                "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
                "</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}
            }
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": byte_fallback, "vocab": vocab}
    })
}

/// What pieces and nasty texts are made of.
const PARTS: [&str; 44] = [
    "a",
    "e",
    "s",
    "th",
    "er",
    "ing",
    "A",
    "É",
    "é",
    "e\u{301}",
    "\u{308}",
    "ß",
    "ж",
    "ия",
    "Σ",
    "ς",
    "م",
    "ال",
    "\u{64b}",
    "ש",
    "न",
    "ि",
    "क्ष",
    "ไ",
    "ก็",
    "한",
    "국",
    "中",
    "文",
    "字",
    "の",
    "ﬁ",
    "½",
    "Ａ",
    "👩",
    "\u{200d}",
    "👩\u{200d}🚀",
    "🏽",
    "🇫🇷",
    "1",
    "20",
    ".",
    "▁",
    "<",
];

/// What texts have besides: blanks, control characters, what looks like special tokens.
const OTHERS: [&str; 26] = [
    " ",
    "  ",
    "\t",
    "\n",
    "\u{a0}",
    "\u{3000}",
    "\u{200b}",
    "\0",
    "\u{1}",
    "\u{7f}",
    "\u{ad}",
    "\u{feff}",
    "\u{202e}",
    "\u{fffd}",
    "\u{10ffff}",
    "\u{e000}",
    "<s>",
    "</s>",
    "<unk>",
    "<mask>",
    " <mask> ",
    "<pad>",
    "[CLS]",
    "<0x41>",
    "\u{1f9ff}",
    "\u{0}\u{0}",
];

fn some(parts: impl Strategy<Value = String>, most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(parts, 0..most).prop_map(|parts| parts.concat())
}

/// Texts of all that is nasty, among them very long words, only blanks, and nothing.
fn texts() -> impl Strategy<Value = String> {
    let known = || prop::sample::select(&PARTS[..]).prop_map(str::to_owned);
    let other = || prop::sample::select(&OTHERS[..]).prop_map(str::to_owned);
    let any = any::<char>().prop_map(String::from);
    prop_oneof![
        6 => some(prop_oneof![8 => known(), 3 => other(), 1 => any], 40),
        1 => some(other(), 12),
        1 => (known(), 1..600usize).prop_map(|(part, times)| part.repeat(times)),
    ]
}

/// Pieces of up to five parts, and for some vocabularies all bytes. Few scores, so that many ways are as good.
fn vocabulary() -> impl Strategy<Value = Value> {
    let part = prop::sample::select(&PARTS[..]).prop_map(str::to_owned);
    let piece = prop::collection::vec(part, 1..6).prop_map(|parts| parts.concat());
    let score = prop_oneof![(-12..3i32).prop_map(f64::from), -15f64..1.0];
    let pieces = prop::collection::btree_map(piece, score, 0..150);
    (pieces, any::<bool>()).prop_map(|(pieces, bytes)| {
        let special = ["<s>", "</s>", "<unk>", "<mask>"].map(|name| (name.to_owned(), 0.0));
        let bytes = (0..=255u8).filter(|_| bytes).map(|byte| (format!("<0x{byte:02X}>"), -3.0));
        let pieces = pieces.into_iter().filter(|(piece, _)| piece != "<");
        special.into_iter().chain(bytes).chain(pieces).map(|(piece, score)| json!([piece, score])).collect()
    })
}

fn ours(file: &Value) -> Unigram {
    Unigram::new(Derived::Memory(Unigram::words(file.to_string().as_bytes()).unwrap())).unwrap()
}

/// The tokenizers of a file with our model and with the library's.
fn both(file: &Value) -> (Whole, tokenizers::Tokenizer) {
    (Model::whole(ours(file)).unwrap(), tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap())
}

#[track_caller]
fn same<T: Debug + PartialEq>(ours: Result<T>, theirs: Result<T>) {
    assert_eq!(ours.map_err(|error| error.to_string()), theirs.map_err(|error| error.to_string()));
}

/// Compares all that is told of a text.
#[track_caller]
fn compare((ours, theirs): &(Whole, tokenizers::Tokenizer), text: &str) {
    let told = |encoding: Encoding| {
        let special = encoding.get_special_tokens_mask().to_vec();
        (encoding.get_ids().to_vec(), encoding.get_tokens().to_vec(), encoding.get_offsets().to_vec(), special)
    };
    same(ours.encode(text, true).map(told), theirs.encode(text, true).map(told));
    let ids = |encoding: Encoding| (encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec());
    same(ours.encode_fast((text, "a"), true).map(ids), theirs.encode_fast((text, "a"), true).map(ids));
    let words: Vec<&str> = text.split(' ').collect();
    let firsts = |encoding: Encoding| (encoding.get_ids().to_vec(), encoding.get_word_ids().to_vec());
    same(ours.encode(&words[..], true).map(firsts), theirs.encode(&words[..], true).map(firsts));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    // 500 vocabularies, 20 texts each.
    #[test]
    fn ten_thousand_nasty_texts_have_the_librarys_tokens(
        vocab in vocabulary(),
        byte_fallback in any::<bool>(),
        texts in prop::collection::vec(texts(), 20),
    ) {
        let file = xlm_r(&vocab, byte_fallback);
        let both = both(&file);
        texts.iter().for_each(|text| compare(&both, text));
    }

    // Without an unknown piece, too, and for parts of texts as no normalizer leaves them.
    #[test]
    fn the_model_is_the_librarys(
        vocab in vocabulary(),
        unknown in prop::option::of(0..4u32),
        byte_fallback in any::<bool>(),
        texts in prop::collection::vec(texts(), 10),
    ) {
        let model = json!({"type": "Unigram", "unk_id": unknown, "byte_fallback": byte_fallback, "vocab": vocab});
        let theirs: Library = serde_json::from_str(&model.to_string()).unwrap();
        let ours = ours(&json!({"model": model}));
        for text in &texts {
            same(ours.tokenize(text), theirs.tokenize(text));
            prop_assert_eq!(ours.find(text), theirs.token_to_id(text));
        }
        prop_assert_eq!(ours.len(), theirs.get_vocab_size());
        prop_assert_eq!(ours.vocabulary(), theirs.get_vocab());
        for id in (0..ours.len() as u32 + 2).chain([NONE]) {
            prop_assert_eq!(ours.piece(id), theirs.id_to_token(id));
        }
        prop_assert_eq!(serde_json::to_value(ours.to_library().unwrap()).unwrap(), serde_json::to_value(theirs).unwrap());
    }
}

#[test]
fn what_is_unknown_is_one_token_and_known_pieces_win_by_their_scores() {
    let model = json!({"type": "Unigram", "unk_id": 0, "vocab": [
        ["<unk>", 0.0], ["a", -1.0], ["b", -1.0], ["ab", -1.5], ["abc", -9.0], ["é", -2.0]
    ]});
    let ours = ours(&json!({"model": model}));
    let tokens = |text: &str| -> Vec<(u32, String)> {
        ours.tokenize(text).unwrap().into_iter().map(|token| (token.id, token.value)).collect()
    };
    let owned = |tokens: &[(u32, &str)]| tokens.iter().map(|(id, text)| (*id, (*text).to_owned())).collect::<Vec<_>>();
    assert_eq!(tokens("abba"), owned(&[(3, "ab"), (2, "b"), (1, "a")]));
    assert_eq!(tokens("abc"), owned(&[(4, "abc")]));
    assert_eq!(tokens("aжюbé"), owned(&[(1, "a"), (0, "жю"), (2, "b"), (5, "é")]));
    assert_eq!(tokens(""), []);
}

#[test]
fn what_the_library_alone_reads_is_left_to_it() {
    let words = |file: &Value| Unigram::words(file.to_string().as_bytes());
    let good = xlm_r(&json!([["<s>", 0], ["</s>", 0], ["<unk>", 0], ["<mask>", -0.5]]), false);
    assert!(words(&good).is_some());
    let with = |model: Value| words(&json!({"added_tokens": [], "model": model}));
    assert!(with(json!({"type": "Unigram", "vocab": [["a", 1]]})).is_some());
    for model in [
        json!({"type": "WordLevel", "vocab": {"\"Unigram\"": 0}, "unk_token": "Unigram"}),
        json!({"type": "Unigram", "unk_id": 1, "vocab": [["a", 1]]}),
        json!({"type": "Unigram", "unk_id": -1, "vocab": [["a", 1]]}),
        json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", 1], ["b", 2], ["a", 3]]}),
        json!({"type": "Unigram", "unk_id": 0, "vocab": {"a": 1}}),
        json!({"type": "Unigram", "unk_id": 0}),
        json!({"unk_id": 0, "vocab": [["Unigram", 1]]}),
        json!(["Unigram", 0, false, [["a", 1]]]),
    ] {
        assert!(with(model.clone()).is_none(), "{model}");
    }
    assert!(words(&json!(["Unigram"])).is_none());
    assert!(Unigram::words(b"\"Unigram\" \xff").is_none());
    // What is wrong besides the model is found with it.
    for (part, wrong) in
        [("version", json!("2.0")), ("normalizer", json!({"type": "?"})), ("added_tokens", json!([{}]))]
    {
        let mut file = good.clone();
        file[part] = wrong;
        assert!(Model::whole(ours(&file)).is_err(), "{part}");
        assert!(tokenizers::Tokenizer::from_bytes(file.to_string()).is_err(), "{part}");
    }
}

#[test]
fn numbers_that_are_not_whole_are_none_and_others_do_no_harm() {
    let file = xlm_r(&json!([["<s>", 0], ["</s>", 0], ["<unk>", 0], ["<mask>", 0], ["▁a", -1], ["b", -2]]), true);
    let words = Unigram::words(file.to_string().as_bytes()).unwrap();
    for len in 0..words.len() {
        assert!(!Unigram::is_whole(&words[..len]) && Unigram::new(Derived::Memory(words[..len].to_vec())).is_none());
    }
    assert!(!Unigram::is_whole(&[&words[..], &[0]].concat()));
    // Whoever writes a right checksum is believed; it is no panic, and ends.
    for at in 0..words.len() {
        for wrong in [0, 1, 7, u32::MAX, words[at] ^ 1] {
            let mut words = words.clone();
            words[at] = wrong;
            let Some(model) = Unigram::new(Derived::Memory(words)) else { continue };
            let _ = (model.settings(), model.tokenize("▁ab▁жb"), model.find("▁a"), model.piece(4), model.vocabulary());
        }
    }
}
