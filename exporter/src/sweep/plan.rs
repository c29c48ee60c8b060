//! The file that describes a sweep, and the runs that it asks for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use overmask::base::file;
use overmask::fs::{file_digest, hex};
use overmask::pack::split_name;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::expand::{self, Setting};
use super::{SweepError, unreadable};
use crate::toml_text;

/// More than anybody waits for: a slip in `[grid]` is told before it fills the memory.
const MAX_RUNS: usize = 100_000;
/// Hex digits of a run's id: 64 bits.
const ID_DIGITS: usize = 16;
/// What the sweep sets itself, and what to write instead.
const RESERVED: [(&str, &str); 8] = [
    ("base", "`base` at the top names it"),
    ("output", "each run has a place of its own"),
    ("json", "each run prints JSON"),
    ("seed", "`seeds` at the top lists them"),
    ("name", "the task's `name` is it"),
    ("log-losses", "all runs would write the same file"),
    ("checkpoint", "each run has one of its own"),
    ("resume", "a run that was cut off goes on by itself"),
];

/// An option of the training command, as the program knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainOption {
    /// Its long name, without dashes.
    pub name: String,
    /// Whether it takes no value.
    pub flag: bool,
    /// Whether its value is a path.
    pub path: bool,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    base: PathBuf,
    #[serde(default = "one_seed")]
    seeds: Vec<u64>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    defaults: toml::Table,
    tasks: Vec<Entry>,
    methods: Vec<Entry>,
    #[serde(default)]
    grid: toml::Table,
}

fn one_seed() -> Vec<u64> {
    vec![1]
}

/// A CUDA device, by number or by identifier.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Device {
    Number(u32),
    Name(String),
}

/// A task or a method.
#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    #[serde(flatten)]
    options: toml::Table,
}

/// A sweep: what to run, in which order.
#[derive(Debug, Clone)]
pub struct Plan {
    /// CUDA devices to spread the workers over, as `CUDA_VISIBLE_DEVICES` takes them.
    pub devices: Vec<String>,
    /// The runs: by task, then by method, then by seed.
    pub runs: Vec<Run>,
}

/// One run of the training command.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What it depends on, in 16 hex digits: options, base, and the bytes of the files that options name.
    /// It is the same wherever these lie.
    pub id: String,
    /// The task's name.
    pub task: String,
    /// The method's name, with what `[grid]` adds.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// The options as the file has them, without those that are left out.
    pub options: BTreeMap<String, Value>,
    /// The command line after the program's name, without the output, `--json` and what a worker adds.
    pub arguments: Vec<OsString>,
}

impl Plan {
    /// Reads a sweep's file. `known` are the options of the training command.
    ///
    /// # Errors
    /// When the file cannot be read or is wrong, or the base or a file of texts cannot be read.
    pub fn read(path: &Path, known: &[TrainOption]) -> Result<Self, SweepError> {
        let text = overmask::fs::read_to_string(path).map_err(unreadable(path))?;
        let wrong = |reason: String| SweepError::Plan { path: path.to_owned(), source: reason.into() };
        let document: Document = toml_text::parse(&text).map_err(wrong)?;
        let known: BTreeMap<&str, &TrainOption> = known.iter().map(|o| (o.name.as_str(), o)).collect();
        document.check(&known).map_err(wrong)?;

        let dir = path.parent().unwrap_or(Path::new(""));
        let mut files = Files { dir, digests: HashMap::new() };
        let base = dir.join(&document.base);
        let base_id = base_id(&base.join(file::MANIFEST))?;
        let methods = document.methods().map_err(wrong)?;
        let mut runs = Vec::new();
        for task in &document.tasks {
            for (method, options, grid) in &methods {
                let layers = [&document.defaults, &task.options, options, grid];
                let settings = expand::merge(&layers, &known).map_err(wrong)?;
                let named = files.look_at(&settings, &known)?;
                for &seed in &document.seeds {
                    let id = identity(&base_id, &task.name, seed, &settings, &named.digests);
                    let mut arguments = vec!["train".into(), option("base", &base)];
                    arguments.push(format!("--name={}", task.name).into());
                    arguments.push(format!("--seed={seed}").into());
                    arguments.extend(named.arguments.iter().cloned());
                    let (task, method, options) = (task.name.clone(), method.clone(), expand::as_json(&layers));
                    runs.push(Run { id, task, method, seed, options, arguments });
                }
            }
        }
        all_differ(&runs).map_err(wrong)?;
        let devices = document.devices.into_iter().map(|device| match device {
            Device::Number(number) => number.to_string(),
            Device::Name(name) => name,
        });
        Ok(Plan { devices: devices.collect(), runs })
    }
}

impl Document {
    /// What the types cannot say.
    fn check(&self, known: &BTreeMap<&str, &TrainOption>) -> Result<(), String> {
        for (what, entries) in [("tasks", &self.tasks), ("methods", &self.methods)] {
            if entries.is_empty() {
                return Err(format!("[[{what}]]: there must be one"));
            }
            let mut seen = HashSet::new();
            for entry in entries {
                let name = &entry.name;
                if name.trim().is_empty() || name.chars().any(char::is_control) {
                    return Err(format!("[[{what}]]: name: {name:?} is no name"));
                }
                if !seen.insert(name) {
                    return Err(format!("[[{what}]]: name: `{name}` is there twice"));
                }
                check_options(&format!("[[{what}]] `{name}`"), entry.options.keys(), known)?;
            }
        }
        check_options("[defaults]", self.defaults.keys(), known)?;
        check_options("[grid]", self.grid.keys(), known)?;
        if self.seeds.is_empty() {
            return Err("seeds: there must be one".to_owned());
        }
        let mut seen = HashSet::new();
        if let Some(seed) = self.seeds.iter().find(|&seed| !seen.insert(seed)) {
            return Err(format!("seeds: {seed} is there twice"));
        }
        Ok(())
    }

    /// The methods with what `[grid]` makes of them: name, options of their own, options of the grid.
    fn methods(&self) -> Result<Vec<(String, &toml::Table, toml::Table)>, String> {
        let points = expand::grid(&self.grid, MAX_RUNS)?;
        let runs = [self.tasks.len(), self.methods.len(), self.seeds.len()]
            .into_iter()
            .try_fold(points.len(), |product, n| product.checked_mul(n).filter(|&p| p <= MAX_RUNS));
        runs.ok_or_else(|| format!("asks for more than {MAX_RUNS} runs; split it"))?;
        let mut methods = Vec::new();
        for method in &self.methods {
            if let Some(key) = method.options.keys().find(|&key| self.grid.contains_key(key)) {
                let name = &method.name;
                return Err(format!("[[methods]] `{name}`: {key}: [grid] sets it too; keep one of them"));
            }
            for (suffix, options) in &points {
                methods.push((format!("{}{suffix}", method.name), &method.options, options.clone()));
            }
        }
        Ok(methods)
    }
}

fn check_options<'a>(
    place: &str,
    mut keys: impl Iterator<Item = &'a String>,
    known: &BTreeMap<&str, &TrainOption>,
) -> Result<(), String> {
    keys.try_for_each(|key| {
        if let Some((_, instead)) = RESERVED.iter().find(|(name, _)| name == key) {
            return Err(format!("{place}: {key}: not here: {instead}"));
        }
        if known.contains_key(key.as_str()) {
            return Ok(());
        }
        let hint = match key.replace('_', "-") {
            dashed if known.contains_key(dashed.as_str()) => format!("; it is written `{dashed}`"),
            _ => "; `overmask-export train --help` lists them".to_owned(),
        };
        Err(format!("{place}: `{key}` is no option of the training command{hint}"))
    })
}

/// The files that options name.
struct Files<'a> {
    /// What relative paths are relative to.
    dir: &'a Path,
    /// A file is read once, however many runs use it.
    digests: HashMap<PathBuf, String>,
}

/// Options as a command line, and the digests of the files among them.
struct Named<'a> {
    arguments: Vec<OsString>,
    digests: BTreeMap<&'a str, String>,
}

impl Files<'_> {
    fn look_at<'a>(
        &mut self,
        settings: &'a BTreeMap<&'a str, Setting>,
        known: &BTreeMap<&str, &TrainOption>,
    ) -> Result<Named<'a>, SweepError> {
        let mut named = Named { arguments: Vec::new(), digests: BTreeMap::new() };
        for (&name, setting) in settings {
            let argument = match setting {
                Setting::Flag => format!("--{name}").into(),
                Setting::Text(text) if known.get(name).is_some_and(|o| o.path) => {
                    let path = self.dir.join(text);
                    // Of a set, SET#NAME.
                    let (file, _) = split_name(&path);
                    overmask::fs::open(&file).map_err(unreadable(&file))?;
                    named.digests.insert(name, self.digest(&file)?);
                    option(name, &path)
                }
                Setting::Text(text) => format!("--{name}={text}").into(),
            };
            named.arguments.push(argument);
        }
        Ok(named)
    }

    fn digest(&mut self, path: &Path) -> Result<String, SweepError> {
        if let Some(known) = self.digests.get(path) {
            return Ok(known.clone());
        }
        let digest = file_digest(path).map_err(|source| SweepError::Read { path: path.to_owned(), source })?;
        self.digests.insert(path.to_owned(), digest.clone());
        Ok(digest)
    }
}

/// `--name=path`: one word, so that a value that starts with a dash is no option.
fn option(name: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(format!("--{name}="));
    argument.push(path);
    argument
}

/// Which base it is, whatever else its manifest says: a licence or a source added changes no run.
fn base_id(manifest: &Path) -> Result<String, SweepError> {
    #[derive(Deserialize)]
    struct Manifest {
        base_id: String,
    }
    let text = overmask::fs::read_to_string(manifest).map_err(unreadable(manifest))?;
    let named: Manifest =
        serde_json::from_str(&text).map_err(|source| SweepError::Manifest { path: manifest.into(), source })?;
    Ok(named.base_id)
}

/// What a run depends on, in a few digits. A file counts by its bytes, wherever it lies.
fn identity(
    base: &str,
    task: &str,
    seed: u64,
    settings: &BTreeMap<&str, Setting>,
    digests: &BTreeMap<&str, String>,
) -> String {
    let options: BTreeMap<&str, Value> = settings
        .iter()
        .map(|(&name, setting)| {
            let value = match (digests.get(name), setting) {
                (Some(digest), _) => json!({ "sha256": digest }),
                (None, Setting::Flag) => json!(true),
                (None, Setting::Text(text)) => json!(text),
            };
            (name, value)
        })
        .collect();
    let canonical = json!(["overmask sweep 3", base, task, seed, options]).to_string();
    hex(&Sha256::digest(canonical.as_bytes())).chars().take(ID_DIGITS).collect()
}

/// Runs that are the same would write the same pack.
fn all_differ(runs: &[Run]) -> Result<(), String> {
    let mut seen = HashMap::new();
    for run in runs {
        if let Some(other) = seen.insert(&run.id, &run.method) {
            return Err(format!("task `{}`: methods `{other}` and `{}` ask for the same run", run.task, run.method));
        }
    }
    Ok(())
}
