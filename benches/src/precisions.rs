//! A pass on an f32, a bf16 and an int8 base, beside ONNX Runtime and OpenVINO in the same precisions, and DeepSparse.
//!
//! Everybody is set up once and runs a pass in turn; the median counts.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use overmask::base::{Base, Precision, file};
use overmask::mask::{Granularity, Mask};
use overmask::pack::{NamedMask, Pack};
use serde_json::json;

use crate::agreement::{self, Task};
use crate::contenders::{Batch, Contender, OnnxRuntime, Ours, PAUSE, Texts, median};
use crate::rows::Rows;

const PYTHON_SIDE: &str = "precisions_peer.py";

/// Texts that OpenVINO's quantisation looks at.
const SAMPLES: usize = 300;

/// Passes of everybody, and those before that do not count.
const TURNS: usize = 31;
const WARM_UP: usize = 3;

/// A base in its precisions, what runs Python, and tasks.
pub(crate) struct Setup<'a> {
    pub(crate) base: &'a Path,
    /// The base in bf16 and int8.
    pub(crate) variants: [&'a Path; 2],
    pub(crate) texts: &'a Path,
    /// Has what benches/precisions-requirements.txt names.
    pub(crate) python: &'a Path,
    /// Has what benches/deepsparse-requirements.txt names.
    pub(crate) deepsparse: &'a Path,
    /// A pack of 32x1 blocks of which half are zero, and its model as `overmask-export export` writes it.
    pub(crate) half: [&'a Path; 2],
    /// For each task a pack, its model and texts.
    pub(crate) tasks: Vec<[&'a Path; 3]>,
}

/// Measures one and two threads, and how far answers are from those in f32.
pub(crate) fn run(setup: &Setup<'_>) -> Result<Rows> {
    let dir = tempfile::tempdir()?;
    let [bf16, int8] = setup.variants;
    let open = |path: &Path| -> Result<Arc<Base>> { Ok(Arc::new(Base::open(path)?)) };
    let bases = [open(setup.base)?, open(bf16)?, open(int8)?];
    let texts = Texts::read(&bases[0], setup.texts)?;
    let peers = prepare(setup, &texts, dir.path())?;
    let half = Pack::open(setup.half[0], &bases[0])?;
    let mut rows = Rows::default();
    sizes(&bases, &mut rows)?;
    for [pack, model, texts] in &setup.tasks {
        let task = Task { pack: pack.into(), texts: texts.into(), int8: peers.dynamic(model)? };
        agreement::measure(&bases, &task, &mut rows)?;
    }
    for threads in [1, 2] {
        for length in [Some(16), Some(64), Some(128), None] {
            measure(&bases, &half.masks, &peers, threads, &texts.batch(length)?, &mut rows)?;
        }
    }
    Ok(rows)
}

/// What is on the device of each base.
fn sizes(bases: &[Arc<Base>], rows: &mut Rows) -> Result<()> {
    let bytes = |base: &Base| std::fs::metadata(base.dir().join(file::WEIGHTS)).map(|file| file.len() as f64);
    let of_f32 = bytes(&bases[0])?;
    for base in &bases[1..] {
        let reach = if base.precision() == Precision::Int8 { "<= 0.3" } else { "" };
        let name = format!("weights on disk, {}, against f32", base.precision());
        rows.add(name, "bytes", bytes(base)?, Some(of_f32), reach);
    }
    Ok(())
}

/// Peers that Python has made.
struct Peers<'a> {
    setup: &'a Setup<'a>,
    dir: PathBuf,
}

fn prepare<'a>(setup: &'a Setup<'a>, texts: &Texts, dir: &Path) -> Result<Peers<'a>> {
    let dir = dir.join("peers");
    std::fs::create_dir(&dir)?;
    let samples = dir.join("samples.jsonl");
    let lines = texts.ids(SAMPLES, 128)?.into_iter().map(|ids| json!(ids).to_string() + "\n");
    std::fs::write(&samples, lines.collect::<String>())?;
    let peers = Peers { setup, dir };
    let mut quantize = script(setup.python, "quantize");
    finish(quantize.arg(setup.base).arg(&samples).arg(&peers.dir))?;
    Ok(peers)
}

/// A call of the script.
fn script(python: &Path, what: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(PYTHON_SIDE)).arg(what).stdout(Stdio::null());
    command
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

impl Peers<'_> {
    /// A folder's model in ONNX Runtime's dynamic int8.
    fn dynamic(&self, model: &Path) -> Result<PathBuf> {
        let name = format!("{}-int8.onnx", model.file_name().unwrap_or_default().display());
        let out = self.dir.join(name);
        finish(script(self.setup.python, "dynamic").arg(model.join(file::MODEL)).arg(&out))?;
        Ok(out)
    }

    fn openvino(&self, model: &Path, precision: &str, threads: usize, batch: &Batch) -> Result<Served> {
        let mut command = script(self.setup.python, "openvino");
        Served::start(command.arg(model).args([precision, &threads.to_string()]), batch)
    }

    /// On a copy of a folder's model: it writes shapes into the file that it is given.
    fn deepsparse(&self, model: &Path, threads: usize, batch: &Batch) -> Result<Served> {
        let copy = tempfile::tempdir_in(&self.dir)?;
        for name in [file::MODEL, file::WEIGHTS] {
            std::fs::copy(model.join(name), copy.path().join(name))?;
        }
        let mut command = script(self.setup.deepsparse, "deepsparse");
        Served::start(command.arg(copy.path().join(file::MODEL)).arg(threads.to_string()), batch)
    }
}

/// A peer in a process of its own, which times itself.
struct Served {
    child: Child,
    replies: BufReader<std::process::ChildStdout>,
}

impl Served {
    fn start(command: &mut Command, batch: &Batch) -> Result<Served> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let replies = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut peer = Served { child, replies };
        let padded = &batch.padded;
        let rows = |values: &[i64]| values.chunks(padded.sequence).map(<[i64]>::to_vec).collect::<Vec<_>>();
        let [input_ids, attention_mask, token_type_ids] =
            [&padded.input_ids, &padded.attention_mask, &padded.token_type_ids].map(|values| rows(values));
        let said = peer.ask(&json!({
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }))?;
        ensure!(said == "ready", "{command:?} said {said}");
        Ok(peer)
    }

    fn ask(&mut self, request: &serde_json::Value) -> Result<String> {
        writeln!(self.child.stdin.as_mut().context("no stdin")?, "{request}")?;
        let mut reply = String::new();
        self.replies.read_line(&mut reply)?;
        ensure!(!reply.is_empty(), "the peer has ended");
        Ok(reply.trim().to_owned())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs one pass and says how many milliseconds that took.
type Pass<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

fn timed<'a>(mut contender: impl Contender + 'a, batch: &'a Batch) -> Pass<'a> {
    Box::new(move || {
        let start = Instant::now();
        contender.pass(batch)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    })
}

fn served<'a>(mut peer: Served) -> Pass<'a> {
    Box::new(move || Ok(peer.ask(&json!("pass"))?.parse()?))
}

/// Masks of all maskable tensors, with a share of zeros anywhere.
fn masks(base: &Base, granularity: Granularity, zeros: f64) -> Result<Vec<NamedMask>> {
    let mut state = 1u32;
    let mut keeps = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX) >= zeros
    };
    let mask = |tensor: &overmask::base::MaskableTensor| -> Result<NamedMask> {
        let (rows, cols) = granularity.block();
        let units =
            std::iter::repeat_with(&mut keeps).take(tensor.outputs.div_ceil(rows) * tensor.inputs.div_ceil(cols));
        let mask = Mask::from_units(granularity, tensor.outputs, tensor.inputs, units)?;
        Ok(NamedMask { tensor: tensor.name.clone(), mask })
    };
    base.manifest().maskable.iter().map(mask).collect()
}

const OURS: [&str; 7] = [
    "f32 weight 7 %",
    "f32 block:32x4 50 %",
    "bf16 weight 7 %",
    "bf16 block:32x4 50 %",
    "int8 weight 7 %",
    "int8 block:32x4 50 %",
    LEARNT,
];

/// A task of ours, whose zeros DeepSparse has in its weights.
const LEARNT: &str = "f32 block:32x1 50 %, learnt";

fn measure(
    bases: &[Arc<Base>],
    half: &[NamedMask],
    peers: &Peers<'_>,
    threads: usize,
    (what, batch): &(String, Batch),
    rows: &mut Rows,
) -> Result<()> {
    let of_weights = masks(&bases[0], Granularity::Weight, 0.07)?;
    let of_blocks = masks(&bases[0], Granularity::Block { rows: 32, cols: 4 }, 0.5)?;
    let mut all: Vec<Pass<'_>> = Vec::new();
    for base in bases {
        for masks in [&of_weights, &of_blocks] {
            all.push(timed(Ours::new("native", base, threads, masks)?, batch));
        }
    }
    all.push(timed(Ours::new("native", &bases[0], threads, half)?, batch));
    let mut names = Vec::new();
    let whole = peers.setup.base.join(file::MODEL);
    let made = |name: &str| peers.dir.join(name);
    for (name, model) in [
        ("ONNX Runtime f32", whole.clone()),
        ("ONNX Runtime f32, fused", made("ort-fused.onnx")),
        ("ONNX Runtime int8", made("ort-int8.onnx")),
        ("ONNX Runtime int8, fused", made("ort-fused-int8.onnx")),
    ] {
        names.push(name);
        all.push(timed(OnnxRuntime::open(&model, threads)?, batch));
    }
    let int8 = made("openvino-int8.xml");
    for (name, model, precision) in
        [("OpenVINO f32", &whole, "f32"), ("OpenVINO bf16", &whole, "bf16"), ("OpenVINO int8", &int8, "f32")]
    {
        match peers.openvino(model, precision, threads, batch) {
            Ok(peer) => {
                names.push(name);
                all.push(served(peer));
            }
            // It says why: not every processor has bf16.
            Err(error) if precision == "bf16" => eprintln!("{name} is left out: {error}"),
            Err(error) => return Err(error),
        }
    }
    for (name, model) in [("DeepSparse", peers.setup.base), (DEEPSPARSE_HALF, peers.setup.half[1])] {
        names.push(name);
        all.push(served(peers.deepsparse(model, threads, batch)?));
    }
    let count = all.len();
    let mut times = vec![Vec::new(); count];
    for turn in 0..WARM_UP + TURNS {
        for i in (0..count).map(|i| (i + turn) % count) {
            sleep(PAUSE);
            // The first one after a pause finds the processor slow: for nobody it counts.
            all[i]()?;
            let time = all[i]()?;
            if turn >= WARM_UP {
                times[i].push(time);
            }
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let (ours, theirs) = medians.split_at(OURS.len());
    let tokens =
        what.split(' ').next().and_then(|number| number.parse::<usize>().ok()).filter(|_| what.ends_with("tokens"));
    for (name, ours) in OURS.iter().zip(ours) {
        for (peer, theirs) in names.iter().zip(theirs) {
            let title = format!("{threads} thr, {what}: {name}, against {peer}");
            rows.add(title, "ms", *ours, Some(*theirs), reach(name, peer, tokens));
        }
    }
    Ok(())
}

const DEEPSPARSE_HALF: &str = "DeepSparse, the same zeros";

/// What is wanted of a row, on a processor with AVX-512 VNNI.
fn reach(ours: &str, peer: &str, tokens: Option<usize>) -> &'static str {
    match (ours, peer, tokens) {
        ("int8 weight 7 %", "ONNX Runtime int8", Some(_)) => "<= 0.75",
        ("int8 weight 7 %", "ONNX Runtime int8", None) => "<= 0.45",
        ("int8 weight 7 %", "OpenVINO int8", Some(16 | 64)) => "<= 0.9",
        ("int8 weight 7 %", "OpenVINO int8", Some(128)) => "<= 1.0",
        ("int8 block:32x4 50 %", "ONNX Runtime int8", Some(64 | 128)) => "<= 0.5",
        ("int8 block:32x4 50 %", "OpenVINO int8", Some(64 | 128)) => "<= 0.7",
        ("bf16 weight 7 %", "OpenVINO bf16", _) => "<= 0.9",
        ("f32 weight 7 %", "OpenVINO f32" | "DeepSparse", _) => "<= 0.95",
        (LEARNT, DEEPSPARSE_HALF, _) => "<= 0.6",
        ("f32 weight 7 %", "ONNX Runtime f32", None) => "<= 0.5",
        _ => "",
    }
}
