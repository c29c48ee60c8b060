use super::*;

/// Writes a bundle with the maskable tensor `w`, [3, 4], and embeddings of 10 tokens and 16
/// positions.
pub(crate) fn bundle(dir: &Path) -> BaseManifest {
    let values: Vec<u8> = (0..64).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let tensors: [TensorBytes<'_>; 3] = [
        ("w", &[3, 4], &values[..48]),
        ("bert.embeddings.word_embeddings.weight", &[10, 4], &values[..160]),
        ("bert.embeddings.position_embeddings.weight", &[16, 4], &values),
    ];
    let mut bytes = Vec::new();
    let offsets = write_weights(&mut bytes, &tensors).unwrap();
    assert_eq!(offsets["w"] % 65536, 0);
    std::fs::write(dir.join(file::WEIGHTS), bytes).unwrap();
    std::fs::write(dir.join(file::MODEL), b"graph").unwrap();
    std::fs::write(dir.join(file::TOKENIZER), b"{}").unwrap();
    let names = [file::MODEL, file::WEIGHTS, file::TOKENIZER];
    let digests: std::collections::BTreeMap<_, _> =
        names.iter().map(|n| ((*n).to_owned(), file_digest(&dir.join(n)).unwrap())).collect();
    let sizes =
        family::bert::Sizes { heads: 2, intermediate_size: 8, layer_norm_eps: 1e-12, kin: family::bert::Kin::Bert };
    let family = family::Family::Bert(sizes);
    let architecture = Architecture { family, hidden_size: 4, layers: 1, vocab_size: 10, max_positions: 16 };
    let tokenizer_sha256 = digests[file::TOKENIZER].clone();
    let tensors = tensors.map(|(name, shape, bytes)| (name.to_owned(), shape, bytes));
    let manifest = BaseManifest {
        format: FORMAT,
        base_id: base_id(&architecture, &tokenizer_sha256, tensors),
        architecture,
        maskable: vec![MaskableTensor { name: "w".into(), outputs: 3, inputs: 4, layer: 0 }],
        variant: Precision::F32,
        digests,
        tokenizer_sha256,
        pooling: None,
        max_tokens: None,
        licence: "none".into(),
        source: "test".into(),
    };
    write_manifest(dir, &manifest);
    manifest
}

pub(crate) fn write_manifest(dir: &Path, manifest: &BaseManifest) {
    std::fs::write(dir.join(file::MANIFEST), serde_json::to_vec(manifest).unwrap()).unwrap();
}

#[test]
fn a_bundle_opens_and_verifies() {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path());
    let base = Base::open(dir.path()).unwrap();
    base.verify().unwrap();
    let (shape, values) = base.tensor_f32("w").unwrap();
    assert_eq!(shape, [3, 4]);
    assert_eq!(values[11], 11.0);
    assert_eq!(values.as_ptr() as usize % 4096, 0);
    assert!(matches!(base.tensor_f32("nothing"), Err(BaseError::NoTensor { .. })));
}

#[test]
fn a_changed_byte_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path());
    let path = dir.path().join(file::WEIGHTS);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = Base::open(dir.path()).unwrap().verify().unwrap_err();
    assert!(matches!(&error, BaseError::Digest { path, .. } if path.ends_with(file::WEIGHTS)));
}

#[test]
fn a_weight_that_is_no_number_is_found_and_named() {
    for (value, said) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = bundle(dir.path());
        let path = dir.path().join(file::WEIGHTS);
        let mut bytes = std::fs::read(&path).unwrap();
        // `w` comes first: [3, 4].
        bytes[65536 + 4 * 6..][..4].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        manifest.digests.insert(file::WEIGHTS.to_owned(), file_digest(&path).unwrap());
        manifest.base_id = manifest.identity(Base::open(dir.path()).unwrap().weights.iter_f32());
        write_manifest(dir.path(), &manifest);
        let error = Base::open(dir.path()).unwrap().verify().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CorruptFile);
        let expected = format!("field `w`: the value at [1, 2] is {said}, which is no finite number;");
        assert!(error.to_string().contains(&expected), "{error}");
    }
    let bytes = [f32::NAN, 1.0, f32::INFINITY].map(f32::to_le_bytes).concat();
    assert!(not_finite(&[3], &bytes).unwrap().contains("at [0] is NaN"));
    assert_eq!(not_finite(&[1], &bytes[4..8]), None);
}

/// What opening a bundle says whose manifest has another text in one place.
fn changed_text(from: &str, to: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path());
    let path = dir.path().join(file::MANIFEST);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
    Base::open(dir.path()).unwrap_err().to_string()
}

#[test]
fn architectures_of_every_family_are_read_as_they_are_written() {
    use family::Family;
    use family::bert::Kin;
    use family::encoder::Activation;

    let (heads, intermediate_size, layer_norm_eps) = (2, 8, 1e-6);
    let bert = |kin| Family::Bert(family::bert::Sizes { heads, intermediate_size, layer_norm_eps, kin });
    let modern = |global_every| {
        Family::ModernBert(family::modernbert::Sizes {
            heads,
            intermediate_size,
            layer_norm_eps,
            global_every,
            window: 64,
            global_theta: 1.6e5,
            local_theta: 1e4,
        })
    };
    let of = |family| Architecture { family, hidden_size: 4, layers: 3, vocab_size: 10, max_positions: 16 };
    let families = [
        bert(Kin::Bert),
        bert(Kin::Electra { embedding_size: 2 }),
        bert(Kin::Electra { embedding_size: 3 }),
        bert(Kin::Albert { embedding_size: 2, activation: Activation::Gelu }),
        bert(Kin::Albert { embedding_size: 2, activation: Activation::GeluTanh }),
        bert(Kin::Mpnet),
        modern(2),
        modern(3),
        Family::Onnx(GraphHints { intermediate_size: Some(8), layer_norm_eps: None }),
    ];
    let long = Architecture { max_positions: MAX_POSITIONS + 1, ..of(modern(2)) };
    assert_eq!(long.check().unwrap_err().0, "architecture/max_positions", "no table bounds it");
    let mut identities = std::collections::BTreeSet::new();
    for family in families {
        let text = serde_json::to_string(&of(family)).unwrap();
        assert_eq!(serde_json::from_str::<Architecture>(&text).unwrap(), of(family), "{text}");
        identities.insert(base_id(&of(family), "", []));
    }
    assert_eq!(identities.len(), families.len(), "what differs has an identity of its own");
}

#[test]
fn a_wrong_field_is_refused_by_name() {
    let change = |edit: fn(&mut BaseManifest)| {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = bundle(dir.path());
        edit(&mut manifest);
        write_manifest(dir.path(), &manifest);
        Base::open(dir.path()).unwrap_err().to_string()
    };
    assert!(change(|m| m.format = 9).contains("`format`"));
    assert!(change(|m| m.variant = Precision::Int8).contains("`variant` is `int8`, but the weights are f32"));
    for heads in [0, 3] {
        let error = changed_text("\"heads\":2", &format!("\"heads\":{heads}"));
        assert!(error.contains("heads"), "{error}");
    }
    assert!(changed_text("\"f32\"", "\"int3\"").contains("`variant`: `int3`"));
    assert!(changed_text("\"bert\"", "\"gpt\"").contains("knows `bert`, "));
    assert!(change(|m| m.tokenizer_sha256 = "0".repeat(64)).contains("`tokenizer_sha256`: is 000"));
    assert!(change(|m| m.architecture.vocab_size = 11).contains("`architecture/vocab_size`: 11"));
    assert!(change(|m| m.architecture.max_positions = 512).contains("`architecture/max_positions`: 512"));
    assert!(change(|m| m.architecture.hidden_size = 6).contains("word_embeddings.weight` is [10, 4]"));
    assert!(change(|m| m.maskable[0].outputs = 5).contains("maskable/w"));
    assert!(change(|m| m.maskable[0].layer = 1).contains("layer 1 of 1"));
    assert!(change(|m| m.maskable.push(m.maskable[0].clone())).contains("comes twice"));
    assert!(change(|m| drop(m.digests.insert("../x".into(), String::new()))).contains("../x"));
    // Layers are listed.
    for layers in [1001, usize::MAX / 2 + 2] {
        let error = changed_text("\"layers\":1", &format!("\"layers\":{layers}"));
        assert!(error.contains("`architecture/layers`") && error.contains("1000 are the most"), "{error}");
    }
    let field = |name: &str| format!("field `architecture/{name}` is missing");
    for (family, missing) in [
        ("electra", "embedding_size"),
        ("albert", "embedding_size"),
        ("albert\",\"embedding_size\":4,\"x\":\"", "activation"),
        ("modernbert", "global_every"),
    ] {
        let error = changed_text("\"bert\"", &format!("\"{family}\""));
        assert!(error.contains(&field(missing)), "{error}");
    }
    // What becomes the name of a directory or file can be nothing but a digest.
    for id in ["../../../etc", "/etc", "", "AB", &"A".repeat(64)] {
        let found = changed_text("\"base_id\":\"", &format!("\"base_id\":\"{id}\",\"was\":\""));
        assert!(found.contains("`base_id`") && found.contains("64 lower-case hex digits"), "{found}");
    }
    assert!(change(|m| drop(m.digests.insert(file::MODEL.into(), "..".into()))).contains("`digests/model.onnx`"));
}

#[test]
fn an_encoder_of_any_kind_needs_no_embeddings_and_its_graph_is_part_of_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = bundle(dir.path());
    let bert = manifest.base_id.clone();
    manifest.architecture.family = family::Family::Onnx(GraphHints::default());
    // Not the number of rows of any tensor.
    manifest.architecture.max_positions = 77;
    write_manifest(dir.path(), &manifest);
    let base = Base::open(dir.path()).unwrap();
    assert!(matches!(base.verify().unwrap_err(), BaseError::Digest { expected, .. } if expected == bert));
    manifest.base_id = manifest.identity(base.weights.iter_f32());
    write_manifest(dir.path(), &manifest);
    Base::open(dir.path()).unwrap().verify().unwrap();
    // Another graph over the same weights is another base.
    std::fs::write(dir.path().join(file::MODEL), b"other").unwrap();
    let digest = file_digest(&dir.path().join(file::MODEL)).unwrap();
    manifest.digests.insert(file::MODEL.to_owned(), digest);
    write_manifest(dir.path(), &manifest);
    let error = Base::open(dir.path()).unwrap().verify().unwrap_err();
    assert!(matches!(error, BaseError::Digest { path, .. } if path.ends_with(file::MANIFEST)));
}

#[test]
fn a_truncated_weights_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path());
    let path = dir.path().join(file::WEIGHTS);
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 1, 7, 8, 9, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(Base::open(dir.path()).is_err(), "{length} bytes");
    }
}

#[test]
fn a_manifest_without_end_is_not_read_to_it() {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path());
    // A file with a hole: it takes no space.
    let manifest = std::fs::File::create(dir.path().join(file::MANIFEST)).unwrap();
    manifest.set_len(1 << 40).unwrap();
    let error = Base::open(dir.path()).unwrap_err();
    assert!(matches!(error, BaseError::TooLarge { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::CorruptFile);
}

#[test]
fn embeddings_are_found_by_one_name() {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path());
    let w = [0; 48];
    for (names, said) in [
        (["w", "x", "y"], "0 tensors"),
        (["w", "embeddings.word_embeddings.weight", "a.embeddings.word_embeddings.weight"], "2 tensors"),
    ] {
        let mut bytes = Vec::new();
        write_weights(&mut bytes, &names.map(|name| (name, &[3, 4][..], &w[..]))).unwrap();
        std::fs::write(dir.path().join(file::WEIGHTS), bytes).unwrap();
        let error = Base::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("word_embeddings"), "{error}");
    }
}

/// A variant of the bundle in `from`.
fn variant(from: &Path, to: &Path, precision: Precision) -> Base {
    let base = Base::open(from).unwrap();
    let names = base.names();
    let tensors = names.iter().map(|name| {
        let (shape, bytes) = base.tensor_bytes(name).unwrap();
        (name.as_str(), shape, bytes)
    });
    let mut bytes = Vec::new();
    let offsets = write_variant(&mut bytes, &tensors.collect::<Vec<_>>(), precision).unwrap();
    for (name, offset) in offsets {
        assert_eq!(offset % 4, 0, "{name}");
    }
    std::fs::create_dir_all(to).unwrap();
    std::fs::write(to.join(file::WEIGHTS), bytes).unwrap();
    let mut manifest = base.manifest().clone();
    for name in [file::MODEL, file::TOKENIZER] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    manifest.variant = precision;
    manifest.digests.insert(file::WEIGHTS.to_owned(), file_digest(&to.join(file::WEIGHTS)).unwrap());
    write_manifest(to, &manifest);
    Base::open(to).unwrap()
}

#[test]
fn variants_have_the_identity_and_the_int8_codes_of_the_base() {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path());
    let base = Base::open(dir.path()).unwrap();
    let of_base = base.int8(&base.manifest().maskable[0]).unwrap();
    for precision in [Precision::Bf16, Precision::Int8] {
        let variant = variant(dir.path(), &dir.path().join(precision.name()), precision);
        variant.verify().unwrap();
        assert_eq!((variant.precision(), variant.base_id()), (precision, base.base_id()));
        assert_eq!(variant.int8(&base.manifest().maskable[0]).unwrap(), of_base);
        let (shape, values) = variant.values("w").unwrap();
        let (_, exact) = base.tensor_f32("w").unwrap();
        assert_eq!(shape, [3, 4]);
        for (found, exact) in values.iter().zip(exact) {
            assert!((found - exact).abs() <= 0.05, "{found} {exact}");
        }
        let error = variant.tensor_f32("w").unwrap_err();
        assert!(error.to_string().contains("not F32"), "{error}");
        // A row of a table is that of the whole.
        let (_, table) = variant.stored("bert.embeddings.word_embeddings.weight").unwrap();
        let mut row = [1.0; 4];
        table.add_row(7, &mut row);
        assert!(row.iter().zip(&table.widened()[28..]).all(|(sum, value)| *sum == 1.0 + value));
    }
}

#[test]
fn an_int8_tensor_without_its_scales_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path());
    let to = dir.path().join("int8");
    variant(dir.path(), &to, Precision::Int8);
    let path = to.join(file::WEIGHTS);
    let good = std::fs::read(&path).unwrap();
    let change = |from: &str, with: &str| {
        let at = good.windows(from.len()).position(|bytes| bytes == from.as_bytes()).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + from.len()].copy_from_slice(with.as_bytes());
        std::fs::write(&path, bytes).unwrap();
        Base::open(&to).unwrap_err().to_string()
    };
    let error = change("\"w.scales\"", "\"x.scales\"");
    assert!(error.contains("no tensor `w.scales`"), "{error}");
    let error = change("\"dtype\":\"I8\",\"shape\":[3,4]", "\"dtype\":\"I8\",\"shape\":[4,3]");
    assert!(error.contains("`w.scales`: is [3], `w` is [4, 3]"), "{error}");
    let error = change("\"F32\"", "\"I32\"");
    assert!(error.contains("is I32"), "{error}");
}

#[test]
fn a_code_that_there_is_not_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path());
    let to = dir.path().join("int8");
    let mut manifest = variant(dir.path(), &to, Precision::Int8).manifest().clone();
    let path = to.join(file::WEIGHTS);
    let mut bytes = std::fs::read(&path).unwrap();
    // Behind the scales of all three tensors.
    bytes[65536 + 4 * (3 + 10 + 16)] = 0x80;
    std::fs::write(&path, bytes).unwrap();
    manifest.digests.insert(file::WEIGHTS.to_owned(), file_digest(&path).unwrap());
    write_manifest(&to, &manifest);
    let error = Base::open(&to).unwrap().verify().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CorruptFile);
    assert!(error.to_string().contains("field `w`: has a code of -128"), "{error}");
}

#[test]
fn tensors_of_any_shape_are_aligned_and_have_names_of_their_own() {
    let values: Vec<u8> = (0..9).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let tensors: [TensorBytes<'_>; 4] =
        [("a", &[3, 3], &values), ("b", &[5], &values[..20]), ("c", &[1, 1], &values[..4]), ("d", &[1], &values[..4])];
    let dir = tempfile::tempdir().unwrap();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let path = dir.path().join(precision.name());
        let mut bytes = Vec::new();
        write_variant(&mut bytes, &tensors, precision).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let weights = Weights::open(&path).unwrap();
        for (name, shape, _) in tensors {
            let (found, stored) = weights.stored(name).unwrap();
            assert_eq!(found, shape);
            let is_matrix = shape.len() == 2;
            assert_eq!(stored.precision(), if is_matrix { precision } else { Precision::F32 });
            assert!(stored.widened().iter().enumerate().all(|(i, value)| (value - i as f32).abs() < 0.05), "{name}");
        }
    }
    let taken: [TensorBytes<'_>; 2] = [("a", &[3, 3], &values), ("a.scales", &[5], &values[..20])];
    let error = write_variant(&mut Vec::new(), &taken, Precision::Int8).unwrap_err();
    assert!(error.to_string().contains("two tensors `a.scales`"), "{error}");
}
