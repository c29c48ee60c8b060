//! What `config.json` of a checkpoint says of its encoder.

use std::path::{Path, PathBuf};

use overmask::base::family::bert::{self, BUCKETS, Kin};
use overmask::base::family::encoder::Activation;
use overmask::base::family::{Family, modernbert};
use overmask::base::{Architecture, MAX_POSITIONS};
use serde::Deserialize;

use super::spelling::Spelling;
use super::{ImportError, files};

/// What an encoder is.
pub(super) struct Config {
    /// The file.
    path: PathBuf,
    pub(super) spelling: Spelling,
    pub(super) architecture: Architecture,
    /// Rows of the table of positions, ...
    pub(super) position_rows: usize,
    /// ... and those before the first token's.
    pub(super) positions_before: usize,
    /// Rows of the table of segments, if there is one.
    pub(super) segments: usize,
    /// What the checkpoint calls itself.
    pub(super) name: Option<String>,
}

/// What tells the family: others have other fields.
#[derive(Deserialize)]
struct Kind {
    model_type: String,
    #[serde(rename = "_name_or_path")]
    name: Option<String>,
}

/// What decides the graph of BERT and its kin; the names are the file's, BERT's or DistilBERT's.
#[derive(Deserialize)]
struct OfBert {
    #[serde(alias = "dim")]
    hidden_size: usize,
    #[serde(alias = "n_layers")]
    num_hidden_layers: usize,
    #[serde(alias = "n_heads")]
    num_attention_heads: usize,
    #[serde(alias = "hidden_dim")]
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: Option<usize>,
    layer_norm_eps: Option<f64>,
    #[serde(alias = "activation")]
    hidden_act: Option<String>,
    embedding_size: Option<usize>,
    pad_token_id: Option<usize>,
    position_embedding_type: Option<String>,
    num_hidden_groups: Option<usize>,
    inner_group_num: Option<usize>,
    relative_attention_num_buckets: Option<usize>,
}

/// What decides the graph of a ModernBERT.
#[derive(Deserialize)]
struct OfModernBert {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    norm_eps: Option<f64>,
    hidden_activation: Option<String>,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    local_attention: Option<usize>,
    global_attn_every_n_layers: Option<usize>,
    /// In place of the one before, since transformers 5.
    layer_types: Option<Vec<String>>,
    global_rope_theta: Option<f64>,
    local_rope_theta: Option<f64>,
    /// In place of the two before, since transformers 5.
    rope_parameters: Option<Rotary>,
}

#[derive(Deserialize)]
struct Rotary {
    full_attention: Theta,
    sliding_attention: Theta,
}

#[derive(Deserialize)]
struct Theta {
    rope_theta: f64,
    rope_type: Option<String>,
}

/// A field that is not as it must be.
struct Reader<'a>(&'a Path);

impl Reader<'_> {
    fn unsupported<T>(
        &self,
        field: &'static str,
        found: impl std::fmt::Display,
        supported: &'static str,
    ) -> Result<T, ImportError> {
        let path: PathBuf = self.0.to_owned();
        Err(ImportError::Unsupported { path, field, found: format!("`{found}`"), supported })
    }

    fn check_heads(&self, heads: usize, width: usize) -> Result<(), ImportError> {
        match heads == 0 || !width.is_multiple_of(heads) {
            true => self.unsupported("num_attention_heads", heads, "a divisor of hidden_size"),
            false => Ok(()),
        }
    }
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is malformed, or of an encoder that we cannot build.
    pub(super) fn read(path: &Path) -> Result<Config, ImportError> {
        let Kind { model_type, name } = files::json(path)?;
        let path = path.to_owned();
        let reader = Reader(&path);
        let Some(spelling) = Spelling::of(&model_type) else {
            let supported = "bert (BERT, MiniLM and others of its structure), roberta, xlm-roberta, camembert, \
                             distilbert, electra, albert, mpnet, modernbert; export others to ONNX, with `optimum-cli \
                             export onnx --task feature-extraction` for example, and use `import onnx`";
            return reader.unsupported("model_type", model_type, supported);
        };
        match model_type.as_str() {
            "modernbert" => {
                let architecture = reader.modernbert(&files::json(&path)?)?;
                Ok(Config { path, spelling, architecture, position_rows: 0, positions_before: 0, segments: 0, name })
            }
            _ => {
                let fields: OfBert = files::json(&path)?;
                let pad = fields.pad_token_id.unwrap_or(1);
                let positions_before = if spelling.shifts_positions { pad.saturating_add(1) } else { 0 };
                let segments = if spelling.has_segments { fields.type_vocab_size.unwrap_or(2) } else { 1 };
                let architecture = reader.bert(&model_type, &fields, positions_before)?;
                let position_rows = fields.max_position_embeddings;
                Ok(Config { path, spelling, architecture, position_rows, positions_before, segments, name })
            }
        }
    }

    /// What is wrong where there is no row of the table of positions behind those of padding.
    pub(super) fn no_positions(&self) -> ImportError {
        ImportError::Unsupported {
            path: self.path.clone(),
            field: "pad_token_id",
            found: format!("`{}`", self.positions_before.saturating_sub(1)),
            supported: "a number with rows of max_position_embeddings behind it",
        }
    }

    /// What is wrong where the weights are of fewer layers.
    pub(super) fn too_many_layers(&self) -> ImportError {
        ImportError::Unsupported {
            path: self.path.clone(),
            field: "num_hidden_layers",
            found: format!("`{}`", self.architecture.layers),
            supported: "as many as the weights have tensors for",
        }
    }
}

impl Reader<'_> {
    fn bert(&self, model_type: &str, f: &OfBert, positions_before: usize) -> Result<Architecture, ImportError> {
        let is_albert = model_type == "albert";
        // What transformers takes where nothing is said.
        let act = f.hidden_act.as_deref().unwrap_or(if is_albert { "gelu_new" } else { "gelu" });
        let activation = match act {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" if is_albert => Activation::GeluTanh,
            _ if is_albert => return self.unsupported("hidden_act", act, "gelu, gelu_new, gelu_pytorch_tanh"),
            _ => return self.unsupported("hidden_act", act, "gelu"),
        };
        match f.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => return self.unsupported("position_embedding_type", other, "absolute"),
        }
        self.check_heads(f.num_attention_heads, f.hidden_size)?;
        for (field, value) in [("num_hidden_groups", f.num_hidden_groups), ("inner_group_num", f.inner_group_num)] {
            if let Some(other) = value.filter(|value| is_albert && *value != 1) {
                return self.unsupported(field, other, "1");
            }
        }
        let embedding_size = f.embedding_size.unwrap_or(if is_albert { 128 } else { f.hidden_size });
        let kin = match model_type {
            "albert" => Kin::Albert { embedding_size, activation },
            "electra" if embedding_size != f.hidden_size => Kin::Electra { embedding_size },
            "mpnet" => match f.relative_attention_num_buckets {
                None | Some(BUCKETS) => Kin::Mpnet,
                Some(other) => return self.unsupported("relative_attention_num_buckets", other, "32"),
            },
            _ if embedding_size != f.hidden_size => {
                return self.unsupported("embedding_size", embedding_size, "the same as hidden_size");
            }
            _ => Kin::Bert,
        };
        let sizes = bert::Sizes {
            heads: f.num_attention_heads,
            intermediate_size: f.intermediate_size,
            layer_norm_eps: f.layer_norm_eps.unwrap_or(1e-12),
            kin,
        };
        Ok(Architecture {
            family: Family::Bert(sizes),
            hidden_size: f.hidden_size,
            layers: f.num_hidden_layers,
            vocab_size: f.vocab_size,
            max_positions: f.max_position_embeddings.saturating_sub(positions_before),
        })
    }

    fn modernbert(&self, f: &OfModernBert) -> Result<Architecture, ImportError> {
        let act = f.hidden_activation.as_deref().unwrap_or("gelu");
        if act != "gelu" {
            return self.unsupported("hidden_activation", act, "gelu");
        }
        for (field, value) in
            [("norm_bias", f.norm_bias), ("attention_bias", f.attention_bias), ("mlp_bias", f.mlp_bias)]
        {
            if value {
                return self.unsupported(field, value, "false");
            }
        }
        self.check_heads(f.num_attention_heads, f.hidden_size)?;
        if !(f.hidden_size / f.num_attention_heads).is_multiple_of(2) {
            return self.unsupported("num_attention_heads", f.num_attention_heads, "heads of an even width");
        }
        if f.max_position_embeddings > MAX_POSITIONS {
            return self.unsupported("max_position_embeddings", f.max_position_embeddings, "at most 65536");
        }
        let global_every = self.global_every(f)?;
        let (global_theta, local_theta) = match &f.rope_parameters {
            Some(Rotary { full_attention, sliding_attention }) => {
                for of in [full_attention, sliding_attention] {
                    let kind = of.rope_type.as_deref().unwrap_or("default");
                    if kind != "default" {
                        return self.unsupported("rope_parameters", kind, "default");
                    }
                }
                (full_attention.rope_theta, sliding_attention.rope_theta)
            }
            None => (f.global_rope_theta.unwrap_or(160_000.0), f.local_rope_theta.unwrap_or(10_000.0)),
        };
        let sizes = modernbert::Sizes {
            heads: f.num_attention_heads,
            intermediate_size: f.intermediate_size,
            layer_norm_eps: f.norm_eps.unwrap_or(1e-5),
            global_every,
            // Half to each side.
            window: f.local_attention.unwrap_or(128) / 2,
            global_theta,
            local_theta,
        };
        Ok(Architecture {
            family: Family::ModernBert(sizes),
            hidden_size: f.hidden_size,
            layers: f.num_hidden_layers,
            vocab_size: f.vocab_size,
            max_positions: f.max_position_embeddings,
        })
    }

    /// The first of so many layers attends to all tokens.
    fn global_every(&self, f: &OfModernBert) -> Result<usize, ImportError> {
        let Some(types) = &f.layer_types else {
            return match f.global_attn_every_n_layers.unwrap_or(3) {
                0 => self.unsupported("global_attn_every_n_layers", 0, "at least 1"),
                every => Ok(every),
            };
        };
        let is_global = |layer: &String| layer == "full_attention";
        // Where no second one does, none within the encoder may.
        let every = types.iter().skip(1).position(is_global).map_or(types.len().max(1), |second| second + 1);
        let is_regular = types.iter().enumerate().all(|(i, layer)| is_global(layer) == i.is_multiple_of(every));
        let is_known = types.iter().all(|layer| is_global(layer) || layer == "sliding_attention");
        if is_regular && is_known && types.len() == f.num_hidden_layers {
            return Ok(every);
        }
        self.unsupported(
            "layer_types",
            types.join(" "),
            "`full_attention` for the first of so many layers, always as many, and `sliding_attention` for the others",
        )
    }
}
