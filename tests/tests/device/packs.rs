//! Packs as files that travel: coded two ways, compared, merged, signed, and read by a decoder
//! that was written from the specification alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use overmask::codec;
use overmask::mask::{Granularity, Mask};
use overmask::pack::{Codec, Delta, FloatType, Golden, Input, NamedMask, Pack, PackFile, Pooling, TaskKind};
use overmask_tests::{Ran, Recipe, asset, base, base_dir, failed, json_lines, program, ran};
use sha2::{Digest, Sha256};

/// A folder with the packs `a` (block), `b` (block) and `w` (weight).
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, seed, granularity) in [
        ("a", 1, Granularity::Block { rows: 32, cols: 1 }),
        ("b", 2, Granularity::Block { rows: 32, cols: 1 }),
        ("w", 3, Granularity::Weight),
    ] {
        let recipe = Recipe { name, seed, granularity, labels: 3, ..Default::default() };
        let pack = like_trained(recipe.pack(&base()));
        pack.write(&dir.path().join(format!("{name}.pack")), Some(&base())).unwrap();
    }
    dir
}

/// The pack with zeros mostly where weights are small, as training makes them.
fn like_trained(mut pack: Pack) -> Pack {
    for named in &mut pack.masks {
        let tensor = base().maskable(&named.tensor).unwrap().clone();
        let granularity = named.mask.granularity();
        let classes = codec::classes(&base().int8(&tensor).unwrap(), granularity);
        let bits = named.mask.unit_bits().iter().by_vals();
        let keep = classes.iter().zip(bits).enumerate().map(|(i, (class, bit))| match class {
            0..3 => i % 7 == 0,
            3..9 => bit,
            _ => bit || i % 5 != 0,
        });
        named.mask = Mask::from_units(granularity, tensor.outputs, tensor.inputs, keep).unwrap();
    }
    pack
}

fn export(arguments: &[&str]) -> Command {
    let mut command = program("overmask-export");
    command.args(arguments);
    command
}

fn overmask(arguments: &[&str]) -> Command {
    let mut command = program("overmask");
    command.args(arguments);
    command
}

#[track_caller]
fn done(got: Ran) -> Ran {
    assert_eq!(got.code, 0, "{got:?}");
    got
}

fn read(path: &Path) -> Pack {
    Pack::open(path, &base()).unwrap()
}

#[test]
fn repacking_loses_nothing_either_way() {
    let dir = folder();
    for name in ["a", "w"] {
        let [ranked, plain, again] = ["", "-plain", "-again"].map(|end| dir.path().join(format!("{name}{end}.pack")));
        let repack = |from: &Path, to: &Path, more: &[&str]| {
            ran(export(&["repack", "--json"]).arg(from).arg("-o").arg(to).args(more))
        };
        let with_base = ["--base", base_dir().to_str().unwrap()].map(str::to_owned);
        let with_base: Vec<&str> = with_base.iter().map(String::as_str).collect();
        let got = done(repack(&ranked, &plain, &[&["--codec", "plain"][..], &with_base].concat()));
        assert_eq!(json_lines(&got)[0]["bytes"], std::fs::metadata(&plain).unwrap().len());
        done(repack(&plain, &again, &with_base));
        assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&ranked).unwrap());
        let (ranked, plain) = (read(&ranked), read(&plain));
        assert_eq!((plain.document.codec, ranked.document.codec), (Codec::Plain, Codec::Ranked));
        assert_eq!(plain.masks, ranked.masks);
    }
    let [ranked, out] = ["a.pack", "out.pack"].map(|name| dir.path().join(name));
    let got = ran(export(&["repack", "--codec", "plain"]).arg(&ranked).arg("-o").arg(&out));
    failed(&got, 2, &["--base"]);
    failed(&ran(export(&["repack", "--codec", "zip"]).arg(&ranked).arg("-o").arg(&out)), 2, &["zip", "ranked"]);
    assert!(!out.exists());
}

#[test]
fn a_difference_tells_what_two_packs_share() {
    let dir = folder();
    let diff = |a: &str, b: &str, more: &[&str]| {
        let [a, b] = [a, b].map(|name| dir.path().join(name));
        ran(export(&["diff"]).arg(a).arg(b).args(more))
    };
    let directory = base_dir();
    let base = ["--base", directory.to_str().unwrap()];
    let got = done(diff("a.pack", "b.pack", &[&base[..], &["--json"]].concat()));
    let report = &json_lines(&got)[0];
    let [a, b] = ["a.pack", "b.pack"].map(|name| read(&dir.path().join(name)));
    let both: u64 = a.masks.iter().zip(&b.masks).map(|(a, b)| a.mask.zero_in_both(&b.mask).unwrap()).sum();
    assert_eq!(report["overlap"]["zeros_both"], both);
    assert_eq!(report["overlap"]["zeros_a"], a.zero_weights());
    // Zeros lie where weights are small: they are shared more than by chance.
    assert!(both as f64 > 2.0 * report["overlap"]["zeros_both_by_chance"].as_f64().unwrap(), "{report}");
    assert_eq!(report["fields"]["name"], serde_json::json!(["a", "b"]));
    assert_eq!(report["tensors"].as_object().unwrap().len(), 36);

    let text = done(diff("a.pack", "w.pack", &[&base[..], &["--tensors"]].concat())).stdout;
    assert!(text.contains("granularity") && text.contains("Jaccard"), "{text}");
    assert_eq!(text.matches("by chance").count(), 37, "{text}");
    let same = done(diff("a.pack", "a.pack", &base)).stdout;
    assert!(same.contains("Jaccard 1.000") && !same.contains("granularity"), "{same}");
    failed(&diff("a.pack", "b.pack", &[]), 2, &["--base"]);
    failed(&diff("a.pack", "absent.pack", &base), 3, &["absent.pack"]);
}

#[test]
fn packs_of_a_set_are_addressed_by_name() {
    let dir = folder();
    let set = dir.path().join("all.packset");
    let file = |name: &str| dir.path().join(name);
    let got = done(ran(export(&["merge", "--json"]).args(["a.pack", "w.pack"].map(file)).arg("-o").arg(&set)));
    assert_eq!(json_lines(&got)[0]["packs"][1]["name"], "w");
    let run = |pack: &str| {
        ran(overmask(&["run", "--json", "Where is Lima?", "--base"]).arg(base_dir()).arg("--pack").arg(pack))
    };
    let whole = json_lines(&done(run(set.to_str().unwrap())));
    assert_eq!(whole.iter().map(|row| row["task"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "w"]);
    let one = json_lines(&done(run(&format!("{}#w", set.display()))));
    assert_eq!((one.len(), &one[0]["scores"]), (1, &whole[1]["scores"]));
    let alone = json_lines(&done(run(file("w.pack").to_str().unwrap())));
    assert_eq!(alone[0]["scores"], whole[1]["scores"]);
    failed(&run(&format!("{}#b", set.display())), 3, &["`b`", "`a`, `w`"]);
    let listed = json_lines(&done(ran(overmask(&["inspect", "--json"]).arg(&set))));
    assert_eq!((listed.len(), listed[0]["document"]["name"].as_str()), (2, Some("a")));

    let twice = ran(export(&["merge"]).args(["a.pack", "a.pack"].map(file)).arg("-o").arg(file("twice")));
    failed(&twice, 3, &["a.pack", "`a`"]);
    assert!(!file("twice").exists());
    let mut bytes = std::fs::read(&set).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&set, bytes).unwrap();
    failed(&run(set.to_str().unwrap()), 4, &["all.packset", "damaged"]);
}

#[test]
fn only_what_a_trusted_key_signed_runs_when_signatures_are_required() {
    let dir = folder();
    let file = |name: &str| dir.path().join(name);
    for name in ["ours", "theirs"] {
        done(ran(export(&["keygen", "--no-password", "-o"]).arg(file(name))));
    }
    failed(&ran(export(&["keygen", "--no-password", "-o"]).arg(file("ours"))), 3, &["ours.key"]);
    let keyring = file("keys");
    std::fs::create_dir(&keyring).unwrap();
    std::fs::copy(file("ours.pub"), keyring.join("ours.pub")).unwrap();
    let verify = |pack: &str, more: &[&str]| ran(overmask(&["verify", "--json"]).arg(file(pack)).args(more));
    let keyring_path = keyring.to_str().unwrap();
    let trusted = ["--keyring", keyring_path];

    failed(&verify("a.pack", &trusted), 5, &["a.pack.minisig", "not signed"]);
    let sign = |pack: &str, key: &str| ran(export(&["sign", "--key"]).arg(file(key)).arg(file(pack)));
    done(sign("a.pack", "ours.key"));
    let got = done(verify("a.pack", &trusted));
    let report = &json_lines(&got)[0];
    assert!(report["trusted_comment"].as_str().unwrap().contains("file:a.pack"), "{report}");
    assert_eq!(report["signed_by"].as_str().unwrap().len(), 16);
    done(verify("a.pack", &["--key", file("ours.pub").to_str().unwrap()]));
    failed(&verify("a.pack", &["--key", file("theirs.pub").to_str().unwrap()]), 5, &["key"]);
    failed(&verify("a.pack", &["--key", file("ours.key").to_str().unwrap()]), 5, &["secret key"]);

    // The signature of one file is none of another, and a changed file has none.
    done(sign("b.pack", "theirs.key"));
    failed(&verify("b.pack", &trusted), 5, &["not among the trusted keys"]);
    std::fs::copy(file("a.pack.minisig"), file("b.pack.minisig")).unwrap();
    failed(&verify("b.pack", &trusted), 5, &["does not match"]);

    let run = |pack: &str, more: &[&str]| {
        let mut command = overmask(&["run", "text", "--base"]);
        command.arg(base_dir()).arg("--pack").arg(file(pack)).args(more);
        command
    };
    done(ran(&mut run("b.pack", &[])));
    failed(&ran(&mut run("b.pack", &trusted)), 5, &["b.pack"]);
    done(ran(run("a.pack", &["--require-signature"]).env("OVERMASK_KEYRING", &keyring)));
    let empty = file("empty");
    std::fs::create_dir(&empty).unwrap();
    failed(&ran(run("a.pack", &["--require-signature"]).env("OVERMASK_KEYRING", &empty)), 5, &["no trusted keys"]);

    // A set is signed as a whole.
    done(ran(export(&["merge"]).args(["a.pack", "b.pack"].map(file)).arg("-o").arg(file("s.packset"))));
    failed(&verify("s.packset", &trusted), 5, &["s.packset"]);
    done(sign("s.packset", "ours.key"));
    assert_eq!(json_lines(&done(verify("s.packset", &trusted))).len(), 2);
    // What is no pack is not signed.
    std::fs::write(file("x.pack"), b"no pack").unwrap();
    failed(&sign("x.pack", "ours.key"), 4, &["x.pack"]);
    assert!(!file("x.pack.minisig").exists());
}

#[test]
fn verify_without_a_base_says_what_it_did_not_check() {
    let dir = folder();
    let pack = dir.path().join("a.pack");
    let got = done(ran(overmask(&["verify"]).arg(&pack)));
    assert!(got.stdout.contains("not checked") && got.stdout.contains("--base"), "{}", got.stdout);
    let mut bytes = std::fs::read(&pack).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    failed(&ran(overmask(&["verify"]).arg(&pack)), 4, &["a.pack", "damaged"]);
}

/// A pack that keeps the larger two of four weights, but for some, in two layers, tags words, and
/// replaces a norm.
fn two_of_four() -> Pack {
    let base = base();
    let Pack { mut document, head, .. } = Recipe { seed: 4, from_layer: 4, ..Default::default() }.pack(&base);
    document.granularity = Granularity::TwoOfFour;
    (document.kind, document.text.pooling) = (TaskKind::Tag, Pooling::First);
    let mut masks = Vec::new();
    for tensor in base.manifest().maskable.iter().filter(|tensor| tensor.layer >= 4) {
        let (_, weights) = base.tensor_f32(&tensor.name).unwrap();
        let keep = weights.chunks_exact(4).enumerate().flat_map(|(i, four)| {
            let larger = |j: usize| four.iter().filter(|w| w.abs() > four[j].abs()).count() < 2;
            let keep: [bool; 4] = std::array::from_fn(larger);
            if i % 9 == 0 { keep.map(|keep| !keep) } else { keep }
        });
        let mask = Mask::from_units(Granularity::TwoOfFour, tensor.outputs, tensor.inputs, keep).unwrap();
        masks.push(NamedMask { tensor: tensor.name.clone(), mask });
    }
    let deltas = ["weight", "bias"].map(|part| {
        let tensor = format!("embeddings.LayerNorm.{part}");
        let (shape, values) = base.tensor_f32(&tensor).unwrap();
        Delta { shape: shape.to_vec(), values: values.to_vec(), dtype: FloatType::F16, tensor }
    });
    let words = vec!["Where".to_owned(), "Lima".to_owned()];
    let golden = Golden { input: Input::Words { words }, logits: vec![0.5; 2 * head.labels] };
    Pack::new(document, masks, head, vec![golden]).unwrap().with_deltas(deltas.to_vec()).unwrap()
}

/// The decoder in Python knows nothing but the specification.
#[test]
fn an_independent_decoder_reads_the_same_bits() {
    let dir = folder();
    let decoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("decoder/read_pack.py");
    let decode = |file: &Path, name: Option<&str>| {
        let mut command = Command::new("python3");
        command.arg(&decoder).arg(base_dir()).arg(file).args(name);
        // Only numpy of it is used.
        ran(command.env("PYTHONPATH", asset("onnx-checker")))
    };
    let head_types = [("a", FloatType::Bf16), ("w", FloatType::F32)];
    let mut files: Vec<(PathBuf, Pack)> = Vec::new();
    for (name, dtype) in head_types {
        let mut pack = read(&dir.path().join(format!("{name}.pack")));
        pack.head.dtype = dtype;
        let path = dir.path().join(format!("{name}-{dtype}.pack"));
        pack.write(&path, Some(&base())).unwrap();
        files.push((path.clone(), read(&path)));
    }
    let mut plain = read(&dir.path().join("b.pack"));
    plain.document.codec = Codec::Plain;
    let path = dir.path().join("plain.pack");
    plain.write(&path, None).unwrap();
    files.push((path, plain));
    let path = dir.path().join("two-of-four.pack");
    two_of_four().write(&path, Some(&base())).unwrap();
    files.push((path.clone(), read(&path)));
    assert_eq!(files[3].1.deltas.len(), 2);
    for (path, pack) in &files {
        let rows = json_lines(&done(decode(path, None)));
        assert_eq!(rows[0]["name"], pack.document.name.as_str());
        let values = pack.head.weight.iter().chain(&pack.head.bias);
        let sum: f64 = values.map(|value| f64::from(*value)).sum();
        assert!((rows[0]["head_sum"].as_f64().unwrap() - sum).abs() < 1e-9);
        assert_eq!(rows.len(), 1 + pack.masks.len());
        for (row, named) in rows[1..].iter().zip(&pack.masks) {
            assert_eq!(row["tensor"], named.tensor.as_str());
            assert_eq!(row["zeros"], named.mask.zero_units());
            let digest: String = Sha256::digest(named.mask.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(row["sha256"], digest.as_str(), "{}: {}", path.display(), named.tensor);
        }
    }
    let set = dir.path().join("s.packset");
    done(ran(export(&["merge"]).arg(&files[0].0).arg(&files[2].0).arg("-o").arg(&set)));
    assert_eq!(json_lines(&done(decode(&set, Some("b")))).len(), 37);
    let mut bytes = std::fs::read(&set).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&set, bytes).unwrap();
    assert_eq!(decode(&set, None).code, 1);
}

/// The same training output makes the same file on every platform: this is the file.
#[test]
fn a_pack_has_the_same_bytes_everywhere() {
    let dir = folder();
    let digests =
        ["a", "w"].map(|name| PackFile::open(&dir.path().join(format!("{name}.pack"))).unwrap().digest().to_owned());
    let expected = [
        "6dff2960bb92daebde3261ed52b5047a808ea17b805dce78abdfe5ba7665b667",
        "91f11f56318b8243a16f2359283d7c5d6afade1a8db755f331317b6aa30026c9",
    ];
    assert_eq!(digests, expected);
}
