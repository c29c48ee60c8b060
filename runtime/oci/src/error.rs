//! What can go wrong between a registry and a store, and what to do about it.

use std::io;
use std::path::PathBuf;

use overmask::base::BaseError;
use overmask::error::ErrorKind;
use overmask::pack::PackError;
use overmask::store::StoreError;
use overmask::trust::TrustError;

/// Why something cannot be pushed or pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// A text names nothing in a registry.
    #[error("{text:?} is no reference: {reason}; write HOST/REPOSITORY:TAG, as in registry.example/tasks/trec:3")]
    Reference {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The registry cannot be reached, or the connection broke. What has arrived is gone on with.
    #[error("cannot reach {registry}: {reason}")]
    Reach {
        /// Its host.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The registry refuses.
    #[error("{registry} refuses: {reason}")]
    Refused {
        /// Its host.
        registry: String,
        /// What it says, and what to do.
        reason: String,
    },
    /// The registry asks for a login that is not known.
    #[error("{registry} asks for a login: {reason}")]
    Login {
        /// Its host.
        registry: String,
        /// Why there is none, and what to do.
        reason: String,
    },
    /// What the registry says or sends cannot be believed.
    #[error("{what}: {reason}; nothing was changed")]
    Answer {
        /// What it was.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pack's base is neither in the store nor beside the pack.
    #[error(
        "{pack} needs the base {base_id}, which neither the store nor {repository} has; \
         push it: `overmask push --base DIR {repository}`, or flash it: --base DIR"
    )]
    NoBase {
        /// The pack.
        pack: String,
        /// The base's identity.
        base_id: String,
        /// Where it was looked for.
        repository: String,
    },
    /// Something cannot be pushed.
    #[error("cannot push {what}: {reason}")]
    Push {
        /// What it is.
        what: String,
        /// Why.
        reason: String,
    },
    /// A file cannot be read or used.
    #[error("cannot use {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pack cannot be used.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A base cannot be used.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A signature is missing or wrong.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl OciError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference { .. } => ErrorKind::Usage,
            Self::Reach { .. } | Self::Refused { .. } | Self::Login { .. } => ErrorKind::DeviceOrStore,
            Self::Answer { .. } => ErrorKind::CorruptFile,
            Self::NoBase { .. } => ErrorKind::BaseMismatch,
            Self::Push { .. } | Self::File { .. } => ErrorKind::InputData,
            Self::Store(error) => error.kind(),
            Self::Pack(error) => error.kind(),
            Self::Base(error) => error.kind(),
            Self::Trust(error) => error.kind(),
        }
    }

    /// A file that the system does not give.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { path, reason: error.to_string() }
    }
}
