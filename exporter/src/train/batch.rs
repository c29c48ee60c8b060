//! Examples become the inputs of a step.

use std::path::Path;

use overmask::pack::{FloatType, Input, TaskKind};
use overmask::task::{Tokenizer, Tokens};
use overmask_graph::encoder::{self, Padded};

use super::TrainError;
use super::graph::name;
use super::value::{Feed, f32_value, i64_value};
use crate::data::{Dataset, Gold, LabelSet, Unlabelled, rng};

/// What the seed is XORed with before it goes to functions of [`crate::data`], which draw from
/// streams of their own: the run's splits are not those of whoever splits the data with the same
/// seed, `--eval-fraction` for one. Figures depend on these numbers: never change one.
pub(super) mod salt {
    /// Which training texts choose the checkpoint (stream `SPLIT`).
    pub(in crate::train) const DEV: u64 = 1;
    /// Order of the texts (stream `EPOCH`).
    pub(in crate::train) const ORDER: u64 = 2;
    /// Which training texts which teacher of the run's own learns (stream `FOLDS`).
    pub(in crate::train) const FOLDS: u64 = 3;
    /// Which examples heads and masks are tried on that did not learn them (stream `FOLDS`).
    pub(in crate::train) const TRIAL: u64 = 4;
}

/// What the numbers of a regression are divided by after their mean is taken away, so that a head
/// that starts near zero starts near right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

impl Scale {
    /// That of numbers as they are.
    pub(super) const ONE: Scale = Scale { mean: 0.0, deviation: 1.0 };

    /// The scale of some examples; 0 and 1 where they are of another kind.
    fn of(gold: &[Gold]) -> Self {
        let values: Vec<f64> =
            gold.iter().filter_map(|gold| if let Gold::Value(value) = gold { Some(*value) } else { None }).collect();
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
        let deviation = if variance > 0.0 { variance.sqrt() } else { 1.0 };
        Scale { mean, deviation }
    }

    /// Refuses a type of the head that cannot hold numbers of this scale, and warns of a coarse one: the
    /// head's bias is near their mean.
    pub(super) fn check(self, head: FloatType) -> Result<(), TrainError> {
        let (largest, digits) = match head {
            FloatType::F32 => return Ok(()),
            FloatType::F16 => (65_504.0, 11),
            FloatType::Bf16 => (f64::from(f32::MAX), 8),
        };
        let Scale { mean, deviation } = self;
        if mean.abs() + 10.0 * deviation > largest {
            let reason = format!("{head} cannot hold numbers about {mean:.0}: use f32, or other units");
            return Err(TrainError::Option { field: "head_dtype", reason });
        }
        let step = mean.abs() / f64::from(1 << digits);
        if step > 0.1 * deviation {
            log::warn!("--head-dtype: {head} rounds numbers about {mean:.0} to {step:.2}: use f32, or other units");
        }
        Ok(())
    }

    pub(super) fn apply(self, value: f64) -> f32 {
        ((value - self.mean) / self.deviation) as f32
    }

    pub(super) fn undo(self, value: f32) -> f32 {
        (f64::from(value) * self.deviation + self.mean) as f32
    }
}

/// The tokens of a batch as an encoder's inputs.
pub(super) fn token_feed(batch: &Padded) -> Result<Feed, TrainError> {
    let shape = [batch.batch, batch.sequence];
    let of = |name: &str| Ok((name.to_owned(), i64_value(&shape, batch.input(name).cloned().unwrap_or_default())?));
    encoder::INPUTS.into_iter().map(of).collect()
}

/// What examples are to the step graph.
pub(super) enum Inputs {
    /// Token numbers.
    Tokens(Vec<Tokens>),
    /// Pooled outputs of the frozen encoder, for each example one vector a row.
    Features(Vec<Vec<Vec<f32>>>),
}

/// What a teacher says of the rows of an example.
#[derive(Debug, Clone, Default)]
pub(super) struct Lesson {
    /// Probabilities, or the scaled number; one value a label for each row.
    pub(super) answers: Vec<f32>,
    /// What its head sees, one vector for each row; empty where that is not taught.
    pub(super) features: Vec<f32>,
    /// What its encoder gives for each token, [tokens, width]; likewise.
    pub(super) states: Vec<f32>,
    /// Whether it is all that is known of the example, which then has no label to be learnt beside.
    pub(super) alone: bool,
}

/// Examples, ready for batches.
pub(super) struct Examples {
    pub(super) kind: TaskKind,
    pub(super) labels: usize,
    pub(super) source: Vec<Input>,
    /// The place of each in its data set.
    pub(super) places: Vec<usize>,
    pub(super) inputs: Inputs,
    pub(super) gold: Vec<Gold>,
    /// Cost of each example, by which batches are made of similar ones.
    pub(super) lengths: Vec<usize>,
    /// How many of them had more tokens than are read.
    pub(super) cut: usize,
    pub(super) scale: Scale,
    /// What a teacher says of each, if there is one.
    pub(super) lessons: Vec<Lesson>,
    /// The output of the prefix for the tokens of each, [tokens, width], if steps begin above it.
    pub(super) prefixes: Vec<Vec<f32>>,
}

impl Examples {
    /// Tokenizes a data set. Numbers are scaled as `scale` says, or else by themselves. A list of words
    /// of which none has a token is left out.
    pub(super) fn tokenize(
        data: &Dataset,
        kind: TaskKind,
        labels: &LabelSet,
        tokenizer: &Tokenizer,
        max_tokens: usize,
        scale: Option<Scale>,
    ) -> Result<Self, TrainError> {
        let gold = labels.gold(data)?;
        let inputs = data.examples.iter().map(|example| (&example.input, example.line));
        Self::of(&data.path, inputs.zip(gold), kind, labels, tokenizer, max_tokens, scale)
    }

    /// Tokenizes texts without labels, likewise: until a teacher has spoken of them nothing is known of them, and what
    /// they are said to be here stands for nothing.
    pub(super) fn tokenize_unlabelled(
        texts: &Unlabelled,
        kind: TaskKind,
        labels: &LabelSet,
        tokenizer: &Tokenizer,
        max_tokens: usize,
        scale: Scale,
    ) -> Result<Self, TrainError> {
        let nothing = |input: &Input| match kind {
            TaskKind::Classify => Gold::Class(0),
            TaskKind::Multilabel => Gold::Set(vec![false; labels.len()]),
            TaskKind::Regress => Gold::Value(scale.mean),
            TaskKind::Tag => Gold::Tags(vec![0; input.rows()]),
        };
        let inputs = texts.inputs.iter().map(|(input, line)| ((input, *line), nothing(input)));
        Self::of(&texts.path, inputs, kind, labels, tokenizer, max_tokens, Some(scale))
    }

    fn of<'a>(
        path: &Path,
        inputs: impl Iterator<Item = ((&'a Input, usize), Gold)>,
        kind: TaskKind,
        labels: &LabelSet,
        tokenizer: &Tokenizer,
        max_tokens: usize,
        scale: Option<Scale>,
    ) -> Result<Self, TrainError> {
        let inputs: Vec<_> = inputs.collect();
        let gold: Vec<Gold> = inputs.iter().map(|(_, gold)| gold.clone()).collect();
        let mut all = Examples {
            kind,
            labels: labels.len(),
            source: Vec::new(),
            places: Vec::new(),
            inputs: Inputs::Features(Vec::new()),
            scale: scale.unwrap_or_else(|| Scale::of(&gold)),
            gold: Vec::new(),
            lengths: Vec::new(),
            cut: 0,
            lessons: Vec::new(),
            prefixes: Vec::new(),
        };
        let mut tokenized = Vec::with_capacity(inputs.len());
        for (place, ((input, line), gold)) in inputs.into_iter().enumerate() {
            let tokens = tokenizer.encode(input, max_tokens)?;
            if kind == TaskKind::Tag && tokens.firsts.iter().all(Option::is_none) {
                log::warn!("{}:{line}: no word has a token; it is left out", path.display());
                continue;
            }
            all.cut += usize::from(tokens.dropped > 0);
            all.source.push(input.clone());
            all.places.push(place);
            all.lengths.push(tokens.len());
            all.gold.push(gold);
            tokenized.push(tokens);
        }
        all.inputs = Inputs::Tokens(tokenized);
        Ok(all)
    }

    /// Some of the examples, without what a teacher says of them and their prefixes.
    pub(super) fn pick(&self, indices: &[usize]) -> Self {
        let inputs = match &self.inputs {
            Inputs::Tokens(tokens) => Inputs::Tokens(indices.iter().map(|i| tokens[*i].clone()).collect()),
            Inputs::Features(features) => Inputs::Features(indices.iter().map(|i| features[*i].clone()).collect()),
        };
        Examples {
            kind: self.kind,
            labels: self.labels,
            source: indices.iter().map(|i| self.source[*i].clone()).collect(),
            places: indices.iter().map(|i| self.places[*i]).collect(),
            inputs,
            gold: indices.iter().map(|i| self.gold[*i].clone()).collect(),
            lengths: indices.iter().map(|i| self.lengths[*i]).collect(),
            cut: self.cut,
            scale: self.scale,
            lessons: Vec::new(),
            prefixes: Vec::new(),
        }
    }

    /// All of them, likewise.
    pub(super) fn copy(&self) -> Self {
        self.pick(&(0..self.len()).collect::<Vec<_>>())
    }

    /// Others of the same task join them, before any has a prefix.
    pub(super) fn join(&mut self, others: Examples) {
        match (&mut self.inputs, others.inputs) {
            (Inputs::Tokens(own), Inputs::Tokens(other)) => own.extend(other),
            (Inputs::Features(own), Inputs::Features(other)) => own.extend(other),
            _ => return,
        }
        self.source.extend(others.source);
        self.places.extend(others.places);
        self.gold.extend(others.gold);
        self.lengths.extend(others.lengths);
        self.lessons.extend(others.lessons);
        self.cut += others.cut;
    }

    pub(super) fn len(&self) -> usize {
        self.gold.len()
    }

    /// Bytes of a vector for each token of all examples.
    pub(super) fn states_bytes(&self, width: usize) -> u64 {
        (self.lengths.iter().sum::<usize>() * width * size_of::<f32>()) as u64
    }

    /// Whether each row of an example counts: of words, those with a token.
    pub(super) fn counted(&self, index: usize) -> Vec<bool> {
        match (&self.inputs, &self.gold[index]) {
            (Inputs::Tokens(tokens), Gold::Tags(_)) => tokens[index].firsts.iter().map(Option::is_some).collect(),
            (Inputs::Features(features), _) => features[index].iter().map(|row| !row.is_empty()).collect(),
            _ => vec![true],
        }
    }

    /// The number of rows that the examples with these numbers have together.
    pub(super) fn rows(&self, indices: &[usize]) -> usize {
        indices.iter().map(|i| self.counted(*i).iter().filter(|c| **c).count()).sum()
    }

    /// The graph's inputs for the examples with these numbers; `dropout` is [rows, width].
    pub(super) fn batch(
        &self,
        tokenizer: &Tokenizer,
        indices: &[usize],
        dropout: Vec<f32>,
    ) -> Result<Feed, TrainError> {
        let rows = self.rows(indices);
        let width = dropout.len() / rows;
        let mut all = vec![(name::DROPOUT.to_owned(), f32_value(&[rows, width], dropout)?)];
        match &self.inputs {
            Inputs::Tokens(tokens) => {
                let these: Vec<&Tokens> = indices.iter().map(|i| &tokens[*i]).collect();
                let batch = Padded::from(&tokenizer.batch(these.iter().copied()));
                let shape = [batch.batch, batch.sequence];
                let mut of_tokens = |name: &str, rows: Vec<&Vec<f32>>| {
                    let values = padded(&rows, batch.sequence * width);
                    all.push((name.to_owned(), f32_value(&[shape[0], shape[1], width], values)?));
                    Ok::<_, TrainError>(())
                };
                if !self.prefixes.is_empty() {
                    of_tokens(name::PREFIX, indices.iter().map(|i| &self.prefixes[*i]).collect())?;
                }
                if self.lessons.first().is_some_and(|lesson| !lesson.states.is_empty()) {
                    of_tokens(name::TEACHER_STATES, indices.iter().map(|i| &self.lessons[*i].states).collect())?;
                }
                if self.kind == TaskKind::Tag {
                    let start = |(i, tokens): (usize, &&Tokens)| {
                        let offset = i * batch.sequence;
                        tokens.firsts.iter().flatten().map(move |first| (offset + first) as i64).collect::<Vec<_>>()
                    };
                    let firsts: Vec<i64> = these.iter().enumerate().flat_map(start).collect();
                    all.push((name::FIRSTS.to_owned(), i64_value(&[rows], firsts)?));
                }
                all.extend(token_feed(&batch)?);
            }
            Inputs::Features(features) => {
                let values = indices.iter().flat_map(|i| features[*i].concat()).collect();
                all.push((name::FEATURES.to_owned(), f32_value(&[rows, width], values)?));
            }
        }
        Ok(all)
    }

    /// What the rows of the examples with these numbers should be, and what the teacher says of them.
    ///
    /// Where the teacher's answer is all that is known, a class is one that is not there, so that its row of
    /// `OneHot` is zero and the label's part of the loss with it; a set, or a number, is what the teacher says.
    pub(super) fn targets(&self, indices: &[usize]) -> Result<Feed, TrainError> {
        let rows = self.rows(indices);
        let gold = || indices.iter().map(|i| (*i, &self.gold[*i]));
        let alone = |i: usize| self.lessons.get(i).filter(|lesson| lesson.alone);
        let value = match self.kind {
            TaskKind::Classify | TaskKind::Tag => {
                let classes = gold().flat_map(|(i, gold)| match gold {
                    _ if alone(i).is_some() => vec![self.labels as i64; self.rows(&[i])],
                    Gold::Class(class) => vec![*class as i64],
                    Gold::Tags(tags) => {
                        let counted = tags.iter().zip(self.counted(i)).filter(|(_, counted)| *counted);
                        counted.map(|(tag, _)| *tag as i64).collect()
                    }
                    Gold::Set(_) | Gold::Value(_) => Vec::new(),
                });
                i64_value(&[rows], classes.collect())?
            }
            TaskKind::Multilabel | TaskKind::Regress => {
                let values = gold().flat_map(|(i, gold)| match gold {
                    _ if alone(i).is_some() => self.lessons[i].answers.clone(),
                    Gold::Set(set) => set.iter().map(|has| f32::from(u8::from(*has))).collect(),
                    Gold::Value(value) => vec![self.scale.apply(*value)],
                    Gold::Class(_) | Gold::Tags(_) => Vec::new(),
                });
                f32_value(&[rows, self.labels], values.collect())?
            }
        };
        let mut all = vec![(name::TARGETS.to_owned(), value)];
        if !self.lessons.is_empty() {
            let part = |of: fn(&Lesson) -> &Vec<f32>| -> Vec<f32> {
                indices.iter().flat_map(|i| of(&self.lessons[*i]).iter().copied()).collect()
            };
            all.push((name::TEACHER.to_owned(), f32_value(&[rows, self.labels], part(|lesson| &lesson.answers))?));
            let features = part(|lesson| &lesson.features);
            if !features.is_empty() {
                let width = features.len() / rows;
                all.push((name::TEACHER_FEATURES.to_owned(), f32_value(&[rows, width], features)?));
            }
        }
        Ok(all)
    }
}

/// All rows, each with zeros up to so many values.
fn padded(rows: &[&Vec<f32>], length: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(rows.len() * length);
    for (i, row) in rows.iter().enumerate() {
        values.extend_from_slice(row);
        values.resize((i + 1) * length, 0.0);
    }
    values
}

/// What pooled outputs are multiplied by at a step: 0 with probability `rate`, else 1 / (1 - rate).
pub(super) fn dropout(rate: f64, seed: u64, step: u64, count: usize) -> Vec<f32> {
    if rate == 0.0 {
        return vec![1.0; count];
    }
    let kept = (1.0 / (1.0 - rate)) as f32;
    let drop = |u: f32| if f64::from(u) < rate { 0.0 } else { kept };
    rng::uniform(seed, rng::stream::DROPOUT, step, count).into_iter().map(drop).collect()
}
