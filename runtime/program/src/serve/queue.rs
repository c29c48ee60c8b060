//! Requests that wait, and the thread that computes them: what waits is run as one batch, each connection in its turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use overmask::engine::TaskId;
use overmask::fence::Fence;
use overmask::pack::Input;
use overmask::task::Reply;
use tokio::sync::oneshot;

use super::metrics::Metrics;
use super::protocol::{Code, Failure, Said};
use super::tasks::{Active, Loaded, Table};

/// A request that waits.
pub(super) struct Job {
    /// The tasks by name; none: all of them.
    pub(super) tasks: Vec<String>,
    pub(super) inputs: Vec<Input>,
    /// How many answers that is, as far as is known before it runs.
    pub(super) answers: usize,
    pub(super) reply: oneshot::Sender<Result<Done, Failure>>,
}

/// What became of a request, all of one generation.
pub(super) struct Done {
    pub(super) generation: u64,
    pub(super) said: Vec<Said>,
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
        waiting.running = None;
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
            let (jobs, replies): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|job| (Ask::new(job.tasks, job.inputs), job.reply)).unzip();
            let done = answer(&table, &jobs);
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

/// What a request asks for.
struct Ask {
    tasks: Vec<String>,
    inputs: Vec<Input>,
}

impl Ask {
    fn new(tasks: Vec<String>, inputs: Vec<Input>) -> Self {
        Ask { tasks, inputs }
    }

    /// Its tasks, as a generation has them. One that was named must be there; of all, those that can answer do.
    fn tasks<'a>(&'a self, table: &'a Table) -> Result<Vec<(&'a str, Result<&'a Arc<Loaded>, Failure>)>, Failure> {
        if self.tasks.is_empty() {
            return Ok(table.tasks.keys().map(|name| (name.as_str(), table.find(name))).collect());
        }
        self.tasks.iter().map(|name| Ok((name.as_str(), Ok(table.find(name)?)))).collect()
    }
}

/// Answers requests with the tasks of one generation.
fn answer(table: &Table, asks: &[Ask]) -> Vec<Result<Done, Failure>> {
    let chosen: Vec<_> = asks.iter().map(|ask| ask.tasks(table)).collect();
    // Tasks of one base share a call.
    let mut calls: Vec<Call<'_>> = Vec::new();
    let mut places = Vec::new();
    for (ask, chosen) in asks.iter().zip(&chosen) {
        let Ok(chosen) = chosen else {
            places.push(Vec::new());
            continue;
        };
        let mut of_ask = Vec::new();
        for input in &ask.inputs {
            let mut of_input = Vec::new();
            let from: Vec<usize> = calls.iter().map(|call| call.requests.len()).collect();
            for (_, loaded) in chosen {
                of_input.push(loaded.as_ref().ok().map(|loaded| place(&mut calls, &from, input, loaded)));
            }
            of_ask.push(of_input);
        }
        places.push(of_ask);
    }
    let mut replies: Vec<_> = calls.iter().map(Call::run).collect();
    let mut said = |(call, request, task): Place| std::mem::replace(&mut replies[call][request][task], Err(lost()));
    let mut all = Vec::new();
    for (chosen, places) in chosen.iter().zip(places) {
        let Ok(chosen) = chosen else {
            all.push(Err(chosen.as_ref().err().cloned().unwrap_or_else(lost)));
            continue;
        };
        let mut of_ask = Vec::new();
        for (input, places) in places.into_iter().enumerate() {
            for ((name, loaded), place) in chosen.iter().zip(places) {
                let reply = match (loaded, place) {
                    (Ok(loaded), Some(place)) => said(place).map(|reply| (Arc::clone(loaded), reply)),
                    (Err(failure), _) => Err(failure.clone()),
                    (Ok(_), None) => Err(lost()),
                };
                of_ask.push(Said { input, task: (*name).to_owned(), reply });
            }
        }
        all.push(outcome(table.generation, of_ask));
    }
    all
}

/// A request of which nothing can be answered fails with the first reason.
fn outcome(generation: u64, said: Vec<Said>) -> Result<Done, Failure> {
    let failures = || said.iter().map(|said| said.reply.as_ref().err());
    match failures().next() {
        Some(Some(first)) if failures().all(|failure| failure.is_some()) => Err(first.clone()),
        _ => Ok(Done { generation, said }),
    }
}

/// Requests to one base.
struct Call<'a> {
    loaded: &'a Arc<Loaded>,
    requests: Vec<(&'a Input, Vec<TaskId>)>,
}

/// Where an answer is: the call, the request in it, the task of that.
type Place = (usize, usize, usize);

/// Adds a task of an input to the call of its base; `from` is how many requests each call had before this input.
fn place<'a>(calls: &mut Vec<Call<'a>>, from: &[usize], input: &'a Input, loaded: &'a Arc<Loaded>) -> Place {
    let found = calls.iter().position(|call| Arc::ptr_eq(&call.loaded.base, &loaded.base));
    let call = found.unwrap_or_else(|| {
        calls.push(Call { loaded, requests: Vec::new() });
        calls.len() - 1
    });
    let requests = &mut calls[call].requests;
    if requests.len() == from.get(call).copied().unwrap_or(0) {
        requests.push((input, Vec::new()));
    }
    let request = requests.len() - 1;
    let tasks = &mut requests[request].1;
    tasks.push(loaded.id);
    (call, request, tasks.len() - 1)
}

impl Call<'_> {
    /// The replies, for each request and each of its tasks. An engine that panics on some of them fails those alone.
    fn run(&self) -> Vec<Vec<Result<Reply, Failure>>> {
        let run = |requests: &[(&Input, Vec<TaskId>)]| {
            let runner = &self.loaded.base.runner;
            Fence::new("engine", runner.base().dir()).run(|| runner.run_each(requests))
        };
        let alone = |request: &(&Input, Vec<TaskId>)| match run(std::slice::from_ref(request)) {
            Ok(replies) => failures(replies).remove(0),
            Err(panicked) => {
                log::error!("{panicked}");
                let failed = || Err(Failure::new(Code::EngineFailed, panicked.to_string()));
                request.1.iter().map(|_| failed()).collect()
            }
        };
        match run(&self.requests) {
            Ok(replies) => failures(replies),
            Err(_) => self.requests.iter().map(alone).collect(),
        }
    }
}

fn failures(replies: Vec<Vec<Result<Reply, overmask::task::TaskError>>>) -> Vec<Vec<Result<Reply, Failure>>> {
    let failure = |reply: Result<Reply, _>| reply.map_err(|error| Failure::from(&error));
    replies.into_iter().map(|replies| replies.into_iter().map(failure).collect()).collect()
}

fn lost() -> Failure {
    Failure::new(Code::EngineFailed, "the answer is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

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
