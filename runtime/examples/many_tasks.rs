//! Several tasks on every text, asked by several threads, while another task comes and goes.
//!
//! All threads share one runner: a text becomes tokens once for all of its tasks, and a task can be added or removed at
//! any time without the others noticing.
//!
//! ```text
//! cargo run --release -p overmask --example many_tasks -- base/ guest.pack trec.pack movie.pack < texts.txt
//! ```

use std::env;
use std::error::Error;
use std::io;
use std::thread;

use overmask::engine::TaskId;
use overmask::task::{Answer, Runner, TaskError};

const THREADS: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [base, guest, packs @ ..] = arguments.as_slice() else {
        return Err("usage: many_tasks BASE GUEST_PACK PACK... < TEXTS".into());
    };
    let texts = io::stdin().lines().collect::<Result<Vec<String>, _>>()?;

    let runner = Runner::open(base)?;
    let tasks = packs.iter().map(|pack| runner.add(pack)).collect::<Result<Vec<TaskId>, _>>()?;
    thread::scope(|scope| {
        let parts = texts.chunks(texts.len().div_ceil(THREADS).max(1));
        let threads: Vec<_> = parts.map(|part| (part, scope.spawn(|| answer(&runner, part, &tasks)))).collect();

        // Meanwhile, here: a task that is needed only now.
        let visitor = runner.add(guest)?;
        print(&runner, &texts, &[visitor], answer(&runner, &texts, &[visitor])?)?;
        runner.remove(visitor)?;

        for (part, thread) in threads {
            let answers = thread.join().map_err(|_| "a thread panicked")??;
            print(&runner, part, &tasks, answers)?;
        }
        Ok(())
    })
}

/// What every task says of every text: one plan for all of them.
fn answer(runner: &Runner, texts: &[String], tasks: &[TaskId]) -> Result<Vec<Vec<Answer>>, TaskError> {
    let requests: Vec<_> = texts.iter().map(|text| (text.as_str(), tasks)).collect();
    runner.run(&requests)
}

/// A line for each text and task.
fn print(runner: &Runner, texts: &[String], tasks: &[TaskId], answers: Vec<Vec<Answer>>) -> Result<(), TaskError> {
    for (text, answers) in texts.iter().zip(answers) {
        for (task, answer) in tasks.iter().zip(answers) {
            println!("{}\t{answer}\t{text}", runner.task(*task)?.name());
        }
    }
    Ok(())
}
