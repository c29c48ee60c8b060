//! Where the known bases and data sets come from, one TOML manifest each: source and version, the path
//! inside the archive, the digest, the licence.
//!
//! The manifests are data; `overmask-exporter` reads them and fetches what they name.

/// Every manifest: its name and its text, in the order of the names.
pub const MANIFESTS: [(&str, &str); 16] = [
    ("bge-small-int8", include_str!("../bge-small-int8.toml")),
    ("colbert-small-int8", include_str!("../colbert-small-int8.toml")),
    ("defender-minilm-int8", include_str!("../defender-minilm-int8.toml")),
    ("dialogue", include_str!("../dialogue.toml")),
    ("e5-multilingual-4bit", include_str!("../e5-multilingual-4bit.toml")),
    ("e5-small-int8", include_str!("../e5-small-int8.toml")),
    ("minilm-l3", include_str!("../minilm-l3.toml")),
    ("minilm-l6", include_str!("../minilm-l6.toml")),
    ("movie", include_str!("../movie.toml")),
    ("mpnet-base", include_str!("../mpnet-base.toml")),
    ("ms-marco-minilm-int8", include_str!("../ms-marco-minilm-int8.toml")),
    ("onnxruntime", include_str!("../onnxruntime.toml")),
    ("ratings", include_str!("../ratings.toml")),
    ("trec", include_str!("../trec.toml")),
    ("trec-fine", include_str!("../trec-fine.toml")),
    ("tweets", include_str!("../tweets.toml")),
];
