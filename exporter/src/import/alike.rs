//! Encoders that compute what BERT does and only spell it otherwise: RoBERTa (Liu et al. 2019) and those that came of
//! it (XLM-R, CamemBERT, multilingual E5), DistilBERT (Sanh et al. 2019), and ELECTRA (Clark et al. 2020) where its
//! embeddings are as wide as its layers. Their checkpoints become bases of the family `bert`.

use overmask::base::family::bert::Table;

/// How a checkpoint differs from one of BERT.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Alike {
    /// What `config.json` calls it.
    model_type: &'static str,
    /// What all names start with if there is a head on top.
    prefix: &'static str,
    /// Parts of names where they differ: BERT's, and its own. The first that fits counts.
    renamed: &'static [(&'static str, &'static str)],
    /// Whether positions are counted from behind the number of the padding token: rows up to there are of no text.
    pub(super) shifts_positions: bool,
    /// Whether it has a table of segments.
    pub(super) has_segments: bool,
}

const PLAIN: Alike =
    Alike { model_type: "bert", prefix: "bert.", renamed: &[], shifts_positions: false, has_segments: true };

const ROBERTA: Alike = Alike { model_type: "roberta", prefix: "roberta.", shifts_positions: true, ..PLAIN };

const ALL: [Alike; 6] = [
    PLAIN,
    ROBERTA,
    Alike { model_type: "xlm-roberta", ..ROBERTA },
    Alike { model_type: "camembert", ..ROBERTA },
    Alike { model_type: "electra", prefix: "electra.", ..PLAIN },
    Alike {
        model_type: "distilbert",
        prefix: "distilbert.",
        renamed: &[
            ("attention.self.query", "attention.q_lin"),
            ("attention.self.key", "attention.k_lin"),
            ("attention.self.value", "attention.v_lin"),
            ("attention.output.dense", "attention.out_lin"),
            ("attention.output.LayerNorm", "sa_layer_norm"),
            ("intermediate.dense", "ffn.lin1"),
            ("output.dense", "ffn.lin2"),
            ("output.LayerNorm", "output_layer_norm"),
        ],
        has_segments: false,
        ..PLAIN
    },
];

impl Alike {
    /// That of a model type.
    pub(super) fn of(model_type: &str) -> Option<Alike> {
        ALL.into_iter().find(|alike| alike.model_type == model_type)
    }

    /// Whether it is BERT itself.
    pub(super) fn is_bert(&self) -> bool {
        *self == PLAIN
    }

    /// What all names of a checkpoint with these tensors start with.
    pub(super) fn prefix<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> &'static str {
        let words = format!("{}{}", self.prefix, Table::Words.name());
        if names.into_iter().any(|name| name == words) { self.prefix } else { "" }
    }

    /// Its own name for a tensor, without the prefix.
    pub(super) fn own_name(&self, name: &str) -> String {
        let renamed = self.renamed.iter().find(|(bert, _)| name.contains(bert));
        let name = renamed.map_or_else(|| name.to_owned(), |(bert, own)| name.replace(bert, own));
        match name.strip_prefix("encoder.layer.") {
            Some(rest) if !self.renamed.is_empty() => format!("transformer.layer.{rest}"),
            _ => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use overmask::base::Base;
    use overmask::engine::{Changes, EngineKind, EngineOptions, TokenBatch};
    use overmask_graph::encoder::Padded;

    use super::*;
    use crate::import::{Origin, hf};

    /// Checkpoints of transformers 5 beside what PyTorch computes (`tests/fixtures/make_onnx5.py`).
    #[test]
    fn bases_compute_what_pytorch_does_on_every_engine() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let ids: Vec<Vec<u32>> =
            serde_json::from_slice(&fs::read(fixtures.join("onnx5/tokens.json")).unwrap()).unwrap();
        let mut batch = TokenBatch::new(1);
        ids.iter().for_each(|ids| batch.push(ids, &vec![0; ids.len()]));
        for family in ["bert", "distilbert", "electra", "roberta"] {
            let dir = tempfile::tempdir().unwrap();
            let (checkpoint, out) = (dir.path().join("checkpoint"), dir.path().join("base"));
            fs::create_dir(&checkpoint).unwrap();
            for name in ["config.json", "model.safetensors"] {
                fs::copy(fixtures.join("alike").join(family).join(name), checkpoint.join(name)).unwrap();
            }
            fs::copy(fixtures.join("tiny-bert/tokenizer.json"), checkpoint.join("tokenizer.json")).unwrap();
            let hf::Imported { base, left_out, .. } = hf::import(&checkpoint, &out, &Origin::default()).unwrap();
            assert!(left_out.is_empty(), "{family}: {left_out:?}");
            let m = base.manifest();
            assert_eq!((m.architecture.family.name(), m.architecture.max_positions), ("bert", 32), "{family}");
            assert_eq!(m.maskable[0].name, "encoder.layer.0.attention.self.query.weight");
            let base = Arc::new(Base::open(base.dir()).unwrap());

            let bytes = fs::read(fixtures.join("alike").join(family).join("states")).unwrap();
            let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let expected = Padded::without_padding(&batch, batch.longest(), 16, values);
            for engine in ["native", "ort", "tract"] {
                let kind: EngineKind = engine.parse().unwrap();
                let engine = overmask_cli::start(kind, &base, &EngineOptions::default().threads(1)).unwrap();
                let task = engine.add(Changes::masks_alone(&[])).unwrap();
                let hidden = engine.encode(task, &batch).unwrap();
                let apart = hidden.data().iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                println!("{family}: {kind}: {apart:.1e}");
                assert!(expected.len() == hidden.data().len() && apart <= 2e-5, "{family}: {kind}: {apart}");
            }
        }
    }

    #[test]
    fn names_are_spelt_as_in_the_checkpoint() {
        let distilbert = Alike::of("distilbert").unwrap();
        let own = |name: &str| distilbert.own_name(name);
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
        let roberta = Alike::of("xlm-roberta").unwrap();
        assert_eq!(roberta.own_name("encoder.layer.1.output.dense.bias"), "encoder.layer.1.output.dense.bias");
        assert_eq!(roberta.prefix(["roberta.embeddings.word_embeddings.weight"]), "roberta.");
        assert_eq!(roberta.prefix(["embeddings.word_embeddings.weight"]), "");
        assert!(Alike::of("mpnet").is_none() && Alike::of("bert").unwrap().is_bert());
    }
}
