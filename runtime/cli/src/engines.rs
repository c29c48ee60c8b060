//! The engines that a program has: a line each.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, RangedI64ValueParser, TypedValueParser};
use overmask::base::Base;
#[cfg(feature = "ort")]
use overmask::engine::Device;
use overmask::engine::{Engine, EngineError, EngineKind, EngineOptions};

/// The engine that a command runs on.
#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    /// What computes; an engine that cannot start is an error, never replaced by another [default:
    /// native for the bases that it knows, else ort or what the build has]
    #[arg(
        long,
        value_parser = PossibleValuesParser::new(["native", "ort", "ort:cpu", "ort:cuda", "tract"])
            .try_map(|name| name.parse::<EngineKind>())
    )]
    pub engine: Option<EngineKind>,
    /// Threads to compute with; `tract` always takes one [default: the engine decides]
    #[arg(long, value_name = "N", value_parser = threads())]
    pub threads: Option<u16>,
}

/// How many threads an option may ask for.
pub fn threads() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=1024)
}

impl EngineArgs {
    /// The engine that was asked for, else the default for a base.
    pub fn kind(&self, base: &Base) -> EngineKind {
        self.engine.unwrap_or_else(|| default_engine(base))
    }

    /// Starts the engine on a base of a store, which has a directory for derived files. Where that is not this user's
    /// to use, they are kept where those of other bases are.
    ///
    /// # Errors
    /// As [`EngineArgs::start`].
    pub fn start_in(&self, base: &Arc<Base>, derived: &Path) -> anyhow::Result<Arc<dyn Engine>> {
        let kind = self.kind(base);
        let options = crate::engine_options_in(kind, self.threads.map(usize::from), derived)?;
        Ok(start(kind, base, &options)?)
    }

    /// Starts the engine on a base.
    ///
    /// # Errors
    /// When it is not available on this machine or in this build, the base cannot be read, or the environment names
    /// what is not there.
    pub fn start(&self, base: &Arc<Base>) -> anyhow::Result<Arc<dyn Engine>> {
        let kind = self.kind(base);
        Ok(start(kind, base, &crate::engine_options(kind, self.threads.map(usize::from))?)?)
    }
}

/// The engine for a base when none is named: the first that this build has and that knows the base of
/// `native`, `ort` on the CPU, and `tract`.
pub fn default_engine(base: &Base) -> EngineKind {
    #[cfg(feature = "native")]
    if overmask::engine::native::NativeEngine::knows(base) {
        return EngineKind::Native;
    }
    let _ = base;
    #[cfg(feature = "ort")]
    return EngineKind::Ort(Device::Cpu);
    #[cfg(all(feature = "tract", not(feature = "ort")))]
    return EngineKind::Tract;
    // Who starts it learns what is wrong.
    #[cfg(not(any(feature = "ort", feature = "tract")))]
    EngineKind::Native
}

/// An error with advice, if ONNX Runtime cannot start and another engine of this build could run the base on the CPU.
#[cfg(feature = "ort")]
fn or_another(error: EngineError, base: &Base) -> EngineError {
    let _ = base;
    #[cfg(feature = "native")]
    let native = overmask::engine::native::NativeEngine::knows(base);
    #[cfg(not(feature = "native"))]
    let native = false;
    let other = match (native, cfg!(feature = "tract")) {
        (true, _) => EngineKind::Native,
        (false, true) => EngineKind::Tract,
        (false, false) => return error,
    };
    match error {
        EngineError::Unavailable { engine: engine @ EngineKind::Ort(Device::Cpu), reason } => {
            EngineError::Unavailable { engine, reason: format!("{reason}. `--engine {other}` needs no library") }
        }
        error => error,
    }
}

/// Starts an engine on a base.
///
/// # Errors
/// When it is not available on this machine or in this build, or the base cannot be read.
pub fn start(kind: EngineKind, base: &Arc<Base>, options: &EngineOptions) -> Result<Arc<dyn Engine>, EngineError> {
    match kind {
        #[cfg(feature = "native")]
        EngineKind::Native => Ok(Arc::new(overmask::engine::native::NativeEngine::new(Arc::clone(base), options)?)),
        #[cfg(feature = "ort")]
        EngineKind::Ort(device) => {
            let engine = overmask_ort::OrtEngine::new(Arc::clone(base), device, options);
            Ok(Arc::new(engine.map_err(|error| or_another(error, base))?))
        }
        #[cfg(feature = "tract")]
        EngineKind::Tract => Ok(Arc::new(overmask_tract::TractEngine::new(Arc::clone(base), options)?)),
        _ => {
            let (engine, feature) = (kind, kind.feature());
            let reason = format!("this program was built without it; build with `--features {feature}`");
            let _ = (base, options);
            Err(EngineError::Unavailable { engine, reason })
        }
    }
}
