//! Settings of an engine.

#[cfg(feature = "native")]
use overmask_kernels::Isa;

use super::{EngineError, EngineKind};
#[cfg(feature = "native")]
use crate::derived::Directory;

/// Settings of an engine. Nothing is read from the environment: a program does that, and says it here.
///
/// ```
/// use overmask::derived::Directory;
/// use overmask::engine::EngineOptions;
///
/// # fn main() -> Result<(), overmask::derived::DerivedError> {
/// # let dir = std::env::temp_dir().join("overmask-example");
/// let options = EngineOptions::default().threads(2).derived(Directory::open(dir)?);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Threads to compute with; without it the engine decides. `tract` computes with one.
    pub threads: Option<usize>,
    /// How many texts `native` remembers below the first layer that a task touches, so that one that comes again starts
    /// there; 0, the default, for none. Such a text takes 4 bytes times its tokens times the base's width (in whole
    /// 32s) of memory, and is one for each depth at which tasks begin. Other engines refuse it.
    pub cache_texts: usize,
    /// The directory in which `native` keeps what it makes of bases and packs, to be mapped by all processes;
    /// without it every process makes it anew, in its own memory.
    #[cfg(feature = "native")]
    pub derived: Option<Directory>,
    /// The instruction set of our own kernels; without it the fastest that the processor has.
    #[cfg(feature = "native")]
    pub isa: Option<Isa>,
}

impl EngineOptions {
    /// Computes with so many threads.
    #[must_use]
    pub fn threads(self, threads: impl Into<Option<usize>>) -> Self {
        EngineOptions { threads: threads.into(), ..self }
    }

    /// Remembers so many texts.
    #[must_use]
    pub fn cache_texts(self, cache_texts: usize) -> Self {
        EngineOptions { cache_texts, ..self }
    }

    /// Checks that nothing is asked for that an engine other than `native` does not have.
    ///
    /// # Errors
    /// [`EngineError::Option`].
    pub fn check(&self, engine: EngineKind) -> Result<(), EngineError> {
        if engine != EngineKind::Native && self.cache_texts > 0 {
            let reason = "it keeps nothing of texts that came before, only `native` does".to_owned();
            return Err(EngineError::Option { engine, option: "cache_texts", reason });
        }
        Ok(())
    }

    /// Keeps derived files in a directory.
    #[cfg(feature = "native")]
    #[must_use]
    pub fn derived(self, directory: impl Into<Option<Directory>>) -> Self {
        EngineOptions { derived: directory.into(), ..self }
    }

    /// Computes with an instruction set.
    #[cfg(feature = "native")]
    #[must_use]
    pub fn isa(self, isa: impl Into<Option<Isa>>) -> Self {
        EngineOptions { isa: isa.into(), ..self }
    }
}
