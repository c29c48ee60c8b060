//! Teachers: whose answers a run learns beside the labels (Hinton et al., *Distilling the knowledge in a neural
//! network*, 2015). That is a pack, or teachers of the run's own (`folds`), or whoever made the soft labels of the
//! data, which go before what another teacher says of the same example.
//!
//! A teacher answers every example once, before the run: without dropout its answers never change. Of texts without a
//! label its answer is all that is learnt.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use overmask::base::Base;
use overmask::pack::Pack;

use super::batch::Lesson;
use super::folds::{self, Folds};
use super::learner::Progress;
use super::options::{Teacher, TeacherOptions};
use super::speaker::{Speaker, softened};
use super::texts::Texts;
use super::{TrainError, TrainOptions};
use crate::data::{Dataset, LabelSet, Unlabelled};

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
