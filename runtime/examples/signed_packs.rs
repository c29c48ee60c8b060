//! Only what a trusted key has signed: a pack is read once, its bytes are checked, and the same bytes become a task.
//!
//! The file is not opened again after the check, so that nobody can put another in its place in between.
//!
//! ```text
//! overmask-export keygen -o keys/maker
//! overmask-export sign trec.pack --key keys/maker.key
//! cargo run --release -p overmask --example signed_packs -- base/ keys/ trec.pack "Where is Lima?"
//! ```

use std::env;
use std::error::Error;
use std::path::Path;

use overmask::pack::{PackFile, read_file};
use overmask::task::Runner;
use overmask::trust::Keyring;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [base, keys, pack, text] = arguments.as_slice() else {
        return Err("usage: signed_packs BASE KEYS PACK TEXT".into());
    };

    let trusted = Keyring::open(Path::new(keys))?;
    let pack = Path::new(pack);
    let bytes = read_file(pack)?;
    // The signature lies beside the pack, as `trec.pack.minisig`.
    let signed = trusted.verify_file_bytes(pack, &bytes)?;
    eprintln!("{}: signed by {} ({})", pack.display(), signed.key_id, signed.trusted_comment);

    let runner = Runner::open(base)?;
    let task = runner.add_file(PackFile::from_bytes(&bytes)?)?;
    let answers = runner.run(&[(text.as_str(), [task])])?;
    println!("{}", answers[0][0]);
    Ok(())
}
