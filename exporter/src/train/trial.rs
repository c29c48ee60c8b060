//! Whether a mask pays where few examples choose: on each part of the examples a head and a mask are tried that have
//! learnt the others, so that all of them choose, and none chooses what it taught.
//!
//! A dev split of 20 examples cannot tell a mask from a head that is 10 points worse, and takes whichever is lucky.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use overmask::base::Base;
use serde::Serialize;

use super::batch::{Examples, salt};
use super::folds::cut;
use super::learner::{Learner, Part, Progress};
use super::speaker::Speaker;
use super::state::Kept;
use super::texts::Texts;
use super::{TrainError, TrainOptions, go_on, head, packing};
use crate::data::{self, Dataset, LabelSet};
use crate::score::{self, Said};

/// What heads and masks came to on examples that they did not learn, by the main metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trial {
    /// Into how many parts the examples were cut.
    pub folds: usize,
    /// The head alone.
    pub head: f64,
    /// A mask, in its last state.
    pub mask: f64,
}

/// Sees that there is an example for each part.
///
/// # Errors
/// When there is not.
pub(super) fn check(all: &Dataset, o: &TrainOptions) -> Result<(), TrainError> {
    match o.dev_folds {
        Some(parts) if all.len() < parts => {
            let reason = format!("{parts} parts of {} examples, that is without any in some", all.len());
            Err(TrainError::Option { field: "dev_folds", reason })
        }
        _ => Ok(()),
    }
}

/// Tries heads and masks on parts of the examples; `dev` is read beside them, and chooses nothing here.
///
/// # Errors
/// When the run is stopped, or the runtime fails.
pub(super) fn run(
    base: &Arc<Base>,
    (all, dev): (&Dataset, &Dataset),
    labels: &LabelSet,
    (parts, o): (usize, &TrainOptions),
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Trial, TrainError> {
    let texts = Texts::read(base, all, dev, None, labels, o)?;
    let part_of = data::folds(all, parts, o.seed ^ salt::TRIAL);
    let part_of: Vec<usize> = texts.train.places.iter().map(|place| part_of[*place]).collect();
    let own = TrainOptions {
        teacher: None,
        tries: Vec::new(),
        checkpoint: None,
        log_losses: None,
        check_placement: false,
        dev_folds: None,
        ..o.clone()
    };
    let steps = |learnt: usize| {
        let all = learnt.div_ceil(own.batch_size) as u64 * u64::from(own.epochs);
        all.min(own.max_steps.unwrap_or(u64::MAX))
    };
    let cuts: Vec<[Vec<usize>; 2]> = (0..parts).map(|part| cut(&part_of, part)).collect();
    let all_steps: u64 = cuts.iter().map(|[learnt, _]| steps(learnt.len())).sum();
    let mut done = 0;
    // What the head and the mask said of each example.
    let mut said = [(); 2].map(|()| vec![None::<Said>; texts.train.len()]);
    for (part, [learnt, tried]) in cuts.iter().enumerate() {
        go_on(stop)?;
        log::info!("fold {} of {parts}: learns {} examples, is tried on {}", part + 1, learnt.len(), tried.len());
        // What it is tried on is what it says of itself.
        let of_part = Texts { dev: texts.train.pick(tried), ..texts.part(learnt) };
        let start = head::learn(base, &of_part, labels, &own, stop)?;
        let few = learnt.len() < head::MANY;
        let mut learner = Learner::new(base, of_part, labels, few.then_some(&start.best), &own, stop)?;
        // At its end alone: nothing chooses a state here.
        learner.judged = own.epochs;
        let result = learner.learn(&BTreeMap::new(), None, stop, &mut |now| {
            let part = Some(Part { what: "fold", number: part + 1, of: parts });
            progress(&Progress { step: done + now.step, steps: all_steps, part, dev: None, ..now.clone() });
        })?;
        drop(learner);
        if result.stopped {
            return Err(TrainError::Stopped);
        }
        let held_out = texts.train.pick(tried);
        for (said, kept) in said.iter_mut().zip([start.best.kept, result.best.kept]) {
            let answers = answers(base, kept, &held_out, &texts, labels, &own, stop)?;
            tried.iter().zip(answers).for_each(|(i, answer)| said[*i] = Some(answer));
        }
        done += steps(learnt.len());
    }
    let [head, mask] = said.map(|said| {
        let said: Vec<Said> = said.into_iter().flatten().collect();
        score::main_score(o.form.kind, labels.names(), &texts.train.gold, &said)
    });
    log::info!("on what they did not learn: head alone {} {head:.4}, masks {mask:.4}", o.form.kind.metric());
    Ok(Trial { folds: parts, head, mask })
}

/// What a state says of some examples.
fn answers(
    base: &Arc<Base>,
    kept: Kept,
    examples: &Examples,
    texts: &Texts,
    labels: &LabelSet,
    o: &TrainOptions,
    stop: &AtomicBool,
) -> Result<Vec<Said>, TrainError> {
    let (masks, deltas, head) = packing::parts(base, kept, labels.len(), o)?;
    let speaker = Speaker { masks: &masks, deltas: &deltas, head: &head };
    let answers = speaker.ask(base, examples, &texts.tokenizer, o, stop)?;
    Ok(answers.iter().map(|answer| answer.said(o.form.kind)).collect())
}
