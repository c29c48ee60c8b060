//! A teacher: a pack whose answers a run learns beside the labels (Hinton et al., *Distilling the
//! knowledge in a neural network*, 2015).
//!
//! It answers every example once, before the run: without dropout its answers never change.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use overmask::base::Base;
use overmask::pack::{Pack, TaskKind};
use overmask::task::{self, Tokenizer};

use super::batch::{Examples, Inputs, Lesson};
use super::features::{Encoded, FrozenEncoder};
use super::options::TeacherOptions;
use super::{TrainError, TrainOptions};
use crate::data::LabelSet;

/// Reads the teacher and checks that it teaches this task.
pub(super) fn open(base: &Arc<Base>, labels: &LabelSet, o: &TrainOptions) -> Result<Option<Pack>, TrainError> {
    let Some(TeacherOptions { pack: path, .. }) = &o.teacher else { return Ok(None) };
    let pack = Pack::open(path, base)?;
    let document = &pack.document;
    let wrong = |reason: String| Err(TrainError::Teacher { path: path.clone(), reason });
    if document.kind != o.form.kind {
        return wrong(format!("is a task of the kind `{}`, this one is of `{}`", document.kind, o.form.kind));
    }
    if document.text.pair != o.form.pair {
        let of = |pair| if pair { "pairs of texts" } else { "single texts" };
        return wrong(format!("is a task of {}, this one is of {}", of(document.text.pair), of(o.form.pair)));
    }
    if document.labels != labels.names() {
        return wrong(format!("has the labels {:?}, the data have {:?}", document.labels, labels.names()));
    }
    if document.text.pooling != o.pooling {
        return wrong("pools its tokens in another way".to_owned());
    }
    Ok(Some(pack))
}

/// Gives every example what the teacher says of it.
pub(super) fn teach(
    base: &Arc<Base>,
    teacher: &Pack,
    examples: &mut Examples,
    tokenizer: &Tokenizer,
    o: &TrainOptions,
    stop: &AtomicBool,
) -> Result<(), TrainError> {
    let Some(TeacherOptions { temperature, features, states, .. }) = &o.teacher else { return Ok(()) };
    let Inputs::Tokens(tokens) = &examples.inputs else { return Ok(()) };
    let encoder = FrozenEncoder::start(base, &teacher.masks, &teacher.deltas, o)?;
    let scale = examples.scale;
    let answer = |pooled: &[f32]| -> Vec<f32> {
        let logits = task::logits(&teacher.head, pooled);
        match examples.kind {
            TaskKind::Classify | TaskKind::Tag => {
                task::softmax(&logits.iter().map(|l| l / *temperature as f32).collect::<Vec<_>>())
            }
            TaskKind::Multilabel => logits.into_iter().map(task::sigmoid).collect(),
            TaskKind::Regress => logits.into_iter().map(|value| scale.apply(f64::from(value))).collect(),
        }
    };
    let lesson = |Encoded { rows, states }: Encoded| {
        let rows: Vec<Vec<f32>> = rows.into_iter().flatten().collect();
        let answers = rows.iter().flat_map(|pooled| answer(pooled)).collect();
        Lesson { answers, features: if *features > 0.0 { rows.concat() } else { Vec::new() }, states }
    };
    let encoded = encoder.run(tokens, tokenizer, *states > 0.0, stop)?;
    examples.lessons = encoded.into_iter().map(lesson).collect();
    Ok(())
}
