//! Requests that wait, and the thread that computes them: what waits becomes one batch, each connection in its turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use overmask::pack::Input;
use tokio::sync::oneshot;

use super::batch::{Ask, Done, answer};
use super::failure::Failure;
use super::metrics::Metrics;
use super::tasks::Active;

/// The share of the time of a batch of several, as a divisor, that its clients have to ask again.
const AGAIN: u32 = 16;

/// A request that waits.
pub(super) struct Job {
    /// The tasks by name; none: all of them.
    pub(super) tasks: Vec<String>,
    pub(super) inputs: Vec<Input>,
    /// How many answers that is, as far as is known before it runs.
    pub(super) answers: usize,
    pub(super) reply: oneshot::Sender<Result<Done, Failure>>,
}

/// A bounded queue.
pub(super) struct Queue {
    /// Answers that may wait.
    limit: usize,
    /// Answers of a batch, at most; always one request.
    max_batch: usize,
    /// How long the first request of a batch waits for others.
    max_wait: Duration,
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// The requests of each connection that has any.
    of: BTreeMap<u64, VecDeque<Job>>,
    /// Those connections, in the order of their turns.
    turns: VecDeque<u64>,
    answers: usize,
    closed: bool,
    /// When the batch began that runs now.
    running: Option<Instant>,
    /// How many answers the last batch had.
    last: usize,
}

impl Queue {
    pub(super) fn new(limit: usize, max_batch: usize, max_wait: Duration) -> Self {
        Queue { limit, max_batch, max_wait, waiting: Mutex::default(), more: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request of a connection into the queue.
    ///
    /// # Errors
    /// When it is full, or closed.
    pub(super) fn put(&self, connection: u64, job: Job) -> Result<(), Failure> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Failure::stopping());
        }
        if waiting.answers > 0 && waiting.answers + job.answers > self.limit {
            return Err(Failure::overloaded("the queue (--queue)"));
        }
        waiting.answers += job.answers;
        let jobs = waiting.of.entry(connection).or_default();
        jobs.push_back(job);
        if jobs.len() == 1 {
            waiting.turns.push_back(connection);
        }
        drop(waiting);
        self.more.notify_one();
        Ok(())
    }

    /// Takes no more; what waits is still answered.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.more.notify_one();
    }

    /// Answers that are waited for.
    pub(super) fn depth(&self) -> usize {
        self.lock().answers
    }

    /// Since when the batch runs that runs now.
    pub(super) fn running(&self) -> Option<Instant> {
        self.lock().running
    }

    /// What is to be run next; none at the end.
    fn next(&self) -> Option<Vec<Job>> {
        let mut waiting = self.lock();
        // Who was answered just now asks again at once: it is worth a little of a batch's time to wait for as many.
        let again = match waiting.running.take() {
            Some(since) if waiting.last > 1 => since.elapsed() / AGAIN,
            _ => Duration::ZERO,
        };
        let as_many = waiting.last.min(self.max_batch);
        if !again.is_zero() && !waiting.closed {
            let few = |waiting: &mut Waiting| waiting.answers < as_many && !waiting.closed;
            let waited = self.more.wait_timeout_while(waiting, again, few);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        loop {
            let idle = |waiting: &mut Waiting| waiting.turns.is_empty() && !waiting.closed;
            waiting = self.more.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner);
            if waiting.turns.is_empty() {
                return None;
            }
            if !self.max_wait.is_zero() {
                let few = |waiting: &mut Waiting| waiting.answers < self.max_batch && !waiting.closed;
                let waited = self.more.wait_timeout_while(waiting, self.max_wait, few);
                waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            let batch = waiting.take(self.max_batch);
            if !batch.is_empty() {
                waiting.running = Some(Instant::now());
                waiting.last = batch.iter().map(|job| job.answers).sum();
                return Some(batch);
            }
        }
    }

    /// Computes until the queue is closed and empty.
    pub(super) fn run(&self, active: &Active, metrics: &Metrics) {
        while let Some(batch) = self.next() {
            // All of a batch is of this generation, whatever becomes active meanwhile.
            let table = active.now();
            let begin = Instant::now();
            let asked: usize = batch.iter().map(|job| job.answers).sum();
            let split = |job: Job| (Ask { tasks: job.tasks, inputs: job.inputs }, job.reply);
            let (asks, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(split).unzip();
            let done = answer(&table, &asks);
            metrics.batch(asked, begin.elapsed());
            for (done, reply) in done.into_iter().zip(replies) {
                // Who does not wait any more is gone.
                let _ = reply.send(done);
            }
        }
    }
}

impl Waiting {
    /// The next requests, one of each connection in turn, as long as they are no more answers than this together; at
    /// least one, unless all are given up.
    fn take(&mut self, max: usize) -> Vec<Job> {
        let (mut batch, mut answers) = (Vec::new(), 0);
        while let Some(connection) = self.turns.front().copied() {
            let Some(jobs) = self.of.get_mut(&connection) else {
                self.turns.pop_front();
                continue;
            };
            let is_given_up = jobs.front().is_some_and(|job| job.reply.is_closed());
            if !is_given_up && !batch.is_empty() && jobs.front().is_some_and(|job| answers + job.answers > max) {
                break;
            }
            let job = jobs.pop_front();
            self.turns.pop_front();
            match jobs.is_empty() {
                true => drop(self.of.remove(&connection)),
                false => self.turns.push_back(connection),
            }
            let Some(job) = job else { continue };
            self.answers -= job.answers;
            if !is_given_up {
                answers += job.answers;
                batch.push(job);
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::failure::Code;

    fn job(name: &str, answers: usize) -> (Job, oneshot::Receiver<Result<Done, Failure>>) {
        let (reply, wait) = oneshot::channel();
        (Job { tasks: vec![name.to_owned()], inputs: Vec::new(), answers, reply }, wait)
    }

    fn names(batch: &[Job]) -> Vec<&str> {
        batch.iter().map(|job| job.tasks[0].as_str()).collect()
    }

    #[test]
    fn connections_take_turns_and_who_is_gone_costs_nothing() {
        let queue = Queue::new(100, 4, Duration::ZERO);
        let mut waits = Vec::new();
        for (connection, name, answers) in
            [(1, "a1", 1), (1, "a2", 1), (1, "a3", 9), (2, "b1", 2), (3, "c1", 1), (2, "b2", 1), (3, "c2", 1)]
        {
            let (job, wait) = job(name, answers);
            queue.put(connection, job).unwrap();
            waits.push((name, wait));
        }
        assert_eq!(queue.depth(), 16);
        assert_eq!(names(&queue.next().unwrap()), ["a1", "b1", "c1"]);
        assert!(queue.running().is_some());
        waits.retain(|(name, _)| *name != "b2");
        assert_eq!(names(&queue.next().unwrap()), ["a2", "c2"]);
        queue.close();
        assert_eq!(names(&queue.next().unwrap()), ["a3"]);
        assert!(queue.next().is_none() && queue.depth() == 0);
        assert_eq!(queue.put(1, job("late", 1).0).unwrap_err().code, Code::Stopping);
    }

    #[test]
    fn a_full_queue_takes_no_more_and_an_empty_one_anything() {
        let queue = Queue::new(4, 4, Duration::ZERO);
        let waits: Vec<_> = [(1, 9), (2, 1)]
            .map(|(connection, answers)| {
                let (job, wait) = job("x", answers);
                (queue.put(connection, job).map_err(|failure| failure.code), wait)
            })
            .into();
        assert_eq!(waits.iter().map(|(put, _)| *put).collect::<Vec<_>>(), [Ok(()), Err(Code::Overloaded)]);
    }

    #[test]
    fn a_first_request_waits_for_others_as_long_as_is_said() {
        let queue = Queue::new(100, 2, Duration::from_secs(60));
        let (first, second) = (job("a", 1), job("b", 1));
        queue.put(1, first.0).unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| queue.next().map(|batch| batch.len()));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!next.is_finished());
            queue.put(2, second.0).unwrap();
            assert_eq!(next.join().unwrap(), Some(2));
        });
        let queue = Queue::new(100, 2, Duration::from_millis(5));
        let only = job("a", 1);
        queue.put(1, only.0).unwrap();
        assert_eq!(queue.next().map(|batch| batch.len()), Some(1));
    }
}
