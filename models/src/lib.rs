//! Where the known bases and data sets come from, one TOML manifest each: source and version, the path
//! inside the archive, the digest, the licence.
//!
//! The manifests are data; `overmask-exporter` reads them and fetches what they name.

/// Every manifest: its name and its text, in the order of the names.
pub const MANIFESTS: [(&str, &str); 8] = [
    ("dialogue", include_str!("../dialogue.toml")),
    ("minilm-l6", include_str!("../minilm-l6.toml")),
    ("movie", include_str!("../movie.toml")),
    ("onnxruntime", include_str!("../onnxruntime.toml")),
    ("ratings", include_str!("../ratings.toml")),
    ("trec", include_str!("../trec.toml")),
    ("trec-fine", include_str!("../trec-fine.toml")),
    ("tweets", include_str!("../tweets.toml")),
];
