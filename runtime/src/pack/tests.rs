//! Tests of packs: what is written comes back, and hostile bytes are errors.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::mask::Granularity;

fn document() -> PackDocument {
    PackDocument {
        schema: SCHEMA,
        name: "trec".into(),
        revision: 1,
        kind: TaskKind::Classify,
        labels: vec!["HUM".into(), "LOC".into(), "NUM".into()],
        text: TextSettings { max_tokens: 64, pooling: Pooling::Mean },
        base_id: "ab".repeat(32),
        tokenizer_sha256: "01".repeat(32),
        granularity: Granularity::Block { rows: 4, cols: 1 },
        codec: CODEC.into(),
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
    let head =
        Head { weight: (0..12).map(|i| i as f32 / 7.0).collect(), bias: vec![0.1, -0.2, 0.3], labels: 3, hidden: 4 };
    let golden = |text: &str| Golden { text: text.into(), logits: vec![1.0, -2.5, 1e-7] };
    Pack::new(document(), masks, head, vec![golden("Where is Lima?"), golden("Ünïcode 🦙")]).unwrap()
}

#[test]
fn what_is_written_comes_back() {
    let pack = small();
    let bytes = pack.to_bytes().unwrap();
    let again = Pack::from_bytes(&bytes).unwrap();
    assert_eq!(again, pack);
    assert_eq!(again.to_bytes().unwrap(), bytes, "equal packs are equal files");
    assert_eq!(again.document.sparsity, document().sparsity);
    assert_eq!(again.document.extra["later"], json!({"a": [1, 2.5, null]}), "unknown fields are kept");
    assert_eq!(again.document.masks[1].offset, pack.masks[0].mask.as_bytes().len());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trec.pack");
    pack.write(&path).unwrap();
    assert_eq!(Pack::open(&path).unwrap(), pack);
    assert_eq!(crate::base::file_digest(&path).unwrap(), pack.digest());
    assert_eq!(pack.file_bytes(), bytes.len() as u64);
}

#[test]
fn the_size_is_that_of_the_file_read() {
    // Unknown fields are kept at the top of the document only.
    let bytes = rewrite(|j| j["text"]["later"] = json!("not written again"));
    let pack = Pack::from_bytes(&bytes).unwrap();
    assert_eq!(pack.file_bytes(), bytes.len() as u64);
    assert!(pack.to_bytes().unwrap().len() < bytes.len());
}

#[test]
fn a_pack_without_masks_and_golden_vectors_is_fine() {
    let Pack { document, head, .. } = small();
    let pack = Pack::new(document, Vec::new(), head, Vec::new()).unwrap();
    assert_eq!(pack.zero_weights(), 0);
    assert!(pack.document.masks.is_empty() && pack.document.golden.is_empty());
}

#[test]
fn any_safetensors_tool_can_list_it() {
    let bytes = small().to_bytes().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort_unstable();
    assert_eq!(names, ["golden/logits", "head/bias", "head/weight", "mask"]);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = small().to_bytes().unwrap();
    for length in 0..bytes.len() {
        assert!(Pack::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
    }
}

/// Any change of any one byte is an error or a pack that can be written again, never a panic.
#[test]
fn every_change_of_one_byte_is_handled() {
    let good = small().to_bytes().unwrap();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let errors = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (good, errors) = (&good, &errors);
            scope.spawn(move || {
                let mut bytes = good.clone();
                for at in (thread..good.len()).step_by(threads) {
                    for change in 1..=255 {
                        bytes[at] = good[at].wrapping_add(change);
                        match Pack::from_bytes(&bytes) {
                            Ok(pack) => assert!(Pack::from_bytes(&pack.to_bytes().unwrap()).is_ok()),
                            Err(error) => {
                                errors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                                assert!(!error.to_string().is_empty());
                            }
                        }
                    }
                    bytes[at] = good[at];
                }
            });
        }
    });
    let errors = errors.into_inner();
    assert!(errors > good.len() * 100, "only {errors} changes were noticed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Pack::from_bytes(&bytes).is_err());
    }

    #[test]
    fn several_changes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = small().to_bytes().unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = Pack::from_bytes(&bytes);
    }

    /// Numbers of the document replaced by extreme ones: sizes, offsets, lengths.
    #[test]
    fn extreme_numbers_never_panic(
        which in 0usize..4,
        value in prop_oneof![any::<u64>(), 0u64..100, Just(u64::MAX), Just(1 << 63), Just(1 << 32)],
    ) {
        let bytes = rewrite(|json| {
            json["masks"][1][["outputs", "inputs", "offset", "length"][which]] = json!(value);
        });
        let _ = Pack::from_bytes(&bytes);
    }
}

/// The small pack with its document changed.
fn rewrite(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let bytes = small().to_bytes().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let text = &metadata.metadata().as_ref().unwrap()[METADATA_KEY];
    let mut json: serde_json::Value = serde_json::from_str(text).unwrap();
    change(&mut json);
    let metadata = [(METADATA_KEY.to_owned(), json.to_string())].into();
    safetensors::serialize(tensors.iter(), Some(metadata)).unwrap()
}

#[test]
fn errors_name_the_field() {
    type Edit = fn(&mut serde_json::Value);
    let cases: [(&str, Edit); 16] = [
        ("`schema`", |j| j["schema"] = json!(2)),
        ("`codec`", |j| j["codec"] = json!("entropy")),
        ("`name`", |j| j["name"] = json!("\u{1b}[2J")),
        ("`name`", |j| j["name"] = json!("")),
        ("`labels`", |j| j["labels"] = json!([])),
        ("`labels/2`", |j| j["labels"] = json!(["a", "b", "a"])),
        ("`head/weight`", |j| j["labels"] = json!(["a", "b"])),
        ("`text/max_tokens`", |j| j["text"]["max_tokens"] = json!(2)),
        ("`base_id`", |j| j["base_id"] = json!("AB")),
        ("`sparsity`", |j| j["sparsity"] = json!(1.5)),
        ("`masks/1/offset`", |j| j["masks"][1]["offset"] = json!(0)),
        ("`masks/1/length`", |j| j["masks"][1]["length"] = json!(1000)),
        ("`masks/1/tensor`", |j| j["masks"][1]["tensor"] = j["masks"][0]["tensor"].clone()),
        ("layer.0.value.weight", |j| j["masks"][1]["inputs"] = json!(600)),
        ("`mask`", |j| j["masks"] = json!([])),
        ("`golden/logits`", |j| j["golden"] = json!(["only one"])),
    ];
    for (field, change) in cases {
        let error = Pack::from_bytes(&rewrite(change)).unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {error}");
    }
    let error = Pack::from_bytes(&rewrite(|j| j["granularity"] = json!("4x4"))).unwrap_err().to_string();
    assert!(error.contains("block:32x1"), "{error}");
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
    let plain = |name: &str| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![2], &[1, 2]).unwrap();
        safetensors::serialize([(name.to_owned(), view)], None).unwrap()
    };
    assert!(matches!(Pack::from_bytes(&plain("x")), Err(PackError::Bytes(Reason::NotAPack))));
    let mut pack = small();
    pack.head.weight[3] = f32::NAN;
    assert!(pack.to_bytes().unwrap_err().to_string().contains("head/weight"));
    let mut pack = small();
    pack.golden[0].logits.pop();
    assert!(pack.to_bytes().unwrap_err().to_string().contains("golden/logits"));
}

#[test]
fn a_missing_file_is_an_input_error_that_names_it() {
    let error = Pack::open(Path::new("no/such.pack")).unwrap_err();
    assert!(error.to_string().contains("no/such.pack"));
    assert_eq!(error.exit_code(), ExitCode::InputData);
}
