//! Imports a checkpoint directory in the layout of Hugging Face's transformers:
//! `config.json`, `model.safetensors`, `tokenizer.json`.

use std::borrow::Cow;
use std::path::Path;

use overmask::base::family::Family;
use overmask::base::family::bert::{self as family, Names, Sizes};
use overmask::base::{Architecture, Base};
use overmask::fs::JsonBudget;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;

use super::bundle::{self, Parts, read};
use super::{ImportError, bert};

pub use super::Origin;

/// What reading the JSON of one of a checkpoint's files may take in memory, but for the tokenizer.
const MAX_JSON: u64 = 64 << 20;

/// What of `config.json` decides the graph; the names are the file's.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    #[serde(default = "default_eps")]
    layer_norm_eps: f64,
    #[serde(default = "default_act")]
    hidden_act: String,
    position_embedding_type: Option<String>,
    #[serde(rename = "_name_or_path")]
    name: Option<String>,
}

fn default_eps() -> f64 {
    1e-12
}

fn default_act() -> String {
    "gelu".to_owned()
}

/// Imports the checkpoint in `dir` as a base bundle at `out`.
///
/// The bundle is written into a directory beside `out` and renamed when it is whole.
///
/// # Errors
/// When a file is missing or malformed, the architecture is none that we build, a tensor is
/// missing or of another shape, or `out` is taken.
pub fn import(dir: &Path, out: &Path, origin: &Origin) -> Result<Base, ImportError> {
    bundle::check_place(out)?;
    let config = read_config(&dir.join("config.json"))?;
    let sizes = Sizes {
        heads: config.num_attention_heads,
        intermediate_size: config.intermediate_size,
        layer_norm_eps: config.layer_norm_eps,
    };
    let architecture = Architecture {
        family: Family::Bert(sizes),
        hidden_size: config.hidden_size,
        layers: config.num_hidden_layers,
        vocab_size: config.vocab_size,
        max_positions: config.max_position_embeddings,
    };
    let checkpoint = dir.join("model.safetensors");
    let bytes = read(&checkpoint)?;
    let costly = |source| ImportError::Json { path: checkpoint.clone(), source };
    JsonBudget::new(MAX_JSON).take_header(&bytes).map_err(costly)?;
    let tensors =
        SafeTensors::deserialize(&bytes).map_err(|source| ImportError::Weights { path: checkpoint.clone(), source })?;
    let names = Names::of_checkpoint(tensors.names());
    // The list of tensors is as long as the config says: no longer than that of the checkpoint.
    if family::count(config.num_hidden_layers) > tensors.len() {
        return Err(ImportError::Unsupported {
            path: dir.join("config.json"),
            field: "num_hidden_layers",
            found: format!("`{}`", config.num_hidden_layers),
            supported: "as many as model.safetensors has tensors for",
        });
    }
    let needed = names.tensors(&architecture, &sizes, config.type_vocab_size);
    let mut values = Vec::with_capacity(needed.len());
    for (name, shape) in &needed {
        values.push(read_tensor(&tensors, name, shape, &checkpoint)?);
    }

    let list: Vec<_> =
        needed.iter().zip(&values).map(|((name, shape), v)| (name.as_str(), shape.as_slice(), &v[..])).collect();
    let origin = Origin { source: origin.source.clone().or(config.name), ..origin.clone() };
    let parts = Parts {
        maskable: names.maskable(&architecture, &sizes),
        architecture: architecture.clone(),
        tensors: list,
        tokenizer: dir.join("tokenizer.json"),
        origin,
    };
    bundle::write(out, parts, |offsets| Ok(bert::graph(&architecture, &sizes, names, &needed, offsets)))
}

fn read_config(path: &Path) -> Result<Config, ImportError> {
    let text = read(path)?;
    JsonBudget::new(MAX_JSON).take(&text).map_err(|source| ImportError::Json { path: path.to_owned(), source })?;
    let config: Config =
        serde_json::from_slice(&text).map_err(|source| ImportError::Config { path: path.to_owned(), source })?;
    let unsupported = |field, found: &str, supported| {
        Err(ImportError::Unsupported { path: path.to_owned(), field, found: format!("`{found}`"), supported })
    };
    if config.model_type != "bert" {
        return unsupported("model_type", &config.model_type, "bert (BERT, MiniLM and others of its structure)");
    }
    if config.hidden_act != "gelu" {
        return unsupported("hidden_act", &config.hidden_act, "gelu");
    }
    match config.position_embedding_type.as_deref() {
        None | Some("absolute") => {}
        Some(other) => return unsupported("position_embedding_type", other, "absolute"),
    }
    if config.num_attention_heads == 0 || !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        let found = config.num_attention_heads.to_string();
        return unsupported("num_attention_heads", &found, "a divisor of hidden_size");
    }
    Ok(config)
}

/// The tensor's values as little-endian f32 bytes.
fn read_tensor<'a>(
    tensors: &SafeTensors<'a>,
    name: &str,
    shape: &[usize],
    path: &Path,
) -> Result<Cow<'a, [u8]>, ImportError> {
    let wrong = |reason| ImportError::Tensor { path: path.to_owned(), name: name.to_owned(), reason };
    let tensor: TensorView<'a> = tensors.tensor(name).map_err(|_| wrong("is missing".to_owned()))?;
    if tensor.shape() != shape {
        return Err(wrong(format!("has shape {:?}, not {shape:?}", tensor.shape())));
    }
    let data = tensor.data();
    let halves = |convert: fn(u16) -> f32| {
        let pairs = data.as_chunks::<2>().0.iter();
        Cow::Owned(pairs.flat_map(|b| convert(u16::from_le_bytes(*b)).to_le_bytes()).collect())
    };
    match tensor.dtype() {
        Dtype::F32 => Ok(Cow::Borrowed(data)),
        Dtype::BF16 => Ok(halves(|b| half::bf16::from_bits(b).to_f32())),
        Dtype::F16 => Ok(halves(|b| half::f16::from_bits(b).to_f32())),
        other => Err(wrong(format!("is {other:?}; supported: F32, BF16, F16"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use overmask::error::ErrorKind;

    use super::*;

    fn fixture() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-bert")
    }

    /// A copy of the fixture with this in place of that in its config.
    fn changed(from: &str, to: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["model.safetensors", "tokenizer.json"] {
            fs::copy(fixture().join(name), dir.path().join(name)).unwrap();
        }
        let config = fs::read_to_string(fixture().join("config.json")).unwrap();
        assert!(config.contains(from), "{from}");
        fs::write(dir.path().join("config.json"), config.replace(from, to)).unwrap();
        dir
    }

    #[test]
    fn a_checkpoint_becomes_a_base_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("base");
        let base = import(&fixture(), &out, &Origin::default()).unwrap();
        base.verify().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = import(&fixture(), &out, &Origin::default()).unwrap_err();
        assert!(matches!(error, ImportError::Staged(overmask::fs::StagedError::Exists { .. })));
    }

    #[test]
    fn a_config_that_the_checkpoint_does_not_bear_out_is_refused() {
        let layers = "\"num_hidden_layers\": 2";
        let cases = [
            (layers, "\"num_hidden_layers\": 3", "`num_hidden_layers` is `3`"),
            // Would be a list of more names than there is memory for.
            (layers, "\"num_hidden_layers\": 18446744073709551615", "`num_hidden_layers` is `18446744073709551615`"),
            ("\"vocab_size\": 100", "\"vocab_size\": 101", "tensor `embeddings.word_embeddings.weight`"),
            ("\"bert\"", "\"gpt2\"", "`model_type` is `gpt2`"),
            ("\"gelu\"", "\"relu\"", "`hidden_act` is `relu`"),
            ("\"num_attention_heads\": 4", "\"num_attention_heads\": 5", "`num_attention_heads` is `5`"),
        ];
        for (from, to, said) in cases {
            let (checkpoint, dir) = (changed(from, to), tempfile::tempdir().unwrap());
            let error = import(checkpoint.path(), &dir.path().join("base"), &Origin::default()).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.kind(), ErrorKind::CorruptFile);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_checkpoint_that_would_fill_the_memory_is_refused() {
        let many = format!("[{}{{}}]", "{},".repeat(100_000));
        let header = format!("{{\"x\":{many}}}");
        let weights = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        for (name, bytes) in [("config.json", many.as_bytes()), ("model.safetensors", &weights)] {
            let (checkpoint, dir) = (changed("bert", "bert"), tempfile::tempdir().unwrap());
            fs::write(checkpoint.path().join(name), bytes).unwrap();
            let error = import(checkpoint.path(), &dir.path().join("base"), &Origin::default()).unwrap_err();
            assert!(matches!(error, ImportError::Json { .. }), "{error}");
            assert!(error.to_string().contains(name) && error.kind() == ErrorKind::CorruptFile, "{error}");
        }
    }

    #[test]
    fn what_cannot_be_read_or_written_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let error = import(dir.path(), &dir.path().join("base"), &Origin::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InputData);
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        for out in [file.join("base"), file] {
            let error = import(&fixture(), &out, &Origin::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeviceOrStore, "{error}");
        }
    }
}
