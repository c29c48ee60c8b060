//! Tasks as bits beside one copy of the weights that a task is applied to.
//!
//! A task that keeps its own masked weights takes as much memory as the base. Here it keeps a byte for each unit of its
//! masks; the weights lie there twice for all tasks together: as the base has them, in one tensor for each number of
//! columns, and *active*, masked, in a tensor each, which the encoder's graph reads. Going to another task is one
//! `Where` and one `Split` for each number of columns, all on the device.

use std::collections::BTreeMap;
use std::sync::Arc;

use ort::session::Session;
use ort::value::{DynValue, Tensor};
use overmask::base::{Base, MaskableTensor};
use overmask::engine::{Device, EngineError, EngineOptions, TaskId};
use overmask::mask::Granularity;
use overmask::pack::NamedMask;
use overmask_graph::proto::{ModelProto, data_type};
use overmask_graph::{self as graph, GraphBuilder};

use super::binding::{Binding, Bound};
use super::{allocator, builder, failed, refused};

/// The base's maskable weights, and those that are active.
pub(super) struct Active {
    groups: Vec<Group>,
    uploader: Option<Uploader>,
    device: Device,
    /// Whose masks the active weights have.
    task: Option<TaskId>,
}

/// Maskable tensors with the same number of columns.
struct Group {
    tensors: Vec<MaskableTensor>,
    // Dropped in this order: both refer to the session.
    binding: Binding,
    /// Of each tensor the weights that the encoder reads.
    active: Vec<Arc<Bound>>,
    session: Session,
}

/// What a task keeps: for each group the units of its masks, bool [down, 1, across, 1], on the device.
pub(super) struct Bits(Vec<Arc<Bound>>);

impl Active {
    /// Copies the base's weights to the device.
    pub(super) fn new(base: &Base, device: Device, options: &EngineOptions) -> Result<Self, EngineError> {
        let mut by_columns: BTreeMap<usize, Vec<MaskableTensor>> = BTreeMap::new();
        for tensor in &base.manifest().maskable {
            by_columns.entry(tensor.inputs).or_default().push(tensor.clone());
        }
        let groups = by_columns.into_values().map(|tensors| Group::new(base, tensors, device, options));
        let groups = groups.collect::<Result<_, _>>()?;
        let uploader = (device != Device::Cpu).then(|| Uploader::new(device, options)).transpose()?;
        Ok(Active { groups, uploader, device, task: None })
    }

    /// The active weights of a tensor.
    pub(super) fn weights(&self, name: &str) -> Option<Arc<Bound>> {
        let mut all = self.groups.iter().flat_map(|group| group.tensors.iter().zip(&group.active));
        all.find(|(tensor, _)| tensor.name == name).map(|(_, value)| Arc::clone(value))
    }

    /// What a task keeps.
    pub(super) fn bits(&mut self, masks: &[NamedMask]) -> Result<Bits, EngineError> {
        let device = self.device;
        let bits = |group: &Group| {
            let (shape, units) = group.units(masks);
            let keep = Tensor::from_array((shape, units))?.into_dyn();
            match &mut self.uploader {
                Some(uploader) => uploader.upload(keep, shape),
                None => Ok(Arc::new(Bound::owned(keep))),
            }
        };
        let bits = self.groups.iter().map(bits).collect::<Result<_, ort::Error>>();
        bits.map(Bits).map_err(|e| failed(device, e))
    }

    /// Makes a task's weights the active ones, if they are not.
    pub(super) fn activate(&mut self, task: TaskId, bits: &Bits) -> Result<(), EngineError> {
        if self.task == Some(task) {
            return Ok(());
        }
        // Until all groups are done they are nobody's.
        self.task = None;
        for (group, keep) in self.groups.iter_mut().zip(&bits.0) {
            let Group { binding, session, .. } = group;
            let done = binding.input("keep", keep).and_then(|()| binding.run(session));
            done.map_err(|e| failed(self.device, e))?;
        }
        self.task = Some(task);
        Ok(())
    }
}

impl Group {
    fn new(
        base: &Base,
        tensors: Vec<MaskableTensor>,
        device: Device,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let session = builder(device, options)?.commit_from_memory(&graph::encode(&masking(&tensors)));
        let session = session.map_err(|e| refused(device, e))?;
        let mut weights = Vec::new();
        for tensor in &tensors {
            weights.extend_from_slice(&base.values(&tensor.name)?.1);
        }
        let bind = || -> Result<(Binding, Vec<Arc<Bound>>), ort::Error> {
            let columns = tensors.first().map_or(1, |tensor| tensor.inputs);
            let weights = Tensor::from_array(([weights.len() / columns, columns], weights))?.into_dyn();
            let mut binding = Binding::new(&session)?;
            // On a GPU it is copied there now.
            binding.input("weights", &Arc::new(Bound::owned(weights)))?;
            let allocator = allocator(&session, device)?;
            let mut active = Vec::with_capacity(tensors.len());
            for (number, tensor) in tensors.iter().enumerate() {
                let value = Tensor::<f32>::new(&allocator, [tensor.outputs, tensor.inputs])?.into_dyn();
                let value = Arc::new(Bound::owned(value));
                binding.output(&output(number), &value)?;
                active.push(value);
            }
            Ok((binding, active))
        };
        let (binding, active) = bind().map_err(|e| failed(device, e))?;
        Ok(Group { tensors, binding, active, session })
    }

    /// The units of a task's masks over all rows of the group, and their shape, [down, 1, across, 1]: blocks where all
    /// masks have the same and every tensor divides into them, else weights. What is not masked is kept.
    fn units(&self, masks: &[NamedMask]) -> ([usize; 4], Vec<bool>) {
        let mask = |tensor: &MaskableTensor| masks.iter().find(|m| m.tensor == tensor.name).map(|m| &m.mask);
        let own: Vec<_> = self.tensors.iter().map(mask).collect();
        let block = |granularity: Granularity| match granularity {
            Granularity::Block { .. } => granularity.block(),
            Granularity::Weight | Granularity::TwoOfFour => (1, 1),
        };
        let mut blocks = own.iter().flatten().map(|mask| block(mask.granularity()));
        let common = blocks.next().filter(|first| blocks.all(|other| other == *first));
        let divides = |(rows, cols): &(usize, usize)| {
            self.tensors.iter().all(|t| t.outputs.is_multiple_of(*rows) && t.inputs.is_multiple_of(*cols))
        };
        let (rows, cols) = common.filter(divides).unwrap_or((1, 1));
        let mut units = Vec::new();
        let (mut down, mut across) = (0, 1);
        for (tensor, mask) in self.tensors.iter().zip(own) {
            let of_tensor = tensor.outputs / rows;
            (down, across) = (down + of_tensor, tensor.inputs / cols);
            match mask {
                None => units.resize(units.len() + of_tensor * across, true),
                Some(mask) if (rows, cols) == (1, 1) => units.extend(mask.expand()),
                Some(mask) => units.extend(mask.unit_bits().iter().by_vals()),
            }
        }
        ([down, 1, across, 1], units)
    }
}

fn output(number: usize) -> String {
    format!("active/{number}")
}

/// The weights of a group, [rows, columns], with zeros where `keep`, [down, 1, across, 1], has none, tensor by tensor.
fn masking(tensors: &[MaskableTensor]) -> ModelProto {
    let columns = tensors.first().map_or(1, |tensor| tensor.inputs);
    let rows: usize = tensors.iter().map(|tensor| tensor.outputs).sum();
    let mut g = GraphBuilder::new("active");
    let keep = g.input("keep", data_type::BOOL, &["down", "1", "across", "1"]);
    let weights = g.input("weights", data_type::FLOAT, &[&rows.to_string(), &columns.to_string()]);
    // The weights opened into blocks: [down, rows / down, across, columns / across].
    let shape = g.op("Shape", &[&keep], &[]);
    let mut sizes = Vec::new();
    for (axis, whole) in [(0, rows), (2, columns)] {
        let (axis, whole) = (g.shape(&[axis]), g.shape(&[whole as i64]));
        let units = g.op("Gather", &[&shape, &axis], &[]);
        let inside = g.op("Div", &[&whole, &units], &[]);
        sizes.extend([units, inside]);
    }
    let sizes: Vec<&str> = sizes.iter().map(String::as_str).collect();
    let open = g.op("Concat", &sizes, &[("axis", 0i64.into())]);
    let opened = g.op("Reshape", &[&weights, &open], &[]);
    let zero = g.float(0.0);
    let masked = g.op("Where", &[&keep, &opened, &zero], &[]);
    let flat = g.shape(&[rows as i64, columns as i64]);
    let names: Vec<String> = (0..tensors.len()).map(output).collect();
    let outputs: Vec<&str> = names.iter().map(String::as_str).collect();
    if let [only] = outputs[..] {
        g.node("Reshape", &[&masked, &flat], &[only], &[]);
    } else {
        let masked = g.op("Reshape", &[&masked, &flat], &[]);
        let parts: Vec<i64> = tensors.iter().map(|tensor| tensor.outputs as i64).collect();
        let parts = g.shape(&parts);
        g.node("Split", &[&masked, &parts], &outputs, &[("axis", 0i64.into())]);
    }
    for (name, tensor) in names.iter().zip(tensors) {
        g.output(name, data_type::FLOAT, &[&tensor.outputs.to_string(), &tensor.inputs.to_string()]);
    }
    g.finish()
}

/// Brings bits to the device, where they stay: bound as they are, they would be copied there at every switch.
struct Uploader {
    session: Session,
    device: Device,
}

impl Uploader {
    fn new(device: Device, options: &EngineOptions) -> Result<Self, EngineError> {
        let mut g = GraphBuilder::new("upload");
        let shape = ["down", "1", "across", "1"];
        let keep = g.input("keep", data_type::BOOL, &shape);
        g.node("Identity", &[&keep], &["there"], &[]);
        g.output("there", data_type::BOOL, &shape);
        let session = builder(device, options)?.commit_from_memory(&graph::encode(&g.finish()));
        Ok(Uploader { session: session.map_err(|e| refused(device, e))?, device })
    }

    fn upload(&mut self, keep: DynValue, shape: [usize; 4]) -> Result<Arc<Bound>, ort::Error> {
        let allocator = allocator(&self.session, self.device)?;
        let there = Arc::new(Bound::owned(Tensor::<bool>::new(&allocator, shape)?.into_dyn()));
        let mut binding = Binding::new(&self.session)?;
        binding.input("keep", &Arc::new(Bound::owned(keep)))?;
        binding.output("there", &there)?;
        binding.run(&mut self.session)?;
        Ok(there)
    }
}
