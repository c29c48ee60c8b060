//! Several tasks on one text: what they have in common is computed once.
//!
//! Tasks that were learnt with `overmask-export train --layers 3-` leave the embeddings and the layers 0 to 2 as the base
//! has them. These run once for all, and only the layers above run once a task.
//!
//! ```text
//! cargo run --release -p overmask --example one_pass -- base/ trec.pack movie.pack people.pack < texts.txt
//! ```

use std::env;
use std::error::Error;
use std::io;

use overmask::engine::TaskId;
use overmask::task::Runner;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [base, packs @ ..] = arguments.as_slice() else {
        return Err("usage: one_pass BASE PACK... < TEXTS".into());
    };
    let runner = Runner::open(base)?;
    let tasks = packs.iter().map(|pack| runner.add(pack)).collect::<Result<Vec<TaskId>, _>>()?;
    if let Some(sharing) = runner.engine().sharing(&tasks)? {
        let (computed, apart) = (sharing.computed_layers(), tasks.len() * sharing.layers().len());
        eprintln!("{computed} layers a text instead of {apart}");
    }
    for text in io::stdin().lines() {
        let text = text?;
        let answers = runner.run(&[(text.as_str(), &tasks)])?.remove(0);
        for (task, answer) in tasks.iter().zip(answers) {
            println!("{}\t{answer}\t{text}", runner.task(*task)?.name());
        }
    }
    Ok(())
}
