//! Teachers: whose answers a run learns beside the labels (Hinton et al., *Distilling the knowledge in a neural
//! network*, 2015). That is a pack, or teachers of the run's own (`folds`), or whoever made the soft labels of the
//! data, which go before what another teacher says of the same example.
//!
//! A teacher answers every example once, before the run: without dropout its answers never change. Of texts without a
//! label its answer is all that is learnt.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use overmask::base::Base;
use overmask::pack::{Delta, Head, NamedMask, Pack, TaskKind};
use overmask::task::{self, Tokenizer};

use super::batch::{Examples, Inputs, Lesson, Scale};
use super::features::{Encoded, FrozenEncoder};
use super::folds::{self, Folds};
use super::learner::Progress;
use super::options::{Teacher, TeacherOptions};
use super::texts::Texts;
use super::{TrainError, TrainOptions};
use crate::data::{Dataset, LabelSet, Unlabelled};
use crate::score::Said;

/// Refuses data that do not fit a run's teacher, and the other way round.
pub(super) fn check(train: &Dataset, unlabelled: Option<&Unlabelled>, o: &TrainOptions) -> Result<(), TrainError> {
    let wrong = |field, reason: &str| Err(TrainError::Option { field, reason: reason.to_owned() });
    let soft = train.soft() > 0;
    match o.teacher.as_ref().map(|teacher| &teacher.who) {
        Some(Teacher::Pack(_) | Teacher::Folds(_)) => Ok(()),
        _ if unlabelled.is_some() => {
            wrong("data.unlabelled", "texts without a label need a teacher, `teacher` or `teacher.folds`")
        }
        Some(Teacher::Labels) if !soft => {
            wrong("teacher.weight", "is for `teacher`, `teacher.folds`, or examples with `probs` or `logits`")
        }
        None if soft => {
            wrong("teacher", "some examples have `probs` or `logits`, and nothing says how these are learnt")
        }
        _ => Ok(()),
    }
}

/// Reads the teacher, if it is a pack, and checks that it teaches this task.
pub(super) fn open(base: &Arc<Base>, labels: &LabelSet, o: &TrainOptions) -> Result<Option<Pack>, TrainError> {
    let Some(TeacherOptions { who: Teacher::Pack(path), .. }) = &o.teacher else { return Ok(None) };
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

/// Gives the examples of a run what its teacher says of them; those without a label join the others.
///
/// Returns how good teachers of the run's own are.
pub(super) fn teach(
    base: &Arc<Base>,
    pack: Option<&Pack>,
    (rest, texts): (&Dataset, &mut Texts),
    labels: &LabelSet,
    o: &TrainOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Option<Folds>, TrainError> {
    let Some(options) = &o.teacher else { return Ok(None) };
    check_memory(base, texts, o)?;
    let mut of_folds = None;
    match (&options.who, pack) {
        (Teacher::Pack(_), Some(pack)) => {
            let speaker = Speaker { masks: &pack.masks, deltas: &pack.deltas, head: &pack.head };
            for examples in [&mut texts.train].into_iter().chain(&mut texts.unlabelled) {
                let said = speaker.ask(base, examples, &texts.tokenizer, o, stop)?;
                examples.lessons = said.into_iter().map(|said| said.lesson(examples, options)).collect();
            }
        }
        (Teacher::Folds(parts), _) => {
            of_folds = Some(folds::teach(base, (*parts, options), (rest, texts), labels, o, stop, progress)?);
        }
        (Teacher::Labels, _) | (Teacher::Pack(_), None) => {
            // Where nobody says anything, nothing is learnt but the label.
            let nothing = Lesson { answers: vec![0.0; labels.len()], ..Lesson::default() };
            texts.train.lessons = vec![nothing; texts.train.len()];
        }
    }
    for (lesson, place) in texts.train.lessons.iter_mut().zip(&texts.train.places) {
        let soft = rest.examples.get(*place).and_then(|example| example.soft.as_ref());
        if let Some(soft) = soft {
            lesson.answers = softened(&soft.logits(labels), options.temperature);
            lesson.alone = soft.alone;
        }
    }
    if let Some(mut unlabelled) = texts.unlabelled.take() {
        unlabelled.lessons.iter_mut().for_each(|lesson| lesson.alone = true);
        texts.train.join(unlabelled);
    }
    Ok(of_folds)
}

/// Refuses states of a teacher that take more memory than they may.
fn check_memory(base: &Base, texts: &Texts, o: &TrainOptions) -> Result<(), TrainError> {
    let width = base.manifest().architecture.hidden_size;
    let bytes: u64 = [&texts.train].into_iter().chain(&texts.unlabelled).map(|texts| texts.states_bytes(width)).sum();
    if o.teacher.as_ref().is_some_and(|teacher| teacher.states > 0.0) && bytes > o.cache {
        let reason = format!("takes {} MB of memory, and `cache` is {} MB", bytes / 1_000_000, o.cache / 1_000_000);
        return Err(TrainError::Option { field: "teacher.states", reason });
    }
    Ok(())
}

/// Somebody who has learnt the task.
pub(super) struct Speaker<'a> {
    pub(super) masks: &'a [NamedMask],
    pub(super) deltas: &'a [Delta],
    pub(super) head: &'a Head,
}

/// What one says of an example.
pub(super) struct Answer {
    /// For each row; none for a word without a token.
    pub(super) logits: Vec<Option<Vec<f32>>>,
    /// What the head sees, one vector for each row that has any.
    features: Vec<f32>,
    states: Vec<f32>,
}

impl Speaker<'_> {
    /// What it says of some examples; features and states only where they are taught.
    pub(super) fn ask(
        &self,
        base: &Arc<Base>,
        examples: &Examples,
        tokenizer: &Tokenizer,
        o: &TrainOptions,
        stop: &AtomicBool,
    ) -> Result<Vec<Answer>, TrainError> {
        let Inputs::Tokens(tokens) = &examples.inputs else { return Ok(Vec::new()) };
        let taught = |weight: fn(&TeacherOptions) -> f64| o.teacher.as_ref().is_some_and(|t| weight(t) > 0.0);
        let (features, states) = (taught(|teacher| teacher.features), taught(|teacher| teacher.states));
        let encoder = FrozenEncoder::start(base, self.masks, self.deltas, o)?;
        let answer = |Encoded { rows, states }: Encoded| Answer {
            logits: rows.iter().map(|row| row.as_ref().map(|pooled| task::logits(self.head, pooled))).collect(),
            features: if features { rows.into_iter().flatten().flatten().collect() } else { Vec::new() },
            states,
        };
        Ok(encoder.run(tokens, tokenizer, states, stop)?.into_iter().map(answer).collect())
    }
}

impl Answer {
    /// What is learnt of it.
    pub(super) fn lesson(self, examples: &Examples, options: &TeacherOptions) -> Lesson {
        let rows = self.logits.iter().flatten();
        let answers = rows.flat_map(|row| answers(examples.kind, row, options.temperature, examples.scale)).collect();
        Lesson { answers, features: self.features, states: self.states, alone: false }
    }

    /// What it means.
    pub(super) fn said(&self, kind: TaskKind) -> Said {
        Said::of_logits(kind, &self.logits.iter().map(Option::as_deref).collect::<Vec<_>>())
    }
}

/// What logits mean to the loss: probabilities, or the scaled number.
fn answers(kind: TaskKind, logits: &[f32], temperature: f64, scale: Scale) -> Vec<f32> {
    match kind {
        TaskKind::Classify | TaskKind::Tag => softened(logits, temperature),
        TaskKind::Multilabel => logits.iter().copied().map(task::sigmoid).collect(),
        TaskKind::Regress => logits.iter().map(|value| scale.apply(f64::from(*value))).collect(),
    }
}

/// Probabilities at a temperature.
fn softened(logits: &[f32], temperature: f64) -> Vec<f32> {
    task::softmax(&logits.iter().map(|logit| logit / temperature as f32).collect::<Vec<_>>())
}
