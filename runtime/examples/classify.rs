//! The library in five lines: a base is opened, a pack becomes a task on it, texts get answers.
//!
//! ```text
//! cargo run --release -p overmask --example classify -- base/ trec.pack "Where is Lima?"
//! ```

use std::env;
use std::error::Error;

use overmask::task::Runner;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [base, pack, texts @ ..] = arguments.as_slice() else {
        return Err("usage: classify BASE PACK TEXT...".into());
    };

    let runner = Runner::open(base)?;
    let task = runner.add(pack)?;
    let requests: Vec<_> = texts.iter().map(|text| (text.as_str(), [task])).collect();
    for answers in runner.run(&requests)? {
        println!("{}", answers[0]);
    }
    Ok(())
}
