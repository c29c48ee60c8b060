//! The small graph that masks a weight on the device: `Where(keep, weight, 0)`.

use std::sync::Arc;

use ort::session::Session;
use ort::value::Tensor;
use overmask::engine::{Device, EngineError, EngineOptions};
use overmask::mask::Mask;
use overmask_graph::proto::{ModelProto, data_type};
use overmask_graph::{self as graph, GraphBuilder};

use super::binding::{Binding, Bound};
use super::{allocator, builder, failed, refused};

/// A session of the masking graph; sizes are symbolic, so one serves all tensors.
pub(super) struct Masker {
    session: Session,
    device: Device,
}

fn masking() -> ModelProto {
    let mut g = GraphBuilder::new("masking");
    let shape = ["outputs", "inputs"];
    let keep = g.input("keep", data_type::BOOL, &shape);
    let weight = g.input("weight", data_type::FLOAT, &shape);
    let zero = g.float(0.0);
    g.node("Where", &[&keep, &weight, &zero], &["masked"], &[]);
    g.output("masked", data_type::FLOAT, &shape);
    g.finish()
}

impl Masker {
    pub(super) fn new(device: Device, options: &EngineOptions) -> Result<Self, EngineError> {
        let session = builder(device, options)?.commit_from_memory(&graph::encode(&masking()));
        Ok(Masker { session: session.map_err(|e| refused(device, e))?, device })
    }

    /// For tests of what runs on a session.
    #[cfg(test)]
    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The weight with zeros where the mask does not keep it; stays on the device.
    pub(super) fn apply(&mut self, mask: &Mask, weight: &Arc<Bound>) -> Result<Arc<Bound>, EngineError> {
        self.run(mask, weight).map_err(|e| failed(self.device, e))
    }

    fn run(&mut self, mask: &Mask, weight: &Arc<Bound>) -> Result<Arc<Bound>, ort::Error> {
        let shape = [mask.outputs(), mask.inputs()];
        let keep = Tensor::from_array((shape, mask.expand()))?.into_dyn();
        let allocator = allocator(&self.session, self.device)?;
        let masked = Arc::new(Bound::owned(Tensor::<f32>::new(&allocator, shape)?.into_dyn()));
        let mut binding = Binding::new(&self.session)?;
        binding.input("keep", &Arc::new(Bound::owned(keep)))?;
        binding.input("weight", weight)?;
        binding.output("masked", &masked)?;
        binding.run(&mut self.session)?;
        Ok(masked)
    }
}
