//! Imports a checkpoint directory in the layout of Hugging Face's transformers:
//! `config.json`, weights and a tokenizer, in the files that transformers and sentence-transformers write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use overmask::base::{Base, Pooling};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bundle::{self, Parts};
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::files::{self, need};
use super::known::Known;
use super::{ImportError, vocab};

pub use super::Origin;

/// Where sentence-transformers says how token vectors become one of the text.
const POOLING: &str = "1_Pooling/config.json";

/// Where it says how long texts may be.
const SENTENCES: &str = "sentence_bert_config.json";

/// Modules of sentence-transformers that compute something behind the pooling.
const BEHIND_POOLING: [&str; 2] = ["2_Dense", "3_Dense"];

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
    let config = Config::read(&config_path)?;
    let checkpoint = Checkpoint::open(dir)?;
    let mut tokenizer = vocab::tokenizer(dir)?;
    let pooling = read_pooling(&dir.join(POOLING))?;
    let sentences = read_sentences(&dir.join(SENTENCES))?;
    if sentences.do_lower_case {
        lowercase(&mut tokenizer)?;
    }
    // A BERT's tensors keep their names.
    let prefix = config.spelling.prefix(checkpoint.names());
    let own_prefix = if config.spelling.is_bert() { prefix } else { "" };
    let known = Known::collect(&config, own_prefix, prefix, &checkpoint)?;
    let origin = Origin { source: origin.source.clone().or(config.name), ..origin.clone() };
    let parts = Parts {
        maskable: known.encoder.maskable(),
        architecture: known.architecture.clone(),
        tensors: known.tensors(),
        weights: checkpoint.path().to_owned(),
        tokenizer,
        pooling: pooling.as_ref().and_then(|pooling| pooling.as_ref().ok().copied()),
        max_tokens: sentences.max_seq_length.filter(|most| *most < known.architecture.max_positions),
        origin,
    };
    let base = bundle::write(out, parts, |offsets| Ok(known.graph(offsets)), |_| Ok(()))?;
    let other_pooling = pooling.and_then(Result::err);
    Ok(Imported { base, left_out: left_out(dir, &checkpoint, &known.read), other_pooling })
}

/// What of a checkpoint is no part of the encoder. Numbers of positions, which older ones have, say nothing.
fn left_out(dir: &Path, checkpoint: &Checkpoint, read: &BTreeSet<String>) -> Vec<String> {
    let read: BTreeSet<&str> = read.iter().filter_map(|name| checkpoint.name_of(name)).collect();
    let other = |name: &&str| !read.contains(name) && !name.ends_with("position_ids");
    let mut all: Vec<String> = checkpoint.names().filter(other).map(str::to_owned).collect();
    all.extend(BEHIND_POOLING.iter().filter(|module| dir.join(module).is_dir()).map(|module| (*module).to_owned()));
    all
}

/// What sentence-transformers does to a text before its tokenizer; the names are the file's.
#[derive(Default, Deserialize)]
struct Sentences {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

fn read_sentences(path: &Path) -> Result<Sentences, ImportError> {
    if path.is_file() { files::json(path) } else { Ok(Sentences::default()) }
}

/// Lets a tokenizer make lower-case letters of all others before anything else.
fn lowercase(tokenizer: &mut bundle::Tokenizer) -> Result<(), ImportError> {
    let wrong =
        |source: serde_json::Error| ImportError::Tokenizer { path: tokenizer.path.clone(), source: source.into() };
    let mut fields: BTreeMap<String, Value> = serde_json::from_slice(&tokenizer.json).map_err(wrong)?;
    let own = fields.remove("normalizer").filter(|own| !own.is_null());
    let all: Vec<Value> = [Some(json!({ "type": "Lowercase" })), own].into_iter().flatten().collect();
    fields.insert("normalizer".to_owned(), json!({ "type": "Sequence", "normalizers": all }));
    tokenizer.json = serde_json::to_vec(&fields).map_err(wrong)?;
    Ok(())
}

/// The pooling that a checkpoint of sentence-transformers says, if it says one; its words where no task can have it.
fn read_pooling(path: &Path) -> Result<Option<Result<Pooling, String>>, ImportError> {
    if !path.is_file() {
        return Ok(None);
    }
    let fields: BTreeMap<String, Value> = files::json(path)?;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use overmask::error::ErrorKind;
    use safetensors::SafeTensors;
    use safetensors::tensor::Dtype;

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
            ("\"bert\",\n", "\"deberta\", \"x\": 1,\n", "`model_type` is `deberta`; supported: bert"),
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
        fs::write(checkpoint.path().join(files::CONFIG), "{\"model_type\": \"deberta\", \"dim\": 32}").unwrap();
        let error = refused(checkpoint.path()).to_string();
        assert!(error.contains("`model_type` is `deberta`") && error.contains("`import onnx`"), "{error}");
    }

    #[test]
    fn a_file_that_is_missing_comes_with_what_to_do() {
        for (removed, there, said) in [
            ("model.safetensors", "tf_model.h5", "but tf_model.h5; save it anew"),
            ("model.safetensors", "model.onnx", "but model.onnx; import the model with `import onnx`"),
            ("tokenizer.json", "vocab.json", "but vocab.json; let Python's transformers write it"),
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
