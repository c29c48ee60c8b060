//! The engine of ONNX Runtime, on the CPU or an NVIDIA GPU.
//!
//! The base's maskable weights become inputs of the graph, and a small graph, `Where(keep, weight, 0)`, masks them. What a
//! task keeps is a choice ([`Resident`]): its masked weights, so that going from one task to another is choosing another
//! binding, while the base's own values are seen where the memory map has them and shared by all tasks; or the bits of
//! its masks, which are applied when it is its turn. A task that replaces other tensors, norms for example, runs on a
//! session in which these are inputs, too; tasks that replace the same ones share it.

mod about;
mod active;
mod binding;
mod library;
mod masking;
mod trusted;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use ort::ep;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::Tensor;
use overmask::base::{Base, BaseError};
use overmask::engine::{
    Changes, Device, Engine, EngineError, EngineInfo, EngineKind, EngineOptions, Hidden, TaskId, TaskIds, TokenBatch,
    check_changes, check_precision,
};
use overmask::mask::{Granularity, Mask};
use overmask::pack::{Delta, NamedMask};
use overmask_graph as graph;
use overmask_graph::encoder::{self, Padded};

pub use self::about::{API, About, about};
use self::active::{Active, Bits};
pub use self::binding::{Binding, Bound};
pub use self::library::{Found, environment, find, library, look_in};
use self::masking::Masker;

/// Where ONNX Runtime looks for external data when a model does not come from a file.
const EXTERNAL_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// What a task keeps on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resident {
    /// Its masked weights: as much as the base's, and a switch costs nothing.
    Weights,
    /// A byte for each unit of its masks. All tasks together have the base's weights and one masked copy of them, and a
    /// switch is one pass over these.
    Bits,
}

impl Resident {
    /// A GPU has little memory for its speed, a CPU the other way round.
    fn of(device: Device) -> Self {
        match device {
            Device::Cpu => Resident::Weights,
            Device::Cuda => Resident::Bits,
        }
    }
}

/// An encoder in ONNX Runtime. Threads that share one take turns; ONNX Runtime itself spreads a
/// batch over the threads that it was given.
pub struct OrtEngine {
    base: Arc<Base>,
    device: Device,
    inner: Mutex<Inner>,
}

struct Inner {
    // Fields drop in this order: what refers to a session goes before it.
    tasks: BTreeMap<TaskId, Task>,
    ids: TaskIds,
    weights: Weights,
    /// By the tensors that are inputs besides the maskable ones.
    sessions: BTreeMap<Vec<String>, Session>,
    /// The fields of a batch that the graph reads.
    inputs: Vec<String>,
    device: Device,
    options: EngineOptions,
    base: Arc<Base>,
}

/// Where the maskable weights are.
enum Weights {
    Copies {
        /// The base's own values, made when first needed.
        shared: BTreeMap<String, Arc<Bound>>,
        masker: Masker,
    },
    Active(Active),
}

/// A task that was added: which session runs it, and with which weights.
struct Task {
    replaced: Vec<String>,
    binding: Binding,
    /// What makes the active weights its own, if it has none.
    bits: Option<Bits>,
}

impl OrtEngine {
    /// Starts ONNX Runtime on a base.
    ///
    /// # Errors
    /// When the library cannot be loaded, the device is not there, the base's graph cannot
    /// be read, or an option is for `native` alone.
    pub fn new(base: Arc<Base>, device: Device, options: &EngineOptions) -> Result<Self, EngineError> {
        Self::with(base, device, options, Resident::of(device))
    }

    /// The same, with a choice of what tasks keep.
    ///
    /// # Errors
    /// The same.
    pub fn with(
        base: Arc<Base>,
        device: Device,
        options: &EngineOptions,
        resident: Resident,
    ) -> Result<Self, EngineError> {
        options.check(EngineKind::Ort(device))?;
        check_precision(&base, EngineKind::Ort(device))?;
        let (session, inputs) = open(&base, device, options, &[])?;
        let sessions = BTreeMap::from([(Vec::new(), session)]);
        let weights = match resident {
            Resident::Weights => Weights::Copies { shared: BTreeMap::new(), masker: Masker::new(device, options)? },
            Resident::Bits => Weights::Active(Active::new(&base, device, options)?),
        };
        let (tasks, ids) = (BTreeMap::new(), TaskIds::default());
        let options = options.clone();
        let of_inner = Arc::clone(&base);
        let inner = Inner { tasks, ids, weights, sessions, inputs, device, options, base: of_inner };
        Ok(OrtEngine { base, device, inner: Mutex::new(inner) })
    }

    /// A panic leaves nothing half done that matters.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Weights {
    /// Where a task that has these masks finds a maskable tensor.
    fn of(
        &mut self,
        name: &str,
        masks: &[NamedMask],
        base: &Arc<Base>,
        device: Device,
    ) -> Result<Arc<Bound>, EngineError> {
        let (shared, masker) = match self {
            Weights::Active(active) => {
                let missing = || failed(device, format!("no active weights of `{name}`"));
                return active.weights(name).ok_or_else(missing);
            }
            Weights::Copies { shared, masker } => (shared, masker),
        };
        if let Some(NamedMask { mask, .. }) = masks.iter().find(|m| m.tensor == name) {
            return masker.apply(mask, &Arc::new(Bound::of_base(base, name)?));
        }
        if let Some(value) = shared.get(name) {
            return Ok(Arc::clone(value));
        }
        let mut value = Arc::new(Bound::of_base(base, name)?);
        if device == Device::Cuda {
            // Masking nothing is the way to the device. Bound as it is, it would be uploaded anew
            // for each task.
            let shape = base.shape(name)?;
            let all = Mask::keep_all(Granularity::Weight, shape[0], shape[1]);
            let all = all.map_err(|e| failed(device, e))?;
            value = masker.apply(&all, &value)?;
        }
        shared.insert(name.to_owned(), Arc::clone(&value));
        Ok(value)
    }
}

impl Inner {
    fn add(&mut self, masks: &[NamedMask], deltas: &[Delta]) -> Result<TaskId, EngineError> {
        let (device, base) = (self.device, Arc::clone(&self.base));
        let other = deltas.iter().filter(|delta| base.maskable(&delta.tensor).is_none());
        let mut replaced: Vec<String> = other.map(|delta| delta.tensor.clone()).collect();
        replaced.sort_unstable();
        if !self.sessions.contains_key(&replaced) {
            let (session, _) = open(&base, device, &self.options, &replaced)?;
            self.sessions.insert(replaced.clone(), session);
        }
        let mut binding = Binding::new(&self.sessions[&replaced]).map_err(|e| failed(device, e))?;
        let mut bind = |name: &str, value| binding.input(name, &value).map_err(|e| failed(device, e));
        for tensor in &base.manifest().maskable {
            if deltas.iter().any(|delta| delta.tensor == tensor.name) {
                continue;
            }
            bind(&tensor.name, self.weights.of(&tensor.name, masks, &base, device)?)?;
        }
        for Delta { tensor, shape, values, .. } in deltas {
            let value = Tensor::from_array((shape.clone(), values.clone())).map_err(|e| failed(device, e))?;
            bind(tensor, Arc::new(Bound::owned(value.into_dyn())))?;
        }
        let bits = match &mut self.weights {
            Weights::Active(active) => Some(active.bits(masks)?),
            Weights::Copies { .. } => None,
        };
        let task = self.ids.next();
        self.tasks.insert(task, Task { replaced, binding, bits });
        Ok(task)
    }
}

/// A session of the base's graph in which the maskable weights, and these tensors, are inputs; and the
/// fields of a batch that the graph reads.
fn open(
    base: &Base,
    device: Device,
    options: &EngineOptions,
    replaced: &[String],
) -> Result<(Session, Vec<String>), EngineError> {
    let mut model = graph::read_base(base)?;
    let inputs = encoder::token_inputs(&model).map_err(|e| failed(device, e))?;
    let maskable = base.manifest().maskable.iter().map(|t| &t.name);
    let names: Vec<&str> = maskable.chain(replaced).map(String::as_str).collect();
    graph::initializers_to_inputs(&mut model, &names)?;
    // External data are found from the bundle's folder, whatever the working directory.
    let folder =
        std::path::absolute(base.dir()).map_err(|source| BaseError::Io { path: base.dir().to_owned(), source })?;
    let Some(folder) = folder.to_str() else {
        return Err(failed(device, format!("the path {} is not UTF-8; move the base", folder.display())));
    };
    let session = builder(device, options)?
        .with_config_entry(EXTERNAL_FOLDER, folder)
        .map_err(|e| failed(device, e))?
        .commit_from_memory(&graph::encode(&model))
        .map_err(|e| refused(device, e))?;
    Ok((session, inputs))
}

impl Engine for OrtEngine {
    fn describe(&self) -> EngineInfo {
        EngineInfo::new(EngineKind::Ort(self.device), self.base.precision(), "ONNX Runtime")
    }

    fn add(&self, changes: Changes<'_>) -> Result<TaskId, EngineError> {
        // Masks are decoded before the others have to wait.
        let (masks, deltas) = (changes.masks(&self.base)?, changes.deltas());
        check_changes(&self.base, &masks, deltas)?;
        self.inner().add(&masks, deltas)
    }

    fn remove(&self, task: TaskId) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let Inner { tasks, sessions, .. } = &mut *inner;
        let Task { replaced, binding, .. } = tasks.remove(&task).ok_or(EngineError::NoTask(task))?;
        drop(binding);
        // A session that no task runs on is a copy of the base that nobody needs; the usual one stays.
        if !replaced.is_empty() && tasks.values().all(|other| other.replaced != replaced) {
            sessions.remove(&replaced);
        }
        Ok(())
    }

    fn encode(&self, task: TaskId, texts: &TokenBatch) -> Result<Hidden, EngineError> {
        let mut inner = self.inner();
        let Inner { tasks, sessions, inputs, base, weights, .. } = &mut *inner;
        texts.check(base)?;
        let missing = EngineError::NoTask(task);
        let Some(Task { replaced, binding, bits }) = tasks.get_mut(&task) else { return Err(missing) };
        let Some(session) = sessions.get_mut(replaced) else { return Err(missing) };
        if let (Weights::Active(active), Some(bits)) = (weights, bits) {
            active.activate(task, bits)?;
        }
        let hidden = base.manifest().architecture.hidden_size;
        let padded = Padded::from(texts);
        let values = run(session, binding, inputs, &padded, hidden).map_err(|e| failed(self.device, e))?;
        Ok(Hidden::new(texts, hidden, Padded::without_padding(texts, padded.sequence, hidden, values)))
    }
}

fn run(
    session: &mut Session,
    binding: &mut Binding,
    inputs: &[String],
    batch: &Padded,
    hidden: usize,
) -> Result<Vec<f32>, ort::Error> {
    for (name, values) in inputs.iter().filter_map(|name| batch.input(name).map(|values| (name, values))) {
        let value = Tensor::from_array(([batch.batch, batch.sequence], values.clone()))?;
        binding.input(name, &Arc::new(Bound::owned(value.into_dyn())))?;
    }
    let output = Tensor::<f32>::new(&Allocator::default(), [batch.batch, batch.sequence, hidden])?;
    let output = Arc::new(Bound::owned(output.into_dyn()));
    binding.output(encoder::OUTPUT, &output)?;
    binding.run(session)?;
    output.download()
}

/// A session builder with the settings that all sessions share.
fn builder(device: Device, options: &EngineOptions) -> Result<SessionBuilder, EngineError> {
    let environment = environment().map_err(|error| match error {
        EngineError::Unavailable { reason, .. } => EngineError::Unavailable { engine: EngineKind::Ort(device), reason },
        error => error,
    })?;
    let build = || {
        let mut builder = Session::builder(environment)?.with_optimization_level(GraphOptimizationLevel::All)?;
        if let Some(threads) = options.threads {
            builder = builder.with_intra_threads(usable(threads))?;
        }
        Ok::<_, ort::Error>(builder)
    };
    on_device(build().map_err(|e| failed(device, e))?, device)
}

/// As many threads as are wanted, but no more than there are processors, and says so once: ONNX Runtime's threads spin
/// while they wait, and would take the time of those that have work.
pub fn usable(threads: usize) -> usize {
    static SAID: Once = Once::new();
    let most = thread::available_parallelism().map_or(threads, usize::from);
    if threads > most {
        SAID.call_once(|| {
            log::warn!("ONNX Runtime computes with {most} threads, not {threads}: so many processors there are to use");
        });
    }
    threads.min(most)
}

/// Lets the sessions of a builder run on a device.
///
/// # Errors
/// When the device cannot be used.
pub fn on_device(builder: SessionBuilder, device: Device) -> Result<SessionBuilder, EngineError> {
    if device == Device::Cpu {
        return Ok(builder);
    }
    // TF32 would round the products' inputs to 10 bits: precision is never a default's choice.
    // A provider that does not start is an error here, not a warning and a slow run on the CPU.
    // (`session.disable_cpu_ep_fallback` is no help: shapes are computed on the CPU by design, and
    // it would refuse every graph with dynamic sizes.)
    let cuda = ep::CUDA::default().with_tf32(false).build().error_on_failure();
    builder.with_execution_providers([cuda]).map_err(|e| refused(device, e))
}

/// What allocates values in a device's memory.
///
/// # Errors
/// When the session does not run on the device.
pub fn allocator(session: &Session, device: Device) -> Result<Allocator, ort::Error> {
    match device {
        Device::Cpu => Ok(Allocator::default()),
        Device::Cuda => {
            let memory = MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default)?;
            Allocator::new(session, memory)
        }
    }
}

fn failed(device: Device, error: impl ToString) -> EngineError {
    EngineError::Failed { engine: EngineKind::Ort(device), reason: error.to_string() }
}

fn refused(device: Device, error: impl ToString) -> EngineError {
    let mut reason = error.to_string().trim_end_matches('.').to_owned();
    if device == Device::Cuda {
        reason.push_str(
            "; it needs an NVIDIA GPU with its driver, an ONNX Runtime built with CUDA (ORT_DYLIB_PATH), and the \
             CUDA and cuDNN libraries of that build on the loader path",
        );
    }
    EngineError::Unavailable { engine: EngineKind::Ort(device), reason }
}
