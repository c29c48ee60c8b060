//! The examples of a run, as its steps read them.

use std::sync::Arc;

use overmask::base::Base;
use overmask::pack::TaskKind;
use overmask::task::Tokenizer;

use super::batch::Examples;
use super::{TrainError, TrainOptions};
use crate::data::rng::{self, stream};
use crate::data::{Dataset, LabelSet, Lengths, Unlabelled};

/// Rows that a head learns from at most before masks are learnt: more would take memory and time for nothing.
const HEAD_ROWS: usize = 250_000;

/// The examples of a run.
#[derive(Debug, Clone, Copy)]
pub struct Data<'a> {
    /// Those to learn from.
    pub train: &'a Dataset,
    /// Those that choose the best state; without them a part of `train` does, and is not trained on.
    pub dev: Option<&'a Dataset>,
    /// Those that are only measured, at the end, through the same code that a device runs.
    pub eval: Option<&'a Dataset>,
    /// Texts without labels, which a teacher labels and which are learnt beside `train`.
    pub unlabelled: Option<&'a Unlabelled>,
}

/// Examples to learn from and to choose by, tokenized.
pub(super) struct Texts {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) train: Examples,
    pub(super) dev: Examples,
    /// Texts that join those to learn from as soon as a teacher has spoken of them.
    pub(super) unlabelled: Option<Examples>,
}

impl Texts {
    /// # Errors
    /// When a label is unknown, one side is empty, or numbers do not fit the head's type.
    pub(super) fn read(
        base: &Base,
        train: &Dataset,
        dev: &Dataset,
        unlabelled: Option<&Unlabelled>,
        labels: &LabelSet,
        o: &TrainOptions,
    ) -> Result<Self, TrainError> {
        let tokenizer = Arc::new(Tokenizer::open(base)?);
        let tokenize = |data, scale| Examples::tokenize(data, o.form.kind, labels, &tokenizer, o.max_tokens, scale);
        let train = tokenize(train, None)?;
        let dev = tokenize(dev, Some(train.scale))?;
        if train.len() == 0 || dev.len() == 0 {
            let counts = format!("leaves {} examples to train on, {} to choose by", train.len(), dev.len());
            let reason = format!("{counts}; take another fraction, or `data.dev`");
            return Err(TrainError::Option { field: "dev_fraction", reason });
        }
        if o.form.kind == TaskKind::Regress {
            train.scale.check(o.head_dtype)?;
        }
        let (kind, scale) = (o.form.kind, train.scale);
        let unlabelled = unlabelled
            .map(|texts| Examples::tokenize_unlabelled(texts, kind, labels, &tokenizer, o.max_tokens, scale))
            .transpose()?;
        Ok(Texts { tokenizer, train, dev, unlabelled })
    }

    /// How long they are, those with a label: to learn from and to choose by together.
    pub(super) fn lengths(&self) -> Option<Lengths> {
        let Texts { train, dev, .. } = self;
        Lengths::of(train.lengths.iter().chain(&dev.lengths).copied().collect(), train.cut + dev.cut)
    }

    /// Those that a head alone learns from: all, or of very many as many as are of use, drawn by the seed.
    pub(super) fn for_head(&self, seed: u64) -> Texts {
        let mut order = rng::permutation(seed, stream::HEAD_TEXTS, 0, self.train.len());
        let mut rows = 0;
        let fit = order.iter().position(|i| {
            rows += self.train.rows(&[*i]);
            rows > HEAD_ROWS
        });
        if let Some(fit) = fit.map(|fit| fit.max(1)) {
            log::info!("the head alone is learnt from {fit} of the {} examples", order.len());
            order.truncate(fit);
        }
        order.sort_unstable();
        self.part(&order)
    }

    /// Some of those to learn from, and all to choose by; nothing without a label.
    pub(super) fn part(&self, indices: &[usize]) -> Texts {
        let (train, dev) = (self.train.pick(indices), self.dev.copy());
        Texts { tokenizer: Arc::clone(&self.tokenizer), train, dev, unlabelled: None }
    }
}
