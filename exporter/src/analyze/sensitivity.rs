//! Which parts of a pack matter: the metric with the base's own weights in one group at a time.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use overmask::base::{Base, MaskableTensor};
use overmask::engine::{self, EngineKind, EngineOptions};
use overmask::pack::Pack;
use overmask::task::Runner;
use serde::Serialize;

use crate::data::Dataset;
use crate::evaluate::{EvaluateError, measure};
use crate::train::module;

/// What is taken away together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A layer.
    Layer,
    /// A module, in all layers.
    Module,
    /// A module of a layer.
    Both,
}

impl FromStr for By {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "layer" => Ok(By::Layer),
            "module" => Ok(By::Module),
            "both" => Ok(By::Both),
            other => Err(format!("`{other}` is not `layer`, `module` or `both`")),
        }
    }
}

impl By {
    fn group(self, tensor: &MaskableTensor) -> String {
        match self {
            By::Layer => format!("layer {}", tensor.layer),
            By::Module => module(tensor),
            By::Both => format!("layer {} {}", tensor.layer, module(tensor)),
        }
    }
}

/// What the metric loses without each group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sensitivity {
    /// Always `sensitivity`.
    pub analysis: &'static str,
    /// The pack's name.
    pub pack: String,
    /// The name of the metric by which its kind of task is judged.
    pub metric: &'static str,
    /// The metric of the whole pack.
    pub base: f64,
    /// The groups that the pack masks or replaces, in the order of the base's manifest.
    pub groups: Vec<Group>,
}

/// A group of tensors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// Its name.
    pub group: String,
    /// The metric without it, or with it alone.
    pub metric: f64,
    /// How much less that is.
    pub drop: f64,
}

/// Measures a pack without the masks and deltas of each group of maskable tensors; with `only`,
/// with those of that group alone. What is no maskable tensor (norms, biases) stays as the pack
/// has it. All run on one engine, one after the other.
///
/// `progress` is told how many groups of how many are done; the whole pack counts as one.
///
/// # Errors
/// As [`evaluate`](crate::evaluate::evaluate).
pub fn sensitivity(
    base: &Arc<Base>,
    pack: &Pack,
    data: &Dataset,
    (by, only): (By, bool),
    (kind, options): (EngineKind, &EngineOptions),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Sensitivity, EvaluateError> {
    let mut runner = Runner::new(engine::start(kind, Arc::clone(base), options)?, Arc::clone(base))?;
    let groups: BTreeMap<&str, String> =
        base.manifest().maskable.iter().map(|tensor| (tensor.name.as_str(), by.group(tensor))).collect();
    let mut names: Vec<String> = Vec::new();
    for tensor in &base.manifest().maskable {
        let group = by.group(tensor);
        let changed = pack.masks.iter().any(|mask| mask.tensor == tensor.name)
            || pack.deltas.iter().any(|delta| delta.tensor == tensor.name);
        if changed && !names.contains(&group) {
            names.push(group);
        }
    }
    let whole = measure(&mut runner, pack.clone(), data, &mut |_| ())?;
    progress(1, names.len() + 1);
    let mut measured = Vec::with_capacity(names.len());
    for group in &names {
        let stays = |tensor: &str| groups.get(tensor).is_none_or(|of| (of == group) == only);
        let mut part = pack.clone();
        part.masks.retain(|mask| stays(&mask.tensor));
        part.deltas.retain(|delta| stays(&delta.tensor));
        let metric = measure(&mut runner, part, data, &mut |_| ())?.card.main();
        measured.push(Group { group: group.clone(), metric, drop: whole.card.main() - metric });
        progress(measured.len() + 1, names.len() + 1);
    }
    Ok(Sensitivity {
        analysis: "sensitivity",
        pack: pack.document.name.clone(),
        metric: whole.card.metric,
        base: whole.card.main(),
        groups: measured,
    })
}
