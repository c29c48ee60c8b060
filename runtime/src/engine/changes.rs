//! What a task changes of the base's encoder.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{EngineError, EngineKind};
use crate::base::{Base, Precision};
use crate::pack::{Delta, NamedMask, Pack, PackFile};

/// What a task changes of the base's encoder: masks of some tensors, other values of others.
#[derive(Debug, Clone, Copy)]
pub enum Changes<'a> {
    /// As a pack's file has them, the masks still coded: an engine that has kept what it made of them before
    /// need not decode them.
    File(&'a PackFile),
    /// Decoded.
    Decoded {
        /// The masks.
        masks: &'a [NamedMask],
        /// The replaced tensors.
        deltas: &'a [Delta],
    },
}

impl<'a> Changes<'a> {
    /// No changes: the base's own encoder.
    pub const NONE: Changes<'static> = Changes::Decoded { masks: &[], deltas: &[] };

    /// Masks alone.
    pub fn masks_alone(masks: &'a [NamedMask]) -> Self {
        Changes::Decoded { masks, deltas: &[] }
    }

    /// The masks, decoded for a base.
    ///
    /// # Errors
    /// When they are of another base, or damaged.
    pub fn masks(&self, base: &Base) -> Result<Cow<'a, [NamedMask]>, EngineError> {
        match self {
            Self::File(file) => Ok(Cow::Owned(file.masks(Some(base))?)),
            Self::Decoded { masks, .. } => Ok(Cow::Borrowed(masks)),
        }
    }

    /// The replaced tensors.
    pub fn deltas(&self) -> &'a [Delta] {
        match self {
            Self::File(file) => file.deltas(),
            Self::Decoded { deltas, .. } => deltas,
        }
    }
}

impl<'a> From<&'a PackFile> for Changes<'a> {
    fn from(file: &'a PackFile) -> Self {
        Changes::File(file)
    }
}

impl<'a> From<&'a Pack> for Changes<'a> {
    fn from(pack: &'a Pack) -> Self {
        Changes::Decoded { masks: &pack.masks, deltas: &pack.deltas }
    }
}

/// Checks that each mask belongs to a maskable tensor of the base, each delta to any tensor, and at
/// most one of both to each; every engine does so before it adds a task.
///
/// # Errors
/// [`EngineError::Mask`] or [`EngineError::Delta`], naming the tensor.
pub fn check_changes(base: &Base, masks: &[NamedMask], deltas: &[Delta]) -> Result<(), EngineError> {
    let mut seen = BTreeSet::new();
    for NamedMask { tensor, mask } in masks {
        let wrong = |reason: String| Err(EngineError::Mask { tensor: tensor.clone(), reason });
        let Some(expected) = base.maskable(tensor) else {
            return wrong("the base has no such maskable tensor".to_owned());
        };
        if (mask.outputs(), mask.inputs()) != (expected.outputs, expected.inputs) {
            let found = format!("[{}, {}]", mask.outputs(), mask.inputs());
            return wrong(format!("is {found}, the tensor is [{}, {}]", expected.outputs, expected.inputs));
        }
        if !seen.insert(tensor) {
            return wrong("comes twice".to_owned());
        }
    }
    for Delta { tensor, shape, values, .. } in deltas {
        let wrong = |reason: String| Err(EngineError::Delta { tensor: tensor.clone(), reason });
        let Ok(expected) = base.shape(tensor) else {
            return wrong("the base has no such tensor".to_owned());
        };
        if shape != expected || values.len() != expected.iter().product::<usize>() {
            return wrong(format!("is {shape:?} with {} values, the tensor is {expected:?}", values.len()));
        }
        if !seen.insert(tensor) {
            return wrong("comes twice, or has a mask, too".to_owned());
        }
    }
    Ok(())
}

/// Checks that an engine that multiplies f32 can run a base: weights in bf16 become f32 when it starts, codes of int8
/// do not, as the activations would not be such codes.
///
/// # Errors
/// [`EngineError::Unavailable`], when the base is int8.
pub fn check_precision(base: &Base, engine: EngineKind) -> Result<(), EngineError> {
    match base.precision() {
        Precision::F32 | Precision::Bf16 => Ok(()),
        Precision::Int8 => {
            let native = if base.manifest().architecture.is_known() { "the engine `native`, or " } else { "" };
            let reason = format!("it multiplies no int8; take {native}the f32 or bf16 variant of the base");
            Err(EngineError::Unavailable { engine, reason })
        }
    }
}
