//! Several tasks on one engine: texts in, predictions out.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{TaskError, Tokenizer, Tokens, head};
use crate::base::Base;
use crate::engine::{Engine, EngineInfo, Hidden, TaskId, TokenBatch};
use crate::pack::{Golden, Head, Input, Pack, PackDocument, PackFile, TaskKind, TextSettings};

/// Texts in a batch, at most.
const MAX_BATCH: usize = 32;

/// Tokens in a batch with its padding, at most (but always one text).
const MAX_BATCH_TOKENS: usize = 2048;

/// How far a golden logit may be off, at precision f32.
pub const GOLDEN_TOLERANCE: f32 = 1e-4;

/// A task of a [`Runner`]; that of a task that was removed never becomes another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskRef(TaskId);

/// What a task says of an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// One label ([`TaskKind::Classify`]).
    Label(Prediction),
    /// The labels that apply ([`TaskKind::Multilabel`]).
    Labels {
        /// The places of those with a probability above a half, in the order of the pack's labels.
        chosen: Vec<usize>,
        /// Probabilities, one a label (sigmoid of the logits).
        scores: Vec<f32>,
    },
    /// A number ([`TaskKind::Regress`]).
    Value(f32),
    /// A label for each word ([`TaskKind::Tag`]); none for a word without a token, be it that it was
    /// cut away or that it has nothing that the tokenizer keeps.
    Tags(Vec<Option<Prediction>>),
}

/// A text's or a word's label.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The label with the largest logit, the first of equal ones.
    pub label: String,
    /// Its place among the pack's labels.
    pub index: usize,
    /// Its probability (softmax over the logits).
    pub score: f32,
    /// The head's output, one value a label.
    pub logits: Vec<f32>,
    /// Probabilities, one a label.
    pub scores: Vec<f32>,
}

/// How far an engine is from a pack's golden vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldenCheck {
    /// Number of golden inputs.
    pub texts: usize,
    /// The largest absolute difference of a logit; 0 without golden vectors.
    pub max_difference: f32,
}

impl GoldenCheck {
    /// Whether the engine is within [`GOLDEN_TOLERANCE`].
    pub fn is_ok(&self) -> bool {
        self.max_difference <= GOLDEN_TOLERANCE
    }
}

struct Task {
    name: String,
    kind: TaskKind,
    labels: Vec<String>,
    text: TextSettings,
    head: Head,
    golden: Vec<Golden>,
}

/// An engine with its base, a tokenizer, and the tasks that were added. Threads may share it.
pub struct Runner {
    engine: Box<dyn Engine>,
    base: Arc<Base>,
    tokenizer: Tokenizer,
    tasks: BTreeMap<TaskId, Task>,
}

impl Runner {
    /// A runner without tasks.
    ///
    /// # Errors
    /// When the base's tokenizer cannot be read.
    pub fn new(engine: Box<dyn Engine>, base: Arc<Base>) -> Result<Runner, TaskError> {
        let tokenizer = Tokenizer::open(&base)?;
        Ok(Runner { engine, base, tokenizer, tasks: BTreeMap::new() })
    }

    /// Makes a pack's task resident; switching between resident tasks costs nothing.
    ///
    /// # Errors
    /// When the pack was made for another base, or what the engine reports.
    pub fn add_pack(&mut self, pack: Pack) -> Result<TaskRef, TaskError> {
        pack.check_base(&self.base)?;
        let id = self.engine.load(&pack.masks, &pack.deltas)?;
        Ok(self.add(id, pack.document, pack.head, pack.golden))
    }

    /// The same for a pack whose masks are still coded: what the engine has kept of it from before
    /// is not decoded again.
    ///
    /// # Errors
    /// As for [`Runner::add_pack`], and when a mask is damaged.
    pub fn add_file(&mut self, file: PackFile) -> Result<TaskRef, TaskError> {
        file.check_base(&self.base)?;
        let id = match self.engine.recall(&file) {
            Some(id) => id,
            None => {
                let id = self.engine.load(&file.masks(Some(&self.base))?, file.deltas())?;
                self.engine.keep(id, &file);
                id
            }
        };
        let (document, head, golden) = file.into_head();
        Ok(self.add(id, document, head, golden))
    }

    fn add(&mut self, id: TaskId, document: PackDocument, head: Head, golden: Vec<Golden>) -> TaskRef {
        let PackDocument { name, kind, labels, text, .. } = document;
        self.tasks.insert(id, Task { name, kind, labels, text, head, golden });
        TaskRef(id)
    }

    /// Lets a task go, with what the engine holds of it; the others stay as they are.
    ///
    /// # Errors
    /// When the task is not of this runner, or was removed before.
    pub fn remove(&mut self, task: TaskRef) -> Result<(), TaskError> {
        self.tasks.remove(&task.0).ok_or(TaskError::NoTask)?;
        Ok(self.engine.unload(task.0)?)
    }

    /// The base.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The engine and its precision.
    pub fn describe(&self) -> EngineInfo {
        self.engine.describe()
    }

    /// The base's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Runs the encoder alone on tokens, with a task's weights.
    ///
    /// # Errors
    /// When the task is not of this runner, the batch does not fit the base, or the engine fails.
    pub fn encode(&self, task: TaskRef, batch: &TokenBatch) -> Result<Hidden, TaskError> {
        self.task(task)?;
        Ok(self.engine.encode(task.0, batch)?)
    }

    /// [`Engine::mask_kernel`] of a task.
    ///
    /// # Errors
    /// When the task is not of this runner.
    pub fn kernel(&self, task: TaskRef, rows: usize) -> Result<Option<&'static str>, TaskError> {
        self.task(task)?;
        Ok(self.engine.mask_kernel(task.0, rows))
    }

    /// The name of a task.
    ///
    /// # Errors
    /// When the task is not of this runner.
    pub fn name(&self, task: TaskRef) -> Result<&str, TaskError> {
        self.task(task).map(|t| t.name.as_str())
    }

    /// What a task computes.
    ///
    /// # Errors
    /// When the task is not of this runner.
    pub fn kind(&self, task: TaskRef) -> Result<TaskKind, TaskError> {
        self.task(task).map(|t| t.kind)
    }

    /// What a task reads.
    ///
    /// # Errors
    /// When the task is not of this runner.
    pub fn text(&self, task: TaskRef) -> Result<&TextSettings, TaskError> {
        self.task(task).map(|t| &t.text)
    }

    /// The labels of a task, in the order of logits and scores.
    ///
    /// # Errors
    /// When the task is not of this runner.
    pub fn labels(&self, task: TaskRef) -> Result<&[String], TaskError> {
        self.task(task).map(|t| t.labels.as_slice())
    }

    fn task(&self, task: TaskRef) -> Result<&Task, TaskError> {
        self.tasks.get(&task.0).ok_or(TaskError::NoTask)
    }

    /// Labels texts with a task of the kind `classify`; the predictions are in the order of the texts.
    ///
    /// # Errors
    /// As [`Runner::predict`], and when the task is of another kind.
    pub fn classify(&self, task: TaskRef, texts: &[&str]) -> Result<Vec<Prediction>, TaskError> {
        let inputs: Vec<Input> = texts.iter().map(|text| Input::from(*text)).collect();
        let one = |answer| match answer {
            Answer::Label(prediction) => Ok(prediction),
            _ => {
                let Task { name, kind, .. } = self.task(task)?;
                Err(TaskError::Kind { task: name.clone(), kind: *kind })
            }
        };
        self.predict(task, &inputs)?.into_iter().map(one).collect()
    }

    /// Runs inputs through a task; the answers are in the order of the inputs.
    ///
    /// Inputs of similar length share a batch, so results may differ in the last bits with the
    /// company that one is in, by about 1e-6 of a logit.
    ///
    /// # Errors
    /// When an input is not of the form that the task reads or cannot become tokens, or the engine
    /// fails.
    pub fn predict(&self, task: TaskRef, inputs: &[Input]) -> Result<Vec<Answer>, TaskError> {
        let all = self.logits(task, inputs)?;
        let task = self.task(task)?;
        Ok(all.into_iter().map(|rows| task.answer(rows)).collect())
    }

    /// Runs a pack's golden vectors and says how far the engine is from them.
    ///
    /// # Errors
    /// As for [`Runner::predict`].
    pub fn check_golden(&self, task: TaskRef) -> Result<GoldenCheck, TaskError> {
        let golden = &self.task(task)?.golden;
        let inputs: Vec<Input> = golden.iter().map(|g| g.input.clone()).collect();
        let found = self.logits(task, &inputs)?;
        let mut max_difference = 0f32;
        for (golden, rows) in golden.iter().zip(found) {
            let found: Vec<f32> = rows.into_iter().flatten().flatten().collect();
            if found.len() != golden.logits.len() {
                // A word that had logits has none here.
                max_difference = f32::INFINITY;
            }
            let differences = golden.logits.iter().zip(&found).map(|(a, b)| (a - b).abs());
            max_difference = differences.fold(max_difference, f32::max);
        }
        Ok(GoldenCheck { texts: golden.len(), max_difference })
    }

    /// The head's output for each input: a row, or one for each word that has a token.
    ///
    /// # Errors
    /// As for [`Runner::predict`].
    pub fn logits(&self, task: TaskRef, inputs: &[Input]) -> Result<Vec<Vec<Option<Vec<f32>>>>, TaskError> {
        let (id, task) = (task.0, self.task(task)?);
        if let Some((index, input)) = inputs.iter().enumerate().find(|(_, input)| !task.takes(input)) {
            let reason = format!("is {}, but the task `{}` reads {}", input.what(), task.name, task.reads());
            return Err(TaskError::Text { index, reason });
        }
        let tokens = self.tokenizer.encode_batch(inputs, task.text.max_tokens)?;
        let mut results = vec![Vec::new(); inputs.len()];
        for group in batches(&tokens.iter().map(Tokens::len).collect::<Vec<_>>()) {
            let these: Vec<&Tokens> = group.iter().map(|i| &tokens[*i]).collect();
            let hidden = self.engine.encode(id, &self.tokenizer.pad(&these))?;
            for (i, vectors) in group.into_iter().zip(head::pool(&hidden, &these, task.text.pooling)) {
                let logits = |vector: Option<Vec<f32>>| vector.map(|vector| head::logits(&task.head, &vector));
                results[i] = vectors.into_iter().map(logits).collect();
                if results[i].iter().flatten().flatten().any(|l| !l.is_finite()) {
                    return Err(TaskError::NotFinite);
                }
            }
        }
        Ok(results)
    }
}

impl Task {
    fn takes(&self, input: &Input) -> bool {
        self.text.takes(self.kind, input)
    }

    fn reads(&self) -> &'static str {
        match (self.kind, self.text.pair) {
            (TaskKind::Tag, _) => "a list of words",
            (_, true) => "a pair of texts",
            (_, false) => "one text",
        }
    }

    /// What rows of logits say.
    fn answer(&self, mut rows: Vec<Option<Vec<f32>>>) -> Answer {
        if self.kind == TaskKind::Tag {
            let tag = |row: Option<Vec<f32>>| row.map(|logits| Prediction::new(&self.labels, logits));
            return Answer::Tags(rows.into_iter().map(tag).collect());
        }
        let logits = rows.pop().flatten().unwrap_or_default();
        match self.kind {
            TaskKind::Regress => Answer::Value(logits[0]),
            TaskKind::Multilabel => Answer::Labels {
                chosen: (0..logits.len()).filter(|i| logits[*i] > 0.0).collect(),
                scores: logits.into_iter().map(head::sigmoid).collect(),
            },
            TaskKind::Classify | TaskKind::Tag => Answer::Label(Prediction::new(&self.labels, logits)),
        }
    }
}

impl Prediction {
    fn new(labels: &[String], logits: Vec<f32>) -> Prediction {
        let mut index = 0;
        for (i, logit) in logits.iter().enumerate() {
            if *logit > logits[index] {
                index = i;
            }
        }
        let scores = head::softmax(&logits);
        Prediction { label: labels[index].clone(), index, score: scores[index], logits, scores }
    }
}

/// Groups texts of similar length: shortest first, and padding is at most an eighth of a text
/// and one token.
fn batches(lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| (lengths[*i], *i));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in order {
        let fits = |group: &Vec<usize>| {
            let shortest = lengths[group[0]];
            group.len() < MAX_BATCH
                && (group.len() + 1) * lengths[i] <= MAX_BATCH_TOKENS
                && lengths[i] <= shortest + shortest / 8 + 1
        };
        match groups.last_mut() {
            Some(group) if fits(group) => group.push(i),
            _ => groups.push(vec![i]),
        }
    }
    groups
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_text_is_in_one_batch_of_similar_length(lengths in prop::collection::vec(1usize..513, 0..200)) {
            let groups = batches(&lengths);
            let mut seen: Vec<usize> = groups.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for group in groups {
                prop_assert!(group.len() <= MAX_BATCH);
                let longest = group.iter().map(|i| lengths[*i]).max().unwrap();
                let shortest = group.iter().map(|i| lengths[*i]).min().unwrap();
                prop_assert!(longest <= shortest + shortest / 8 + 1);
                prop_assert!(group.len() == 1 || group.len() * longest <= MAX_BATCH_TOKENS);
            }
        }
    }

    #[test]
    fn the_first_of_equal_logits_wins() {
        let labels = ["a", "b", "c"].map(String::from);
        let prediction = Prediction::new(&labels, vec![0.5, 2.0, 2.0]);
        assert_eq!((prediction.label.as_str(), prediction.index), ("b", 1));
        assert_eq!(prediction.score, prediction.scores[1]);
    }
}
