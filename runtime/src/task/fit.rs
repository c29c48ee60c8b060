//! Whether a pack was made for a base.

use super::TaskError;
use crate::base::Base;
use crate::pack::Pack;

/// Checks that a pack was made for a base: identities, tokenizer, shapes, lengths.
///
/// # Errors
/// [`TaskError::BaseMismatch`], naming the pack's field.
pub fn check_base(pack: &Pack, base: &Base) -> Result<(), TaskError> {
    let wrong = |field: String, reason: String| {
        let (pack, base) = (pack.document.name.clone(), base.dir().to_owned());
        Err(TaskError::BaseMismatch { pack, base, field, reason })
    };
    let (document, manifest) = (&pack.document, base.manifest());
    for (field, found, expected) in [
        ("base_id", &document.base_id, &manifest.base_id),
        ("tokenizer_sha256", &document.tokenizer_sha256, &manifest.tokenizer_sha256),
    ] {
        if found != expected {
            return wrong(field.to_owned(), format!("is {found}, the base has {expected}"));
        }
    }
    let architecture = &manifest.architecture;
    if pack.head.hidden != architecture.hidden_size {
        let reason = format!("is {} wide, the base {}", pack.head.hidden, architecture.hidden_size);
        return wrong("head/weight".to_owned(), reason);
    }
    if document.text.max_tokens > architecture.max_positions {
        let reason = format!("is {}, the base takes {}", document.text.max_tokens, architecture.max_positions);
        return wrong("text/max_tokens".to_owned(), reason);
    }
    for (i, named) in pack.masks.iter().enumerate() {
        let Some(tensor) = base.maskable(&named.tensor) else {
            let reason = format!("`{}` is no maskable tensor of the base", named.tensor);
            return wrong(format!("masks/{i}/tensor"), reason);
        };
        let (found, expected) = ([named.mask.outputs(), named.mask.inputs()], [tensor.outputs, tensor.inputs]);
        if found != expected {
            let reason = format!("`{}` is {found:?}, the base has {expected:?}", named.tensor);
            return wrong(format!("masks/{i}"), reason);
        }
    }
    Ok(())
}
