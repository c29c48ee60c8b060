//! Files that would break the programs: memory without bound, panics of libraries, claims that are not so.

use std::fs;
use std::path::Path;
use std::process::Command;

use overmask_tests::{Recipe, base, base_dir, failed, program, ran};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn inspect(arguments: &[&Path]) -> Command {
    let mut command = program("overmask");
    command.arg("inspect").args(arguments);
    command
}

/// A safetensors file of these tensors with one text of metadata, sealed as a pack or a set is.
fn sealed(tensors: &[(&str, &str, Vec<usize>, &[u8])], key: &str, document: &Value) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    header.insert("__metadata__".into(), json!({key: document.to_string()}));
    for (name, dtype, shape, bytes) in tensors.iter().chain([&("sha256", "U8", vec![32], &[0; 32][..])]) {
        let at = data.len();
        data.extend_from_slice(bytes);
        header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [at, data.len()]}));
    }
    let header = Value::from(header).to_string();
    let mut file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    let end = file.len() - 32;
    let digest = Sha256::digest(&file[..end]);
    file[end..].copy_from_slice(&digest);
    file
}

/// A pack that is whole, with so many small objects in a field that this version does not know.
fn pack_with(name: &str, objects: usize) -> Vec<u8> {
    let document = json!({
        "schema": 1, "name": name, "revision": 1, "kind": "classify", "labels": ["a"],
        "text": {"max_tokens": 8, "pooling": "mean"}, "base_id": "ab".repeat(32), "tokenizer_sha256": "ab".repeat(32),
        "granularity": "weight", "codec": "plain", "sparsity": 0.5, "later": vec![json!({"": 0}); objects],
    });
    let head = [("head/weight", "F16", vec![1, 1], &[0; 2][..]), ("head/bias", "F16", vec![1], &[0; 2])];
    sealed(&head, "overmask", &document)
}

/// Each took 78 to 150 times its size.
#[cfg(unix)]
#[test]
fn a_packs_header_cannot_fill_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pack");
    // What the program itself takes: its code and libraries, one thread's heap and stack.
    let limited = |kib: u32| {
        let overmask = inspect(&[&path]).get_program().to_owned();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v {kib}; exec \"$0\" inspect --json \"$1\"")]);
        command.arg(overmask).arg(&path).envs([("NO_COLOR", "1"), ("RAYON_NUM_THREADS", "1")]);
        command
    };
    // As much as is read, and it is read whole.
    fs::write(&path, pack_with("x", 40_000)).unwrap();
    let got = ran(&mut limited(400 << 10));
    assert_eq!(got.code, 0, "{got:?}");
    fs::write(&path, pack_with("x", 400_000)).unwrap();
    failed(&ran(&mut limited(200 << 10)), 4, &["x.pack", "64 MiB of memory"]);
    let members: Vec<Vec<u8>> = (0..10).map(|i| pack_with(&i.to_string(), 40_000)).collect();
    let names: Vec<String> = (0..10).map(|i| format!("pack/{i}")).collect();
    let tensors: Vec<_> =
        names.iter().zip(&members).map(|(name, pack)| (name.as_str(), "U8", vec![pack.len()], &pack[..])).collect();
    let document = json!({"schema": 1, "packs": (0..10).map(|i| i.to_string()).collect::<Vec<_>>()});
    fs::write(&path, sealed(&tensors, "overmask-set", &document)).unwrap();
    failed(&ran(&mut limited(400 << 10)), 4, &["x.pack", "packs/1", "64 MiB of memory"]);
}

#[test]
fn inspect_tells_what_the_masks_have_and_not_what_the_pack_claims() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pack");
    let mut pack = Recipe::default().pack(&base());
    let claim = |sparsity: f64, pack: &mut overmask::pack::Pack| {
        pack.document.sparsity = sparsity;
        pack.write(&path, Some(&base())).unwrap();
        let own = ran(&mut inspect(&[&path]));
        let with_base = ran(inspect(&[&path]).arg("--base").arg(base_dir()));
        assert_eq!((own.code, with_base.code), (0, 0));
        (own.stdout, with_base)
    };
    let honest = pack.document.sparsity;
    let (_, got) = claim(honest, &mut pack);
    let zeros = format!("{:.2} % of the maskable weights\n", 100.0 * honest);
    assert!(got.stdout.contains(&zeros) && got.stderr.is_empty(), "{got:?}");
    let (own, got) = claim(0.9, &mut pack);
    assert!(own.contains("90.00 % of the maskable weights, as the pack says"), "{own}");
    assert!(got.stdout.contains(&zeros) && got.stderr.contains("field `sparsity` is 0.9"), "{got:?}");
}

/// A copy of the real base with a file of it changed.
fn changed_base(to: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(base_dir()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let mut bytes = fs::read(to.join(name)).unwrap();
    change(&mut bytes);
    fs::write(to.join(name), bytes).unwrap();
}

/// One wrong byte would be a panic, no end, or another answer.
#[test]
fn a_damaged_graph_or_tokenizer_is_never_run() {
    let dir = tempfile::tempdir().unwrap();
    let pack = dir.path().join("x.pack");
    Recipe::default().pack(&base()).write(&pack, Some(&base())).unwrap();
    for (i, (name, engines)) in
        [("tokenizer.json", &["native"][..]), ("model.onnx", &["tract", "ort"])].into_iter().enumerate()
    {
        let damaged = dir.path().join(i.to_string());
        changed_base(&damaged, name, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
        for engine in engines {
            let mut command = program("overmask");
            command.args(["run", "--engine", engine, "Who?", "--pack"]).arg(&pack).arg("--base").arg(&damaged);
            failed(&ran(&mut command), 4, &[name, "sha256", "damaged"]);
        }
    }
}

/// `tokenizers` panics on these files: that is told as an error about the file, once.
#[test]
fn a_panic_in_a_tokenizer_is_an_error_that_names_the_file() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-bert");
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture.join(name), dir.path().join(name)).unwrap();
    }
    let tokenizer = dir.path().join("tokenizer.json");
    fs::copy(fixture.join("../../fuzz/regressions/tokenizer/decoder-key"), &tokenizer).unwrap();
    let mut command = program("overmask-export");
    command.args(["import", "hf"]).arg(dir.path()).arg("-o").arg(dir.path().join("base"));
    let got = ran(&mut command);
    failed(&got, 4, &["tokenizer.json: the library `tokenizers` failed on it: ", "key must be a string"]);
    assert!(!dir.path().join("base").exists(), "{}", got.stderr);
}
