//! Writing packs: fixed order, nothing from the clock or the machine, so that equal packs are
//! equal files.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, TensorView};

use super::{METADATA_KEY, MaskEntry, Pack, Reason, tensor};

pub(super) fn bytes(pack: &Pack) -> Result<Vec<u8>, Reason> {
    let mut document = pack.document.clone();
    let mut masks = Vec::new();
    document.masks.clear();
    for named in &pack.masks {
        let mask = &named.mask;
        if mask.granularity() != document.granularity {
            let reason = format!("the mask of `{}` is `{}`", named.tensor, mask.granularity());
            return Err(Reason::field("granularity", format!("is `{}`, but {reason}", document.granularity)));
        }
        document.masks.push(MaskEntry {
            tensor: named.tensor.clone(),
            outputs: mask.outputs(),
            inputs: mask.inputs(),
            offset: masks.len(),
            length: mask.as_bytes().len(),
        });
        masks.extend_from_slice(mask.as_bytes());
    }
    document.golden = pack.golden.iter().map(|g| g.text.clone()).collect();
    document.check()?;

    let labels = document.labels.len();
    let head = &pack.head;
    if head.labels != labels {
        return Err(Reason::field("head", format!("has {} rows for {labels} labels", head.labels)));
    }
    if let Some(golden) = pack.golden.iter().find(|g| g.logits.len() != labels) {
        let reason = format!("{:?} has {} logits for {labels} labels", golden.text, golden.logits.len());
        return Err(Reason::field(tensor::GOLDEN, reason));
    }
    let golden: Vec<f32> = pack.golden.iter().flat_map(|g| g.logits.iter().copied()).collect();

    let weight = little_endian(tensor::HEAD_WEIGHT, &head.weight)?;
    let bias = little_endian(tensor::HEAD_BIAS, &head.bias)?;
    let golden = little_endian(tensor::GOLDEN, &golden)?;
    let mut tensors = vec![
        (tensor::HEAD_WEIGHT, TensorView::new(Dtype::F32, vec![labels, head.hidden], &weight)?),
        (tensor::HEAD_BIAS, TensorView::new(Dtype::F32, vec![labels], &bias)?),
    ];
    if !pack.golden.is_empty() {
        tensors.push((tensor::GOLDEN, TensorView::new(Dtype::F32, vec![pack.golden.len(), labels], &golden)?));
    }
    if !pack.masks.is_empty() {
        tensors.push((tensor::MASK, TensorView::new(Dtype::U8, vec![masks.len()], &masks)?));
    }
    // One key only: the order of several in a hash map would differ from run to run.
    let metadata = HashMap::from([(METADATA_KEY.to_owned(), serde_json::to_string(&document)?)]);
    Ok(safetensors::serialize(tensors, Some(metadata))?)
}

fn little_endian(name: &str, values: &[f32]) -> Result<Vec<u8>, Reason> {
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        return Err(Reason::field(name, format!("value {i} is {}, must be a finite number", values[i])));
    }
    Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect())
}
