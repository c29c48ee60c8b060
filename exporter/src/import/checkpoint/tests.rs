//! The same checkpoint in every form that there is gives the same base, and what is no checkpoint is refused.

use std::fs;
use std::io::Write;

use overmask::error::ErrorKind;
use overmask::pack::Input;
use overmask::task::Tokenizer;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::*;
use crate::import::{Origin, hf};

const WORDS: &str = "embeddings.word_embeddings.weight";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// The fixture without these files.
fn without(files: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        if !files.contains(&name) {
            fs::copy(fixture("tiny-bert").join(name), dir.path().join(name)).unwrap();
        }
    }
    dir
}

fn imported(checkpoint: &Path) -> (TempDir, hf::Imported) {
    let dir = tempfile::tempdir().unwrap();
    let imported = hf::import(checkpoint, &dir.path().join("base"), &Origin::default()).unwrap();
    (dir, imported)
}

fn refused(checkpoint: &Path) -> ImportError {
    let dir = tempfile::tempdir().unwrap();
    let error = hf::import(checkpoint, &dir.path().join("base"), &Origin::default()).unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    error
}

/// A tensor of f32 values.
type Named = (String, Vec<usize>, Vec<u8>);

/// The tensors of the fixture that the encoder has.
fn tensors() -> Vec<Named> {
    let checkpoint = Checkpoint::open(&fixture("tiny-bert")).unwrap();
    let floats = checkpoint.tensors.iter().filter(|(_, stored)| stored.dtype == Dtype::F32);
    floats.map(|(n, s)| (n.clone(), s.shape.clone(), checkpoint.floats(n, &s.shape).unwrap().into_owned())).collect()
}

fn write_safetensors(path: &Path, tensors: &[Named]) {
    let views = tensors.iter().map(|(n, shape, v)| (n, TensorView::new(Dtype::F32, shape.clone(), v).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.as_bytes());
}

fn tuple(pickle: &mut Vec<u8>, values: &[usize]) {
    pickle.push(b'(');
    for value in values {
        pickle.push(b'J');
        pickle.extend((*value as i32).to_le_bytes());
    }
    pickle.push(b't');
}

/// The instructions that make a tensor, as torch writes them.
fn tensor(storage: &str, key: &str, count: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let mut pickle = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    text(&mut pickle, "storage");
    pickle.extend(format!("ctorch\n{storage}\n").bytes());
    text(&mut pickle, key);
    text(&mut pickle, "cpu");
    pickle.push(b'J');
    pickle.extend((count as i32).to_le_bytes());
    pickle.extend(b"tQK\x00");
    tuple(&mut pickle, shape);
    tuple(&mut pickle, strides);
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    pickle
}

/// A dictionary of entries whose instructions are given.
fn dictionary(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(".to_vec();
    for (name, value) in entries {
        text(&mut pickle, name);
        pickle.extend(value);
    }
    // Versions of modules, which torch sets on the dictionary.
    pickle.extend(b"u}");
    text(&mut pickle, "_metadata");
    pickle.extend(b"}sb.");
    pickle
}

/// A file of `torch.save`: a pickle and the values.
fn saved(pickle: &[u8], values: &[(&str, &[u8])], packed: bool) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let method = if packed { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = SimpleFileOptions::default().compression_method(method);
    let values = values.iter().map(|(key, bytes)| (format!("archive/data/{key}"), *bytes));
    let all = [("archive/data.pkl".to_owned(), pickle), ("archive/byteorder".to_owned(), &b"little"[..])];
    for (name, bytes) in all.into_iter().chain(values) {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect()
}

fn write_torch(path: &Path, tensors: &[Named]) {
    let keys: Vec<String> = (0..tensors.len()).map(|i| i.to_string()).collect();
    let entry = |((name, shape, bytes), key): (&'_ Named, &'_ String)| {
        (name.clone(), tensor("FloatStorage", key, bytes.len() / 4, shape, &strides(shape)))
    };
    let entries: Vec<(String, Vec<u8>)> = tensors.iter().zip(&keys).map(entry).collect();
    let entries: Vec<(&str, Vec<u8>)> = entries.iter().map(|(n, p)| (n.as_str(), p.clone())).collect();
    let values: Vec<(&str, &[u8])> = tensors.iter().zip(&keys).map(|((.., v), key)| (key.as_str(), &v[..])).collect();
    fs::write(path, saved(&dictionary(&entries), &values, false)).unwrap();
}

#[test]
fn every_form_of_a_checkpoint_is_the_same_base() {
    let (_dir, whole) = imported(&fixture("tiny-bert"));
    let tensors = tensors();
    let same = |checkpoint: &TempDir| {
        let (_dir, other) = imported(checkpoint.path());
        assert_eq!(other.base.base_id(), whole.base.base_id());
        assert_eq!(other.left_out, whole.left_out);
    };
    type Write = fn(&Path, &[Named]);
    for (stem, end, write) in
        [("model", "safetensors", write_safetensors as Write), ("pytorch_model", "bin", write_torch as Write)]
    {
        let checkpoint = without(&["model.safetensors"]);
        write(&checkpoint.path().join(format!("{stem}.{end}")), &tensors);
        same(&checkpoint);

        let checkpoint = without(&["model.safetensors"]);
        let mut map = serde_json::Map::new();
        for (i, part) in tensors.chunks(tensors.len().div_ceil(3)).enumerate() {
            let name = format!("{stem}-{:05}-of-00003.{end}", i + 1);
            write(&checkpoint.path().join(&name), part);
            map.extend(part.iter().map(|(tensor, ..)| (tensor.clone(), Value::from(name.clone()))));
        }
        let index = |map: &serde_json::Map<String, Value>| {
            let text = json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string();
            fs::write(checkpoint.path().join(format!("{stem}.{end}.index.json")), text).unwrap();
        };
        index(&map);
        same(&checkpoint);
        // A part that is elsewhere, one that is not there, a tensor that is in another.
        let first = format!("{stem}-00001-of-00003.{end}");
        for (part, said) in [("../x", "`weight_map` is `../x`"), ("absent", "cannot read"), (&first, "is missing in")] {
            let mut map = map.clone();
            map.insert(tensors.last().unwrap().0.clone(), part.into());
            index(&map);
            let error = refused(checkpoint.path()).to_string();
            assert!(error.contains(said), "{error}");
        }
    }
    // As TensorFlow called a norm's parts.
    let checkpoint = without(&["model.safetensors"]);
    let old =
        |name: &str| name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
    let renamed: Vec<Named> = tensors.iter().map(|(n, s, v)| (old(n), s.clone(), v.clone())).collect();
    assert_ne!(renamed, tensors);
    write_safetensors(&checkpoint.path().join("model.safetensors"), &renamed);
    same(&checkpoint);
}

/// What PyTorch 2.11 itself wrote: halves, a view of a storage that is another's, numbers, a parameter.
#[test]
fn a_file_of_torch_itself_is_read() {
    let path = fixture("torch/saved.bin");
    let bytes = fs::read(&path).unwrap();
    let all: BTreeMap<String, Stored> = torch::tensors(&bytes).unwrap().into_iter().collect();
    let found = |name: &str| (all[name].dtype, all[name].shape.clone());
    assert_eq!(found("float"), (Dtype::F32, vec![3, 4]));
    assert_eq!(found("view"), (Dtype::F32, vec![2, 4]));
    assert_eq!(found("half"), (Dtype::F16, vec![5]));
    assert_eq!(found("bfloat"), (Dtype::BF16, vec![2, 2]));
    assert_eq!(found("positions"), (Dtype::I64, vec![1, 4]));
    assert_eq!(found("scalar"), (Dtype::F32, vec![]));
    assert_eq!(found("parameter"), (Dtype::F32, vec![2]));
    let checkpoint = Checkpoint { path: path.clone(), files: vec![(path, bytes)], tensors: all };
    let floats = |name: &str, shape: &[usize]| -> Vec<f32> {
        let bytes = checkpoint.floats(name, shape).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let numbers: Vec<f32> = (0..12u8).map(f32::from).collect();
    assert_eq!(floats("float", &[3, 4]), numbers);
    assert_eq!(floats("view", &[2, 4]), numbers[4..]);
    assert_eq!(floats("half", &[5]), [0.0, 0.5, 1.0, 1.5, 2.0]);
    assert_eq!(floats("bfloat", &[2, 2]), [1.0, -2.0, 3.0, -4.0]);
    assert_eq!((floats("scalar", &[]), floats("parameter", &[2])), (vec![7.0], vec![1.5, 2.5]));
    let error = checkpoint.floats("positions", &[1, 4]).unwrap_err().to_string();
    assert!(error.contains("is I64; supported: F32"), "{error}");
}

#[test]
fn what_is_no_dictionary_of_tensors_is_refused() {
    let one = |pickle: Vec<u8>| saved(&pickle, &[("0", &[0; 24])], false);
    let weight = |shape: &[usize], strides: &[usize]| {
        one(dictionary(&[(WORDS, tensor("FloatStorage", "0", 6, shape, strides))]))
    };
    let good = weight(&[2, 3], &[3, 1]);
    assert_eq!(torch::tensors(&good).unwrap()[0].0, WORDS);
    let deep = [b"\x80\x02".to_vec(), vec![b')'; 1], vec![0x85; 40], b".".to_vec()].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.".to_vec(), "it is no zip file"),
        (one(b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.".to_vec()), "`os.system` is none of what"),
        (one(b"\x80\x02cbuiltins\neval\n.".to_vec()), "`builtins.eval` is none of what"),
        (one(b"\x80\x04.".to_vec()), "protocol 4, not 2"),
        (one(b"\x80\x02\x93.".to_vec()), "instruction 0x93"),
        (one(b"\x80\x02i".to_vec()), "instruction 0x69"),
        (one(b"\x80\x02}".to_vec()), "is cut off"),
        (one(b"\x80\x02R.".to_vec()), "takes more values than there are"),
        (one(b"\x80\x02K\x01NNs.".to_vec()), "sets an entry of what is no dictionary"),
        (one(b"\x80\x02h\x07.".to_vec()), "refers to what is not there"),
        (one(b"\x80\x02K\x01.".to_vec()), "no dictionary of tensors"),
        (one(b"\x80\x02}}.".to_vec()), "more or less than one value"),
        (one(deep), "too deep"),
        (one(dictionary(&[("epoch", vec![b'K', 1])])), "`epoch` is no tensor: it holds more than weights"),
        (one(dictionary(&[("x", tensor("QInt8Storage", "0", 6, &[6], &[1]))])), "`torch.QInt8Storage`"),
        (one(dictionary(&[("x", tensor("FloatStorage", "1", 6, &[6], &[1]))])), "`archive/data/1` in its zip file"),
        (weight(&[3, 2], &[1, 3]), "does not lie row by row"),
        (weight(&[2, 4], &[4, 1]), "has shape [2, 4], but there are 6 values"),
        (one(dictionary(&[("x", tensor("DoubleStorage", "0", 6, &[6], &[1]))])), "has 6 values in 24 bytes"),
        (saved(&dictionary(&[]), &[], true), "is packed, which torch never does"),
        (good[..good.len() - 30].to_vec(), "its zip file is broken"),
        (Vec::new(), "it is no zip file"),
    ];
    for (bytes, said) in cases {
        let checkpoint = without(&["model.safetensors"]);
        fs::write(checkpoint.path().join("pytorch_model.bin"), bytes).unwrap();
        let error = refused(checkpoint.path());
        assert!(error.to_string().contains(said), "{said}: {error}");
        assert!(error.to_string().contains("without running its pickle"), "{error}");
        assert_eq!(error.kind(), ErrorKind::CorruptFile);
    }
    // Any byte may be wrong.
    let pickle = dictionary(&[(WORDS, tensor("FloatStorage", "0", 6, &[2, 3], &[3, 1]))]);
    for at in 0..pickle.len() {
        for value in [0, 0x28, 0x52, 0x71, 0x80, 0xff] {
            let mut changed = pickle.clone();
            changed[at] = value;
            let _ = torch::tensors(&one(changed));
        }
        let _ = torch::tensors(&one(pickle[..at].to_vec()));
    }
}

#[test]
fn a_vocabulary_and_its_config_are_a_tokenizer() {
    let text = fs::read_to_string(fixture("tiny-bert/tokenizer.json")).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    let mut lines = vec![String::new(); 100];
    for (token, id) in whole["model"]["vocab"].as_object().unwrap() {
        lines[id.as_u64().unwrap() as usize].clone_from(token);
    }
    let with = |config: &str| {
        let checkpoint = without(&["tokenizer.json"]);
        fs::write(checkpoint.path().join("vocab.txt"), lines.join("\n") + "\n").unwrap();
        fs::write(checkpoint.path().join("tokenizer_config.json"), config).unwrap();
        checkpoint
    };
    let (_a, own) = imported(&fixture("tiny-bert"));
    let config = r#"{"do_lower_case": true, "tokenizer_class": "BertTokenizer", "cls_token": {"content": "[CLS]",
                     "__type": "AddedToken"}, "added_tokens_decoder": {"0": {"content": "[PAD]", "lstrip": false,
                     "normalized": false, "rstrip": false, "single_word": false, "special": true}}}"#;
    let (_b, made) = imported(with(config).path());
    let [own, made] = [own, made].map(|imported| Tokenizer::open(&imported.base).unwrap());
    for text in ["A GOOD film, not BAD!", "", "école naïve \u{4e2d}\u{6587}x [MASK] the[SEP]of", "\u{0}\t  x\u{301}y"]
    {
        let [own, made] = [&own, &made].map(|t| t.encode(&Input::from(text), 16).unwrap().ids);
        assert_eq!(own, made, "{text:?}");
    }
    let (_c, cased) = imported(with("{\"do_lower_case\": false}").path());
    let cased = Tokenizer::open(&cased.base).unwrap().encode(&Input::from("GOOD good"), 16).unwrap().ids;
    assert_ne!(cased[1], cased[2]);
    // Where sentence-transformers lowers texts itself, the tokenizer does.
    let lowered = with("{\"do_lower_case\": false}");
    let sentences = "{\"max_seq_length\": 24, \"do_lower_case\": true}";
    fs::write(lowered.path().join("sentence_bert_config.json"), sentences).unwrap();
    let (_d, lowered) = imported(lowered.path());
    assert_eq!(lowered.base.manifest().max_tokens, Some(24));
    let lowered = Tokenizer::open(&lowered.base).unwrap().encode(&Input::from("GOOD good"), 16).unwrap().ids;
    assert_eq!(lowered[1], lowered[2]);

    for (config, said) in [
        (r#"{"tokenizer_class": "RobertaTokenizer"}"#, "`tokenizer_class` is `RobertaTokenizer`"),
        (r#"{"do_basic_tokenize": false}"#, "`do_basic_tokenize` is `false`"),
        (r#"{"cls_token": "<s>"}"#, "there is no token `<s>` among its lines"),
        (r#"{"added_tokens_decoder": {"x": {}}}"#, "`x` in tokenizer_config.json is no token's number"),
        ("{", "tokenizer_config.json"),
    ] {
        let error = refused(with(config).path());
        assert!(error.to_string().contains(said), "{error}");
    }
    let alone = without(&["tokenizer.json"]);
    fs::write(alone.path().join("vocab.txt"), lines.join("\n")).unwrap();
    let error = refused(alone.path());
    assert!(error.to_string().contains("there is no tokenizer_config.json, but vocab.txt"), "{error}");
    assert_eq!(error.kind(), ErrorKind::InputData);
}
