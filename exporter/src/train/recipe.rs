//! A recipe that fits the data: how long a mask learns, how fast, in which batches, and how many examples choose the
//! best state.
//!
//! A score moves by its learning rate a step at most, and starts up to 1 away from where it counts: what decides is the
//! number of steps times the rate, not the number of passes. `docs/training.md` says where the numbers come from.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::Method;
use super::options::{Keep, Split, TrainOptions, Try};

/// How much time may be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// Half the steps of `normal`.
    Quick,
    /// What serves most data.
    #[default]
    Normal,
    /// Several rates and lengths; the best on the dev split is kept. Seven times the time. Few examples are cut into folds
    /// to see whether a mask pays at all, for five times the time more.
    Best,
    /// Whatever the data are: 3 epochs at 0.004 in batches of 32, a tenth of the examples at random for choosing.
    Fixed,
}

/// What a user may give, which no recipe changes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Given {
    /// [`TrainOptions::epochs`].
    pub epochs: Option<u32>,
    /// [`TrainOptions::batch_size`].
    pub batch_size: Option<usize>,
    /// [`TrainOptions::learning_rate`].
    pub learning_rate: Option<f64>,
    /// [`TrainOptions::dev_fraction`].
    pub dev_fraction: Option<f64>,
    /// [`TrainOptions::keep`].
    pub keep: Option<Keep>,
}

/// How many examples there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Those with a label.
    pub examples: usize,
    /// Texts that a teacher labels, which are learnt beside them.
    pub unlabelled: usize,
    /// Those that choose the best state, if they are apart from them.
    pub dev: Option<usize>,
}

impl Amount {
    /// So many with a label, a part of which chooses the best state.
    pub fn labelled(examples: usize) -> Self {
        Amount { examples, ..Amount::default() }
    }
}

/// Examples that choose the best state: a fifth of few, ...
const DEV_OF_FEW: usize = 5;
/// ... up to so many, ...
const DEV_ENOUGH: usize = 100;
/// ... then a tenth, ...
const DEV_OF_MANY: usize = 10;
/// ... up to so many.
const DEV_MOST: usize = 2_000;

/// Below so many that choose, which epoch is the best one of many is chance: the last one is kept.
const DEV_SURE: usize = 500;

/// Below so many examples to learn from ...
const FEW: usize = 1_000;
/// ... batches are smaller.
const SMALL_BATCH: usize = 16;
/// Examples a step.
const BATCH: usize = 32;
/// The fewest steps ...
const LEAST_STEPS: usize = 240;
/// ... and passes.
const LEAST_EPOCHS: usize = 3;
/// Learning rate of the scores: the best on dev splits of movie, and within a text of the best on those of trec.
const RATE: f64 = 1e-2;
/// What [`Effort::Best`] tries besides: factors of the rate and of the epochs.
const TRIES: [(f64, u32); 4] = [(0.5, 1), (2.0, 1), (1.0, 2), (2.0, 2)];

/// Into how many folds [`Effort::Best`] cuts few examples ...
const FOLDS: usize = 5;
/// ... of which there are as many at least.
const LEAST_FOR_FOLDS: usize = 20;

/// What fits some number of examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Passes over the training examples.
    pub epochs: u32,
    /// Examples a step.
    pub batch_size: usize,
    /// Learning rate of the scores.
    pub learning_rate: f64,
    /// Part of the examples that chooses the best state.
    pub dev_fraction: f64,
    /// What is tried besides.
    pub tries: Vec<Try>,
    /// Which state is kept.
    pub keep: Keep,
    /// Folds that say whether a mask pays.
    pub dev_folds: Option<usize>,
}

impl Recipe {
    /// The recipe for so many examples.
    pub fn new(effort: Effort, given: Given, amount: Amount) -> Self {
        let Amount { examples, unlabelled, dev: apart } = amount;
        let few = examples / DEV_OF_FEW;
        let dev = few.min(DEV_ENOUGH).max((examples / DEV_OF_MANY).min(DEV_MOST)).max(1);
        // One example is there to learn from.
        let dev = dev.min(examples.saturating_sub(1));
        let dev_fraction = given.dev_fraction.unwrap_or(dev as f64 / examples.max(1) as f64);
        let taken = ((examples as f64 * dev_fraction).round() as usize).min(examples);
        let labelled = if apart.is_some() { examples } else { examples - taken };
        let usual = if apart.unwrap_or(taken) < DEV_SURE { Keep::Last } else { Keep::Best };
        let keep = given.keep.unwrap_or(usual);
        let learnt = labelled + unlabelled;
        let batch_size = given.batch_size.unwrap_or(if learnt < FEW { SMALL_BATCH } else { BATCH });
        let epoch_steps = learnt.div_ceil(batch_size.max(1)).max(1);
        let share = if effort == Effort::Quick { 2 } else { 1 };
        let epochs = |share: usize| {
            let least = LEAST_STEPS.div_ceil(share * epoch_steps);
            (least.max(LEAST_EPOCHS.div_ceil(share)) as u32).max(1)
        };
        let own = epochs(share);
        let epochs = given.epochs.unwrap_or(own);
        let learning_rate = given.learning_rate.unwrap_or(RATE);
        let mut tries = Vec::new();
        if effort == Effort::Best {
            for (rate, length) in TRIES {
                let one = Try {
                    learning_rate: given.learning_rate.unwrap_or(learning_rate * rate),
                    epochs: given.epochs.unwrap_or(epochs * length),
                };
                if one != (Try { learning_rate, epochs }) && !tries.contains(&one) {
                    tries.push(one);
                }
            }
        }
        let decides_by_chance = (LEAST_FOR_FOLDS..FEW).contains(&examples) && apart.is_none();
        let dev_folds = (effort == Effort::Best && decides_by_chance).then_some(FOLDS);
        Recipe { epochs, batch_size, learning_rate, dev_fraction, tries, keep, dev_folds }
    }
}

impl TrainOptions {
    /// These options with a recipe for masks that fits so many examples; what is given stays. Other methods, and
    /// [`Effort::Fixed`], have the fixed settings.
    #[must_use]
    pub fn fit(self, effort: Effort, given: Given, amount: Amount) -> Self {
        if self.method != Method::Mask || effort == Effort::Fixed {
            return TrainOptions {
                epochs: given.epochs.unwrap_or(self.epochs),
                batch_size: given.batch_size.unwrap_or(self.batch_size),
                learning_rate: given.learning_rate.unwrap_or(self.learning_rate),
                dev_fraction: given.dev_fraction.unwrap_or(self.dev_fraction),
                keep: given.keep.unwrap_or(self.keep),
                ..self
            };
        }
        let Recipe { epochs, batch_size, learning_rate, dev_fraction, tries, keep, dev_folds } =
            Recipe::new(effort, given, amount);
        let dev_folds = self.dev_folds.or(dev_folds.filter(|_| self.may_be_head_alone()));
        let split = Split::Stratified;
        TrainOptions { epochs, batch_size, learning_rate, dev_fraction, tries, keep, dev_folds, split, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(examples: usize) -> Recipe {
        Recipe::new(Effort::Normal, Given::default(), Amount::labelled(examples))
    }

    #[test]
    fn few_examples_are_learnt_for_as_many_steps_as_some() {
        for examples in [10, 50, 100, 300, 1_000, 2_000, 5_000, 10_000, 1_000_000] {
            let Recipe { epochs, batch_size, learning_rate, dev_fraction, tries, dev_folds, .. } = normal(examples);
            let learnt = examples as f64 * (1.0 - dev_fraction);
            let steps = (learnt / batch_size as f64).ceil() * f64::from(epochs);
            assert!(steps >= LEAST_STEPS as f64 && epochs as usize >= LEAST_EPOCHS, "{examples}: {steps}");
            assert!(learning_rate == RATE && tries.is_empty() && dev_folds.is_none(), "{examples}");
        }
        // Of many examples the length of the fixed settings.
        let many = normal(8_000);
        assert_eq!((many.epochs, many.batch_size), (3, 32));
    }

    #[test]
    fn enough_examples_choose() {
        for (examples, chosen) in
            [(1, 0), (2, 1), (10, 2), (50, 10), (300, 60), (600, 100), (1_000, 100), (5_000, 500), (100_000, 2_000)]
        {
            assert_eq!((normal(examples).dev_fraction * examples as f64).round() as usize, chosen, "{examples}");
        }
        assert_eq!(normal(0).epochs as usize, LEAST_STEPS);
    }

    #[test]
    fn few_examples_choose_no_epoch() {
        assert_eq!((normal(50).keep, normal(4_990).keep, normal(5_000).keep), (Keep::Last, Keep::Last, Keep::Best));
        let keep = |given, amount| Recipe::new(Effort::Normal, given, amount).keep;
        let apart = |dev| Amount { dev: Some(dev), ..Amount::labelled(300) };
        assert_eq!(keep(Given::default(), apart(60)), Keep::Last);
        assert_eq!(keep(Given::default(), apart(600)), Keep::Best);
        assert_eq!(keep(Given { keep: Some(Keep::Best), ..Given::default() }, apart(60)), Keep::Best);
        assert_eq!(keep(Given { dev_fraction: Some(0.5), ..Given::default() }, Amount::labelled(1_000)), Keep::Best);
    }

    #[test]
    fn with_time_few_examples_are_cut_into_folds() {
        let folds = |o: TrainOptions, amount| o.fit(Effort::Best, Given::default(), amount).dev_folds;
        let usual = || TrainOptions::new("a", Method::Mask);
        let few = Amount::labelled(300);
        assert_eq!(folds(usual(), few), Some(FOLDS));
        assert_eq!(folds(TrainOptions { dev_folds: Some(3), ..usual() }, few), Some(3));
        assert_eq!(folds(usual(), Amount { dev: Some(50), ..few }), None);
        assert_eq!((folds(usual(), Amount::labelled(19)), folds(usual(), Amount::labelled(1_000))), (None, None));
        // Zeros that are asked for are learnt in any case.
        assert_eq!(folds(TrainOptions { target_sparsity: Some(0.5), ..usual() }, few), None);
    }

    #[test]
    fn texts_without_a_label_are_learnt_and_choose_nothing() {
        let few = Amount::labelled(300);
        let recipe = Recipe::new(Effort::Normal, Given::default(), Amount { unlabelled: 4_480, ..few });
        assert_eq!((recipe.epochs, recipe.batch_size), (3, 32), "4,720 are learnt");
        assert_eq!(recipe.dev_fraction, normal(300).dev_fraction);
    }

    #[test]
    fn what_is_given_stays_and_best_tries_the_rest() {
        let given = Given {
            epochs: Some(7),
            learning_rate: Some(0.3),
            batch_size: Some(5),
            dev_fraction: Some(0.25),
            keep: None,
        };
        let few = Amount::labelled(300);
        let recipe = Recipe::new(Effort::Normal, given, few);
        assert_eq!((recipe.epochs, recipe.learning_rate, recipe.batch_size, recipe.dev_fraction), (7, 0.3, 5, 0.25));
        assert!(Recipe::new(Effort::Best, given, few).tries.is_empty(), "there is nothing to try");
        let tries = Recipe::new(Effort::Best, Given::default(), few).tries;
        assert_eq!(tries.len(), TRIES.len());
        let given = Given { epochs: Some(7), ..Given::default() };
        let tries = Recipe::new(Effort::Best, given, few).tries;
        assert!(!tries.is_empty() && tries.iter().all(|one| one.epochs == 7), "{tries:?}");
        let quick = Recipe::new(Effort::Quick, Given::default(), Amount::labelled(5_000));
        assert!(quick.epochs < normal(5_000).epochs);
        let fixed = TrainOptions::new("a", Method::Mask).fit(Effort::Fixed, Given::default(), Amount::labelled(100));
        assert_eq!((fixed.epochs, fixed.learning_rate, fixed.split), (3, 4e-3, Split::Random));
    }
}
