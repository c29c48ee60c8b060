//! What is fuzzed: each function takes any bytes and must neither panic nor use memory without
//! bound. `cargo xtask fuzz` runs them with libFuzzer; a test runs them on the seeds and on every
//! input that was ever found to be handled wrongly (`regressions/`).

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod seeds;

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use half::bf16;
use overmask::base::family::{Family, bert};
use overmask::base::{
    Architecture, Base, BaseManifest, FORMAT, MaskableTensor, Precision, base_id, file, write_weights,
};
use overmask::codec;
use overmask::derived::DerivedFile;
use overmask::fs::{file_digest, hex, is_sha256};
use overmask::mask::{Granularity, Mask};
use overmask::pack::{Input, PackFile, Packs, Patch};
use overmask::task::Tokenizer;
use overmask::trust::{Keyring, PublicKey};
use overmask_exporter::fetch::{self, Manifest};
use overmask_exporter::import::{Origin, fuzz as checkpoint, hf};
use overmask_kernels::{Activations, Isa, NR, PanelMask, Panels, Product, Row, Scratch, Tabled, Units};
use overmask_oci::{Reference, fuzz as registry};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every target with its name: the one list of them. `cargo xtask fuzz` finds the names in `seeds/`.
pub const TARGETS: [(&str, Target); 12] = [
    ("pack", pack),
    ("mask", mask),
    ("base", base),
    ("tokenizer", tokenizer),
    ("onnx", onnx),
    ("signature", signature),
    ("archive", archive),
    ("kernels", kernels),
    ("derived", derived),
    ("oci", oci),
    ("torch", torch),
    ("config", config),
];

/// A pack or a pack set: what can be read can be written again and is the same.
pub fn pack(bytes: &[u8]) {
    let _ = Packs::from_bytes(Path::new("x"), bytes, None);
    // A checksum would keep every change from the code behind it.
    let Some(end) = bytes.len().checked_sub(32) else { return };
    let sealed = [&bytes[..end], &Sha256::digest(&bytes[..end])[..]].concat();
    let _ = Patch::from_bytes(&sealed);
    let Ok(packs) = Packs::from_bytes(Path::new("x"), &sealed, None) else { return };
    for file in packs.into_vec() {
        let base = bundle().1.as_ref();
        if let Ok(pack) = file.decode(base) {
            let again = pack.to_bytes(base).unwrap();
            assert_eq!(PackFile::from_bytes(&again).unwrap().decode(base).unwrap(), pack);
        }
    }
}

/// Two bytes choose a shape, a unit, and what the rest is: a coded mask, or the bits of one to
/// code.
pub fn mask(bytes: &[u8]) {
    let [unit, size, rest @ ..] = bytes else { return };
    let granularity = match unit % 4 {
        0 => Granularity::Weight,
        n => Granularity::Block { rows: u32::from(n) + 1, cols: u32::from(unit / 4 % 4) + 1 },
    };
    // Some so large that several states take turns.
    let (outputs, inputs) = match size % 16 {
        15 => (257, 256),
        n => (usize::from(n) + 1, usize::from(size / 16) * 7 + 1),
    };
    let (rows, cols) = granularity.block();
    let units = outputs.div_ceil(rows) * inputs.div_ceil(cols);
    let classes: Vec<u8> = (0..units).map(|i| (i * 31 % 64) as u8).collect();
    // Decoding is what meets hostile bytes; coding takes a hundred times as long, so it is rare.
    if *unit != 255 {
        let before = Mask::keep_all(granularity, outputs, inputs).unwrap();
        if let Ok(mask) = codec::decode_after(rest, &before, &classes) {
            assert_eq!(mask.unit_bits().len(), units);
        }
        if let Ok(mask) = codec::decode(rest, granularity, outputs, inputs, &classes) {
            assert_eq!((mask.outputs(), mask.inputs(), mask.unit_bits().len()), (outputs, inputs, units));
        }
        return;
    }
    let bit = |i: usize| rest.get(i / 8 % rest.len().max(1)).is_some_and(|byte| byte >> (i % 8) & 1 == 1);
    let mask = Mask::from_units(granularity, outputs, inputs, (0..units).map(bit)).unwrap();
    let coded = codec::encode(&mask, &classes).unwrap();
    assert!(coded.len() <= mask.as_bytes().len() + 1);
    assert_eq!(codec::decode(&coded, granularity, outputs, inputs, &classes).unwrap(), mask);
}

/// Four bytes choose a shape and a mask's unit, the rest are values and mask bits: every kernel
/// gives what the portable one gives, to the last bit, as small whole numbers are never rounded.
pub fn kernels(bytes: &[u8]) {
    let [rows, outputs, inputs, unit, rest @ ..] = bytes else { return };
    let (rows, outputs, inputs) =
        (usize::from(*rows) % 90, usize::from(*outputs) % 70 + 1, usize::from(*inputs) * 3 % 800 + 1);
    let byte = |i: usize| rest.get(i * 7919 % rest.len().max(1)).copied().unwrap_or(0);
    let shape = Shape { rows, outputs, inputs, unit: *unit, byte: &byte };
    // Numbers whose products and sums are exact.
    let value = |i: usize| f32::from(byte(i) as i8 / 8);
    shape.products::<f32>(value, value, value);
    shape.products::<bf16>(|i| bf16::from_f32(value(i)), value, value);
    // With a sign or without one the same.
    shape.products::<i8>(|i| byte(i) as i8, |i| byte(i) / 2, |i| i32::from(byte(i)));
}

/// Products of such numbers.
struct Shape<'a> {
    rows: usize,
    outputs: usize,
    inputs: usize,
    unit: u8,
    byte: &'a dyn Fn(usize) -> u8,
}

impl Shape<'_> {
    /// Compares those of every instruction set.
    fn products<E: Tabled<Sum: PartialEq>>(
        &self,
        weight: impl Fn(usize) -> E,
        activation: impl Fn(usize) -> E::Activation,
        sum: impl Fn(usize) -> E::Sum,
    ) {
        let Shape { rows, outputs, inputs, unit, byte } = *self;
        let block = [(1, 1), (32, 1), (64, 4), (5, 2)][usize::from(unit % 4)];
        let weight: Vec<E> = (0..outputs * inputs).map(weight).collect();
        let mut packed = vec![E::default(); Panels::<E>::packed_len(outputs, inputs)];
        Panels::pack(&weight, outputs, inputs, &mut packed);
        let weight = Panels::new(&packed, outputs, inputs);
        let units = outputs.div_ceil(block.0) * inputs.div_ceil(block.1);
        let eight = |of: usize| (0..8).fold(0, |bits, i| bits | u8::from(byte(8 * of + i + 3) % 8 > 0) << i);
        let bits: Vec<u8> = (0..units.div_ceil(8)).map(eight).collect();
        let mask = Units { outputs, inputs, block, bits: &bits };
        let mut words = vec![0; PanelMask::packed_len::<E>(block, outputs, inputs)];
        let mask = if unit & 64 == 0 { PanelMask::pack::<E>(&mask, &mut words) } else { PanelMask::Dense };
        let bias: Option<Row<E::Sum>> = (unit & 128 == 0).then(|| std::array::from_fn(&sum));
        // Exactly as many values as there must be: what lies behind them is nobody's.
        let values = (0..inputs.div_ceil(NR) * rows).map(|i| std::array::from_fn(|j| activation(i * NR + j)));
        let values: Vec<Row<E::Activation>> = values.collect();
        let products = Isa::available().into_iter().map(|isa| {
            let activations = Activations::new(&values, rows, inputs);
            let (mut sums, mut scratch) = (vec![[sum(1); NR]; weight.len() * rows], Scratch::default());
            for (panel, sums) in sums.chunks_exact_mut(rows.max(1)).enumerate() {
                Product { activations, weight, mask, panel, bias: bias.as_ref() }.run(isa, &mut scratch, sums);
            }
            sums
        });
        let products: Vec<_> = products.collect();
        assert!(products.iter().all(|product| *product == products[0]));
    }
}

/// A `base.json` beside sound files.
pub fn base(bytes: &[u8]) {
    let dir = bundle().0.path();
    std::fs::write(dir.join(file::MANIFEST), bytes).unwrap();
    if let Ok(base) = Base::open(dir) {
        for tensor in &base.manifest().maskable {
            base.int8(tensor).unwrap();
        }
        let _ = base.verify();
    }
}

/// A `tokenizer.json`, and texts for it: `tokenizers` panics on some, behind a fence.
pub fn tokenizer(bytes: &[u8]) {
    static BUNDLE: OnceLock<(TempDir, BaseManifest)> = OnceLock::new();
    let (dir, manifest) = BUNDLE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let manifest = write_bundle(dir.path());
        (dir, manifest)
    });
    let (dir, mut manifest) = (dir.path(), manifest.clone());
    manifest.tokenizer_sha256 = hex(&Sha256::digest(bytes));
    manifest.digests.insert(file::TOKENIZER.to_owned(), manifest.tokenizer_sha256.clone());
    std::fs::write(dir.join(file::TOKENIZER), bytes).unwrap();
    std::fs::write(dir.join(file::MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let Ok(tokenizer) = Tokenizer::open(&Base::open(dir).unwrap()) else { return };
    let words = ["b", "", "it's"].map(String::from).to_vec();
    for input in ["Who is a, \u{1f999}?".into(), Input::Pair("a b".into(), String::new()), Input::Words { words }] {
        if let Ok(tokens) = tokenizer.encode(&input, 8) {
            assert!((1..=8).contains(&tokens.len()));
        }
    }
}

/// A tar file with 40 MiB of zeros behind it, packed: what it says of its names and sizes decides nothing.
pub fn archive(bytes: &[u8]) {
    static PLACE: OnceLock<(TempDir, Manifest, Vec<u8>)> = OnceLock::new();
    let (dir, manifest, zeros) = PLACE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.toml");
        std::fs::write(&path, seeds::MANIFEST).unwrap();
        let mut zeros = DeflateEncoder::new(Vec::new(), Compression::best());
        (0..40).for_each(|_| zeros.write_all(&vec![0; 1 << 20]).unwrap());
        (dir, Manifest::find(path.to_str().unwrap()).unwrap(), zeros.finish().unwrap())
    });
    let (path, out) = (dir.path().join("x.tar.gz"), dir.path().join("out"));
    // After a flush another stream can follow.
    let mut packed = GzEncoder::new(Vec::new(), Compression::none());
    packed.write_all(bytes).unwrap();
    packed.flush().unwrap();
    std::fs::write(&path, [packed.get_ref(), &zeros[..]].concat()).unwrap();
    if fetch::fetch(manifest, Some(&path), &out, &mut |_| ()).is_ok() {
        assert_eq!(std::fs::read(out.join("a.txt")).unwrap(), b"hello");
        std::fs::remove_dir_all(&out).unwrap();
    }
}

/// An ONNX model.
pub fn onnx(bytes: &[u8]) {
    let path = bundle().0.path().join("fuzz.onnx");
    std::fs::write(&path, bytes).unwrap();
    let Ok(mut model) = overmask_graph::read_model(&path) else { return };
    let mut names = Vec::new();
    for initializer in model.graph.iter().flat_map(|graph| &graph.initializer) {
        let _ = overmask_graph::external_data(initializer);
        names.push(initializer.name.clone());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let _ = overmask_graph::initializers_to_inputs(&mut model, &names);
    overmask_graph::encode(&model);
}

/// A signature, and a public key.
pub fn signature(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let keyring = Keyring::from_keys(vec![PublicKey::parse(seeds::PUBLIC_KEY).unwrap()]);
    if let Ok(verified) = keyring.verify(seeds::SIGNED, &text) {
        assert!(!verified.trusted_comment.contains(char::is_control));
    }
    let _ = PublicKey::parse(&text);
}

/// A derived file: what is used is what was made, or what a writer of such files makes of those values.
///
/// Whoever writes a file writes its checksum (a fuzzer learns it from the comparison), so that others are used is right.
pub fn derived(bytes: &[u8]) {
    static PLACE: OnceLock<(TempDir, DerivedFile, Vec<u8>)> = OnceLock::new();
    let (dir, file, made) = PLACE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let file = seeds::derived_file(&dir.path().join("a"), &seeds::DERIVED);
        let made = std::fs::read(file.path()).unwrap();
        (dir, file, made)
    });
    std::fs::write(file.path(), bytes).unwrap();
    match file.find::<u32>(seeds::DERIVED.len()) {
        None => assert_ne!(bytes, made),
        Some(found) => {
            let again = dir.path().join("b");
            let written = std::fs::read(seeds::derived_file(&again, &found).path()).unwrap();
            std::fs::remove_dir_all(again).unwrap();
            assert_eq!(bytes, written);
        }
    }
    // What it says of its own length is nobody's measure.
    assert!(file.find::<f32>(usize::MAX / 8).is_none());
}

/// A checkpoint of PyTorch, and the pickle in one.
pub fn torch(bytes: &[u8]) {
    let _ = (checkpoint::torch(bytes), checkpoint::pickle(bytes));
}

/// The `config.json` of a checkpoint, beside tensors of its family: a base, or an error that leaves nothing behind.
pub fn config(bytes: &[u8]) {
    static PLACE: OnceLock<TempDir> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        let place = tempfile::tempdir().unwrap();
        for seeds::Checkpoint { family, weights, .. } in seeds::CHECKPOINTS {
            let dir = place.path().join(family);
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("model.safetensors"), weights).unwrap();
            std::fs::write(dir.join(file::TOKENIZER), seeds::TOKENIZER).unwrap();
        }
        place
    });
    let said: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let is_said = |known: &&seeds::Checkpoint| said["model_type"] == known.family;
    let known = seeds::CHECKPOINTS.iter().find(is_said).unwrap_or(&seeds::CHECKPOINTS[0]);
    let (dir, out) = (place.path().join(known.family), place.path().join("out"));
    std::fs::write(dir.join("config.json"), bytes).unwrap();
    match hf::import(&dir, &out, &Origin::default()) {
        Ok(_) => std::fs::remove_dir_all(&out).unwrap(),
        Err(_) => assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), seeds::CHECKPOINTS.len()),
    }
}

/// What a registry says, and a file of logins; the first byte chooses what it is. Nothing of it breaks out of a header or
/// a line, and nothing leads away from HTTPS.
pub fn oci(bytes: &[u8]) {
    static PLACES: OnceLock<[Reference; 2]> = OnceLock::new();
    let places = || ["registry.example/tasks/trec:3", "docker.io/library/x"].map(|name| name.parse().unwrap());
    let [kind, rest @ ..] = bytes else { return };
    let text = String::from_utf8_lossy(rest);
    match kind % 6 {
        0 => {
            let Some((again, digests)) = registry::manifest(rest) else { return };
            assert!(digests.iter().all(|digest| is_sha256(digest)));
            assert_eq!(registry::manifest(&again), Some((again.clone(), digests)));
        }
        1 => {
            let token = registry::token(rest);
            assert!(token.is_none_or(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_graphic())));
        }
        2 => assert!(!registry::told(rest).contains(char::is_control)),
        3 => {
            for login in PLACES.get_or_init(places).iter().filter_map(|place| registry::login(rest, place)) {
                assert!(login.starts_with("Basic ") && login[6..].bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
        4 => {
            let realm = registry::challenge(&text);
            drop(realm.and_then(|realm| registry::target(false, "registry.example", &realm)));
        }
        _ => {
            for is_plain in [false, true] {
                let Some(url) = registry::target(is_plain, "localhost:5000", &text) else { continue };
                let is_home = is_plain && url.host().is_some_and(|host| host.eq_ignore_ascii_case("localhost"));
                assert!(url.scheme_str() == Some("https") || url.scheme_str() == Some("http") && is_home, "{url}");
                assert!(!url.authority().unwrap().as_str().contains('@'), "{url}");
            }
        }
    }
}

/// The directory of a small bundle, and the base that was opened from it before its manifest was
/// written over. Its tensors are `w`, [3, 4], and embeddings of 10 tokens and 16 positions.
fn bundle() -> &'static (TempDir, Option<Base>) {
    static BUNDLE: OnceLock<(TempDir, Option<Base>)> = OnceLock::new();
    BUNDLE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        write_bundle(dir.path());
        let base = Base::open(dir.path()).unwrap();
        (dir, Some(base))
    })
}

/// Writes the small bundle.
pub fn write_bundle(dir: &Path) -> BaseManifest {
    let values: Vec<u8> = (0..64).flat_map(|i| (i as f32 - 5.5).to_le_bytes()).collect();
    let tensors: [(&str, &[usize], &[u8]); 3] = [
        ("w", &[3, 4], &values[..48]),
        ("bert.embeddings.word_embeddings.weight", &[10, 4], &values[..160]),
        ("bert.embeddings.position_embeddings.weight", &[16, 4], &values),
    ];
    let mut weights = Vec::new();
    write_weights(&mut weights, &tensors).unwrap();
    let files: [(&str, &[u8]); 3] = [(file::WEIGHTS, &weights), (file::MODEL, b"graph"), (file::TOKENIZER, b"{}")];
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    let digest = |name: &str| file_digest(&dir.join(name)).unwrap();
    let family =
        Family::Bert(bert::Sizes { heads: 2, intermediate_size: 8, layer_norm_eps: 1e-12, kin: bert::Kin::Bert });
    let architecture = Architecture { family, hidden_size: 4, layers: 1, vocab_size: 10, max_positions: 16 };
    let tokenizer_sha256 = digest(file::TOKENIZER);
    let tensors = tensors.map(|(name, shape, bytes)| (name.to_owned(), shape, bytes));
    let manifest = BaseManifest {
        format: FORMAT,
        base_id: base_id(&architecture, &tokenizer_sha256, tensors),
        architecture,
        maskable: vec![MaskableTensor { name: "w".into(), outputs: 3, inputs: 4, layer: 0 }],
        variant: Precision::F32,
        digests: files.iter().map(|(name, _)| ((*name).to_owned(), digest(name))).collect(),
        tokenizer_sha256,
        pooling: None,
        max_tokens: None,
        licence: "none".into(),
        source: "fuzzing".into(),
    };
    std::fs::write(dir.join(file::MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
    manifest
}
