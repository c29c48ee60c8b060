//! BERT (Devlin et al. 2018) and what has its structure: post-norm layers, learned positions, exact GELU.
//! Names and shapes of its tensors, as checkpoints spell them.

use super::super::{Architecture, BaseManifest, MaskableTensor};

/// The sizes that only BERT encoders have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Attention heads a layer.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
}

/// A linear layer of an encoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linear {
    /// To the queries of attention.
    Query,
    /// To its keys.
    Key,
    /// To its values.
    Value,
    /// From what the heads attended to.
    AttentionOutput,
    /// Up to the feed-forward width.
    Intermediate,
    /// Back down.
    Output,
}

impl Linear {
    /// All of a layer, in the order in which a forward pass reads them. `output.dense` ends the name of
    /// the attention's, too, which comes first.
    pub const ALL: [Linear; 6] =
        [Self::Query, Self::Key, Self::Value, Self::AttentionOutput, Self::Intermediate, Self::Output];

    /// Its name inside a layer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "attention.self.query",
            Self::Key => "attention.self.key",
            Self::Value => "attention.self.value",
            Self::AttentionOutput => "attention.output.dense",
            Self::Intermediate => "intermediate.dense",
            Self::Output => "output.dense",
        }
    }

    /// What users call it (`--modules`).
    pub fn module(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::AttentionOutput => "attention-output",
            Self::Intermediate => "intermediate",
            Self::Output => "output",
        }
    }

    /// Outputs and inputs.
    pub fn shape(self, hidden_size: usize, sizes: &Sizes) -> [usize; 2] {
        match self {
            Self::Intermediate => [sizes.intermediate_size, hidden_size],
            Self::Output => [hidden_size, sizes.intermediate_size],
            _ => [hidden_size, hidden_size],
        }
    }
}

/// A table of embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Of tokens.
    Words,
    /// Of positions.
    Positions,
    /// Of segments.
    Segments,
}

impl Table {
    /// Its name, without the prefix of all names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Words => "embeddings.word_embeddings.weight",
            Self::Positions => "embeddings.position_embeddings.weight",
            Self::Segments => "embeddings.token_type_embeddings.weight",
        }
    }
}

/// A layer norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Of the embeddings.
    Embeddings,
    /// After attention, of this layer.
    Attention(usize),
    /// At the end of this layer.
    Output(usize),
}

/// The tensors of an encoder, whose names may all have a prefix.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// What all names start with: a checkpoint that was saved with a task's head on top has one.
    pub prefix: &'a str,
}

/// The prefix of a checkpoint with a head on top.
const WITH_HEAD: &str = "bert.";

impl<'a> Names<'a> {
    /// The names in a checkpoint that has these tensors.
    pub fn of_checkpoint<'n>(tensors: impl IntoIterator<Item = &'n str>) -> Names<'static> {
        let words = format!("{WITH_HEAD}{}", Table::Words.name());
        let prefixed = tensors.into_iter().any(|name| name == words);
        Names { prefix: if prefixed { WITH_HEAD } else { "" } }
    }

    /// The names in a base, whose maskable tensors tell the prefix; or why it is no BERT encoder.
    ///
    /// # Errors
    /// A reason in words.
    pub fn of_base(manifest: &'a BaseManifest) -> Result<(Names<'a>, &'a Sizes), String> {
        let Architecture { family, layers, .. } = &manifest.architecture;
        let Some(sizes) = manifest.architecture.bert() else {
            return Err(format!("the base is of the family `{}`, not `bert`", family.name()));
        };
        let first = Names { prefix: "" }.weight(0, Linear::Query);
        let prefix = manifest.maskable.iter().find_map(|tensor| tensor.name.strip_suffix(first.as_str()));
        let prefix = prefix.ok_or_else(|| format!("the base has no maskable tensor `{first}`"))?;
        if layers.checked_mul(Linear::ALL.len()) != Some(manifest.maskable.len()) {
            return Err("the base has maskable tensors that are no part of a BERT layer".to_owned());
        }
        Ok((Names { prefix }, sizes))
    }

    /// The name of a table of embeddings.
    pub fn table(&self, table: Table) -> String {
        format!("{}{}", self.prefix, table.name())
    }

    /// The name of a linear layer's weight.
    pub fn weight(&self, layer: usize, linear: Linear) -> String {
        format!("{}encoder.layer.{layer}.{}.weight", self.prefix, linear.name())
    }

    /// The name of a linear layer's bias.
    pub fn bias(&self, layer: usize, linear: Linear) -> String {
        format!("{}encoder.layer.{layer}.{}.bias", self.prefix, linear.name())
    }

    /// The names of a norm's scale and bias.
    pub fn norm(&self, norm: Norm) -> [String; 2] {
        let name = match norm {
            Norm::Embeddings => "embeddings.LayerNorm".to_owned(),
            Norm::Attention(layer) => format!("encoder.layer.{layer}.attention.output.LayerNorm"),
            Norm::Output(layer) => format!("encoder.layer.{layer}.output.LayerNorm"),
        };
        ["weight", "bias"].map(|part| format!("{}{name}.{part}", self.prefix))
    }

    /// Every tensor of an encoder with its shape, in the order in which a forward pass reads them.
    pub fn tensors(&self, a: &Architecture, sizes: &Sizes, segments: usize) -> Vec<(String, Vec<usize>)> {
        let h = a.hidden_size;
        let norm = |norm| self.norm(norm).map(|name| (name, vec![h]));
        let tables = [(Table::Words, a.vocab_size), (Table::Positions, a.max_positions), (Table::Segments, segments)];
        let mut all: Vec<_> = tables.map(|(table, rows)| (self.table(table), vec![rows, h])).into();
        all.extend(norm(Norm::Embeddings));
        for layer in 0..a.layers {
            for linear in Linear::ALL {
                let [outputs, inputs] = linear.shape(h, sizes);
                all.push((self.weight(layer, linear), vec![outputs, inputs]));
                all.push((self.bias(layer, linear), vec![outputs]));
            }
            all.extend(norm(Norm::Attention(layer)));
            all.extend(norm(Norm::Output(layer)));
        }
        all
    }

    /// The tensors that a mask may touch, layer by layer.
    pub fn maskable(&self, a: &Architecture, sizes: &Sizes) -> Vec<MaskableTensor> {
        let of_layer = |layer| {
            Linear::ALL.map(|linear| {
                let [outputs, inputs] = linear.shape(a.hidden_size, sizes);
                MaskableTensor { name: self.weight(layer, linear), outputs, inputs, layer }
            })
        };
        (0..a.layers).flat_map(of_layer).collect()
    }
}

/// How many tensors an encoder of so many layers has, without listing them.
pub fn count(layers: usize) -> usize {
    // Three tables and a norm; in each layer six linears and two norms, of two tensors each.
    layers.saturating_mul(2 * (Linear::ALL.len() + 2)).saturating_add(5)
}

#[cfg(test)]
mod tests {
    use super::super::Family;
    use super::*;

    #[test]
    fn tensors_are_counted_as_they_are_listed() {
        let sizes = Sizes { heads: 2, intermediate_size: 8, layer_norm_eps: 1e-12 };
        for layers in 1..4 {
            let a =
                Architecture { family: Family::Bert(sizes), hidden_size: 4, layers, vocab_size: 10, max_positions: 16 };
            let names = Names { prefix: "x." };
            let tensors = names.tensors(&a, &sizes, 2);
            assert_eq!(tensors.len(), count(layers));
            let maskable = names.maskable(&a, &sizes);
            assert_eq!(maskable.len(), 6 * layers);
            for tensor in maskable {
                assert!(tensors.contains(&(tensor.name, vec![tensor.outputs, tensor.inputs])));
            }
        }
    }

    #[test]
    fn a_checkpoint_with_a_head_has_a_prefix() {
        let bare = [Table::Words.name(), "pooler.dense.weight"];
        assert_eq!(Names::of_checkpoint(bare).prefix, "");
        assert_eq!(Names::of_checkpoint(["bert.embeddings.word_embeddings.weight"]).prefix, "bert.");
    }
}
