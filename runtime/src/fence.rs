//! A fence around code of others that may panic on the file that it reads: a panic becomes an error that names
//! the file.
//!
//! The library leaves the process's panic hook alone, so that the message of a panic is printed first, as always. A
//! program that wants it told once, as an error, asks [`here`] in a hook of its own. Where panics abort
//! (`panic = "abort"`) nothing can be caught, and that hook is the last who can say what went wrong.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

thread_local! {
    /// What runs inside the fences of this thread, the innermost last.
    static WITHIN: RefCell<Vec<Fence>> = const { RefCell::new(Vec::new()) };
}

/// A library that works on a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    library: &'static str,
    file: Arc<Path>,
}

/// A library panicked on a file, which whoever ran it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the library `{library}` failed on it: {message}")]
pub struct Panicked {
    /// The library.
    pub library: &'static str,
    /// What it said.
    pub message: String,
}

impl Fence {
    /// A fence around what a library does with a file.
    pub fn new(library: &'static str, file: &Path) -> Self {
        Fence { library, file: file.into() }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The error of a panic with this message.
    pub fn panicked(&self, message: Option<&str>) -> Panicked {
        Panicked { library: self.library, message: message.unwrap_or("it does not say why").to_owned() }
    }

    /// Runs code that may panic, and that is not used again in a state that a panic left half-made.
    ///
    /// # Errors
    /// When it panics.
    pub fn run<T>(&self, code: impl FnOnce() -> T) -> Result<T, Panicked> {
        WITHIN.with_borrow_mut(|within| within.push(self.clone()));
        let result = catch_unwind(AssertUnwindSafe(code));
        WITHIN.with_borrow_mut(Vec::pop);
        result.map_err(|payload| {
            let text = payload.downcast_ref::<&str>().copied();
            self.panicked(text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)))
        })
    }
}

/// The fence inside which this thread is, if it is: for a panic hook.
pub fn here() -> Option<Fence> {
    WITHIN.with_borrow(|within| within.last().cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_names_the_file() {
        let outer = Fence::new("outer", Path::new("a.json"));
        let inner = Fence::new("inner", Path::new("b.json"));
        assert_eq!(here(), None);
        let got = outer.run(|| {
            assert_eq!(outer.run(|| 7), Ok(7));
            let failed = inner.run(|| -> u8 { panic!("at {}", 3) }).unwrap_err();
            assert_eq!(failed.to_string(), "the library `inner` failed on it: at 3");
            assert_eq!(here().unwrap().file(), Path::new("a.json"));
            panic!("again")
        });
        assert_eq!(got, Err::<(), _>(outer.panicked(Some("again"))));
        assert_eq!(here(), None);
    }
}
