//! The families of encoders: how each names its tensors, and the sizes that it alone has. A further family
//! is a file here.

pub mod bert;
pub mod encoder;
pub mod modernbert;

use self::encoder::Encoder;
use super::{Architecture, BaseManifest, GraphHints, MaskableTensor};

/// What is added to the attention score of a token that is masked out: exp() of it is 0 in f32.
pub const MASKED_SCORE: f32 = -1e9;

/// What kind of encoder a base is, with the sizes that only this kind has.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Family {
    /// BERT or one of its kin, of which every size and the name of every tensor are known.
    Bert(bert::Sizes),
    /// ModernBERT, likewise.
    ModernBert(modernbert::Sizes),
    /// Any encoder: what it computes is in its graph and nowhere else.
    Onnx(GraphHints),
}

impl Family {
    /// Its name in `base.json`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bert(sizes) => sizes.kin.name(),
            Self::ModernBert(_) => "modernbert",
            Self::Onnx(_) => "onnx",
        }
    }
}

impl Encoder {
    /// The encoder of an architecture whose tensors' names all start with `prefix`; none where the graph alone says what
    /// it is.
    pub fn new(architecture: &Architecture, prefix: &str) -> Option<Encoder> {
        match &architecture.family {
            Family::Bert(sizes) => Some(bert::Names { prefix }.encoder(architecture, sizes)),
            Family::ModernBert(sizes) => Some(modernbert::encoder(architecture, sizes, prefix)),
            Family::Onnx(_) => None,
        }
    }

    /// The encoder of a base, or why it is none whose tensors are known.
    ///
    /// # Errors
    /// A reason in words.
    pub fn of_base(manifest: &BaseManifest) -> Result<Encoder, String> {
        let a = &manifest.architecture;
        if let Family::Onnx(_) = a.family {
            return Err(format!(
                "the base is of the family `{}`, whose graph alone says what it computes",
                a.family.name()
            ));
        }
        let prefix = bert::prefix(manifest)?;
        let other = || format!("the base has maskable tensors that are no part of a layer of `{}`", a.family.name());
        let encoder = Encoder::new(a, prefix).filter(|encoder| encoder.maskable().len() == manifest.maskable.len());
        encoder.ok_or_else(other)
    }
}

/// Linear layers of encoders that come as graphs, by what BERT calls them: what the names of their tensors
/// have before `.weight`.
const ELSEWHERE: [(bert::Linear, [&str; 2]); 6] = [
    (bert::Linear::Query, ["attention.q_lin", "self_attn.q_proj"]),
    (bert::Linear::Key, ["attention.k_lin", "self_attn.k_proj"]),
    (bert::Linear::Value, ["attention.v_lin", "self_attn.v_proj"]),
    (bert::Linear::AttentionOutput, ["attention.out_lin", "self_attn.out_proj"]),
    (bert::Linear::Intermediate, ["ffn.lin1", "fc1"]),
    (bert::Linear::Output, ["ffn.lin2", "fc2"]),
];

/// The module of a maskable tensor: one of those that are known, or its name without layer and `.weight`.
pub fn module(tensor: &MaskableTensor) -> String {
    let name = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
    // `output.dense` ends `attention.output.dense`, too, which comes first.
    let mut known = bert::Linear::ALL.into_iter().chain([bert::Linear::Gate]);
    let own = known.find(|linear| name.ends_with(linear.name()));
    let elsewhere = || ELSEWHERE.iter().find(|(_, ends)| ends.iter().any(|end| name.ends_with(end)));
    match own.or_else(|| elsewhere().map(|(linear, _)| *linear)) {
        Some(linear) => linear.module().to_owned(),
        None => name.rsplit_once(&format!(".{}.", tensor.layer)).map_or(name, |(_, rest)| rest).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_modules() {
        let of = |name: &str| module(&MaskableTensor { name: name.into(), outputs: 1, inputs: 1, layer: 3 });
        assert_eq!(of("encoder.layer.3.attention.self.query.weight"), "query");
        assert_eq!(of("bert.encoder.layer.3.attention.output.dense.weight"), "attention-output");
        assert_eq!(of("encoder.layer.3.output.dense.weight"), "output");
        assert_eq!(of("transformer.layer.3.ffn.lin1.weight"), "intermediate");
        assert_eq!(of("blocks.3.mixer.inner.weight"), "mixer.inner");
    }
}
