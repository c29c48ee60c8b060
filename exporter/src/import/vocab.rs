//! The tokenizer of a checkpoint: `tokenizer.json`, or what transformers would make of the `vocab.txt` of a BERT
//! and of `tokenizer_config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::bundle::read;
use super::files::{self, need};
use super::{ImportError, bundle};

/// Its parts, where there is no one file.
const VOCABULARY: &str = "vocab.txt";
const CONFIG: &str = "tokenizer_config.json";
/// Tokens that older versions of transformers keep apart.
const ADDED: &str = "added_tokens.json";

/// Tokenizers that read a `vocab.txt` as BERT's does, without the `Fast` at the end.
const LIKE_BERT: [&str; 5] =
    ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "ConvBertTokenizer"];

/// What of `tokenizer_config.json` decides the tokens; the names are the file's.
#[derive(Deserialize)]
struct Config {
    tokenizer_class: Option<String>,
    #[serde(default = "yes")]
    do_lower_case: bool,
    #[serde(default = "yes")]
    do_basic_tokenize: bool,
    #[serde(default = "yes")]
    tokenize_chinese_chars: bool,
    strip_accents: Option<bool>,
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, Value>,
    unk_token: Option<Token>,
    cls_token: Option<Token>,
    sep_token: Option<Token>,
    pad_token: Option<Token>,
    mask_token: Option<Token>,
}

fn yes() -> bool {
    true
}

/// A special token: its text, or that with how it is found.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Added { content: String },
}

/// A tokenizer of the tokenizers library, and the file that messages name.
pub(super) fn tokenizer(dir: &Path) -> Result<bundle::Tokenizer, ImportError> {
    let whole = dir.join(files::TOKENIZER);
    let vocabulary = dir.join(VOCABULARY);
    if whole.is_file() || !vocabulary.is_file() {
        return bundle::Tokenizer::read(need(dir, files::TOKENIZER)?);
    }
    let config = dir.join(CONFIG);
    if !config.is_file() {
        return Err(ImportError::Missing {
            dir: dir.to_owned(),
            file: CONFIG,
            found: format!(", but {VOCABULARY}"),
            advice: "it says how texts become tokens, whether letters are lowercased for example: put the \
                     checkpoint's own beside it, or its tokenizer.json",
        });
    }
    if dir.join(ADDED).is_file() {
        return need(dir, files::TOKENIZER).and_then(bundle::Tokenizer::read);
    }
    let made = of_vocabulary(&vocabulary, &config)?;
    Ok(bundle::Tokenizer { path: vocabulary, json: serde_json::to_vec(&made).unwrap_or_default() })
}

/// As transformers converts a `BertTokenizer`.
fn of_vocabulary(path: &Path, config_path: &Path) -> Result<Value, ImportError> {
    let config: Config = files::json(config_path)?;
    let unsupported = |field, found: String, supported| {
        Err(ImportError::Unsupported { path: config_path.to_owned(), field, found, supported })
    };
    if let Some(class) = &config.tokenizer_class
        && !LIKE_BERT.contains(&class.trim_end_matches("Fast"))
    {
        let supported = "BertTokenizer and those like it; for others save the tokenizer with Python's transformers, \
                         which writes tokenizer.json";
        return unsupported("tokenizer_class", format!("`{class}`"), supported);
    }
    if !config.do_basic_tokenize {
        return unsupported("do_basic_tokenize", "`false`".to_owned(), "true");
    }
    let wrong = |reason: String| ImportError::Tokenizer { path: path.to_owned(), source: reason.into() };
    let text = String::from_utf8(read(path)?).map_err(|e| wrong(e.to_string()))?;
    // A token a line; of two that are equal, the later counts.
    let lines = text.lines().enumerate();
    let vocabulary: BTreeMap<&str, u32> = lines.map(|(number, token)| (token, number as u32)).collect();

    let name = |token: &Option<Token>, default: &str| match token {
        Some(Token::Text(text) | Token::Added { content: text }) => text.clone(),
        None => default.to_owned(),
    };
    let (unknown, first, last) =
        (name(&config.unk_token, "[UNK]"), name(&config.cls_token, "[CLS]"), name(&config.sep_token, "[SEP]"));
    let number = |token: &str| {
        vocabulary.get(token).copied().ok_or_else(|| wrong(format!("there is no token `{token}` among its lines")))
    };
    let (_, first_number, last_number) = (number(&unknown)?, number(&first)?, number(&last)?);
    let (padding, mask) = (name(&config.pad_token, "[PAD]"), name(&config.mask_token, "[MASK]"));
    let mut added: BTreeMap<u32, Value> = BTreeMap::new();
    for token in [&padding, &unknown, &first, &last, &mask] {
        if let Some(id) = vocabulary.get(token.as_str()) {
            let plain = json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                                "normalized": false, "special": true });
            added.insert(*id, plain);
        }
    }
    // Those that the checkpoint lists say themselves how they are found.
    for (id, token) in config.added_tokens_decoder {
        let id: u32 = id.parse().map_err(|_| wrong(format!("`{id}` in {CONFIG} is no token's number")))?;
        let Value::Object(mut token) = token else {
            return Err(wrong(format!("token {id} in {CONFIG} is no object")));
        };
        token.retain(|field, _| field != "__type");
        token.insert("id".to_owned(), id.into());
        added.insert(id, token.into());
    }
    let special = |name: &str, kind: u32| json!({ "SpecialToken": { "id": name, "type_id": kind } });
    let sequence = |name: &str, kind: u32| json!({ "Sequence": { "id": name, "type_id": kind } });
    let entry = |token: &str, id: u32| json!({ "id": token, "ids": [id], "tokens": [token] });
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.into_values().collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": config.tokenize_chinese_chars,
            "strip_accents": config.strip_accents,
            "lowercase": config.do_lower_case,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special(&first, 0), sequence("A", 0), special(&last, 0)],
            "pair": [special(&first, 0), sequence("A", 0), special(&last, 0), sequence("B", 1), special(&last, 1)],
            "special_tokens": {
                first.as_str(): entry(&first, first_number),
                last.as_str(): entry(&last, last_number),
            },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }))
}
