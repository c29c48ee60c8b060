//! What some requests ask for, and how it is computed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::groups::groups;
use super::task::{Rows, Task};
use super::{Answer, Question, Reply, Runner, TaskError, Tokens};
use crate::engine::{EngineError, Plan, TaskId};
use crate::pack::Input;

/// What some requests ask for: each text as tokens once, for all the tasks that read it alike.
#[derive(Default)]
pub(super) struct Work {
    asked: Vec<Asked>,
    tokens: Vec<Tokens>,
    /// For each of `tokens`, what asked for it, as places in `asked`.
    users: Vec<Vec<usize>>,
}

/// A request's input for one of its tasks.
struct Asked {
    request: usize,
    id: TaskId,
    task: Arc<Task>,
    question: Question,
    tokens: usize,
}

impl Asked {
    fn reply(&self, tokens: &Tokens, rows: Rows) -> Reply {
        let answer = Answer::new(&self.task, &self.question, rows);
        Reply { answer, tokens: tokens.len(), dropped: tokens.dropped }
    }
}

impl Work {
    /// Asks for a task's answer to a request's input; returns its place among all that is asked for.
    pub(super) fn ask(
        &mut self,
        runner: &Runner,
        request: usize,
        input: &Input,
        id: TaskId,
    ) -> Result<usize, TaskError> {
        let task = runner.task(id)?;
        let question = Question::new(&task, input)?;
        // Only the same request can have asked for the same tokens.
        let alike = self.asked.iter().rev().take_while(|before| before.request == request).find(|before| {
            before.question.input == question.input && before.task.text().max_tokens == task.text().max_tokens
        });
        let tokens = match alike {
            Some(before) => before.tokens,
            None => {
                self.tokens.push(runner.tokenizer().encode(&question.input, task.text().max_tokens)?);
                self.users.push(Vec::new());
                self.tokens.len() - 1
            }
        };
        let place = self.asked.len();
        self.users[tokens].push(place);
        self.asked.push(Asked { request, id, task, question, tokens });
        Ok(place)
    }

    /// The head's output for everything that was asked, in that order.
    pub(super) fn rows(&self, runner: &Runner) -> Result<Vec<Rows>, TaskError> {
        let mut all = vec![Rows::new(); self.asked.len()];
        for texts in self.groups(runner) {
            for (place, rows) in self.run(runner, &texts)? {
                all[place] = rows?;
            }
        }
        Ok(all)
    }

    /// The replies to everything that was asked, by their places.
    pub(super) fn replies(&self, runner: &Runner) -> BTreeMap<usize, Result<Reply, TaskError>> {
        let reply = |(place, rows): (usize, Result<Rows, TaskError>)| {
            let asked = &self.asked[place];
            (place, rows.map(|rows| asked.reply(&self.tokens[asked.tokens], rows)))
        };
        self.groups(runner).flat_map(|texts| self.run_each(runner, &texts)).map(reply).collect()
    }

    /// Runs texts in one plan; where that fails one by one, so that what is to blame fails alone.
    fn run_each(&self, runner: &Runner, texts: &[(usize, &[usize])]) -> Found {
        match (self.run(runner, texts), texts) {
            (Ok(found), _) => found,
            (Err(error), [(_, [user])]) => vec![(*user, Err(error.into()))],
            (Err(_), _) => {
                let alone = texts.iter().flat_map(|(tokens, users)| users.chunks(1).map(|user| (*tokens, user)));
                alone.flat_map(|text| self.run_each(runner, &[text])).collect()
            }
        }
    }

    /// Texts that share a plan: each as its place in `tokens`, with those that asked for it.
    fn groups(&self, runner: &Runner) -> impl Iterator<Item = Vec<(usize, &[usize])>> {
        let lengths: Vec<usize> = self.tokens.iter().map(Tokens::len).collect();
        let with_users = |tokens: usize| (tokens, &self.users[tokens][..]);
        groups(&lengths, runner.engine().pads())
            .into_iter()
            .map(move |group| group.into_iter().map(with_users).collect())
    }

    /// Runs one plan. An output that cannot be used is the error of its text alone.
    fn run(&self, runner: &Runner, texts: &[(usize, &[usize])]) -> Result<Found, EngineError> {
        let batch = runner.tokenizer().batch(texts.iter().map(|(tokens, _)| &self.tokens[*tokens]));
        let ids = |users: &[usize]| users.iter().map(|user| self.asked[*user].id).collect();
        let tasks: Vec<Vec<TaskId>> = texts.iter().map(|(_, users)| ids(users)).collect();
        let plan = Plan::new(batch, &tasks);
        let outputs = runner.engine().run(&plan)?;
        let mut found = Found::new();
        for ((id, places), hidden) in plan.tasks().iter().zip(&outputs) {
            for (place, vectors) in places.iter().zip(hidden.rows()) {
                let (tokens, users) = texts[*place];
                for user in users.iter().filter(|user| self.asked[**user].id == *id) {
                    let rows = self.asked[*user].task.logits(vectors, hidden.width(), &self.tokens[tokens]);
                    found.push((*user, rows));
                }
            }
        }
        Ok(found)
    }
}

/// The head's output for what was asked, by its place.
type Found = Vec<(usize, Result<Rows, TaskError>)>;
