//! Several tasks on one engine: texts in, answers out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use super::task::{Rows, Task};
use super::work::Work;
use super::{Answer, Reply, TaskError, Tokenizer};
use crate::base::{Base, Precision};
use crate::engine::{Changes, Engine, EngineInfo, Hidden, TaskId, TokenBatch};
use crate::pack::{Input, Pack, PackFile};

/// How far an engine is from a pack's golden vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldenCheck {
    /// Number of golden inputs.
    pub texts: usize,
    /// The largest absolute difference of a logit, of the golden input that is furthest off beside its tolerance; 0
    /// without golden vectors.
    pub max_difference: f32,
    /// How large it may be, in the precision of the base: see [`golden_tolerance`].
    pub tolerance: f32,
}

impl GoldenCheck {
    /// Whether the engine is within the tolerance.
    pub fn is_ok(&self) -> bool {
        self.max_difference <= self.tolerance
    }
}

/// How far a golden logit may be off, which was recorded on the f32 base, where `largest` is the largest magnitude of
/// those of its input: 1e-4 at f32, 0.01 · (1 + largest) at bf16, 0.1 · (1 + largest) at int8.
pub fn golden_tolerance(precision: Precision, largest: f32) -> f32 {
    match precision {
        Precision::F32 => 1e-4,
        Precision::Bf16 => 0.01 * (1.0 + largest),
        Precision::Int8 => 0.1 * (1.0 + largest),
    }
}

/// An engine with its base, a tokenizer, and the tasks that were added. Threads may share it: tasks come and
/// go while other threads ask.
pub struct Runner {
    engine: Arc<dyn Engine>,
    base: Arc<Base>,
    tokenizer: Tokenizer,
    tasks: RwLock<BTreeMap<TaskId, Arc<Task>>>,
}

impl Runner {
    /// A runner without tasks, on the engine `native` with its default options: all processors, and nothing
    /// kept in files.
    ///
    /// # Errors
    /// When the base cannot be used, or is none that the engine knows.
    #[cfg(feature = "native")]
    pub fn open(base: impl AsRef<Path>) -> Result<Runner, TaskError> {
        use crate::engine::native::NativeEngine;

        let base = Arc::new(Base::open(base.as_ref()).map_err(crate::engine::EngineError::from)?);
        let engine: Arc<dyn Engine> = Arc::new(NativeEngine::new(Arc::clone(&base), &Default::default())?);
        Runner::new(engine, base)
    }

    /// A runner without tasks on an engine, which runs this base.
    ///
    /// # Errors
    /// When the base's tokenizer cannot be read.
    pub fn new(engine: impl Into<Arc<dyn Engine>>, base: Arc<Base>) -> Result<Runner, TaskError> {
        let engine = engine.into();
        let tokenizer = Tokenizer::open_in(&base, engine.derived())?;
        Ok(Runner { engine, base, tokenizer, tasks: RwLock::default() })
    }

    /// Takes in the task of a pack's file (of a set: `SET#NAME`); going from one task to another costs nothing.
    ///
    /// # Errors
    /// When the file is no usable pack, it was made for another base, or what the engine reports.
    pub fn add(&self, pack: impl AsRef<Path>) -> Result<TaskId, TaskError> {
        self.add_file(PackFile::open(pack.as_ref())?)
    }

    /// The same for a file that was read before, whose signature was checked for example. What the engine has
    /// kept of it is not decoded again.
    ///
    /// # Errors
    /// When the pack was made for another base, a mask is damaged, or what the engine reports.
    pub fn add_file(&self, file: PackFile) -> Result<TaskId, TaskError> {
        file.check_base(&self.base)?;
        let id = self.engine.add(Changes::from(&file))?;
        let (document, head, golden) = file.into_head();
        Ok(self.keep(id, Task::new(document, head, golden)))
    }

    /// The same for a pack whose masks are decoded.
    ///
    /// # Errors
    /// When the pack was made for another base, or what the engine reports.
    pub fn add_pack(&self, pack: Pack) -> Result<TaskId, TaskError> {
        pack.check_base(&self.base)?;
        let id = self.engine.add(Changes::from(&pack))?;
        Ok(self.keep(id, Task::new(pack.document, pack.head, pack.golden)))
    }

    fn keep(&self, id: TaskId, task: Task) -> TaskId {
        self.tasks.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::new(task));
        id
    }

    /// Lets a task go, with what the engine holds of it; the others stay as they are.
    ///
    /// # Errors
    /// When the task is not of this runner, or was removed before.
    pub fn remove(&self, task: TaskId) -> Result<(), TaskError> {
        let removed = self.tasks.write().unwrap_or_else(PoisonError::into_inner).remove(&task);
        removed.ok_or(TaskError::NoTask)?;
        Ok(self.engine.remove(task)?)
    }

    /// A task, for what its pack says.
    ///
    /// # Errors
    /// When the task is not of this runner.
    pub fn task(&self, task: TaskId) -> Result<Arc<Task>, TaskError> {
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        tasks.get(&task).cloned().ok_or(TaskError::NoTask)
    }

    /// The base.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The engine and its precision.
    pub fn describe(&self) -> EngineInfo {
        self.engine.describe()
    }

    /// The engine.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// The base's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Runs the encoder alone on tokens, with a task's weights.
    ///
    /// # Errors
    /// When the task is not of this runner, the batch does not fit the base, or the engine fails.
    pub fn encode(&self, task: TaskId, batch: &TokenBatch) -> Result<Hidden, TaskError> {
        self.task(task)?;
        Ok(self.engine.encode(task, batch)?)
    }

    /// Answers requests: for each an input and its tasks, whose answers are in the order of the tasks.
    ///
    /// A text becomes what each task reads (see [`Question::new`](super::Question::new)), and tokens once for
    /// all tasks that read it alike. Inputs share plans (those of similar length, where the engine pads), and tasks of
    /// one text what they have in common (see [`Engine::sharing`]), so results may differ in the last
    /// bits with the company that one is in, by about 1e-6 of a logit.
    ///
    /// # Errors
    /// When an input is not of a form that its task reads or cannot become tokens (the error has the
    /// request's place), a task is not of this runner, or the engine fails. [`Runner::run_each`] answers what
    /// can be answered all the same.
    pub fn run<I, T>(&self, requests: &[(I, T)]) -> Result<Vec<Vec<Answer>>, TaskError>
    where
        I: Clone + Into<Input>,
        T: AsRef<[TaskId]>,
    {
        let answers = |(index, replies): (usize, Vec<Result<Reply, TaskError>>)| {
            let answers = replies.into_iter().map(|reply| reply.map(|reply| reply.answer));
            answers.collect::<Result<Vec<_>, _>>().map_err(|error| error.at(index))
        };
        self.run_each(requests).into_iter().enumerate().map(answers).collect()
    }

    /// The same where a bad input costs its own answer alone: for each request and each of its tasks a reply,
    /// or what is wrong.
    pub fn run_each<I, T>(&self, requests: &[(I, T)]) -> Vec<Vec<Result<Reply, TaskError>>>
    where
        I: Clone + Into<Input>,
        T: AsRef<[TaskId]>,
    {
        let mut work = Work::default();
        let mut asked = Vec::new();
        for (index, (input, tasks)) in requests.iter().enumerate() {
            let input = input.clone().into();
            let places = tasks.as_ref().iter().map(|id| work.ask(self, index, &input, *id));
            asked.push(places.collect::<Vec<_>>());
        }
        let mut replies = work.replies(self);
        let mut reply = |place| replies.remove(&place).unwrap_or(Err(TaskError::NoTask));
        let replies = |places: Vec<Result<usize, _>>| places.into_iter().map(|place| reply(place?)).collect();
        asked.into_iter().map(replies).collect()
    }

    /// Answers for one task; in the order of the inputs.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub fn predict(&self, task: TaskId, inputs: &[Input]) -> Result<Vec<Answer>, TaskError> {
        self.task(task)?;
        let requests: Vec<(&Input, [TaskId; 1])> = inputs.iter().map(|input| (input, [task])).collect();
        Ok(self.run(&requests)?.into_iter().flatten().collect())
    }

    /// The head's output for each input.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub fn logits(&self, task: TaskId, inputs: &[Input]) -> Result<Vec<Rows>, TaskError> {
        self.task(task)?;
        let mut work = Work::default();
        for (index, input) in inputs.iter().enumerate() {
            work.ask(self, index, input, task).map_err(|error| error.at(index))?;
        }
        work.rows(self)
    }

    /// Runs a pack's golden vectors and says how far the engine is from them.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub fn check_golden(&self, task: TaskId) -> Result<GoldenCheck, TaskError> {
        let of_task = self.task(task)?;
        let golden = of_task.golden();
        let inputs: Vec<Input> = golden.iter().map(|g| g.input.clone()).collect();
        let found = self.logits(task, &inputs)?;
        let precision = self.engine.describe().precision;
        let texts = golden.len();
        let mut worst = GoldenCheck { texts, max_difference: 0.0, tolerance: golden_tolerance(precision, 0.0) };
        for (golden, rows) in golden.iter().zip(found) {
            let found: Vec<f32> = rows.into_iter().flatten().flatten().collect();
            // A word that had logits may have none here.
            let start = if found.len() == golden.logits.len() { 0.0 } else { f32::INFINITY };
            // What is no number is as far off as can be.
            let apart =
                |(a, b): (&f32, &f32)| Some((a - b).abs()).filter(|apart| !apart.is_nan()).unwrap_or(f32::INFINITY);
            let differences = golden.logits.iter().zip(&found).map(apart);
            let max_difference = differences.fold(start, f32::max);
            let largest = golden.logits.iter().fold(0f32, |most, logit| most.max(logit.abs()));
            let tolerance = golden_tolerance(precision, largest);
            if max_difference / tolerance >= worst.max_difference / worst.tolerance {
                worst = GoldenCheck { texts, max_difference, tolerance };
            }
        }
        Ok(worst)
    }
}
