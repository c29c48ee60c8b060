//! Exports of transformers 5, of many families, operator sets and precisions, beside what PyTorch computes
//! (`tests/fixtures/make_onnx5.py`).

use super::*;

/// The texts' tokens, as the script has them.
fn tokens(folder: &Path) -> TokenBatch {
    let ids: Vec<Vec<u32>> = serde_json::from_slice(&fs::read(folder.join("tokens.json")).unwrap()).unwrap();
    let mut batch = TokenBatch::new(1);
    ids.iter().for_each(|ids| batch.push(ids, &vec![0; ids.len()]));
    batch
}

/// What PyTorch computes for them.
fn states(path: &Path, batch: &TokenBatch) -> Vec<f32> {
    let bytes = fs::read(path.with_extension("states")).unwrap();
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let width = values.len() / (batch.len() * batch.longest());
    Padded::without_padding(batch, batch.longest(), width, values)
}

fn options_for(path: &Path) -> Options {
    // T5 and DeBERTa's newer version have no table of positions.
    let limit = ["t5", "deberta-v2", "modernbert"]
        .iter()
        .any(|family| path.file_name().unwrap().to_str().unwrap().starts_with(family));
    Options { max_positions: limit.then_some(32), ..options() }
}

/// A base, why no mask can be learnt on it, how far it is from PyTorch.
fn tried(path: &Path) -> Result<(Imported, f32), ImportError> {
    let dir = tempfile::tempdir().unwrap();
    let imported = import(path, &dir.path().join("base"), &options_for(path))?;
    let batch = tokens(path.parent().unwrap());
    let base = Arc::new(Base::open(imported.base.dir()).unwrap());
    let apart = difference(&hidden(&base, "ort", &[], &batch), &states(path, &batch));
    Ok((imported, apart))
}

/// A row of `docs/models.md` for each export in the folder that `OVERMASK_SURVEY` names.
#[test]
#[ignore = "reads a survey that make_onnx5.py writes"]
fn survey() {
    let folder = PathBuf::from(std::env::var_os("OVERMASK_SURVEY").expect("OVERMASK_SURVEY"));
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "onnx"));
    paths.sort();
    for path in paths {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        match tried(&path) {
            Ok((imported, apart)) => {
                let m = imported.base.manifest();
                let (layers, masks, most) = (m.architecture.layers, m.maskable.len(), m.architecture.max_positions);
                let trains = imported.untrainable.map_or_else(|| "yes".to_owned(), |e| e.to_string());
                println!("| {name} | {layers} layers, {masks} tensors, {most} tokens | {trains} | {apart:.1e} |");
            }
            Err(error) => println!("| {name} | {error} | | |"),
        }
    }
}

/// Layers, linear weights, and how far from PyTorch, which computed with f32 weights, a base may be.
const FIXTURES: [(&str, usize, usize, f32); 18] = [
    ("albert-dynamo18-f32", 1, 6, 1e-5),
    ("bert-dynamo18-f32", 2, 12, 1e-5),
    ("bert-dynamo23-f32", 2, 12, 1e-5),
    ("bert-torchscript17-dynamic", 2, 12, 0.15),
    ("bert-torchscript17-f16", 2, 12, 0.01),
    ("bert-torchscript17-f32", 2, 12, 1e-5),
    ("bert-torchscript17-static", 2, 12, 0.15),
    ("clip-torchscript17-f32", 2, 12, 1e-5),
    ("deberta-v2-dynamo18-f32", 2, 12, 1e-5),
    ("distilbert-dynamo18-f32", 2, 12, 1e-5),
    ("electra-torchscript17-f32", 2, 12, 1e-5),
    ("modernbert-dynamo18-f32", 2, 8, 1e-5),
    ("modernbert-dynamo23-f32", 2, 8, 1e-5),
    ("modernbert-torchscript17-f32", 2, 8, 1e-5),
    ("mpnet-dynamo18-f32", 2, 12, 1e-5),
    ("roberta-dynamo18-f32", 2, 12, 1e-5),
    ("roberta-torchscript17-f32", 2, 12, 1e-5),
    ("t5-torchscript17-f32", 2, 12, 1e-5),
];

fn fixture(name: &str) -> PathBuf {
    fixtures().join("onnx5").join(name).with_extension("onnx")
}

#[test]
fn exports_of_transformers_5_compute_what_pytorch_does_and_train() {
    for (name, layers, weights, tolerance) in FIXTURES {
        let (imported, apart) = tried(&fixture(name)).unwrap();
        println!("{name}: {apart:.1e}");
        assert!(apart <= tolerance, "{name}: {apart}");
        assert!(imported.untrainable.is_none() && imported.unprobed.is_none(), "{name}: {:?}", imported.untrainable);
        let m = imported.base.manifest();
        let found = (m.architecture.layers, m.maskable.len(), m.architecture.vocab_size, m.architecture.max_positions);
        assert_eq!(found, (layers, weights, 100, 32), "{name}");
        // Whatever the weights were, they have their modules' names.
        assert!(m.maskable.iter().all(|t| t.name.ends_with(".weight") && !t.name.contains("::")), "{name}");
        assert!(layers < 2 || m.maskable.iter().all(|t| t.name.contains(&format!(".{}.", t.layer))), "{name}");
        let Widened { halves, codes, activations } = imported.widened;
        let precise = (halves == 0, codes == 0, activations == 0);
        let expected = (!name.ends_with("f16"), name.ends_with("f32") || name.ends_with("f16"));
        assert_eq!(precise, (expected.0, expected.1, expected.1), "{name}: {:?}", imported.widened);
    }
}

#[test]
fn gradients_go_through_exports_of_transformers_5() {
    for (name, ..) in FIXTURES {
        check_gradients(&fixture(name), &options_for(&fixture(name)));
    }
}

/// ConvBERT convolves over neighbours and MobileBERT puts their embeddings side by side, padding or not.
#[test]
fn encoders_that_let_padding_in_are_refused() {
    for name in ["convbert-torchscript17-f32", "mobilebert-torchscript17-f32"] {
        let error = tried(&fixture(name)).unwrap_err().to_string();
        assert!(error.contains("padding leaks: a text's vectors change by up to"), "{name}: {error}");
    }
}

/// Relative positions have a row for every distance: only the user knows how long texts may be.
#[test]
fn tables_of_relative_positions_limit_no_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = fixture("t5-torchscript17-f32");
    let error = import(&path, &dir.path().join("base"), &options()).unwrap_err().to_string();
    assert!(error.contains("no table of position embeddings") && error.contains("--max-positions"), "{error}");
    let more = Options { max_positions: Some(512), ..options() };
    let imported = import(&path, &dir.path().join("base"), &more).unwrap();
    assert_eq!(imported.base.manifest().architecture.max_positions, 512);
}

/// With the `config.json` that belongs to it, an export of a known family becomes what its checkpoint does.
#[test]
fn graphs_of_known_families_are_recognised() {
    let families = [
        ("albert-dynamo18-f32", "albert", "albert"),
        ("bert-dynamo18-f32", "bert", "bert"),
        ("bert-dynamo23-f32", "bert", "bert"),
        ("bert-torchscript17-f16", "bert", "bert"),
        ("bert-torchscript17-f32", "bert", "bert"),
        ("distilbert-dynamo18-f32", "distilbert", "bert"),
        ("electra-torchscript17-f32", "electra-narrow", "electra"),
        ("modernbert-dynamo18-f32", "modernbert", "modernbert"),
        ("modernbert-dynamo23-f32", "modernbert", "modernbert"),
        ("modernbert-torchscript17-f32", "modernbert", "modernbert"),
        ("mpnet-dynamo18-f32", "mpnet", "mpnet"),
        ("roberta-dynamo18-f32", "roberta", "bert"),
        ("roberta-torchscript17-f32", "roberta", "bert"),
    ];
    for (name, config, family) in families {
        let dir = tempfile::tempdir().unwrap();
        let (folder, out) = (dir.path().join("onnx"), dir.path().join("base"));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("model.onnx");
        fs::copy(fixture(name), &path).unwrap();
        fs::copy(fixtures().join("alike").join(config).join("config.json"), dir.path().join("config.json")).unwrap();
        let imported = import(&path, &out, &options()).unwrap();
        println!("{name}: {:?}", imported.recognised);
        assert_eq!(imported.recognised, Ok(family), "{name}");
        let batch = tokens(fixture(name).parent().unwrap());
        let base = Arc::new(Base::open(imported.base.dir()).unwrap());
        let apart = difference(&hidden(&base, "native", &[], &batch), &states(&fixture(name), &batch));
        // Halves of weights are roundings of those that PyTorch has.
        let tolerance = if name.ends_with("f16") { 1e-2 } else { 1e-5 };
        assert!(apart <= tolerance, "{name}: {apart}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "{name}: something is left");
    }
}

/// A config that was named has to be there and of use; names of modules around the encoder do not matter.
#[test]
fn a_config_may_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    let mut model = overmask_graph::read_model(&fixture("bert-torchscript17-f32")).unwrap();
    let graph = model.graph.as_mut().unwrap();
    // As sentence-transformers export it: other prefixes before the one and the other.
    let wrapped = |name: &str| match name.ends_with("word_embeddings.weight") {
        true => format!("0.auto_model.{name}"),
        false => name.to_owned(),
    };
    graph.initializer.iter_mut().for_each(|tensor| tensor.name = wrapped(&tensor.name));
    graph.node.iter_mut().flat_map(|node| &mut node.input).for_each(|name| *name = wrapped(name));
    fs::write(&path, encode(&model)).unwrap();
    let config = Some(fixtures().join("alike/bert/config.json"));
    let imported = import(&path, &dir.path().join("base"), &Options { config, ..options() }).unwrap();
    assert_eq!(imported.recognised, Ok("bert"));
    let missing = Options { config: Some(dir.path().join("none.json")), ..options() };
    let error = import(&path, &dir.path().join("other"), &missing).unwrap_err();
    assert!(error.to_string().contains("none.json"), "{error}");
}

/// A config that says another thing than the graph computes is found out.
#[test]
fn a_graph_that_computes_something_else_stays_as_it_is() {
    for (from, to, said) in [
        ("\"num_attention_heads\": 2", "\"num_attention_heads\": 4", "apart from the graph's"),
        ("\"layer_norm_eps\": 1e-12", "\"layer_norm_eps\": 1e-2", "apart from the graph's"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "`num_hidden_layers` is `3`"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 10000000000", "`num_hidden_layers` is `10000000000`"),
        ("\"bert\"", "\"gpt2\"", "`model_type` is `gpt2`"),
        ("{", "[", "config.json"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        fs::copy(fixture("bert-torchscript17-f32"), &path).unwrap();
        let config = fs::read_to_string(fixtures().join("alike/bert/config.json")).unwrap();
        assert!(config.contains(from), "{from}");
        fs::write(dir.path().join("config.json"), config.replacen(from, to, 1)).unwrap();
        let imported = import(&path, &dir.path().join("base"), &options()).unwrap();
        let reason = imported.recognised.unwrap_err();
        assert!(reason.contains(said), "{to}: {reason}");
        assert_eq!(imported.base.manifest().architecture.family.name(), "onnx");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
