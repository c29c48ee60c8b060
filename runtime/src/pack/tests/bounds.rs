//! Files that would take much memory, and files that are no packs.

use super::*;

#[test]
fn a_huge_header_is_refused_before_it_is_read() {
    let bytes = rewrite(|j| j["provenance"] = json!({"a": "x".repeat(5 << 20)}));
    assert!(matches!(read(&bytes), Err(PackError::Bytes(Reason::TooLarge { part: "header", .. }))));
}

/// As those of very many labels and long golden texts make one.
#[test]
fn a_header_that_is_too_large_to_be_read_is_not_written() {
    let mut pack = small();
    pack.document.provenance.insert("a".into(), json!("x".repeat(3 << 20)));
    assert_eq!(read(&bytes(&pack)).unwrap(), pack);
    pack.document.provenance.insert("b".into(), json!("x".repeat(2 << 20)));
    assert!(matches!(pack.to_bytes(None), Err(PackError::Bytes(Reason::TooLarge { part: "header", .. }))));
    // Small values, of which each takes a hundred times its text.
    let mut pack = small();
    pack.document.extra.insert("later".into(), json!(vec![json!({"": 0}); 100_000]));
    assert!(matches!(pack.to_bytes(None), Err(PackError::Bytes(Reason::Json(_)))));
}

/// Wherever in header and document they are.
#[test]
fn many_small_values_are_refused_before_they_are_read() {
    let values = || json!(vec![json!({"": 0}); 100_000]);
    let changes: [fn(&mut serde_json::Value, serde_json::Value); 4] = [
        |j, values| j["later"] = values,
        |j, values| j["provenance"] = json!({"settings": values}),
        |j, values| j["metrics"] = values,
        |j, values| j["golden"] = values,
    ];
    for change in changes {
        let error = read(&rewrite(|j| change(j, values()))).unwrap_err();
        assert!(matches!(&error, PackError::Bytes(Reason::Json(_))), "{error}");
        assert_eq!(error.kind(), ErrorKind::CorruptFile);
    }
    let header = json!({"mask": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0], "x": values()}}).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    assert!(matches!(read(&bytes), Err(PackError::Bytes(Reason::Json(_)))));
}

/// Far more than any task has, and no attack.
#[test]
fn many_labels_masks_and_long_texts_are_read() {
    let Pack { mut document, masks, mut head, .. } = small();
    document.labels = (0..50_000).map(|i| format!("label {i}")).collect();
    head.labels = document.labels.len();
    head.weight = vec![0.5; head.labels * head.hidden];
    head.bias = vec![0.0; head.labels];
    let masks = (0..1000).map(|i| NamedMask { tensor: format!("layer.{i}.weight"), mask: masks[0].mask.clone() });
    let golden = (0..8).map(|i| Golden { input: "Where? ".repeat(500 + i).into(), logits: vec![0.5; head.labels] });
    let pack = Pack::new(document, masks.collect(), head.clone(), golden.collect()).unwrap();
    assert_eq!(read(&bytes(&pack)).unwrap(), pack);
}

/// A pack whose reading takes more than half of what one file may take.
fn costly(name: &str) -> Vec<u8> {
    let mut pack = small();
    pack.document.name = name.into();
    pack.document.extra.insert("later".into(), json!(vec![json!({"": 0}); 22_000]));
    bytes(&pack)
}

#[test]
fn packs_of_a_set_share_what_reading_may_take() {
    let files = [("a".into(), costly("a")), ("b".into(), costly("b"))];
    let one = PackSet::new(&files[..1]).unwrap().to_bytes().unwrap();
    assert!(Packs::from_bytes(Path::new("x"), &one, None).is_ok());
    let both = PackSet::new(&files).unwrap();
    assert!(matches!(both.to_bytes(), Err(PackError::Bytes(Reason::Json(_)))), "what is not read is not written");
    // As a stranger would write it.
    let views = files.iter().map(|(_, bytes)| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![bytes.len()], bytes).unwrap()
    });
    let tensors = ["pack/a", "pack/b"].into_iter().zip(views).collect();
    let set = write::checked(tensors, SET_KEY, json!({"schema": 1, "packs": ["a", "b"]}).to_string()).unwrap();
    let error = Packs::from_bytes(Path::new("x"), &set, None).unwrap_err().to_string();
    assert!(error.contains("`packs/1`") && error.contains("64 MiB of memory"), "{error}");
    for name in ["a", "b"] {
        let packs = Packs::from_bytes(Path::new("x"), &set, Some(name)).unwrap().into_vec();
        assert_eq!((packs.len(), packs[0].document().name.as_str()), (1, name));
    }
}

/// Neither a pack that is not asked for, nor one of several of which none was chosen.
#[test]
fn what_is_not_chosen_is_not_read() {
    let good = bytes(&small());
    let bad = vec![1, 2, 3];
    let views = [&good, &bad]
        .map(|bytes| safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![bytes.len()], bytes).unwrap());
    let tensors = ["pack/trec", "pack/x"].into_iter().zip(views).collect();
    let set = write::checked(tensors, SET_KEY, json!({"schema": 1, "packs": ["trec", "x"]}).to_string()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set");
    write_file(&path, &set).unwrap();
    assert!(matches!(PackFile::open(&path), Err(PackError::Several { .. })));
    assert_eq!(PackFile::open(&dir.path().join("set#trec")).unwrap().document().name, "trec");
    assert!(matches!(Packs::open(&path), Err(PackError::Invalid { .. })));
}

#[test]
fn a_file_of_another_kind_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pack");
    for (bytes, said) in [
        (&b"Where is Lima?\n"[..], "a text"),
        (b"", "an empty file"),
        (b"PK\x03\x04 and so on", "zip"),
        (b"\x08\x08\x12\x07pytorch\x1a\x05", "ONNX"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = PackFile::open(&path).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("x.pack: is no pack but") && message.contains(said), "{message}");
        assert_eq!(error.kind(), ErrorKind::CorruptFile);
    }
}
