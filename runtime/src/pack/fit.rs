//! Whether a pack was made for a base.

use super::{Delta, MaskEntry, PackDocument, PackError, tensor};
use crate::base::Base;

/// Checks identities, tokenizer, width, length of texts, and the shape of each masked or replaced tensor;
/// errors call the pack by its title.
pub(super) fn check<'a>(
    title: &str,
    document: &PackDocument,
    hidden: usize,
    masks: impl Iterator<Item = MaskShape<'a>>,
    deltas: &[Delta],
    base: &Base,
) -> Result<(), PackError> {
    let wrong = |field: String, reason: String| {
        let (pack, base) = (title.to_owned(), base.dir().to_owned());
        Err(PackError::OtherBase { pack, base, field, reason })
    };
    let manifest = base.manifest();
    for (field, found, expected) in [
        ("base_id", &document.base_id, &manifest.base_id),
        ("tokenizer_sha256", &document.tokenizer_sha256, &manifest.tokenizer_sha256),
    ] {
        if found != expected {
            return wrong(field.to_owned(), format!("is {found}, the base has {expected}"));
        }
    }
    let architecture = &manifest.architecture;
    if hidden != architecture.hidden_size {
        let reason = format!("is {hidden} wide, the base {}", architecture.hidden_size);
        return wrong("head/weight".to_owned(), reason);
    }
    if document.text.max_tokens > architecture.max_positions {
        let reason = format!("is {}, the base takes {}", document.text.max_tokens, architecture.max_positions);
        return wrong("text/max_tokens".to_owned(), reason);
    }
    for (i, MaskShape { tensor, outputs, inputs }) in masks.enumerate() {
        let Some(ours) = base.maskable(tensor) else {
            return wrong(format!("masks/{i}"), format!("`{tensor}` is no maskable tensor of the base"));
        };
        if [outputs, inputs] != [ours.outputs, ours.inputs] {
            let reason =
                format!("`{tensor}` is [{outputs}, {inputs}], the base has [{}, {}]", ours.outputs, ours.inputs);
            return wrong(format!("masks/{i}"), reason);
        }
    }
    for Delta { tensor: name, shape, .. } in deltas {
        let field = || format!("{}{name}", tensor::DELTA);
        match base.shape(name) {
            Ok(ours) if ours == shape.as_slice() => {}
            Ok(ours) => return wrong(field(), format!("is {shape:?}, the base has {ours:?}")),
            Err(_) => return wrong(field(), format!("the base has no tensor `{name}`")),
        }
    }
    Ok(())
}

/// What a mask says of its tensor.
pub(super) struct MaskShape<'a> {
    pub(super) tensor: &'a str,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

impl<'a> From<&'a MaskEntry> for MaskShape<'a> {
    fn from(entry: &'a MaskEntry) -> Self {
        MaskShape { tensor: &entry.tensor, outputs: entry.outputs, inputs: entry.inputs }
    }
}
