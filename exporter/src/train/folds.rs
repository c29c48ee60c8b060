//! Teachers of the run's own: the training examples are cut into parts, and each part is taught by a teacher that has
//! learnt the others.
//!
//! A teacher that has learnt the texts that it teaches knows them by heart, and says of them hardly more than their
//! labels do. Of texts that it has not seen it says how likely it holds each label.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use overmask::base::Base;
use overmask::pack::FloatType;
use serde::Serialize;

use super::batch::{Examples, Lesson, salt};
use super::learner::{Learner, Part, Progress};
use super::options::TeacherOptions;
use super::recipe::{Amount, Effort, Given, Recipe};
use super::speaker::Speaker;
use super::texts::Texts;
use super::{Method, TrainError, TrainOptions, go_on, packing};
use crate::data::{self, Dataset, LabelSet};
use crate::score::{self, Said};

/// What teachers of a run's own came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Folds {
    /// How many there are.
    pub folds: usize,
    /// How good they are on the training examples, each on those that it did not learn, by the main metric.
    pub held_out: f64,
    /// Steps that each of them did at most.
    pub steps: u64,
}

/// Teaches each training example by a teacher that did not learn it, and each text without a label by the mean of all.
pub(super) fn teach(
    base: &Arc<Base>,
    (parts, options): (usize, &TeacherOptions),
    (rest, texts): (&Dataset, &mut Texts),
    labels: &LabelSet,
    o: &TrainOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Folds, TrainError> {
    let count = texts.train.len();
    if count < parts {
        let reason = format!("{parts} parts of {count} examples, that is without any in some");
        return Err(TrainError::Option { field: "teacher.folds", reason });
    }
    let part_of = data::folds(rest, parts, o.seed ^ salt::FOLDS);
    let part_of: Vec<usize> = texts.train.places.iter().map(|place| part_of[*place]).collect();
    let own: Vec<TrainOptions> =
        (0..parts).map(|part| teacher_options(o, part_of.iter().filter(|other| **other != part).count())).collect();
    let steps = |part: usize| {
        let learnt = part_of.iter().filter(|other| **other != part).count();
        (learnt.div_ceil(own[part].batch_size) as u64) * u64::from(own[part].epochs)
    };
    let all: u64 = (0..parts).map(steps).sum();
    let (mut lessons, mut said) = (vec![Lesson::default(); count], vec![None::<Said>; count]);
    let mut done = 0;
    for (part, own) in own.iter().enumerate() {
        go_on(stop)?;
        let [learnt, taught] = cut(&part_of, part);
        log::info!("teacher {} of {parts}: learns {} examples, teaches {}", part + 1, learnt.len(), taught.len());
        let mut learner = Learner::new(base, texts.part(&learnt), labels, None, own, stop)?;
        // At its end alone, as it is short: the dev split is for the run to choose by.
        learner.judged = own.epochs;
        let result = learner.learn(&BTreeMap::new(), None, stop, &mut |now| {
            let part = Some(Part { what: "teacher", number: part + 1, of: parts });
            progress(&Progress { step: done + now.step, steps: all, part, dev: None, ..now.clone() });
        })?;
        drop(learner);
        if result.stopped {
            return Err(TrainError::Stopped);
        }
        let (masks, deltas, head) = packing::parts(base, result.best.kept, labels.len(), own)?;
        let speaker = Speaker { masks: &masks, deltas: &deltas, head: &head };
        let held_out = texts.train.pick(&taught);
        for (i, answer) in taught.iter().zip(speaker.ask(base, &held_out, &texts.tokenizer, o, stop)?) {
            said[*i] = Some(answer.said(o.form.kind));
            lessons[*i] = answer.lesson(&held_out, options);
        }
        if let Some(unlabelled) = &mut texts.unlabelled {
            let answers = speaker.ask(base, unlabelled, &texts.tokenizer, o, stop)?;
            let more = answers.into_iter().map(|answer| answer.lesson(unlabelled, options)).collect();
            add_share(unlabelled, more, parts);
        }
        done += steps(part);
    }
    texts.train.lessons = lessons;
    let said: Vec<Said> = said.into_iter().flatten().collect();
    let held_out = score::main_score(o.form.kind, labels.names(), &texts.train.gold, &said);
    log::info!("teachers on what each did not learn: {} {held_out:.4}", o.form.kind.metric());
    Ok(Folds { folds: parts, held_out, steps: (0..parts).map(steps).max().unwrap_or(0) })
}

/// The examples that are not of a part, and those that are.
pub(super) fn cut(part_of: &[usize], part: usize) -> [Vec<usize>; 2] {
    [false, true].map(|is_of_part| (0..part_of.len()).filter(|i| (part_of[*i] == part) == is_of_part).collect())
}

/// Adds a share of what one of several teachers says to what the others did.
fn add_share(examples: &mut Examples, more: Vec<Lesson>, teachers: usize) {
    if examples.lessons.is_empty() {
        let nothing = |lesson: &Lesson| Lesson { answers: vec![0.0; lesson.answers.len()], ..Lesson::default() };
        examples.lessons = more.iter().map(nothing).collect();
    }
    for (sum, lesson) in examples.lessons.iter_mut().zip(more) {
        sum.answers.iter_mut().zip(lesson.answers).for_each(|(sum, answer)| *sum += answer / teachers as f32);
    }
}

/// How a teacher learns so many examples: the whole encoder, as long as a mask would.
fn teacher_options(o: &TrainOptions, examples: usize) -> TrainOptions {
    let amount = Amount { dev: Some(0), ..Amount::labelled(examples) };
    let recipe = Recipe::new(Effort::Normal, Given::default(), amount);
    TrainOptions {
        form: o.form,
        pooling: o.pooling,
        seed: o.seed,
        max_tokens: o.max_tokens,
        epochs: recipe.epochs,
        batch_size: recipe.batch_size,
        micro_batch: o.micro_batch,
        precision: o.precision,
        device: o.device,
        threads: o.threads,
        cache: o.cache,
        head_dtype: FloatType::F32,
        delta_dtype: FloatType::F32,
        ..TrainOptions::new(o.name.clone(), Method::Full)
    }
}
