//! Several tasks on one engine: texts in, predictions out.

use std::sync::Arc;

use super::{TaskError, Tokenizer, head};
use crate::base::Base;
use crate::engine::{Engine, EngineInfo, Hidden, TaskId, TokenBatch};
use crate::pack::{Golden, Head, Pack, PackDocument, PackFile, Pooling, TextSettings};

/// Texts in a batch, at most.
const MAX_BATCH: usize = 32;

/// Tokens in a batch with its padding, at most (but always one text).
const MAX_BATCH_TOKENS: usize = 2048;

/// How far a golden logit may be off, at precision f32.
pub const GOLDEN_TOLERANCE: f32 = 1e-4;

/// A task of a [`Runner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskRef(usize);

/// A text's label.
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
    /// Number of golden vectors.
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
    id: TaskId,
    name: String,
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
    tasks: Vec<Task>,
}

impl Runner {
    /// A runner without tasks.
    ///
    /// # Errors
    /// When the base's tokenizer cannot be read.
    pub fn new(engine: Box<dyn Engine>, base: Arc<Base>) -> Result<Runner, TaskError> {
        let tokenizer = Tokenizer::open(&base)?;
        Ok(Runner { engine, base, tokenizer, tasks: Vec::new() })
    }

    /// Makes a pack's task resident; switching between resident tasks costs nothing.
    ///
    /// # Errors
    /// When the pack was made for another base, or what the engine reports.
    pub fn add_pack(&mut self, pack: Pack) -> Result<TaskRef, TaskError> {
        pack.check_base(&self.base)?;
        let id = self.engine.load(&pack.masks)?;
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
                let id = self.engine.load(&file.masks(Some(&self.base))?)?;
                self.engine.keep(id, &file);
                id
            }
        };
        let (document, head, golden) = file.without_masks();
        Ok(self.add(id, document, head, golden))
    }

    fn add(&mut self, id: TaskId, document: PackDocument, head: Head, golden: Vec<Golden>) -> TaskRef {
        self.tasks.push(Task { id, name: document.name, labels: document.labels, text: document.text, head, golden });
        TaskRef(self.tasks.len() - 1)
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
        Ok(self.engine.encode(self.task(task)?.id, batch)?)
    }

    /// [`Engine::mask_kernel`] of a task.
    ///
    /// # Errors
    /// When the task is not of this runner.
    pub fn kernel(&self, task: TaskRef, rows: usize) -> Result<Option<&'static str>, TaskError> {
        Ok(self.engine.mask_kernel(self.task(task)?.id, rows))
    }

    /// The name of a task.
    ///
    /// # Errors
    /// When the task is not of this runner.
    pub fn name(&self, task: TaskRef) -> Result<&str, TaskError> {
        self.task(task).map(|t| t.name.as_str())
    }

    /// The labels of a task, in the order of logits and scores.
    ///
    /// # Errors
    /// When the task is not of this runner.
    pub fn labels(&self, task: TaskRef) -> Result<&[String], TaskError> {
        self.task(task).map(|t| t.labels.as_slice())
    }

    fn task(&self, task: TaskRef) -> Result<&Task, TaskError> {
        self.tasks.get(task.0).ok_or(TaskError::NoTask)
    }

    /// Labels texts; the predictions are in the order of the texts.
    ///
    /// Texts of similar length share a batch, so results may differ in the last bits with the
    /// company that a text is in, by about 1e-6 of a logit.
    ///
    /// # Errors
    /// When a text cannot become tokens, or the engine fails.
    pub fn classify(&self, task: TaskRef, texts: &[&str]) -> Result<Vec<Prediction>, TaskError> {
        let all = self.logits(task, texts)?;
        let labels = &self.task(task)?.labels;
        Ok(all.into_iter().map(|logits| Prediction::new(labels, logits)).collect())
    }

    /// Runs a pack's golden vectors and says how far the engine is from them.
    ///
    /// # Errors
    /// As for [`Runner::classify`].
    pub fn check_golden(&self, task: TaskRef) -> Result<GoldenCheck, TaskError> {
        let golden = self.task(task)?.golden.clone();
        let texts: Vec<&str> = golden.iter().map(|g| g.text.as_str()).collect();
        let found = self.logits(task, &texts)?;
        let differences = golden.iter().zip(&found).flat_map(|(g, f)| g.logits.iter().zip(f));
        let max_difference = differences.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        Ok(GoldenCheck { texts: golden.len(), max_difference })
    }

    /// The head's output for each text.
    fn logits(&self, task: TaskRef, texts: &[&str]) -> Result<Vec<Vec<f32>>, TaskError> {
        let task = self.tasks.get(task.0).ok_or(TaskError::NoTask)?;
        let tokens = self.tokenizer.encode_batch(texts, task.text.max_tokens)?;
        let mut results = vec![Vec::new(); texts.len()];
        for group in batches(&tokens.iter().map(Vec::len).collect::<Vec<_>>()) {
            let rows: Vec<&[i64]> = group.iter().map(|i| tokens[*i].as_slice()).collect();
            let batch = self.tokenizer.pad(&rows);
            let hidden = self.engine.encode(task.id, &batch)?;
            let pooling: Pooling = task.text.pooling;
            for (i, pooled) in group.into_iter().zip(head::pool(&hidden, &batch, pooling)) {
                let logits = head::logits(&task.head, &pooled);
                if !logits.iter().all(|l| l.is_finite()) {
                    return Err(TaskError::NotFinite);
                }
                results[i] = logits;
            }
        }
        Ok(results)
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
