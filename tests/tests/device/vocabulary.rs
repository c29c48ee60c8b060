//! A tokenizer of the kind that has large vocabularies (Unigram: XLM-R, multilingual E5): kept as it is used, looked
//! after as the other derived files are.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};

use overmask::base::Base;
use overmask_exporter::import::hf;
use overmask_tests::{Ran, Recipe, failed, json_lines, program, ran};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::derived::forged;

/// A folder with a tiny base of that kind, and a pack for it.
struct Folder {
    dir: TempDir,
}

/// Pieces that make many tokens of the text, and others if one has another score.
fn tokenizer() -> Value {
    let special = ["<s>", "<pad>", "</s>", "<unk>"];
    let added = special.iter().zip(0..).map(|(content, id)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true
        })
    });
    let pieces = ["▁", "a", "b", "c", "ab", "bc", "▁ab", "cab", "▁на", "на"].iter().zip(1..);
    let vocab = special.iter().map(|name| json!([name, 0.0]));
    let vocab = vocab.chain(pieces.map(|(piece, n)| json!([piece, -2.0 - f64::from(n) / 8.0])));
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "post_processor": {
            "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true,
            "add_prefix_space": true
        },
        "decoder": null,
        "model": {"type": "Unigram", "unk_id": 3, "byte_fallback": false, "vocab": vocab.collect::<Vec<_>>()}
    })
}

impl Folder {
    fn new() -> Folder {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-bert");
        let checkpoint = dir.path().join("checkpoint");
        fs::create_dir(&checkpoint).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(fixture.join(name), checkpoint.join(name)).unwrap();
        }
        fs::write(checkpoint.join("tokenizer.json"), tokenizer().to_string()).unwrap();
        let base = hf::import(&checkpoint, &dir.path().join("base"), &hf::Origin::default()).unwrap().base;
        let recipe = Recipe { name: "demo", labels: 3, max_tokens: 16, ..Default::default() };
        recipe.pack(&base).write(&dir.path().join("demo.pack"), Some(&base)).unwrap();
        Folder { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command on base and pack, with derived files in the cache.
    fn overmask(&self, arguments: &[&str]) -> Ran {
        let mut command = program("overmask");
        command.args(arguments).current_dir(self.dir.path()).env("OVERMASK_CACHE", "cache");
        ran(command.env("OVERMASK_STORE", "store"))
    }

    #[track_caller]
    fn answer(&self) -> String {
        let arguments = ["run", "--engine", "native", "--json", "--base", "base", "--pack", "demo.pack", "abcab нас"];
        let got = self.overmask(&arguments);
        assert_eq!((got.code, got.stderr.as_str()), (0, ""));
        got.stdout
    }

    fn verify(&self) -> Ran {
        self.overmask(&["verify", "--engine", "native", "--json", "--base", "base", "demo.pack"])
    }

    /// What `doctor` says of it.
    fn doctor(&self) -> Value {
        let rows = json_lines(&self.overmask(&["doctor", "--json", "--base", "base"]));
        rows.into_iter().find(|row| row["check"] == "tokenizer-derived").unwrap()
    }
}

/// The file of the tokenizer among those of a directory.
#[track_caller]
fn kept(dir: &Path) -> PathBuf {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let kinds: Vec<&str> =
        paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().split('-').next().unwrap()).collect();
    assert_eq!(kinds, ["masks32", "panels32", "tokenizer1"]);
    paths.pop().unwrap()
}

/// The highest byte of a piece's score: another exponent.
fn change_score(values: &mut [u8]) {
    let (head, piece) = (7, 12);
    values[4 * (head + 2 * piece) + 7] ^= 1;
}

#[test]
fn it_is_made_once_and_compared_by_whoever_looks_after_derived_files() {
    let folder = Folder::new();
    assert_eq!(folder.doctor()["facts"]["state"], "missing");
    let first = folder.answer();
    let file = kept(&folder.path("cache"));
    let good = fs::read(&file).unwrap();
    assert_eq!(folder.doctor()["facts"]["state"], "right");
    assert_eq!(json_lines(&folder.verify())[0]["derived_files"], 3);

    // From now on it is what is read.
    let [json, away] = ["base/tokenizer.json", "away"].map(|name| folder.path(name));
    fs::rename(&json, &away).unwrap();
    assert_eq!(folder.answer(), first);
    fs::rename(&away, &json).unwrap();

    let rows = json_lines(&folder.overmask(&["prepare", "--json", "--base", "base", "--derived", "image"]));
    assert!(rows.len() == 2 && rows.iter().all(|row| row["made_of"] == "base"), "{rows:?}");
    assert_eq!(rows[1]["bytes"], good.len());
    assert_eq!(fs::read(folder.path(rows[1]["file"].as_str().unwrap())).unwrap(), good);

    fs::write(&file, forged(&good, change_score)).unwrap();
    assert_ne!(folder.answer(), first, "it is believed");
    assert_eq!(folder.doctor()["level"], "error");
    failed(&folder.verify(), 4, &["tokenizer1-", "holds other values", "was removed"]);
    assert_eq!(folder.answer(), first);
    assert_eq!(fs::read(&file).unwrap(), good);
}

#[test]
fn a_store_keeps_it_beside_the_weights_and_finds_it_changed() {
    let folder = Folder::new();
    assert_eq!(folder.overmask(&["store", "init"]).code, 0);
    let flashed = folder.overmask(&["flash", "--base", "base", "demo.pack"]);
    assert_eq!(flashed.code, 0, "{flashed:?}");
    let file = kept(&folder.path("store/derived"));
    let good = fs::read(&file).unwrap();
    let verified = folder.overmask(&["store", "verify"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    assert_eq!(folder.overmask(&["store", "gc"]).code, 0);
    assert_eq!(fs::read(&file).unwrap(), good, "it is needed");

    let stranger = file.with_file_name(format!("tokenizer1-{}", "0".repeat(32)));
    fs::write(&stranger, &good).unwrap();
    assert_eq!(folder.overmask(&["store", "gc"]).code, 0);
    assert!(!stranger.exists(), "another base's");

    fs::write(&file, forged(&good, change_score)).unwrap();
    let verified = folder.overmask(&["store", "verify", "--json"]);
    let rows = json_lines(&verified);
    assert_eq!(verified.code, 4, "{verified:?}");
    assert!(rows[0]["file"].as_str().unwrap().contains("tokenizer1-"), "{rows:?}");
    assert!(rows[0]["reason"].as_str().unwrap().contains("other values"), "{rows:?}");
    assert!(!file.exists());
}

#[test]
fn a_base_whose_tokenizer_the_library_reads_has_none() {
    let base = Base::open(&overmask_tests::base_dir()).unwrap();
    assert!(overmask::task::Tokenizer::kept(&base, None).unwrap().is_none());
}
