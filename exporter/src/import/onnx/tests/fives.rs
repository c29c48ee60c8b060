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
    let limit =
        ["t5", "deberta-v2"].iter().any(|family| path.file_name().unwrap().to_str().unwrap().starts_with(family));
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
