//! What comes on top of an encoder: pooling, and the names of what a head adds.

use overmask::pack::Pooling;

use crate::GraphBuilder;
use crate::encoder;
use crate::proto::data_type;

/// For tags, the place of each word's first token among the tokens of the batch, int64 `[rows]`.
pub const FIRSTS: &str = "firsts";
/// The head's output, f32 [rows, labels].
pub const LOGITS: &str = "logits";

/// Pools the encoder's output to what the head sees, one vector a text, or one a word, [rows, width]. For words
/// [`FIRSTS`] becomes an input.
pub fn pool(b: &mut GraphBuilder, pooling: Pooling, width: usize) -> String {
    let states = encoder::OUTPUT;
    match pooling {
        Pooling::Mean => {
            let mask = b.op("Cast", &[encoder::ATTENTION_MASK], &[("to", i64::from(data_type::FLOAT).into())]);
            let (last, along) = (b.shape(&[2]), b.shape(&[1]));
            let mask = b.op("Unsqueeze", &[&mask, &last], &[]);
            let kept = b.op("Mul", &[states, &mask], &[]);
            let sum = b.op("ReduceSum", &[&kept, &along], &[("keepdims", 0i64.into())]);
            let count = b.op("ReduceSum", &[&mask, &along], &[("keepdims", 0i64.into())]);
            // Of a row that is padding alone: 0, not 0 / 0.
            let one = b.float(1.0);
            let count = b.op("Max", &[&count, &one], &[]);
            b.op("Div", &[&sum, &count], &[])
        }
        Pooling::Cls => {
            let first = b.ints(&[], &[0]);
            b.op("Gather", &[states, &first], &[("axis", 1i64.into())])
        }
        Pooling::First => {
            let firsts = b.input(FIRSTS, data_type::INT64, &["rows"]);
            let flat = b.shape(&[-1, width as i64]);
            let tokens = b.op("Reshape", &[states, &flat], &[]);
            b.op("Gather", &[&tokens, &firsts], &[])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pooled_says_what_it_reads() {
        for (pooling, last, inputs) in [
            (Pooling::Mean, "Div", vec![encoder::OUTPUT, encoder::ATTENTION_MASK]),
            (Pooling::Cls, "Gather", vec![encoder::OUTPUT, encoder::ATTENTION_MASK]),
            (Pooling::First, "Gather", vec![encoder::OUTPUT, encoder::ATTENTION_MASK, FIRSTS]),
        ] {
            let mut b = GraphBuilder::new("head");
            b.input(encoder::OUTPUT, data_type::FLOAT, &["batch", "sequence", "4"]);
            b.input(encoder::ATTENTION_MASK, data_type::INT64, &["batch", "sequence"]);
            let pooled = pool(&mut b, pooling, 4);
            let model = b.finish();
            assert_eq!(crate::inputs(&model), inputs);
            let node = model.graph.iter().flat_map(|graph| &graph.node).next_back().unwrap();
            assert_eq!((node.op_type.as_str(), &node.output[0]), (last, &pooled));
        }
    }
}
