//! What can go wrong with a store, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::base::{BaseError, Precision};
#[cfg(feature = "native")]
use crate::derived::DerivedError;
use crate::engine::EngineError;
use crate::error::ErrorKind;
use crate::pack::PackError;
use crate::task::TaskError;
use crate::trust::TrustError;

/// Why something cannot be done with a store. Whatever it is, the active generation is the one that it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store has a variant of a base with other weights than the one that is to come.
    #[error(
        "the store has the {variant} variant of the base {base_id} with other weights, made by another program or in \
         another way; flash that one, or take it out first: remove its tasks and run `overmask store gc`"
    )]
    OtherVariant {
        /// The base.
        base_id: String,
        /// Its precision.
        variant: Precision,
    },
    /// A file or directory of the store cannot be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `remove`, ...
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory is no store.
    #[error("{} is no store: it has no store.json; `overmask store init --store DIR` makes one", path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// What is named as a store is a file.
    #[error("{} is no directory, and a store is one; name another", path.display())]
    NoDirectory {
        /// The file.
        path: PathBuf,
    },
    /// A store is to be made where something is.
    #[error("{} is not empty; name another directory or remove what is there", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The store cannot be believed, or not be changed by this user.
    #[error("the store cannot be used: {} {reason}", path.display())]
    Owner {
        /// Its directory, or something in it.
        path: PathBuf,
        /// Whose it is, and what to do.
        reason: String,
    },
    /// A file of the store is not what it was when it was written.
    #[error("{} is damaged: {reason}; {cure}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        cure: &'static str,
    },
    /// A file of the store is of another version.
    #[error("{} is of version {found}, this program knows {known}; install a newer one", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that this program reads.
        known: u32,
    },
    /// Another process is changing the store.
    #[error("the store {} is being changed by another process; wait until it is done", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// There is too little room.
    #[error(
        "{} needs {needed} bytes more and has {available}; make room (`overmask store gc` removes old generations)",
        path.display()
    )]
    Space {
        /// The directory.
        path: PathBuf,
        /// Bytes that the flash will write.
        needed: u64,
        /// Bytes that there are.
        available: u64,
    },
    /// What arrived is not what was announced.
    #[error("{what}: {reason}; nothing was changed, send it again")]
    Transfer {
        /// What was sent.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A store elsewhere refuses.
    #[error("{peer}: {message}")]
    Remote {
        /// Where it is.
        peer: String,
        /// What it says.
        message: String,
        /// Of which kind that is.
        kind: ErrorKind,
    },
    /// What reaches a store elsewhere cannot be started, or failed.
    #[error("cannot reach {peer}: {reason}")]
    Reach {
        /// Where the store is.
        peer: String,
        /// Why.
        reason: String,
    },
    /// The pack's base is not in the store, nor among what is flashed.
    #[error("{pack} needs the base {base_id}, which the store does not have; flash it too: --base DIR")]
    NoBase {
        /// The pack.
        pack: String,
        /// The base's identity.
        base_id: String,
    },
    /// The pack that a patch starts from is not in the store.
    #[error("{patch} starts from the pack {sha256}, which the store does not have; flash the whole pack instead")]
    NoOld {
        /// The patch.
        patch: String,
        /// SHA-256 of the pack's file.
        sha256: String,
    },
    /// The store takes signed packs alone.
    #[error("{pack} is not signed, and this store takes signed packs only; sign it with `overmask-export sign`")]
    Unsigned {
        /// The pack.
        pack: String,
    },
    /// The pack is older than the one that is active.
    #[error(
        "{pack}: revision {given} of the task `{task}` is older than the active one, {active}; to go back all the \
         same: `overmask store rollback`, or --allow-downgrade"
    )]
    Downgrade {
        /// The pack.
        pack: String,
        /// Its task.
        task: String,
        /// Its revision.
        given: u64,
        /// The revision that is active.
        active: u64,
    },
    /// The pack promises less than the one that is active.
    #[error(
        "{pack} promises less than the active pack of the task `{task}`: {reason}; to take it all the same: --allow-worse"
    )]
    Worse {
        /// The pack.
        pack: String,
        /// Its task.
        task: String,
        /// Both promises.
        reason: String,
    },
    /// The engine that serves the pack computes something else than where it was made.
    #[error(
        "{pack}: the engine `{engine}` does not reproduce its golden vectors here (largest difference {difference:.2e}, \
         tolerance {tolerance:.0e}); the pack or the base was changed, or the engine computes wrongly on this machine"
    )]
    Golden {
        /// The pack.
        pack: String,
        /// The engine.
        engine: String,
        /// The largest absolute difference of a logit.
        difference: f32,
        /// What it may be.
        tolerance: f32,
    },
    /// Two of the packs are of one task.
    #[error("{first} and {second} are both of the task `{task}`; flash one of them")]
    Twice {
        /// The task.
        task: String,
        /// A pack.
        first: String,
        /// Another.
        second: String,
    },
    /// There is no generation, task or base of this name.
    #[error("the store has no {what}; it has {known}")]
    Unknown {
        /// What was asked for.
        what: String,
        /// What there is.
        known: String,
    },
    /// Something is in use.
    #[error("{what} is in use: {by}")]
    InUse {
        /// What cannot be removed.
        what: String,
        /// What uses it, and what to do.
        by: String,
    },
    /// A pack cannot be used.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A base cannot be used.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A signature is missing or wrong.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The engine cannot start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A task cannot be run.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Derived files cannot be kept.
    #[cfg(feature = "native")]
    #[error(transparent)]
    Derived(#[from] DerivedError),
}

impl StoreError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::OtherVariant { .. }
            | Self::Io { .. }
            | Self::NoStore { .. }
            | Self::NoDirectory { .. }
            | Self::NotEmpty { .. }
            | Self::Owner { .. }
            | Self::Locked { .. }
            | Self::Space { .. }
            | Self::Reach { .. }
            | Self::InUse { .. } => ErrorKind::DeviceOrStore,
            Self::Damaged { .. } | Self::Version { .. } | Self::Golden { .. } => ErrorKind::CorruptFile,
            Self::Transfer { .. }
            | Self::Downgrade { .. }
            | Self::Worse { .. }
            | Self::Twice { .. }
            | Self::NoOld { .. }
            | Self::Unknown { .. } => ErrorKind::InputData,
            Self::Remote { kind, .. } => *kind,
            Self::NoBase { .. } => ErrorKind::BaseMismatch,
            Self::Unsigned { .. } => ErrorKind::Signature,
            Self::Pack(error) => error.kind(),
            Self::Base(error) => error.kind(),
            Self::Trust(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Task(error) => error.kind(),
            #[cfg(feature = "native")]
            Self::Derived(error) => error.kind(),
        }
    }

    /// Makes an error of what the system reports.
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
