//! What a program says when code of others panics on a file; see [`overmask::fence`].

use std::panic::{PanicHookInfo, set_hook, take_hook};

use overmask::fence;

use crate::ExitCode;

/// Lets a panic inside a fence be told once, as the error that it becomes. Where panics abort, it is told here,
/// and the program ends with the exit code of that error.
pub(crate) fn hook() {
    let usual = take_hook();
    set_hook(Box::new(move |info: &PanicHookInfo<'_>| match fence::here() {
        None => usual(info),
        Some(_) if cfg!(panic = "unwind") => {}
        Some(fence) => {
            log::error!("{}: {}", fence.file().display(), fence.panicked(info.payload_as_str()));
            std::process::exit(ExitCode::CorruptFile as i32);
        }
    }));
}
