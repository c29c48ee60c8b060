//! Imports a checkpoint directory in the layout of Hugging Face's transformers:
//! `config.json`, `model.safetensors`, `tokenizer.json`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use overmask::base::family::Family;
use overmask::base::family::bert::{self as family, Names, Sizes};
use overmask::base::{Architecture, Base, Pooling};
use overmask::fs::JsonBudget;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::Value;

use super::bundle::{self, Parts, read};
use super::files::{self, need};
use super::{ImportError, bert};

pub use super::Origin;

/// What reading the JSON of one of a checkpoint's files may take in memory, but for the tokenizer.
const MAX_JSON: u64 = 64 << 20;

/// Where sentence-transformers says how token vectors become one of the text.
const POOLING: &str = "1_Pooling/config.json";

/// Modules of sentence-transformers that compute something behind the pooling.
const BEHIND_POOLING: [&str; 2] = ["2_Dense", "3_Dense"];

/// What of `config.json` tells the family: others have other fields.
#[derive(Deserialize)]
struct Kind {
    model_type: String,
}

/// What of it decides the graph; the names are the file's.
#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "default_types")]
    type_vocab_size: usize,
    #[serde(default = "default_eps")]
    layer_norm_eps: f64,
    #[serde(default = "default_act")]
    hidden_act: String,
    position_embedding_type: Option<String>,
    #[serde(rename = "_name_or_path")]
    name: Option<String>,
}

fn default_types() -> usize {
    2
}

fn default_eps() -> f64 {
    1e-12
}

fn default_act() -> String {
    "gelu".to_owned()
}

/// A base that was imported.
#[derive(Debug)]
pub struct Imported {
    /// The base; its manifest has the pooling that the checkpoint says.
    pub base: Base,
    /// Tensors and modules of the checkpoint that are no part of the encoder, such as a classifier's.
    pub left_out: Vec<String>,
    /// The checkpoint's pooling if no task can have it.
    pub other_pooling: Option<String>,
}

/// Imports the checkpoint in `dir` as a base bundle at `out`.
///
/// The bundle is written into a directory beside `out` and renamed when it is whole.
///
/// # Errors
/// When a file is missing or malformed, the architecture is none that we build, a tensor is
/// missing or of another shape, or `out` is taken.
pub fn import(dir: &Path, out: &Path, origin: &Origin) -> Result<Imported, ImportError> {
    bundle::check_place(out)?;
    let config_path = need(dir, files::CONFIG)?;
    let config = read_config(&config_path)?;
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
    let checkpoint = need(dir, files::WEIGHTS)?;
    let tokenizer = need(dir, files::TOKENIZER)?;
    let pooling = read_pooling(&dir.join(POOLING))?;
    let bytes = read(&checkpoint)?;
    let costly = |source| ImportError::Json { path: checkpoint.clone(), source };
    JsonBudget::new(MAX_JSON).take_header(&bytes).map_err(costly)?;
    let tensors =
        SafeTensors::deserialize(&bytes).map_err(|source| ImportError::Weights { path: checkpoint.clone(), source })?;
    let names = Names::of_checkpoint(tensors.names());
    // The list of tensors is as long as the config says: no longer than that of the checkpoint.
    if family::count(config.num_hidden_layers) > tensors.len() {
        return Err(ImportError::Unsupported {
            path: config_path,
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
        weights: checkpoint.clone(),
        tokenizer,
        pooling: pooling.as_ref().and_then(|pooling| pooling.as_ref().ok().copied()),
        origin,
    };
    let base = bundle::write(out, parts, |offsets| Ok(bert::graph(&architecture, &sizes, names, &needed, offsets)))?;
    let other_pooling = pooling.and_then(Result::err);
    Ok(Imported { base, left_out: left_out(dir, &tensors, &needed), other_pooling })
}

/// What of a checkpoint is no part of the encoder. Numbers of positions, which older ones have, say nothing.
fn left_out(dir: &Path, tensors: &SafeTensors<'_>, needed: &[bert::Needed]) -> Vec<String> {
    let needed: BTreeSet<&str> = needed.iter().map(|(name, _)| name.as_str()).collect();
    let other = |name: &&str| !needed.contains(name) && !name.ends_with("position_ids");
    let mut all: Vec<String> = tensors.names().into_iter().filter(other).map(str::to_owned).collect();
    all.sort();
    all.extend(BEHIND_POOLING.iter().filter(|module| dir.join(module).is_dir()).map(|module| (*module).to_owned()));
    all
}

/// The pooling that a checkpoint of sentence-transformers says, if it says one; its words where no task can have it.
fn read_pooling(path: &Path) -> Result<Option<Result<Pooling, String>>, ImportError> {
    if !path.is_file() {
        return Ok(None);
    }
    let fields: BTreeMap<String, Value> =
        serde_json::from_slice(&read(path)?).map_err(|source| ImportError::Config { path: path.to_owned(), source })?;
    // A flag for each way, or the name of one.
    let flag = |(name, value): (&String, &Value)| match value {
        Value::Bool(true) => name.strip_prefix("pooling_mode_").map(str::to_owned),
        Value::String(way) if name == "pooling_mode" => Some(way.clone()),
        _ => None,
    };
    let ways: Vec<String> = fields.iter().filter_map(flag).collect();
    Ok(match ways.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["mean_tokens" | "mean"] => Some(Ok(Pooling::Mean)),
        ["cls_token" | "cls"] => Some(Ok(Pooling::Cls)),
        _ => Some(Err(ways.join(", "))),
    })
}

fn read_config(path: &Path) -> Result<Config, ImportError> {
    let text = read(path)?;
    JsonBudget::new(MAX_JSON).take(&text).map_err(|source| ImportError::Json { path: path.to_owned(), source })?;
    let wrong = |source| ImportError::Config { path: path.to_owned(), source };
    let Kind { model_type } = serde_json::from_slice(&text).map_err(wrong)?;
    let unsupported = |field, found: &str, supported| {
        Err(ImportError::Unsupported { path: path.to_owned(), field, found: format!("`{found}`"), supported })
    };
    if model_type != "bert" {
        let supported = "bert (BERT, MiniLM and others of its structure); export the encoder to ONNX, with \
                         `optimum-cli export onnx --task feature-extraction` for example, and use `import onnx`";
        return unsupported("model_type", &model_type, supported);
    }
    let config: Config = serde_json::from_slice(&text).map_err(wrong)?;
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

    /// A copy of the fixture with this in place of that in one of its texts.
    fn changed_in(file: &str, from: &str, to: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in [files::CONFIG, files::WEIGHTS, files::TOKENIZER] {
            fs::copy(fixture().join(name), dir.path().join(name)).unwrap();
        }
        let text = fs::read_to_string(fixture().join(file)).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(dir.path().join(file), text.replacen(from, to, 1)).unwrap();
        dir
    }

    fn changed(from: &str, to: &str) -> tempfile::TempDir {
        changed_in(files::CONFIG, from, to)
    }

    /// What an import says that leaves nothing behind.
    fn refused(checkpoint: &Path) -> ImportError {
        let dir = tempfile::tempdir().unwrap();
        let error = import(checkpoint, &dir.path().join("base"), &Origin::default()).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        error
    }

    fn imported(checkpoint: &Path) -> Imported {
        let dir = tempfile::tempdir().unwrap();
        import(checkpoint, &dir.path().join("base"), &Origin::default()).unwrap()
    }

    #[test]
    fn a_checkpoint_becomes_a_base_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("base");
        let Imported { base, left_out, other_pooling } = import(&fixture(), &out, &Origin::default()).unwrap();
        base.verify().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!((base.manifest().pooling, other_pooling), (None, None));
        assert_eq!(left_out, ["pooler.dense.bias", "pooler.dense.weight"]);
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
            // Its other fields have other names.
            ("\"bert\",\n", "\"roberta\", \"x\": 1,\n", "`model_type` is `roberta`; supported: bert"),
            ("\"gelu\"", "\"relu\"", "`hidden_act` is `relu`"),
            ("\"num_attention_heads\": 4", "\"num_attention_heads\": 5", "`num_attention_heads` is `5`"),
        ];
        for (from, to, said) in cases {
            let error = refused(changed(from, to).path());
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.kind(), ErrorKind::CorruptFile);
        }
        // Of another family, none of whose other fields are there.
        let checkpoint = changed("{", "{");
        fs::write(checkpoint.path().join(files::CONFIG), "{\"model_type\": \"distilbert\", \"dim\": 32}").unwrap();
        let error = refused(checkpoint.path()).to_string();
        assert!(error.contains("`model_type` is `distilbert`") && error.contains("`import onnx`"), "{error}");
    }

    #[test]
    fn a_file_that_is_missing_comes_with_what_to_do() {
        for (removed, there, said) in [
            ("model.safetensors", "pytorch_model.bin", "but pytorch_model.bin; save it anew"),
            ("model.safetensors", "model.safetensors.index.json", "but model.safetensors.index.json; save it anew"),
            ("model.safetensors", "model.onnx", "but model.onnx; import the model with `import onnx`"),
            ("tokenizer.json", "vocab.txt", "but vocab.txt; let Python's transformers write it"),
            ("tokenizer.json", "merges.txt", "is no tokenizer.json; a checkpoint has config.json"),
            ("config.json", "encoder.onnx", "but encoder.onnx; import the model"),
        ] {
            let checkpoint = changed("{", "{");
            fs::remove_file(checkpoint.path().join(removed)).unwrap();
            fs::write(checkpoint.path().join(there), b"x").unwrap();
            let error = refused(checkpoint.path());
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.to_string().contains(&format!("there is no {removed}")), "{error}");
            assert_eq!(error.kind(), ErrorKind::InputData);
        }
        let error = refused(&fixture().join(files::WEIGHTS)).to_string();
        assert!(error.contains("it is a file itself"), "{error}");
    }

    #[test]
    fn what_no_device_could_run_is_refused() {
        // `film` gets a number for which the table of 100 rows has none.
        let text = fs::read_to_string(fixture().join(files::TOKENIZER)).unwrap();
        let entry = text.lines().find(|line| line.trim_end().ends_with(": 99")).unwrap();
        let error = refused(changed_in(files::TOKENIZER, entry, &entry.replace(": 99", ": 100")).path());
        let said = error.to_string();
        assert!(said.contains("has token 100, ") && said.contains("table of tokens ends at 99"), "{said}");
        assert!(said.contains("tokenizer.json") && error.kind() == ErrorKind::CorruptFile, "{said}");

        let checkpoint = changed("{", "{");
        let path = checkpoint.path().join(files::WEIGHTS);
        let mut bytes = fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let name = "encoder.layer.1.output.dense.weight";
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!((tensor.shape(), tensor.dtype()), (&[32, 64][..], Dtype::F32));
        let at = tensor.data().as_ptr() as usize - bytes.as_ptr() as usize + 4 * (3 * 64 + 5);
        bytes[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let error = refused(checkpoint.path());
        let said = error.to_string();
        assert!(said.contains(&format!("tensor `{name}`: the value at [3, 5] is inf")), "{said}");
        assert!(said.contains("model.safetensors") && error.kind() == ErrorKind::CorruptFile, "{said}");
    }

    #[test]
    fn the_pooling_of_a_checkpoint_is_followed() {
        for (config, pooling, other) in [
            (r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#, Some(Pooling::Cls), None),
            (r#"{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}"#, Some(Pooling::Mean), None),
            (r#"{"pooling_mode": "cls"}"#, Some(Pooling::Cls), None),
            (r#"{"pooling_mode_max_tokens": true}"#, None, Some("max_tokens")),
            (
                r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#,
                None,
                Some("cls_token, mean_tokens"),
            ),
        ] {
            let checkpoint = changed("{", "{");
            for folder in ["1_Pooling", "2_Dense"] {
                fs::create_dir(checkpoint.path().join(folder)).unwrap();
            }
            fs::write(checkpoint.path().join(POOLING), config).unwrap();
            let Imported { base, left_out, other_pooling } = imported(checkpoint.path());
            assert_eq!((base.manifest().pooling, other_pooling.as_deref()), (pooling, other), "{config}");
            assert!(left_out.contains(&"2_Dense".to_owned()), "{left_out:?}");
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
