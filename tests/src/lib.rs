//! What the end-to-end tests share: the real base and texts, made-up packs, and the programs.
//!
//! The tests work on real models and data, which `cargo xtask test` sets up. Without them a
//! test fails and says so; none is skipped in silence.

// All of this is test code: a failed expectation here is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};

use overmask::base::Base;
use overmask::derived::Directory;
use overmask::engine::{Engine, EngineOptions, TaskId};
use overmask::mask::{Granularity, Mask};
use overmask::pack::{
    Codec, FloatType, Golden, Head, Input, NamedMask, Pack, PackDocument, PackFile, Pooling, SCHEMA, TaskKind,
    TextSettings,
};
use overmask::task::{Answer, Prediction, Runner};
use serde_json::Value;

/// What to do when something is missing.
const SET_UP: &str = "run `cargo xtask test`, which sets everything up and runs the tests";

/// The directory of bases and data sets: `OVERMASK_ASSETS`, or `assets` in the target directory.
pub fn assets() -> PathBuf {
    let dir = std::env::var_os("OVERMASK_ASSETS").map_or_else(|| program_dir().join("../assets"), PathBuf::from);
    assert!(dir.is_dir(), "the directory {} with the tests' base and texts is missing: {SET_UP}", dir.display());
    dir
}

/// Something in [`assets`].
pub fn asset(name: &str) -> PathBuf {
    let path = assets().join(name);
    assert!(path.exists(), "{} is missing: {SET_UP}", path.display());
    path
}

/// The directory of the real base, all-MiniLM-L6-v2.
pub fn base_dir() -> PathBuf {
    asset("minilm-l6-base")
}

/// The real base, opened once a test program.
pub fn base() -> Arc<Base> {
    static BASE: OnceLock<Arc<Base>> = OnceLock::new();
    Arc::clone(BASE.get_or_init(|| Arc::new(Base::open(&base_dir()).unwrap())))
}

/// An engine on a base, with one thread.
pub fn engine(name: &str, base: &Arc<Base>) -> Arc<dyn Engine> {
    engine_with(name, base, 1)
}

/// The same with so many threads.
pub fn engine_with(name: &str, base: &Arc<Base>, threads: usize) -> Arc<dyn Engine> {
    let derived = Directory::open(program_dir().join("../derived")).unwrap();
    let options = EngineOptions::default().threads(threads).derived(derived);
    overmask_cli::start(name.parse().unwrap(), base, &options).unwrap_or_else(|e| panic!("{e}\n{SET_UP}"))
}

/// What a task that gives one label says of texts.
pub fn classify<T: AsRef<str>>(runner: &Runner, task: TaskId, texts: &[T]) -> Vec<Prediction> {
    let inputs: Vec<Input> = texts.iter().map(|text| text.as_ref().into()).collect();
    let label = |answer| match answer {
        Answer::Label(prediction) => prediction,
        other => panic!("no label: {other:?}"),
    };
    runner.predict(task, &inputs).unwrap().into_iter().map(label).collect()
}

/// The first `count` questions of TREC, held-out ones first.
pub fn questions(count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for file in ["trec/test.jsonl", "trec/train.jsonl"] {
        let lines = std::fs::read_to_string(asset(file)).unwrap();
        texts.extend(lines.lines().map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            row["text"].as_str().unwrap().to_owned()
        }));
    }
    assert!(texts.len() >= count, "TREC has {} questions, {count} are needed: {SET_UP}", texts.len());
    texts.truncate(count);
    texts
}

/// A folder of the target directory: the one of the profile that the tests were built with.
fn program_dir() -> PathBuf {
    // Test programs lie in its folder `deps`.
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

/// One of the workspace's programs, as built beside the tests. `OVERMASK_PROGRAM` names an `overmask` of another form
/// that takes its place, one with fewer engines for example.
pub fn program(name: &str) -> Command {
    let other = std::env::var_os("OVERMASK_PROGRAM").filter(|path| name == "overmask" && !path.is_empty());
    command(other.map_or_else(|| program_dir().join(file_name(name)), PathBuf::from))
}

/// One of the library's examples, as built beside the tests.
pub fn example(name: &str) -> Command {
    command(program_dir().join("examples").join(file_name(name)))
}

fn file_name(program: &str) -> String {
    format!("{program}{}", std::env::consts::EXE_SUFFIX)
}

fn command(path: PathBuf) -> Command {
    assert!(path.is_file(), "the program {} was not built: {SET_UP}", path.display());
    let mut command = Command::new(path);
    // The tests say what they want; what the caller's shell wants is of no matter.
    command.env_remove("OVERMASK_LOG").env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// What a program wrote and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status, -1 when a signal ended it.
    pub code: i32,
    /// Its results.
    pub stdout: String,
    /// All else that it said.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The JSON objects that it printed, one a line.
pub fn json_lines(ran: &Ran) -> Vec<Value> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The run failed with this code, said all of this on stderr, and nothing of a panic.
#[track_caller]
pub fn failed(ran: &Ran, code: i32, said: &[&str]) {
    assert_eq!(ran.code, code, "{ran:?}");
    for words in said {
        assert!(ran.stderr.contains(words), "{words:?} is missing: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

/// Runs a program with nothing on stdin.
pub fn ran(command: &mut Command) -> Ran {
    command.output().unwrap().into()
}

/// Runs a program with bytes on stdin.
pub fn ran_with(command: &mut Command, input: &[u8]) -> Ran {
    use std::io::Write;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // The program may end without reading everything.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap().into()
    })
}

/// A small generator (SplitMix64): the same numbers from the same seed, everywhere.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// A generator.
    pub fn new(seed: u64) -> Self {
        Numbers(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// What a made-up pack is to be.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The task's name.
    pub name: &'static str,
    /// Everything random comes from it.
    pub seed: u64,
    /// The unit of the masks.
    pub granularity: Granularity,
    /// The share of units that are zeroed.
    pub sparsity: f32,
    /// Only layers from this one on are masked; as many as the base has: none.
    pub from_layer: usize,
    /// Number of labels.
    pub labels: usize,
    /// Tokens of a text, at most.
    pub max_tokens: usize,
    /// How tokens are pooled.
    pub pooling: Pooling,
    /// How the masks are coded in a file.
    pub codec: Codec,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            name: "random",
            seed: 1,
            granularity: Granularity::Block { rows: 32, cols: 1 },
            sparsity: 0.08,
            from_layer: 0,
            labels: 6,
            max_tokens: 64,
            pooling: Pooling::Mean,
            codec: Codec::Ranked,
        }
    }
}

impl Recipe {
    /// A pack of random masks and a random head, without golden vectors.
    pub fn pack(&self, base: &Base) -> Pack {
        self.pack_with(base, Vec::new())
    }

    /// A pack of random masks and a random head, with golden vectors.
    pub fn pack_with(&self, base: &Base, golden: Vec<Golden>) -> Pack {
        let mut numbers = Numbers::new(self.seed);
        let manifest = base.manifest();
        let masks: Vec<NamedMask> = manifest
            .maskable
            .iter()
            .filter(|tensor| tensor.layer >= self.from_layer)
            .map(|tensor| {
                let all = Mask::keep_all(self.granularity, tensor.outputs, tensor.inputs).unwrap();
                let units = all.unit_bits().len();
                let keep = (0..units).map(|_| numbers.uniform() >= self.sparsity);
                let mask = Mask::from_units(self.granularity, tensor.outputs, tensor.inputs, keep).unwrap();
                NamedMask { tensor: tensor.name.clone(), mask }
            })
            .collect();
        let hidden = manifest.architecture.hidden_size;
        let head = Head {
            weight: (0..self.labels * hidden).map(|_| (numbers.uniform() - 0.5) * 0.5).collect(),
            bias: (0..self.labels).map(|_| numbers.uniform() - 0.5).collect(),
            labels: self.labels,
            hidden,
            dtype: FloatType::F16,
        };
        let weights: usize = manifest.maskable.iter().map(|t| t.outputs * t.inputs).sum();
        let zeros: u64 = masks.iter().map(|m| m.mask.zero_weights()).sum();
        let document = PackDocument {
            schema: SCHEMA,
            requires: Vec::new(),
            name: self.name.to_owned(),
            revision: 1,
            kind: TaskKind::Classify,
            labels: (0..self.labels).map(|i| format!("label-{i}")).collect(),
            text: TextSettings { max_tokens: self.max_tokens, pooling: self.pooling, pair: false },
            base_id: base.base_id().to_owned(),
            tokenizer_sha256: manifest.tokenizer_sha256.clone(),
            granularity: self.granularity,
            codec: self.codec,
            sparsity: zeros as f64 / weights as f64,
            masks: Vec::new(),
            golden: Vec::new(),
            provenance: [("tool".to_owned(), "overmask-tests".into()), ("seed".to_owned(), self.seed.into())].into(),
            metrics: Default::default(),
            extra: Default::default(),
        };
        Pack::new(document, masks, head, golden).unwrap()
    }
}

/// The pack as it comes back from its file.
pub fn stored(pack: &Pack, base: &Base) -> Pack {
    PackFile::from_bytes(&pack.to_bytes(Some(base)).unwrap()).unwrap().decode(Some(base)).unwrap()
}

/// The largest absolute difference of two equally long rows of numbers.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
