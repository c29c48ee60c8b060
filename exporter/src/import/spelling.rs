//! How checkpoints spell encoders of the known families: what their tensors are called there, beside what a base calls
//! them. RoBERTa (Liu et al. 2019) and those that came of it (XLM-R, CamemBERT, multilingual E5), DistilBERT (Sanh et al.
//! 2019), and ELECTRA (Clark et al. 2020) where its embeddings are as wide as its layers, compute what BERT does.

/// What a checkpoint's tensor is called, and which part of its rows is meant: this of so many.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Own {
    pub(super) name: String,
    pub(super) part: usize,
    pub(super) parts: usize,
}

/// How a checkpoint differs from one of BERT.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spelling {
    /// What `config.json` calls the encoder.
    pub(super) model_type: &'static str,
    /// What all names start with if there is a head on top.
    prefix: &'static str,
    /// The table of tokens, without the prefix.
    words: &'static str,
    /// What names of a layer's tensors have before its number.
    layers: &'static str,
    /// Parts of names where they differ: BERT's, and the checkpoint's own, and which of how many parts of its rows it
    /// is. The first that fits counts.
    renamed: &'static [(&'static str, &'static str, [usize; 2])],
    /// Whether positions are counted from behind the number of the padding token: rows up to there are of no text.
    pub(super) shifts_positions: bool,
    /// Whether it has a table of segments.
    pub(super) has_segments: bool,
}

/// All rows of a tensor.
const WHOLE: [usize; 2] = [0, 1];

const BERT: Spelling = Spelling {
    model_type: "bert",
    prefix: "bert.",
    words: "embeddings.word_embeddings.weight",
    layers: "encoder.layer.",
    renamed: &[],
    shifts_positions: false,
    has_segments: true,
};

const ROBERTA: Spelling = Spelling { model_type: "roberta", prefix: "roberta.", shifts_positions: true, ..BERT };

/// All that are known.
pub(super) const ALL: [Spelling; 9] = [
    BERT,
    ROBERTA,
    Spelling { model_type: "xlm-roberta", ..ROBERTA },
    Spelling { model_type: "camembert", ..ROBERTA },
    Spelling { model_type: "electra", prefix: "electra.", ..BERT },
    Spelling {
        model_type: "distilbert",
        prefix: "distilbert.",
        layers: "transformer.layer.",
        renamed: &[
            ("attention.self.query", "attention.q_lin", WHOLE),
            ("attention.self.key", "attention.k_lin", WHOLE),
            ("attention.self.value", "attention.v_lin", WHOLE),
            ("attention.output.dense", "attention.out_lin", WHOLE),
            ("attention.output.LayerNorm", "sa_layer_norm", WHOLE),
            ("intermediate.dense", "ffn.lin1", WHOLE),
            ("output.dense", "ffn.lin2", WHOLE),
            ("output.LayerNorm", "output_layer_norm", WHOLE),
        ],
        has_segments: false,
        ..BERT
    },
    Spelling {
        model_type: "albert",
        prefix: "albert.",
        layers: "encoder.albert_layer_groups.0.albert_layers.",
        renamed: &[
            ("embeddings_project", "encoder.embedding_hidden_mapping_in", WHOLE),
            ("attention.self.query", "attention.query", WHOLE),
            ("attention.self.key", "attention.key", WHOLE),
            ("attention.self.value", "attention.value", WHOLE),
            ("attention.output.dense", "attention.dense", WHOLE),
            ("attention.output.LayerNorm", "attention.LayerNorm", WHOLE),
            ("intermediate.dense", "ffn", WHOLE),
            ("output.dense", "ffn_output", WHOLE),
            ("output.LayerNorm", "full_layer_layer_norm", WHOLE),
        ],
        ..BERT
    },
    Spelling {
        model_type: "mpnet",
        prefix: "mpnet.",
        renamed: &[
            ("attention.self.query", "attention.attn.q", WHOLE),
            ("attention.self.key", "attention.attn.k", WHOLE),
            ("attention.self.value", "attention.attn.v", WHOLE),
            ("attention.output.dense", "attention.attn.o", WHOLE),
            ("attention.output.LayerNorm", "attention.LayerNorm", WHOLE),
        ],
        shifts_positions: true,
        has_segments: false,
        ..BERT
    },
    Spelling {
        model_type: "modernbert",
        prefix: "model.",
        words: "embeddings.tok_embeddings.weight",
        layers: "layers.",
        renamed: &[
            ("word_embeddings", "tok_embeddings", WHOLE),
            ("embeddings.LayerNorm", "embeddings.norm", WHOLE),
            ("encoder.norm", "final_norm", WHOLE),
            ("attention.norm", "attn_norm", WHOLE),
            ("attention.self.query", "attn.Wqkv", [0, 3]),
            ("attention.self.key", "attn.Wqkv", [1, 3]),
            ("attention.self.value", "attn.Wqkv", [2, 3]),
            ("attention.output.dense", "attn.Wo", WHOLE),
            ("intermediate.norm", "mlp_norm", WHOLE),
            ("intermediate.dense", "mlp.Wi", [0, 2]),
            ("intermediate.gate", "mlp.Wi", [1, 2]),
            ("output.dense", "mlp.Wo", WHOLE),
        ],
        shifts_positions: false,
        has_segments: false,
    },
];

impl Spelling {
    /// That of a model type.
    pub(super) fn of(model_type: &str) -> Option<Spelling> {
        ALL.into_iter().find(|spelling| spelling.model_type == model_type)
    }

    /// Whether it is BERT's own.
    pub(super) fn is_bert(&self) -> bool {
        *self == BERT
    }

    /// What all names of a checkpoint with these tensors start with.
    pub(super) fn prefix<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> &'static str {
        let words = format!("{}{}", self.prefix, self.words);
        if names.into_iter().any(|name| name == words) { self.prefix } else { "" }
    }

    /// The most of a base's tensors that one of the checkpoint's has.
    pub(super) fn most_parts(&self) -> usize {
        self.renamed.iter().map(|(.., [_, parts])| *parts).max().unwrap_or(1)
    }

    /// The checkpoint's tensor for one of a base, without the prefix.
    pub(super) fn own(&self, name: &str) -> Own {
        let renamed = self.renamed.iter().find(|(bert, ..)| name.contains(bert));
        let [part, parts] = renamed.map_or(WHOLE, |(.., part)| *part);
        let name = renamed.map_or_else(|| name.to_owned(), |(bert, own, _)| name.replace(bert, own));
        let name = match name.strip_prefix(BERT.layers) {
            Some(rest) => format!("{}{rest}", self.layers),
            None => name,
        };
        Own { name, part, parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelt_as_in_the_checkpoint() {
        let distilbert = Spelling::of("distilbert").unwrap();
        let own = |name: &str| distilbert.own(name).name;
        assert_eq!(own("encoder.layer.3.attention.self.key.bias"), "transformer.layer.3.attention.k_lin.bias");
        assert_eq!(
            own("encoder.layer.3.attention.output.LayerNorm.weight"),
            "transformer.layer.3.sa_layer_norm.weight"
        );
        assert_eq!(
            own("encoder.layer.0.attention.output.dense.weight"),
            "transformer.layer.0.attention.out_lin.weight"
        );
        assert_eq!(own("encoder.layer.0.output.dense.weight"), "transformer.layer.0.ffn.lin2.weight");
        assert_eq!(own("encoder.layer.0.output.LayerNorm.bias"), "transformer.layer.0.output_layer_norm.bias");
        assert_eq!(own("embeddings.LayerNorm.bias"), "embeddings.LayerNorm.bias");
        let roberta = Spelling::of("xlm-roberta").unwrap();
        assert_eq!(roberta.own("encoder.layer.1.output.dense.bias").name, "encoder.layer.1.output.dense.bias");
        assert_eq!(roberta.prefix(["roberta.embeddings.word_embeddings.weight"]), "roberta.");
        assert_eq!(roberta.prefix(["embeddings.word_embeddings.weight"]), "");
        assert!(Spelling::of("deberta").is_none() && Spelling::of("bert").unwrap().is_bert());
    }
}
