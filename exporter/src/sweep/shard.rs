//! Which part of a sweep is this machine's.

use std::fmt;
use std::str::FromStr;

use super::SweepError;

/// How many parts there are, where the job system does not say.
const SHARDS: &str = "OVERMASK_SHARDS";
/// Which one is ours: a Slurm job array's variable and that of a Kubernetes indexed Job.
const INDEX: [&str; 2] = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"];
/// How many tasks the Slurm job array has.
const SLURM_COUNT: &str = "SLURM_ARRAY_TASK_COUNT";

/// A part of a sweep, written `i/n`: of the runs in the plan's order, those whose number leaves
/// `i` when divided by `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Shard = Shard { index: 0, count: 1 };

    /// The part `index` of `count`.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn new(index: usize, count: usize) -> Result<Self, SweepError> {
        if index < count {
            return Ok(Shard { index, count });
        }
        let reason = if count == 0 {
            "there must be one part at least".to_owned()
        } else {
            format!("parts are numbered from 0 to {}", count - 1)
        };
        Err(SweepError::Shard { text: format!("{index}/{count}"), reason })
    }

    /// The part that a job system names: `SLURM_ARRAY_TASK_ID` of `SLURM_ARRAY_TASK_COUNT`, or
    /// `JOB_COMPLETION_INDEX`. `OVERMASK_SHARDS` says of how many, and must where it is no Slurm
    /// array or one of which only some tasks are run again.
    ///
    /// # Errors
    /// When a variable is missing or is no number.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, SweepError> {
        let wrong = |reason| SweepError::Shard { text: "auto".to_owned(), reason };
        let number = |name: &str| match get(name) {
            None => Ok(None),
            Some(text) => match text.parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(wrong(format!("{name} is `{text}`, not a whole number"))),
            },
        };
        let Some(name) = INDEX.into_iter().find(|name| get(name).is_some()) else {
            let reason = format!("neither {} nor {} is set; give the part as i/n", INDEX[0], INDEX[1]);
            return Err(wrong(reason));
        };
        let index = number(name)?.unwrap_or_default();
        let mut count = number(SHARDS)?;
        if count.is_none() && name == INDEX[0] {
            count = number(SLURM_COUNT)?;
        }
        match count {
            Some(count) if index < count => Ok(Shard { index, count }),
            Some(count) => Err(wrong(format!(
                "{name} is {index}, but there are {count} parts, numbered from 0; {SHARDS} says how many there are"
            ))),
            None => Err(wrong(format!("{name} is {index}, but of how many? Set {SHARDS}"))),
        }
    }

    /// Whether a run is in this part, by its number in the plan.
    pub fn has(&self, run: usize) -> bool {
        run % self.count == self.index
    }

    /// The name of the file with this part's results.
    pub fn results_name(&self) -> String {
        match self.count {
            1 => "results.jsonl".to_owned(),
            count => format!("results-{}of{count}.jsonl", self.index),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = SweepError;

    fn from_str(text: &str) -> Result<Self, SweepError> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (index, count) = numbers.ok_or_else(|| SweepError::Shard {
            text: text.to_owned(),
            reason: "must be i/n, such as 0/4 for the first of four parts".to_owned(),
        })?;
        Shard::new(index, count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(variables: &[(&str, &str)]) -> Result<Shard, SweepError> {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Shard::from_env(get)
    }

    #[test]
    fn parts_are_written_and_read() {
        let shard: Shard = "2/4".parse().unwrap();
        assert_eq!((shard.to_string(), shard.results_name()), ("2/4".to_owned(), "results-2of4.jsonl".to_owned()));
        assert_eq!(Shard::WHOLE.results_name(), "results.jsonl");
        for (wrong, part) in
            [("4/4", "from 0 to 3"), ("0/0", "one part at least"), ("1", "must be i/n"), ("-1/2", "must be i/n")]
        {
            let error = wrong.parse::<Shard>().unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.kind(), overmask::error::ErrorKind::Usage);
        }
    }

    #[test]
    fn job_systems_name_the_part() {
        let slurm = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "8")];
        assert_eq!(env(&slurm).unwrap().to_string(), "3/8");
        let kubernetes = [("JOB_COMPLETION_INDEX", "1"), ("OVERMASK_SHARDS", "5")];
        assert_eq!(env(&kubernetes).unwrap().to_string(), "1/5");
        // One task of an array that is run again: the array's own count is no longer the number of parts.
        let again = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "1"), ("OVERMASK_SHARDS", "8")];
        assert_eq!(env(&again).unwrap().to_string(), "3/8");
        assert!(env(&again[..2]).unwrap_err().to_string().contains("OVERMASK_SHARDS says how many"));
        assert!(env(&kubernetes[..1]).unwrap_err().to_string().contains("Set OVERMASK_SHARDS"));
        assert!(env(&[]).unwrap_err().to_string().contains("give the part as i/n"));
        let wrong = env(&[("JOB_COMPLETION_INDEX", "one")]).unwrap_err();
        assert!(wrong.to_string().contains("JOB_COMPLETION_INDEX is `one`"), "{wrong}");
    }

    proptest! {
        #[test]
        fn each_run_is_in_exactly_one_part(run in 0usize..10_000, count in 1usize..50) {
            let parts = (0..count).filter(|&i| Shard::new(i, count).unwrap().has(run)).count();
            prop_assert_eq!(parts, 1);
        }
    }
}
