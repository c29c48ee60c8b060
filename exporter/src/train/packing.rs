//! What was learnt becomes a pack, which says how it was made.

use std::collections::BTreeMap;

use overmask::base::Base;
use overmask::pack::{Codec, Delta, FloatType, Head, NamedMask, Pack, PackDocument, SCHEMA, TextSettings};
use serde_json::{Value, json};

use super::course::Learnt;
use super::graph::name;
use super::learner::Learner;
use super::options::{Init, Keep, Sampling, Split, Teacher};
use super::state::{Attempt, Best, Kept};
use super::texts::Data;
use super::{Method, Precision, TrainError, TrainOptions};
use crate::data::{self, LabelSet};

/// Checks that a pack can store what was learnt. Values that f16 cannot hold are those of a run that went astray.
fn check_held(field: &'static str, dtype: FloatType, values: &[f32]) -> Result<(), TrainError> {
    let Some(value) = values.iter().find(|value| value.is_finite() && !dtype.round(**value).is_finite()) else {
        return Ok(());
    };
    let reason = format!("{dtype} cannot hold {value}, which was learnt; lower the learning rates, or take f32");
    Err(TrainError::Option { field, reason })
}

/// What a pack has of a state: masks, replaced tensors and head.
pub(super) fn parts(
    base: &Base,
    kept: Kept,
    labels: usize,
    o: &TrainOptions,
) -> Result<(Vec<NamedMask>, Vec<Delta>, Head), TrainError> {
    let Kept { masks, mut tensors } = kept;
    let mut take = |name: &str| tensors.remove(name).unwrap_or_default();
    let (weight, bias) = (take(name::HEAD_WEIGHT), take(name::HEAD_BIAS));
    for values in [&weight, &bias] {
        check_held("head_dtype", o.head_dtype, values)?;
    }
    let hidden = base.manifest().architecture.hidden_size;
    let head = Head { weight, bias, labels, hidden, dtype: o.head_dtype };
    let mut deltas = Vec::new();
    for (tensor, values) in tensors {
        let shape = base.tensor_f32(&tensor)?.0.to_vec();
        check_held("delta_dtype", o.delta_dtype, &values)?;
        deltas.push(Delta { tensor, shape, values, dtype: o.delta_dtype });
    }
    Ok((masks, deltas, head))
}

/// The pack of a state, as yet without metrics and golden vectors.
pub(super) fn pack(
    base: &Base,
    best: &Best,
    learnt: &Learnt,
    mut provenance: BTreeMap<String, Value>,
    labels: &LabelSet,
    o: &TrainOptions,
) -> Result<Pack, TrainError> {
    provenance.remove("tries");
    let tried = learnt.attempts.get(best.mark.attempt);
    if let Some(Attempt { learning_rate, epochs, curve }) = tried.filter(|_| o.method == Method::Mask) {
        // Those of the try that won.
        provenance.insert("learning_rate".to_owned(), json!(learning_rate));
        provenance.insert("epochs".to_owned(), json!(epochs));
        provenance.insert("epoch".to_owned(), json!(best.mark.epoch));
        provenance.insert("steps".to_owned(), json!(curve.last().map_or(0, |epoch| epoch.step)));
    } else {
        provenance.insert("steps".to_owned(), json!(learnt.steps));
    }
    // The document has them elsewhere.
    provenance.retain(|name, _| !["base_id", "max_tokens", "pooling", "granularity"].contains(&name.as_str()));
    if learnt.stopped {
        provenance.insert("stopped".to_owned(), json!(true));
    }
    let (masks, deltas, head) = parts(base, best.kept.clone(), labels.len(), o)?;
    let manifest = base.manifest();
    let maskable: usize = manifest.maskable.iter().map(|t| t.outputs * t.inputs).sum();
    let zeros: u64 = masks.iter().map(|m| m.mask.zero_weights()).sum();
    let document = PackDocument {
        schema: SCHEMA,
        requires: Vec::new(),
        name: o.name.clone(),
        revision: o.revision,
        kind: o.form.kind,
        labels: labels.names().to_vec(),
        text: TextSettings { max_tokens: o.max_tokens, pooling: o.pooling, pair: o.form.pair },
        base_id: manifest.base_id.clone(),
        tokenizer_sha256: manifest.tokenizer_sha256.clone(),
        granularity: o.granularity,
        codec: Codec::Ranked,
        sparsity: zeros as f64 / maskable as f64,
        masks: Vec::new(),
        golden: Vec::new(),
        provenance,
        metrics: BTreeMap::new(),
        extra: BTreeMap::new(),
    };
    Ok(Pack::new(document, masks, head, Vec::new())?.with_deltas(deltas)?)
}

/// How the pack was made: with the same program, base and data it can be made again, and a run with
/// the same facts can go on from its checkpoint.
pub(super) fn facts(
    base: &Base,
    data: &Data<'_>,
    learner: &Learner<'_>,
    o: &TrainOptions,
) -> Result<BTreeMap<String, Value>, TrainError> {
    let mut facts = vec![
        ("tool", json!(format!("overmask-export {}", env!("CARGO_PKG_VERSION")))),
        ("method", json!(o.method)),
        ("seed", json!(o.seed)),
        ("epochs", json!(o.epochs)),
        ("batch_size", json!(o.batch_size)),
        ("head_learning_rate", json!(o.head_learning_rate)),
        ("warmup", json!(o.warmup)),
        ("dropout", json!(o.dropout)),
        ("clip_norm", json!(o.clip_norm)),
        ("max_tokens", json!(o.max_tokens)),
        ("pooling", json!(o.pooling)),
        ("device", json!(o.device.to_string())),
        ("threads", json!(o.threads)),
        ("train_texts", json!(learner.train.len())),
        ("train_sha256", json!(data::digest(data.train))),
        ("base_id", json!(base.base_id())),
    ];
    match data.dev {
        Some(dev) => facts.push(("dev_sha256", json!(data::digest(dev)))),
        None => {
            facts.push(("dev_fraction", json!(o.dev_fraction)));
            facts.extend(o.dev_folds.map(|parts| ("dev_folds", json!(parts))));
            facts.extend((o.split != Split::Random).then_some(("dev_split", json!(o.split))));
        }
    }
    facts.extend((o.keep != Keep::Best).then_some(("keep", json!(o.keep))));
    if o.method == Method::Mask {
        facts.push(("granularity", json!(o.granularity)));
        facts.push(("learning_rate", json!(o.learning_rate)));
        facts.extend((!o.tries.is_empty()).then_some(("tries", json!(o.tries))));
        if o.damping > 0.0 {
            facts.push(("damping", json!(o.damping)));
        }
        facts.push(("initial_sparsity", json!(o.initial_sparsity)));
        if o.init != Init::Magnitude {
            facts.push(("init", json!(o.init)));
        }
        if o.sampling != Sampling::Threshold {
            facts.push(("sampling", json!(o.sampling)));
        }
        if let Some(target) = o.target_sparsity {
            facts.push(("target_sparsity", json!(target)));
            facts.push(("ramp", json!(o.ramp)));
        }
        if o.polish > 0.0 {
            facts.push(("polish", json!(o.polish)));
        }
    }
    if matches!(o.method, Method::Mask | Method::Layers) {
        facts.push(("layers", json!(o.layers.to_string())));
        if !o.modules.is_empty() {
            facts.push(("modules", json!(o.modules)));
        }
    }
    let tuned: Vec<&str> = [("norms", o.tune.norms), ("biases", o.tune.biases)]
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(n, _)| n)
        .collect();
    if !tuned.is_empty() {
        facts.push(("tune", json!(tuned)));
    }
    if !tuned.is_empty() || matches!(o.method, Method::Layers | Method::Full) {
        facts.push(("dense_learning_rate", json!(o.dense_learning_rate)));
    }
    if let Some(teacher) = &o.teacher {
        facts.push(("teacher_weight", json!(teacher.weight)));
        facts.push(("teacher_temperature", json!(teacher.temperature)));
        facts.push(("teacher_features", json!(teacher.features)));
        facts.extend((teacher.states > 0.0).then_some(("teacher_states", json!(teacher.states))));
        match &teacher.who {
            Teacher::Pack(pack) => {
                let (file, name) = overmask::pack::split_name(pack);
                let digest = overmask::fs::file_digest(&file);
                let digest = digest.map_err(|source| TrainError::Read { path: file, source })?;
                facts.push(("teacher_sha256", json!(digest)));
                facts.extend(name.map(|name| ("teacher_name", json!(name))));
            }
            Teacher::Folds(parts) => facts.push(("teacher_folds", json!(parts))),
            Teacher::Labels => {}
        }
    }
    if let Some(unlabelled) = data.unlabelled {
        facts.push(("unlabelled_texts", json!(unlabelled.inputs.len())));
        facts.push(("unlabelled_sha256", json!(unlabelled.digest())));
    }
    // A batch in parts rounds differently.
    facts.extend(o.micro_batch.filter(|_| o.in_parts()).map(|size| ("micro_batch", json!(size))));
    facts.extend((o.precision != Precision::F32).then_some(("precision", json!(o.precision))));
    // What runs at every step runs in other batches.
    facts.extend((!learner.cuts_prefix).then_some(("prefix_kept", json!(false))));
    facts.extend(o.max_steps.map(|steps| ("max_steps", json!(steps))));
    facts.extend(data.eval.map(|eval| ("eval_sha256", json!(data::digest(eval)))));
    Ok(facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_a_pack_cannot_hold_are_told_with_advice() {
        assert!(check_held("head_dtype", FloatType::F16, &[1.0, -65504.0]).is_ok());
        assert!(check_held("head_dtype", FloatType::F32, &[1e30]).is_ok());
        let error = check_held("head_dtype", FloatType::F16, &[1.0, 1e6]).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|e| e.starts_with("head_dtype: f16 cannot hold 1000000")), "{error:?}");
    }
}
