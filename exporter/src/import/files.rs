//! The files of a checkpoint, and what to do where another stands in the place of one that is needed.

use std::fs;
use std::path::{Path, PathBuf};

use overmask::fs::JsonBudget;
use serde::de::DeserializeOwned;

use super::bundle::read;
use super::{ImportError, MAX_JSON};

/// What the encoder is.
pub(super) const CONFIG: &str = "config.json";
/// Its weights.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// Its tokenizer.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// What saves a checkpoint anew, in one file.
const SAVE: &str = "save it anew with Python's transformers: AutoModel.from_pretrained(DIR).save_pretrained(OUT, \
                    max_shard_size=\"99GB\")";

/// What writes a tokenizer into one file.
const WRITE: &str = "let Python's transformers write it: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";

/// For a file that is missing the end of the name of one that may be there, and what to do then.
const INSTEAD: [(&str, &str, &str); 9] = [
    (WEIGHTS, "tf_model.h5", SAVE),
    (WEIGHTS, "flax_model.msgpack", SAVE),
    (WEIGHTS, ".onnx", "import the model with `import onnx`"),
    (WEIGHTS, ".safetensors", "rename it if it holds the encoder"),
    (TOKENIZER, "added_tokens.json", WRITE),
    (TOKENIZER, "vocab.json", WRITE),
    (TOKENIZER, ".model", WRITE),
    (CONFIG, ".onnx", "import the model with `import onnx`"),
    (CONFIG, "0_Transformer", "name that folder, which holds the encoder"),
];

/// The path of a file that a checkpoint must have.
///
/// # Errors
/// When it has none: with what is there instead, and what to do.
pub(super) fn need(dir: &Path, file: &'static str) -> Result<PathBuf, ImportError> {
    let path = dir.join(file);
    if path.is_file() {
        return Ok(path);
    }
    let read = |source| ImportError::Read { path: dir.to_owned(), source };
    let missing = |found: Option<String>, advice: &'static str| {
        let found = found.map_or_else(String::new, |name| format!(", but {name}"));
        Err(ImportError::Missing { dir: dir.to_owned(), file, found, advice })
    };
    if fs::metadata(dir).map_err(read)?.is_file() {
        return missing(
            None,
            "it is a file itself: name the checkpoint's directory, or use `import onnx` for a model in ONNX",
        );
    }
    let entries = fs::read_dir(dir).map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
    let mut names: Vec<String> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let instead = INSTEAD.iter().filter(|(needed, ..)| *needed == file);
    let found =
        instead.filter_map(|(_, end, advice)| Some((names.iter().find(|name| name.ends_with(end))?, *advice))).next();
    match found {
        Some((name, advice)) => missing(Some(name.clone()), advice),
        None => {
            missing(None, "a checkpoint has config.json, model.safetensors and tokenizer.json; is this one complete?")
        }
    }
}

/// What a JSON file holds, if reading it takes no more memory than that of any checkpoint.
pub(super) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, ImportError> {
    let text = read(path)?;
    JsonBudget::new(MAX_JSON).take(&text).map_err(|source| ImportError::Json { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| ImportError::Config { path: path.to_owned(), source })
}
