//! What an artifact says of itself: an image manifest as version 1.1 of OCI's image specification has it, with an
//! `artifactType`, an empty config, and a layer for each file.

use std::collections::BTreeMap;

use overmask::base::Precision;
use overmask::fs::{JsonBudget, hex, is_sha256};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::OciError;

/// What holds packs, or a base.
pub const PACK_ARTIFACT: &str = "application/vnd.overmask.pack.v1";
/// See [`PACK_ARTIFACT`].
pub const BASE_ARTIFACT: &str = "application/vnd.overmask.base.v1";

/// A pack or a set of packs, and a signature of one.
pub const PACK: &str = "application/vnd.overmask.pack.v1+safetensors";
/// See [`PACK`].
pub const SIGNATURE: &str = "application/vnd.overmask.signature.v1+minisign";

/// A base's `base.json`, and each other file of it.
pub const BASE_MANIFEST: &str = "application/vnd.overmask.base.v1+json";
/// See [`BASE_MANIFEST`].
pub const BASE_FILE: &str = "application/vnd.overmask.base.file.v1";

/// What a signature's title has after its pack's.
pub const SIGNATURE_ENDING: &str = ".minisig";

/// The name of a file, the revision of a task, the licence of a base.
pub(crate) const TITLE: &str = "org.opencontainers.image.title";
pub(crate) const VERSION: &str = "org.opencontainers.image.version";
pub(crate) const LICENSES: &str = "org.opencontainers.image.licenses";

/// The names of the tasks, and the identities of the bases that they are for, parted by commas.
pub(crate) const TASKS: &str = "dev.overmask.tasks";
pub(crate) const BASES: &str = "dev.overmask.bases";

/// The type of a manifest, and of a config that says nothing.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";

/// The config that says nothing.
pub(crate) const EMPTY: &[u8] = b"{}";

/// The largest manifest, what reading it may take in memory, and the most files in it.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
const MAX_JSON: u64 = 64 << 20;
const MAX_LAYERS: usize = 4096;

/// A manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    pub(crate) artifact_type: String,
    config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A blob: of what type it is, and which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, sha256: &str, size: u64, title: &str) -> Self {
        let annotations = BTreeMap::from([(TITLE.to_owned(), title.to_owned())]);
        Descriptor { media_type: media_type.to_owned(), digest: format!("sha256:{sha256}"), size, annotations }
    }

    /// The SHA-256 of the blob, in lower-case hex.
    pub(crate) fn sha256(&self) -> &str {
        self.digest.strip_prefix("sha256:").unwrap_or_default()
    }

    /// What the file was called. It is said to users and compared, and names no file here.
    pub(crate) fn title(&self) -> &str {
        self.annotations.get(TITLE).map_or("", String::as_str)
    }
}

impl Manifest {
    pub(crate) fn new(artifact_type: &str, layers: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> Self {
        let config = Descriptor {
            media_type: EMPTY_CONFIG.to_owned(),
            digest: format!("sha256:{}", digest(EMPTY)),
            size: EMPTY.len() as u64,
            annotations: BTreeMap::new(),
        };
        let (media_type, artifact_type) = (MANIFEST.to_owned(), artifact_type.to_owned());
        Manifest { schema_version: 2, media_type, artifact_type, config, layers, annotations }
    }

    /// Its bytes: the same for the same files.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, OciError> {
        let wrong =
            |error: serde_json::Error| OciError::Push { what: "the manifest".into(), reason: error.to_string() };
        serde_json::to_vec(self).map_err(wrong)
    }

    /// Reads one that anybody may have written; `what` is for messages.
    ///
    /// # Errors
    /// When it is none, or names a blob by anything but a SHA-256.
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Self, OciError> {
        let wrong = |reason: String| OciError::Answer { what: what.to_owned(), reason };
        JsonBudget::new(MAX_JSON).take(bytes).map_err(|error| wrong(error.to_string()))?;
        let no_manifest = |error| wrong(format!("it is no manifest of an artifact ({error})"));
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(no_manifest)?;
        if manifest.schema_version != 2 || !["", MANIFEST].contains(&manifest.media_type.as_str()) {
            return Err(wrong(format!("it is a {:?}, and not an OCI image manifest", manifest.media_type)));
        }
        if manifest.layers.len() > MAX_LAYERS {
            return Err(wrong(format!("it has more than {MAX_LAYERS} layers")));
        }
        match manifest.layers.iter().find(|layer| !is_sha256(layer.sha256())) {
            Some(layer) => Err(wrong(format!("the digest {:?} is not `sha256:` and 64 hex digits", layer.digest))),
            None => Ok(manifest),
        }
    }

    /// The layers of a type.
    pub(crate) fn of_type<'a>(&'a self, media_type: &'a str) -> impl Iterator<Item = &'a Descriptor> {
        self.layers.iter().filter(move |layer| layer.media_type == media_type)
    }
}

/// The tag that a base has in the repositories of its packs; a variant has its precision behind.
pub fn base_tag(base_id: &str, precision: Precision) -> String {
    match precision {
        Precision::F32 => format!("base-{base_id}"),
        other => format!("base-{base_id}-{other}"),
    }
}

/// The SHA-256 of bytes, in lower-case hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use overmask::error::ErrorKind;

    use super::*;

    #[test]
    fn a_manifest_reads_back_and_is_what_the_specification_says() {
        let layer = Descriptor::new(PACK, &"a".repeat(64), 7, "trec.pack");
        let manifest =
            Manifest::new(PACK_ARTIFACT, vec![layer], BTreeMap::from([(TASKS.to_owned(), "trec".to_owned())]));
        let bytes = manifest.to_bytes().unwrap();
        assert_eq!(Manifest::parse("x", &bytes).unwrap(), manifest);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["schemaVersion"], 2);
        assert_eq!(value["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(value["artifactType"], "application/vnd.overmask.pack.v1");
        // What the specification gives as the descriptor of `{}`.
        let empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        let expected =
            serde_json::json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2});
        assert_eq!(value["config"], expected);
        assert_eq!(value["layers"][0]["annotations"]["org.opencontainers.image.title"], "trec.pack");
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let good = Manifest::new(PACK_ARTIFACT, vec![Descriptor::new(PACK, &"a".repeat(64), 7, "x")], BTreeMap::new());
        let good = String::from_utf8(good.to_bytes().unwrap()).unwrap();
        assert!(Manifest::parse("x", good.as_bytes()).is_ok());
        let other = |from: &str, to: &str| good.replace(from, to);
        for bytes in [
            String::new(),
            "{}".to_owned(),
            "[".repeat(100_000),
            other("\"schemaVersion\":2", "\"schemaVersion\":1"),
            other(MANIFEST, "application/vnd.oci.image.index.v1+json"),
            other(&"a".repeat(64), "../../../etc/passwd"),
            other(&"a".repeat(64), &"A".repeat(64)),
            other(&format!("sha256:{}", "a".repeat(64)), "md5:abc"),
            other("\"size\":7", "\"size\":-7"),
            other("\"size\":7", "\"size\":1e30"),
            format!("{{\"layers\":[{}0]}}", "{},".repeat(1_000_000)),
        ] {
            let error = Manifest::parse("x", bytes.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::CorruptFile, "{error}");
        }
    }
}
