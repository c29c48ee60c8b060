//! Where the time goes.

use std::fmt;
use std::time::Duration;

/// How long each kind of work took, in the order in which they came first.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<(&'static str, Duration)>);

impl Times {
    /// Adds to what such work took before.
    pub(crate) fn add(&mut self, what: &'static str, took: Duration) {
        match self.0.iter_mut().find(|(known, _)| *known == what) {
            Some((_, total)) => *total += took,
            None => self.0.push((what, took)),
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (what, took)) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{:.0} s {what}", took.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_work_is_added_up() {
        let mut times = Times::default();
        for (what, seconds) in [("building", 61), ("fetching", 2), ("building", 4), ("importing", 0)] {
            times.add(what, Duration::from_secs(seconds));
        }
        assert_eq!(times.to_string(), "65 s building, 2 s fetching, 0 s importing");
    }
}
