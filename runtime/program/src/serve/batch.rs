//! Requests become answers, all with the tasks of one generation: those of one base in one call.

use std::sync::Arc;

use overmask::engine::TaskId;
use overmask::fence::Fence;
use overmask::pack::Input;
use overmask::task::{Reply, TaskError};

use super::failure::{Code, Failure};
use super::protocol::Said;
use super::tasks::{Loaded, Table};

/// What a request asks for.
pub(super) struct Ask {
    /// The tasks by name; none: all of them.
    pub(super) tasks: Vec<String>,
    pub(super) inputs: Vec<Input>,
}

/// What became of a request, all of one generation.
pub(super) struct Done {
    pub(super) generation: u64,
    pub(super) said: Vec<Said>,
}

/// A task of a generation by its name, or why it cannot answer.
type Chosen<'a> = (&'a str, Result<&'a Arc<Loaded>, Failure>);

impl Ask {
    /// Its tasks, as a generation has them. One that was named must be there; of all, those that can answer do.
    fn tasks<'a>(&'a self, table: &'a Table) -> Result<Vec<Chosen<'a>>, Failure> {
        if self.tasks.is_empty() {
            return Ok(table.tasks.keys().map(|name| (name.as_str(), table.find(name))).collect());
        }
        self.tasks.iter().map(|name| Ok((name.as_str(), Ok(table.find(name)?)))).collect()
    }
}

/// Answers requests with the tasks of one generation.
pub(super) fn answer(table: &Table, asks: &[Ask]) -> Vec<Result<Done, Failure>> {
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

fn failures(replies: Vec<Vec<Result<Reply, TaskError>>>) -> Vec<Vec<Result<Reply, Failure>>> {
    let failure = |reply: Result<Reply, _>| reply.map_err(|error| Failure::from(&error));
    replies.into_iter().map(|replies| replies.into_iter().map(failure).collect()).collect()
}

fn lost() -> Failure {
    Failure::new(Code::EngineFailed, "the answer is missing")
}
