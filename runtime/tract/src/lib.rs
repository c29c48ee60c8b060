//! The engine of tract: pure Rust, one thread, no library to load.
//!
//! tract optimises a graph for fixed sizes and constant weights. So a task's masked weights
//! become constants, and a *plan* is built for a task and a length when a text of that length
//! comes: lengths are rounded up to a few buckets, texts run one by one, and the plans that
//! were used longest ago are dropped. Building one takes about a tenth of a second for 10 million
//! weights; a plan holds its own packed copy of them.

mod plans;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use overmask::base::{Base, BaseError};
use overmask::engine::{
    Changes, Engine, EngineError, EngineInfo, EngineKind, EngineOptions, Hidden, TaskId, TaskIds, TokenBatch,
    check_changes, check_precision,
};
use overmask::fence::Fence;
use overmask::mask::Mask;
use overmask::pack::Delta;
use overmask_graph as graph;
use overmask_graph::encoder::{self, Padded};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::bail;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::ops::source::Source;

use self::plans::Plans;

/// Lengths that plans are built for, in tokens, as far as the base takes them; a longer text has
/// a plan for the base's own limit.
const BUCKETS: [usize; 6] = [16, 32, 64, 128, 256, 512];

/// Plans that are kept; each holds a copy of the maskable weights.
const MAX_PLANS: usize = 8;

type Plan = Arc<TypedRunnableModel>;

/// An encoder in tract.
pub struct TractEngine {
    base: Arc<Base>,
    /// tract panics on some graphs.
    fence: Fence,
    /// The graph with its maskable weights as inputs, not yet for any length.
    template: InferenceModel,
    /// The fields of a batch that the graph reads, in the order of the plans' inputs.
    inputs: Vec<String>,
    /// The base's own values of maskable weights, made when first needed, shared by tasks.
    shared: Mutex<BTreeMap<String, Arc<Tensor>>>,
    /// The graph with each task's weights as constants.
    tasks: RwLock<BTreeMap<TaskId, Arc<InferenceModel>>>,
    ids: TaskIds,
    plans: Mutex<Plans<(TaskId, usize), Plan>>,
}

impl TractEngine {
    /// Reads the base's graph and weights.
    ///
    /// # Errors
    /// When tract cannot read the graph, or an option is for `native` alone.
    pub fn new(base: Arc<Base>, options: &EngineOptions) -> Result<Self, EngineError> {
        options.check(EngineKind::Tract)?;
        if let Some(threads @ 2..) = options.threads {
            log::warn!("the engine `tract` computes with one thread; the {threads} that were asked for are not used");
        }
        check_precision(&base, EngineKind::Tract)?;
        let fence = Fence::new("tract", &base.model_path());
        let (template, inputs) = read(&base, &fence, &[])?;
        Ok(TractEngine {
            base,
            fence,
            template,
            inputs,
            shared: Mutex::default(),
            tasks: RwLock::default(),
            ids: TaskIds::default(),
            plans: Mutex::new(Plans::new(MAX_PLANS)),
        })
    }

    /// A maskable weight with a mask applied, or the base's own.
    fn weight(&self, name: &str, mask: Option<&Mask>) -> Result<Arc<Tensor>, EngineError> {
        let shared = || self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let (None, Some(value)) = (mask, shared().get(name)) {
            return Ok(Arc::clone(value));
        }
        let (shape, weights) = self.base.values(name)?;
        let mut weights = weights.into_owned();
        if let Some(mask) = mask {
            mask.apply(&mut weights).map_err(failed)?;
        }
        let value = Tensor::from_shape(shape, &weights).map_err(failed)?.into_arc_tensor();
        if mask.is_none() {
            shared().insert(name.to_owned(), Arc::clone(&value));
        }
        Ok(value)
    }

    /// The plan for a task's texts of at most `bucket` tokens.
    fn plan(&self, task: TaskId, bucket: usize) -> Result<Plan, EngineError> {
        // Others wait while a plan is built; it may be theirs. A task that is removed meanwhile is looked for
        // under the lock, so that no plan outlives its task.
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        let model = tasks.get(&task).cloned().ok_or(EngineError::NoTask(task))?;
        drop(tasks);
        let build = || {
            log::debug!("building the plan of task {task} for {bucket} tokens");
            let mut model = InferenceModel::clone(&model);
            for input in 0..self.inputs.len() {
                model.set_input_fact(input, i64::fact([1, bucket]).into())?;
            }
            model.into_optimized()?.into_runnable()
        };
        plans.get_or_build((task, bucket), || fenced(&self.fence, build))
    }
}

impl Engine for TractEngine {
    fn describe(&self) -> EngineInfo {
        EngineInfo::new(EngineKind::Tract, self.base.precision(), "tract")
    }

    fn add(&self, changes: Changes<'_>) -> Result<TaskId, EngineError> {
        let (masks, deltas) = (changes.masks(&self.base)?, changes.deltas());
        check_changes(&self.base, &masks, deltas)?;
        let base = Arc::clone(&self.base);
        let is_other = |delta: &&Delta| base.maskable(&delta.tensor).is_none();
        let replaced: Vec<&str> = deltas.iter().filter(is_other).map(|delta| delta.tensor.as_str()).collect();
        let mut model =
            if replaced.is_empty() { self.template.clone() } else { read(&base, &self.fence, &replaced)?.0 };
        for tensor in base.manifest().maskable.iter().filter(|t| deltas.iter().all(|delta| delta.tensor != t.name)) {
            let mask = masks.iter().find(|m| m.tensor == tensor.name).map(|m| &m.mask);
            let value = self.weight(&tensor.name, mask)?;
            fenced(&self.fence, || set_constant(&mut model, &tensor.name, value))?;
        }
        for Delta { tensor, shape, values, .. } in deltas {
            let value = Tensor::from_shape(shape, values).map_err(failed)?.into_arc_tensor();
            fenced(&self.fence, || set_constant(&mut model, tensor, value))?;
        }
        let task = self.ids.next();
        self.tasks.write().unwrap_or_else(PoisonError::into_inner).insert(task, Arc::new(model));
        Ok(task)
    }

    fn remove(&self, task: TaskId) -> Result<(), EngineError> {
        let removed = self.tasks.write().unwrap_or_else(PoisonError::into_inner).remove(&task);
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).remove(|(of, _)| *of == task);
        removed.map(drop).ok_or(EngineError::NoTask(task))
    }

    fn encode(&self, task: TaskId, texts: &TokenBatch) -> Result<Hidden, EngineError> {
        texts.check(&self.base)?;
        let architecture = &self.base.manifest().architecture;
        let (width, limit) = (architecture.hidden_size, architecture.max_positions);
        let mut data = Vec::with_capacity(texts.tokens() * width);
        for (text, length) in texts.lengths().enumerate() {
            let bucket = bucket(length, limit);
            let plan = self.plan(task, bucket)?;
            let padded = Padded::new(&texts.select(&[text]), bucket);
            fenced(&self.fence, || run(&plan, &self.inputs, &padded, length * width, &mut data))?;
        }
        Ok(Hidden::new(texts, width, data))
    }
}

/// Reads the base's graph with its maskable weights, and these tensors, as inputs; and says which fields
/// of a batch it reads.
fn read(base: &Base, fence: &Fence, replaced: &[&str]) -> Result<(InferenceModel, Vec<String>), EngineError> {
    // tract makes one constant of all initializers that are equal, so that a change of one would
    // reach the others. Inputs stay apart.
    let mut model = graph::read_base(base)?;
    let inputs = encoder::token_inputs(&model).map_err(failed)?;
    let mut names: Vec<&str> = base.manifest().maskable.iter().map(|t| t.name.as_str()).collect();
    names.extend(replaced);
    graph::initializers_to_inputs(&mut model, &names)?;
    let folder = base
        .dir()
        .to_str()
        .ok_or_else(|| failed(format!("the path {} is not UTF-8; move the base", base.dir().display())))?;
    let parse = || -> TractResult<InferenceModel> {
        let framework = tract_onnx::onnx();
        let proto = framework.proto_model_for_read(&mut graph::encode(&model).as_slice())?;
        let parsed = framework.parse(&proto, Some(folder))?;
        let [] = parsed.unresolved_inputs.as_slice() else {
            bail!("the graph uses {:?}, which nothing makes", parsed.unresolved_inputs)
        };
        let mut model = parsed.model;
        model.set_input_names(&inputs)?;
        Ok(model)
    };
    let model = fenced(fence, parse)?;
    Ok((model, inputs))
}

/// Turns an input of the graph into a constant.
fn set_constant(model: &mut InferenceModel, name: &str, value: Arc<Tensor>) -> TractResult<()> {
    let node = model.node_id_by_name(name)?;
    let node = model.node_mut(node);
    if node.op_as::<Source>().is_none() {
        bail!("`{name}` is no input of the graph");
    }
    node.outputs[0].fact = InferenceFact::try_from(&value)?;
    node.op = Box::new(Const::new(value)?);
    Ok(())
}

/// The length that a text is padded to, at most the base's limit.
fn bucket(length: usize, limit: usize) -> usize {
    BUCKETS.into_iter().find(|b| *b >= length).unwrap_or(limit).min(limit)
}

/// Runs one text, and appends the first so many values, those of its own tokens.
fn run(plan: &Plan, inputs: &[String], text: &Padded, values: usize, out: &mut Vec<f32>) -> TractResult<()> {
    let input = |values: &Vec<i64>| Ok(Tensor::from_shape(&[1, text.sequence], values)?.into_tvalue());
    let inputs: TractResult<TVec<TValue>> = inputs.iter().filter_map(|name| text.input(name)).map(input).collect();
    let outputs = plan.run(inputs?)?;
    let hidden = outputs[0].to_plain_array_view::<f32>()?;
    let found = hidden.iter().take(values);
    if found.len() != values {
        bail!("the output has {} values, not {values}", found.len());
    }
    out.extend(found);
    Ok(())
}

/// What tract makes of the graph; a panic is an error about the graph's file.
fn fenced<T>(fence: &Fence, code: impl FnOnce() -> TractResult<T>) -> Result<T, EngineError> {
    let result = fence.run(code).map_err(|panicked| {
        let (path, field, reason) = (fence.file().to_owned(), "graph".to_owned(), panicked.to_string());
        BaseError::Field { path, field, reason }
    })?;
    result.map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> EngineError {
    // The alternate form prints the causes, too.
    EngineError::Failed { engine: EngineKind::Tract, reason: format!("{error:#}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_the_text_and_the_base_holds_the_bucket() {
        assert_eq!([1, 16, 17, 500, 512, 700].map(|n| bucket(n, 1024)), [16, 16, 32, 512, 512, 1024]);
        assert_eq!([1, 9, 20].map(|n| bucket(n, 20)), [16, 16, 20]);
        assert_eq!(bucket(3, 8), 8);
    }
}
