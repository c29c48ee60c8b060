//! Names in a text: a task that tags words answers with spans, which say where in the text they are.
//!
//! Offsets count characters (Unicode scalar values) from the text's start, as Python and JavaScript's iterators do.
//!
//! ```text
//! cargo run --release -p overmask --example tags -- base/ people.pack "Ada met Charles in London."
//! ```

use std::env;
use std::error::Error;

use overmask::task::{Answer, Runner};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [base, pack, texts @ ..] = arguments.as_slice() else {
        return Err("usage: tags BASE PACK TEXT...".into());
    };

    let runner = Runner::open(base)?;
    let task = runner.add(pack)?;
    for text in texts {
        for answer in runner.predict(task, &[text.as_str().into()])? {
            let Answer::Tags { spans, .. } = answer else {
                return Err(format!("{pack} holds a task that tags no words").into());
            };
            for span in spans {
                println!("{}..{}\t{}\t{:.3}\t{}", span.start, span.end, span.label, span.score, span.text);
            }
        }
    }
    Ok(())
}
