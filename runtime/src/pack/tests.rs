//! Tests of packs: what is written comes back, and whatever else is in a file is an error.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::mask::Granularity;

mod bounds;
mod patches;

fn document() -> PackDocument {
    PackDocument {
        schema: SCHEMA,
        requires: Vec::new(),
        name: "trec".into(),
        revision: 1,
        kind: TaskKind::Classify,
        labels: vec!["HUM".into(), "LOC".into(), "NUM".into()],
        text: TextSettings { max_tokens: 16, pooling: Pooling::Mean, pair: false },
        base_id: "ab".repeat(32),
        tokenizer_sha256: "01".repeat(32),
        granularity: Granularity::Block { rows: 4, cols: 1 },
        codec: Codec::Plain,
        sparsity: 0.071_234_567_891_234_5,
        masks: Vec::new(),
        golden: Vec::new(),
        provenance: [("seed".to_owned(), json!(1)), ("method".to_owned(), json!("mask"))].into(),
        metrics: [("accuracy".to_owned(), 0.913)].into(),
        extra: [("later".to_owned(), json!({"a": [1, 2.5, null]}))].into(),
    }
}

fn small() -> Pack {
    let g = document().granularity;
    let named = |name: &str, outputs, inputs, step| NamedMask {
        tensor: name.into(),
        mask: Mask::from_units(g, outputs, inputs, (0..outputs.div_ceil(4) * inputs).map(|i| i % step != 0)).unwrap(),
    };
    let masks = vec![named("layer.0.query.weight", 6, 5, 3), named("layer.0.value.weight", 5, 6, 4)];
    let weight = (0..12).map(|i| i as f32 / 7.0).collect();
    let head = Head { weight, bias: vec![0.1, -0.2, 0.3], labels: 3, hidden: 4, dtype: FloatType::F16 };
    let golden = |text: &str| Golden { input: Input::from(text), logits: vec![1.0, -2.5, 1e-7] };
    Pack::new(document(), masks, head, vec![golden("Where is Lima?"), golden("Ünïcode 🦙")]).unwrap()
}

/// A base with one maskable tensor, and a pack for it whose mask is coded given the base.
fn ranked(dir: &Path) -> (Base, Pack) {
    let manifest = crate::base::tests::bundle(dir);
    let base = Base::open(dir).unwrap();
    let document = PackDocument {
        base_id: manifest.base_id,
        tokenizer_sha256: manifest.tokenizer_sha256,
        granularity: Granularity::Weight,
        codec: Codec::Ranked,
        ..document()
    };
    let mask = Mask::from_units(Granularity::Weight, 3, 4, (0..12).map(|i| i > 1)).unwrap();
    let pack = Pack::new(document, vec![NamedMask { tensor: "w".into(), mask }], small().head, Vec::new());
    (base, pack.unwrap())
}

fn bytes(pack: &Pack) -> Vec<u8> {
    pack.to_bytes(None).unwrap()
}

fn read(bytes: &[u8]) -> Result<Pack, PackError> {
    PackFile::from_bytes(bytes)?.decode(None)
}

#[test]
fn what_is_written_comes_back() {
    let pack = small();
    let written = bytes(&pack);
    let file = PackFile::from_bytes(&written).unwrap();
    assert_eq!(file.sizes().total(), written.len());
    assert_eq!(file.sizes().head, 2 * 15);
    assert_eq!(file.document().masks[1].length, pack.masks[1].mask.as_bytes().len());
    let again = file.decode(None).unwrap();
    assert_eq!(again, pack);
    assert_eq!(bytes(&again), written, "equal packs are equal files");
    assert_eq!(again.document.sparsity, document().sparsity);
    assert_eq!(again.document.extra["later"], json!({"a": [1, 2.5, null]}), "unknown fields are kept");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trec.pack");
    pack.write(&path, None).unwrap();
    let file = PackFile::open(&path).unwrap();
    assert_eq!(file.origin(), Some(path.as_path()));
    assert_eq!(crate::fs::file_digest(&path).unwrap(), file.digest());
}

#[test]
fn masks_coded_given_the_base_need_it() {
    let dir = tempfile::tempdir().unwrap();
    let (base, pack) = ranked(dir.path());
    assert!(matches!(pack.to_bytes(None), Err(PackError::NeedsBase { .. })));
    let written = pack.to_bytes(Some(&base)).unwrap();
    let file = PackFile::from_bytes(&written).unwrap();
    let error = file.clone().decode(None).unwrap_err();
    assert!(error.to_string().contains("--base") && error.kind() == ErrorKind::Usage, "{error}");
    assert_eq!(file.decode(Some(&base)).unwrap(), pack);
    // The same masks, plain: what one coding holds, the other does.
    let plain = Pack { document: PackDocument { codec: Codec::Plain, ..pack.document.clone() }, ..pack.clone() };
    assert_eq!(read(&bytes(&plain)).unwrap().masks, pack.masks);

    let mut other = pack.clone();
    other.document.base_id = "0".repeat(64);
    let error = other.to_bytes(Some(&base)).unwrap_err();
    assert!(matches!(&error, PackError::OtherBase { field, .. } if field == "base_id"), "{error}");
    assert_eq!(error.kind(), ErrorKind::BaseMismatch);
}

#[test]
fn a_head_is_what_its_type_can_store() {
    for dtype in [FloatType::F32, FloatType::F16, FloatType::Bf16] {
        let Pack { document, masks, head, golden, .. } = small();
        let values = Head { weight: (0..12).map(|i| i as f32 / 7.0).collect(), dtype, ..head };
        let pack = Pack::new(document, masks, values.clone(), golden).unwrap();
        assert_eq!(pack.head.weight, values.weight.iter().map(|v| dtype.round(*v)).collect::<Vec<_>>());
        assert_eq!(read(&bytes(&pack)).unwrap().head, pack.head);
    }
    let Pack { document, masks, mut head, golden, .. } = small();
    head.weight[3] = 1e5;
    let error = Pack::new(document, masks, head, golden).unwrap_err().to_string();
    assert!(error.contains("head/weight") && error.contains("f32"), "{error}");
}

#[test]
fn a_pack_without_masks_and_golden_vectors_is_fine() {
    let Pack { document, head, .. } = small();
    let pack = Pack::new(document, Vec::new(), head, Vec::new()).unwrap();
    assert_eq!(pack.zero_weights(), 0);
    assert_eq!(read(&bytes(&pack)).unwrap(), pack);
}

#[test]
fn any_safetensors_tool_can_list_it() {
    let bytes = bytes(&small());
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort_unstable();
    assert_eq!(names, ["golden/logits", "head/bias", "head/weight", "mask", "sha256"]);
}

/// Every change of one byte, every shorter file, and every longer one.
#[test]
fn nothing_but_the_very_bytes_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (base, pack) = ranked(dir.path());
    let set = PackSet::new(&[("a".into(), bytes(&small()))]).unwrap().to_bytes().unwrap();
    for good in [bytes(&small()), pack.to_bytes(Some(&base)).unwrap(), set] {
        Packs::from_bytes(Path::new("x"), &good, None).unwrap();
        let refused = AtomicUsize::new(0);
        let refuse = |bytes: &[u8]| {
            let error = Packs::from_bytes(Path::new("x"), bytes, None).unwrap_err();
            assert!(!error.to_string().is_empty());
            refused.fetch_add(1, Ordering::Relaxed);
        };
        rayon::scope(|scope| {
            for part in 0..8 {
                let (good, refuse) = (&good, &refuse);
                scope.spawn(move |_| {
                    let mut bytes = good.clone();
                    for at in (part..good.len()).step_by(8) {
                        for change in 1..=255 {
                            bytes[at] = good[at].wrapping_add(change);
                            refuse(&bytes);
                        }
                        bytes[at] = good[at];
                        refuse(&good[..at]);
                    }
                });
            }
            let mut longer = good.clone();
            for length in 1..=64 {
                longer.push(0);
                for byte in 0..=255 {
                    longer[good.len() + length - 1] = byte;
                    refuse(&longer);
                }
            }
        });
        let expected = good.len() * 256 + 64 * 256;
        println!("{} bytes: {expected} changed, shorter and longer files refused", good.len());
        assert_eq!(refused.into_inner(), expected);
    }
}

/// The file with the checksum that its bytes now have.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    use sha2::Digest;
    let end = bytes.len() - 32;
    let digest = sha2::Sha256::digest(&bytes[..end]);
    bytes[end..].copy_from_slice(&digest);
    bytes
}

/// The small pack with its document changed.
fn rewrite(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let bytes = bytes(&small());
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let text = &metadata.metadata().as_ref().unwrap()[METADATA_KEY];
    let mut json: serde_json::Value = serde_json::from_str(text).unwrap();
    change(&mut json);
    let metadata = [(METADATA_KEY.to_owned(), json.to_string())].into();
    resealed(safetensors::serialize(tensors.iter(), Some(metadata)).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(&bytes).is_err());
    }

    /// Changes that whoever makes a pack can make: the checksum is right.
    #[test]
    fn what_is_taken_can_be_written_again(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut changed = bytes(&small());
        for (at, value) in changes {
            let at = at.index(changed.len() - 32);
            changed[at] = value;
        }
        if let Ok(pack) = read(&resealed(changed)) {
            prop_assert_eq!(read(&bytes(&pack)).unwrap(), pack);
        }
    }

    /// Numbers of the document replaced by extreme ones: sizes, lengths.
    #[test]
    fn extreme_numbers_never_panic(
        which in 1usize..4,
        value in prop_oneof![any::<u64>(), 0u64..100, Just(u64::MAX), Just(1 << 63), Just(1 << 32)],
    ) {
        let _ = read(&rewrite(|json| json["masks"][1][which] = json!(value)));
    }
}

#[test]
fn errors_name_the_field() {
    type Edit = fn(&mut serde_json::Value);
    let cases: [(&str, Edit); 19] = [
        ("`schema`", |j| j["schema"] = json!(2)),
        ("`requires`", |j| j["requires"] = json!(["antimatter"])),
        ("`requires`", |j| *j = json!({"schema": 1, "requires": ["antimatter"]})),
        ("`masks/0`", |j| j["masks"][0][2] = json!(0)),
        ("`codec`", |j| j["codec"] = json!("entropy")),
        ("`name`", |j| j["name"] = json!("\u{1b}[2J")),
        ("`name`", |j| j["name"] = json!("")),
        ("`labels`", |j| j["labels"] = json!([])),
        ("`labels/2`", |j| j["labels"] = json!(["a", "b", "a"])),
        ("`head/weight`", |j| j["labels"] = json!(["a", "b"])),
        ("`text/max_tokens`", |j| j["text"]["max_tokens"] = json!(2)),
        ("unknown field `lowercase`", |j| j["text"]["lowercase"] = json!(true)),
        ("`base_id`", |j| j["base_id"] = json!("AB")),
        ("`sparsity`", |j| j["sparsity"] = json!(1.5)),
        ("`mask`", |j| j["masks"][1][3] = json!(1000)),
        ("`masks/1`", |j| j["masks"][1][0] = j["masks"][0][0].clone()),
        ("layer.0.value.weight", |j| j["masks"][1][2] = json!(600)),
        ("`mask`", |j| j["masks"] = json!([])),
        ("`golden/logits`", |j| j["golden"] = json!(["only one"])),
    ];
    for (field, change) in cases {
        let error = read(&rewrite(change)).unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {error}");
    }
    let error = read(&rewrite(|j| j["granularity"] = json!("4x4"))).unwrap_err().to_string();
    assert!(error.contains("block:32x1"), "{error}");
    // A schema of which nothing else is known is told as what it is.
    let error = read(&rewrite(|j| *j = json!({"schema": 2}))).unwrap_err().to_string();
    assert!(error.contains("version 2"), "{error}");
}

/// One bit can stand for more weights than there are numbers to count them with.
#[test]
fn masks_of_more_weights_than_any_base_has_are_refused() {
    let granularity = Granularity::Block { rows: u32::MAX, cols: u32::MAX };
    let pack = |count: usize, side: usize| {
        let mask = Mask::from_units(granularity, side, side, std::iter::once(false)).unwrap();
        let masks = (0..count).map(|i| NamedMask { tensor: format!("t{i}"), mask: mask.clone() }).collect();
        Pack::new(PackDocument { granularity, ..document() }, masks, small().head, Vec::new())
    };
    assert_eq!(pack(16, 1 << 22).unwrap().zero_weights(), 1 << 48);
    for (count, side, field) in [(17, 1 << 22, "`masks/16`"), (16, 1 << 30, "`masks/0`")] {
        let error = pack(count, side).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains("weights"), "{error}");
    }
}

#[test]
fn unknown_tensors_and_missing_documents_are_refused() {
    let file = |name: &str, metadata| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![2], &[1, 2]).unwrap();
        safetensors::serialize([(name.to_owned(), view)], metadata).unwrap()
    };
    assert!(matches!(read(&file("x", None)), Err(PackError::Bytes(Reason::NotAPack { .. }))));
    let text = serde_json::to_string(&document()).unwrap();
    let error = read(&file("x", Some([(METADATA_KEY.to_owned(), text)].into()))).unwrap_err().to_string();
    assert!(error.contains("`sha256`"), "{error}");

    let good = bytes(&small());
    let tensors = safetensors::SafeTensors::deserialize(&good).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&good).unwrap();
    let more = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![2], &[1, 2]).unwrap();
    let all = tensors.iter().chain([("delta/x", more)]);
    let error = read(&resealed(safetensors::serialize(all, metadata.metadata().clone()).unwrap())).unwrap_err();
    assert!(error.to_string().contains("`delta/x`"), "{error}");

    let mut pack = small();
    pack.head.weight[3] = f32::NAN;
    assert!(pack.to_bytes(None).unwrap_err().to_string().contains("head/weight"));
    let mut pack = small();
    pack.head.bias.pop();
    assert!(pack.to_bytes(None).unwrap_err().to_string().contains("head/bias"));
    let mut pack = small();
    let mut golden = pack.golden.clone();
    assert_eq!(pack.clone().with_golden(golden.clone()).unwrap(), pack);
    golden[0].logits.pop();
    assert!(pack.clone().with_golden(golden).unwrap_err().to_string().contains("golden/logits"));
    pack.golden[0].logits.pop();
    assert!(pack.to_bytes(None).unwrap_err().to_string().contains("golden/logits"));
}

#[test]
fn a_missing_file_is_an_input_error_that_names_it() {
    let error = PackFile::open(Path::new("no/such.pack")).unwrap_err();
    assert!(error.to_string().contains("no/such.pack"));
    assert_eq!(error.kind(), ErrorKind::InputData);
}

#[test]
fn a_set_holds_the_files_of_its_packs() {
    let named = |name: &str| {
        let mut pack = small();
        pack.document.name = name.into();
        bytes(&pack)
    };
    let (a, b) = (named("trec"), named("movie/2"));
    let one = PackSet::new(&[("a".into(), a.clone())]).unwrap().to_bytes().unwrap();
    // A set among the files gives its packs.
    let set = PackSet::new(&[("s".into(), one), ("b".into(), b.clone())]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.packset");
    write_file(&path, &set.to_bytes().unwrap()).unwrap();
    assert_eq!(PackFile::open(&dir.path().join("all.packset#movie/2")).unwrap().document().name, "movie/2");
    let error = PackFile::open(&path).unwrap_err();
    assert!(error.to_string().contains("`trec`, `movie/2`") && error.kind() == ErrorKind::InputData, "{error}");
    assert!(matches!(PackFile::open(&dir.path().join("all.packset#x")), Err(PackError::NoSuchPack { .. })));
    let found = Packs::open(&path).unwrap().into_vec();
    let digests: Vec<&str> = found.iter().map(PackFile::digest).collect();
    assert_eq!(digests, [&a, &b].map(|bytes| PackFile::from_bytes(bytes).unwrap().digest));
    assert_eq!(found[1].origin().unwrap(), dir.path().join("all.packset#movie/2"));
    assert_eq!(PackSet::new(&[("x".into(), set.to_bytes().unwrap())]).unwrap(), set);

    let error = PackSet::new(&[("a".into(), a.clone()), ("again".into(), a)]).unwrap_err().to_string();
    assert!(error.contains("again") && error.contains("trec"), "{error}");
    for names in [&[][..], &["trec", "trec"]] {
        let view = |bytes| safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![b.len()], bytes).unwrap();
        let tensors = if names.is_empty() { vec![] } else { vec![("pack/trec", view(&b)), ("pack/x", view(&b))] };
        let text = json!({"schema": 1, "packs": names}).to_string();
        let bytes = write::checked(tensors, "overmask-set", text).unwrap();
        let error = Packs::from_bytes(Path::new("x"), &bytes, None).unwrap_err().to_string();
        assert!(error.contains("comes twice"), "{error}");
    }
}

fn delta(tensor: &str, values: Vec<f32>) -> Delta {
    Delta { tensor: tensor.into(), shape: vec![values.len()], values, dtype: FloatType::F16 }
}

#[test]
fn replaced_tensors_come_back_as_their_type_stores_them() {
    let deltas = vec![delta("norm.bias", vec![0.1, -2.0]), delta("a.bias", vec![1.0])];
    let pack = small().with_deltas(deltas).unwrap();
    let file = PackFile::from_bytes(&pack.to_bytes(None).unwrap()).unwrap();
    let names: Vec<&str> = file.deltas().iter().map(|delta| delta.tensor.as_str()).collect();
    assert_eq!((names, file.sizes().deltas), (vec!["a.bias", "norm.bias"], 6));
    assert_eq!(file.deltas()[1].values, [FloatType::F16.round(0.1), -2.0]);
    assert_eq!(file.decode(None).unwrap(), pack);
}

#[test]
fn replaced_tensors_that_cannot_be_are_named() {
    let masked = small().masks[0].tensor.clone();
    let shape = Delta { shape: vec![3], ..delta("b", vec![1.0]) };
    for (deltas, said) in [
        (vec![delta("b", vec![1.0]), delta("b", vec![1.0])], "`delta/b`: comes twice"),
        (vec![delta(&masked, vec![1.0])], "has a mask, too"),
        (vec![delta("b", vec![f32::NAN])], "value 0 is NaN"),
        (vec![delta("b", vec![1e6])], "more than f16 can hold"),
        (vec![delta("", vec![1.0])], "the name has 0 bytes"),
        (vec![shape], "has 1 values for the shape [3]"),
    ] {
        let message = small().with_deltas(deltas).unwrap_err().to_string();
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn kinds_and_what_they_read_belong_together() {
    let of = |change: fn(&mut PackDocument), input: Input| {
        let Pack { mut document, masks, mut head, .. } = small();
        change(&mut document);
        head.labels = document.labels.len();
        head.weight.truncate(head.labels * head.hidden);
        head.bias.truncate(head.labels);
        let logits = vec![0.5; input.rows() * head.labels];
        Pack::new(document, masks, head, vec![Golden { input, logits }])
    };
    let tag: fn(&mut PackDocument) = |d| (d.kind, d.text.pooling) = (TaskKind::Tag, Pooling::First);
    let pair = || Input::Pair("a".into(), "b".into());
    let words = || Input::Words { words: vec!["a".into(), "b".into()] };
    let pack = of(tag, words()).unwrap();
    assert_eq!(PackFile::from_bytes(&pack.to_bytes(None).unwrap()).unwrap().decode(None).unwrap(), pack);
    of(|d| (d.kind, d.text.pair) = (TaskKind::Multilabel, true), pair()).unwrap();
    of(|d| (d.kind, d.labels) = (TaskKind::Regress, vec!["value".into()]), "a".into()).unwrap();
    for (wrong, said) in [
        (of(tag, pair()), "golden/0"),
        (of(|_| (), words()), "golden/0"),
        (of(|d| d.text.pair = true, "a".into()), "golden/0"),
        (of(|d| d.kind = TaskKind::Tag, words()), "text/pooling"),
        (of(|d| d.text.pooling = Pooling::First, "a".into()), "text/pooling"),
        (of(|d| d.kind = TaskKind::Regress, "a".into()), "`labels`: are 3"),
    ] {
        let message = wrong.unwrap_err().to_string();
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn names_of_kinds_and_poolings_are_those_of_packs() {
    for kind in [TaskKind::Classify, TaskKind::Multilabel, TaskKind::Regress, TaskKind::Tag] {
        assert_eq!((json!(kind), kind.to_string().parse()), (json!(kind.name()), Ok(kind)));
    }
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::First] {
        assert_eq!((json!(pooling), pooling.to_string().parse()), (json!(pooling.name()), Ok(pooling)));
    }
    assert!("Tag".parse::<TaskKind>().is_err() && "max".parse::<Pooling>().is_err());
}
