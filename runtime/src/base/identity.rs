//! The identity of a base.

use sha2::{Digest, Sha256};

use super::Architecture;
use super::architecture::Fields;
use crate::fs::hex;

/// The identity of a base: SHA-256 over a canonical text, one fact a line.
///
/// The lines are: `overmask base 1`; each size of the architecture as `name value` (the epsilon
/// as the hex bits of its f64), those that only some families have behind the others; `tokenizer DIGEST`; then for each f32 tensor in the order of
/// its name's bytes `tensor NAME [shape] DIGEST`, with the SHA-256 of its little-endian bytes.
/// The order of tensors in the file and everything that is not a number of the model (names of
/// files, sources, licences) is left out, so equal models have equal identities.
pub fn base_id<'a>(
    architecture: &Architecture,
    tokenizer_sha256: &str,
    tensors: impl IntoIterator<Item = (String, &'a [usize], &'a [u8])>,
) -> String {
    let a = Fields::from(architecture.clone());
    let mut lines = vec![
        "overmask base 1".to_owned(),
        format!("family {}", a.family),
        format!("hidden_size {}", a.hidden_size),
        format!("layers {}", a.layers),
        format!("heads {}", a.heads),
        format!("intermediate_size {}", a.intermediate_size),
        format!("vocab_size {}", a.vocab_size),
        format!("max_positions {}", a.max_positions),
        format!("layer_norm_eps {:016x}", a.layer_norm_eps.to_bits()),
    ];
    lines.extend(a.own().into_iter().map(|(name, value)| format!("{name} {value}")));
    lines.push(format!("tokenizer {tokenizer_sha256}"));
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    lines.extend(
        tensors.iter().map(|(name, shape, bytes)| format!("tensor {name} {shape:?} {}", hex(&Sha256::digest(bytes)))),
    );
    hex(&Sha256::digest(lines.join("\n")))
}

/// The identity of a base whose graph alone says what it computes: SHA-256 over the lines
/// `overmask base 1 graph`, `weights ID` with what [`base_id`] gives, and `graph DIGEST` with the
/// SHA-256 of `model.onnx`.
pub fn graph_base_id(base_id: &str, graph_sha256: &str) -> String {
    hex(&Sha256::digest(format!("overmask base 1 graph\nweights {base_id}\ngraph {graph_sha256}")))
}
