//! What all connections share: the way of a request from the moment that it is read to its reply.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::timeout_at;

use super::batch::Done;
use super::connections::{Busy, Connection, Connections};
use super::failure::{Code, Failure};
use super::metrics::{Metrics, Now};
use super::protocol::{self, Request, Unreadable};
use super::queue::{Job, Queue};
use super::tasks::Active;

/// Bytes of a request that are free: only what is longer counts as held.
pub(super) const FREE: usize = 16 << 10;

/// What connections may do.
pub(super) struct Limits {
    /// Bytes of a request.
    pub(super) max_body: usize,
    /// Answers of a request.
    pub(super) max_answers: usize,
    /// Answers that a connection may be waiting for before no more of it is read; one request may go beyond.
    pub(super) max_pending: usize,
    /// How long a request may take to arrive, and its reply to be taken.
    pub(super) io_timeout: Duration,
    /// How long HTTP connections may be idle.
    pub(super) idle_timeout: Duration,
    /// How long a request may wait for its answer.
    pub(super) timeout: Duration,
}

/// The server.
pub(super) struct Server {
    pub(super) limits: Limits,
    pub(super) active: Active,
    pub(super) queue: Queue,
    pub(super) metrics: Metrics,
    pub(super) connections: Connections,
    /// Bytes that are left for requests that arrive and wait.
    memory: Arc<Semaphore>,
    max_memory: usize,
    stop: watch::Sender<bool>,
}

/// Bytes of a request that count, until it is answered.
pub(super) struct Held {
    memory: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Counts so many bytes in all.
    ///
    /// # Errors
    /// When there is no room for them.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        let has = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.saturating_sub(FREE).saturating_sub(has);
        if more == 0 {
            return Ok(());
        }
        let full = || Failure::overloaded("the memory for requests (--max-memory)");
        let more = u32::try_from(more).map_err(|_| full())?;
        let permit = Arc::clone(&self.memory).try_acquire_many_owned(more).map_err(|_| full())?;
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
        Ok(())
    }
}

/// A reply as it is sent.
pub(super) struct Reply {
    /// Why there is no answer, if there is none.
    pub(super) failed: Option<Code>,
    /// A JSON object.
    pub(super) bytes: Vec<u8>,
}

/// A request that is not answered yet.
pub(super) struct Pending {
    id: Option<Box<RawValue>>,
    state: State,
    /// How many answers it waits for.
    pub(super) answers: usize,
    began: Instant,
    _held: Held,
    _busy: Busy,
}

enum State {
    Failed(Failure),
    Waits(oneshot::Receiver<Result<Done, Failure>>),
}

impl Server {
    pub(super) fn new(limits: Limits, active: Active, queue: Queue, connections: usize, max_memory: usize) -> Self {
        let memory = Arc::new(Semaphore::new(max_memory));
        let (connections, metrics, stop) = (Connections::new(connections), Metrics::new(), watch::Sender::new(false));
        Server { limits, active, queue, metrics, connections, memory, max_memory, stop }
    }

    /// Room for a request that arrives.
    pub(super) fn held(&self) -> Held {
        Held { memory: Arc::clone(&self.memory), permit: None }
    }

    /// Takes no more requests, and lets connections end with those that they have.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
        self.queue.close();
    }

    /// Turns true when the server stops.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Whether it stops.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Asks what a connection has sent.
    pub(super) fn ask(&self, connection: &Arc<Connection>, bytes: &[u8], held: Held) -> Pending {
        match Request::read(bytes) {
            Ok(Request { id, tasks, inputs }) => {
                let (reply, wait) = oneshot::channel();
                let answers = self.answers(&tasks, inputs.len());
                let put = answers.and_then(|answers| {
                    self.queue.put(connection.number, Job { tasks, inputs, answers, reply })?;
                    Ok(answers)
                });
                let answers = *put.as_ref().unwrap_or(&0);
                self.pending(connection, id, held, put.err().map_or(State::Waits(wait), State::Failed), answers)
            }
            Err(Unreadable { id, failure }) => self.pending(connection, id, held, State::Failed(failure), 0),
        }
    }

    /// What a connection has sent is an error without being read.
    pub(super) fn refuse(&self, connection: &Arc<Connection>, failure: Failure) -> Pending {
        self.pending(connection, None, self.held(), State::Failed(failure), 0)
    }

    fn pending(
        &self,
        connection: &Arc<Connection>,
        id: Option<Box<RawValue>>,
        held: Held,
        state: State,
        answers: usize,
    ) -> Pending {
        let busy = self.connections.busy(connection);
        Pending { id, state, answers, began: Instant::now(), _held: held, _busy: busy }
    }

    /// How many answers a request asks for.
    fn answers(&self, tasks: &[String], inputs: usize) -> Result<usize, Failure> {
        let table = self.active.now();
        tasks.iter().try_for_each(|name| table.find(name).map(drop))?;
        let tasks = match (tasks.len(), table.tasks.len()) {
            (0, 0) => {
                let message = "there are no tasks yet; `overmask flash` brings some to the store";
                return Err(Failure::new(Code::UnknownTask, message));
            }
            (0, all) => all,
            (named, _) => named,
        };
        let (answers, limit) = (inputs.saturating_mul(tasks), self.limits.max_answers);
        if answers > limit {
            let message = format!("{inputs} inputs for {tasks} tasks are {answers} answers, and not {limit} at most");
            return Err(Failure::new(Code::TooLarge, format!("{message} (--max-answers); ask for fewer at once")));
        }
        Ok(answers)
    }

    /// What is so at the moment.
    pub(super) fn now(&self) -> Now {
        let table = self.active.now();
        Now {
            generation: table.generation,
            tasks: table.tasks.len(),
            unavailable: table.unavailable(),
            caches: table.caches(),
            waiting: self.queue.depth(),
            connections: self.connections.count(),
            held_bytes: self.max_memory.saturating_sub(self.memory.available_permits()),
        }
    }

    /// The reply that is an error.
    pub(super) fn failed(&self, id: Option<&RawValue>, failure: &Failure) -> Reply {
        self.metrics.failed(failure.code);
        // Nothing in it cannot be JSON.
        let bytes = protocol::error(id, failure).unwrap_or_default();
        Reply { failed: Some(failure.code), bytes }
    }
}

impl Pending {
    /// Whether the reply is there without waiting for it.
    pub(super) fn is_ready(&self) -> bool {
        match &self.state {
            State::Failed(_) => true,
            State::Waits(wait) => !wait.is_empty() || wait.is_terminated(),
        }
    }

    /// Waits for the reply. Who gives up and calls again misses nothing.
    pub(super) async fn reply(&mut self, server: &Server) -> Reply {
        let id = self.id.as_deref();
        let done = match &mut self.state {
            State::Failed(failure) => return server.failed(id, failure),
            State::Waits(wait) => {
                let deadline = self.began + server.limits.timeout;
                timeout_at(deadline.into(), wait).await
            }
        };
        let late = || {
            let message = format!("there was no answer within {} s (--timeout)", server.limits.timeout.as_secs_f64());
            Failure::new(Code::TimedOut, message)
        };
        let done = done.map_err(|_| late()).and_then(|done| done.unwrap_or_else(|_| Err(Failure::stopping())));
        let written = done.and_then(|done| {
            let bytes = protocol::answers(id, done.generation, &done.said);
            let failed = |error: anyhow::Error| Failure::new(Code::EngineFailed, error.to_string());
            bytes.map(|bytes| (done, bytes)).map_err(failed)
        });
        match written {
            Ok((done, bytes)) => {
                let failures = done.said.iter().filter_map(|said| said.reply.as_ref().err());
                failures.clone().for_each(|failure| server.metrics.failed(failure.code));
                let answers = done.said.len() - failures.count();
                server.metrics.answered(answers, self.began.elapsed());
                Reply { failed: None, bytes }
            }
            Err(failure) => server.failed(id, &failure),
        }
    }
}
