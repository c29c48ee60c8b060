//! Baselines that need the base: heads on the frozen encoder, and on its word embeddings alone.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use overmask::base::Base;
use overmask::pack::{FloatType, Head, TaskKind};
use overmask::task;

use super::batch::{Examples, Inputs};
use super::features::{self, FrozenEncoder};
use super::graph::name;
use super::run::divide;
use super::texts::Data;
use super::texts::Texts;
use super::{TrainError, TrainOptions, head};
use crate::baseline::{self, Baseline, Measured};
use crate::data::LabelSet;
use crate::score::{self, Card, Said};

/// Learns and measures every baseline of a task, on the dev split that a run with these options would have; without a
/// base those that need none.
///
/// # Errors
/// When options, examples or base do not fit, or the runtime fails.
pub fn baselines(
    base: Option<&Arc<Base>>,
    data: Data<'_>,
    options: &TrainOptions,
    stop: &AtomicBool,
) -> Result<Vec<Measured>, TrainError> {
    let labels = LabelSet::for_training(data.train)?;
    let (rest, dev) = divide(&data, options);
    for other in [&rest, &dev] {
        if other.is_empty() {
            let counts = format!("leaves {} examples to train on, {} to choose by", rest.len(), dev.len());
            let reason = format!("{counts}; take another fraction, or `data.dev`");
            return Err(TrainError::Option { field: "dev_fraction", reason });
        }
    }
    let mut measured = baseline::measure(&rest, &dev, data.eval, &labels, options.seed)?;
    let Some(base) = base else { return Ok(measured) };
    options.check(base)?;
    overmask_ort::environment()?;
    let texts = Texts::read(base, &rest, &dev, None, &labels, options)?;
    let eval = data.eval.map(|eval| {
        let (kind, scale) = (options.form.kind, Some(texts.train.scale));
        Examples::tokenize(eval, kind, &labels, &texts.tokenizer, options.max_tokens, scale)
    });
    let eval = eval.transpose()?;
    for baseline in [Baseline::Embeddings, Baseline::Head] {
        // Of tags each word would be known by its first token alone.
        if baseline == Baseline::Embeddings && options.form.kind == TaskKind::Tag {
            continue;
        }
        let started = Instant::now();
        let (mut own, mut eval) = (texts.for_head(options.seed), eval.as_ref().map(Examples::copy));
        let sides = [&mut own.train, &mut own.dev].into_iter().chain(eval.as_mut());
        if baseline == Baseline::Head {
            let encoder = FrozenEncoder::start(base, &[], &[], options)?;
            for examples in sides {
                encoder.replace_tokens(examples, &texts.tokenizer, stop)?;
            }
        } else {
            let mut scale = None;
            for examples in sides {
                scale = features::embed(base, examples, scale)?;
            }
            if scale.is_none() {
                log::info!("{}: the base's table of word embeddings is not known, left out", baseline.about());
                continue;
            }
        }
        let examples = own.dev.copy();
        let learnt = head::alone(base, own, &labels, options, stop)?;
        let take = |name: &str| learnt.best.kept.tensors.get(name).cloned().unwrap_or_default();
        let (weight, bias) = (take(name::HEAD_WEIGHT), take(name::HEAD_BIAS));
        let hidden = base.manifest().architecture.hidden_size;
        let head = Head { weight, bias, labels: labels.len(), hidden, dtype: FloatType::F32 };
        let card = |examples: &Examples| card(&head, examples, &labels);
        let (dev, eval) = (card(&examples), eval.as_ref().map(card));
        measured.push(Measured { baseline, dev, eval, seconds: started.elapsed().as_secs_f64() });
    }
    Ok(measured)
}

/// How good a head is on features.
fn card(head: &Head, examples: &Examples, labels: &LabelSet) -> Card {
    let Inputs::Features(features) = &examples.inputs else {
        return score::card(examples.kind, labels.names(), &[], &[]);
    };
    let said = |rows: &Vec<Vec<f32>>| {
        let logits: Vec<Option<Vec<f32>>> =
            rows.iter().map(|row| (!row.is_empty()).then(|| task::logits(head, row))).collect();
        let rows: Vec<Option<&[f32]>> = logits.iter().map(|row| row.as_deref()).collect();
        Said::of_logits(examples.kind, &rows)
    };
    let said: Vec<Said> = features.iter().map(said).collect();
    score::card(examples.kind, labels.names(), &examples.gold, &said)
}
