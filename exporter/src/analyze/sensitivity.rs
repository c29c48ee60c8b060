//! Which parts of a pack matter: the metric with the base's own weights in one group at a time.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use overmask::base::family::module;
use overmask::base::{Base, MaskableTensor};
use overmask::engine::Engine;
use overmask::pack::Pack;
use overmask::task::Runner;
use serde::Serialize;

use crate::data::Dataset;
use crate::evaluate::{EvaluateError, measure};

/// What is taken away together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
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

/// What the metric loses without each group, or with each alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sensitivity {
    /// Always `sensitivity`.
    pub analysis: &'static str,
    /// The pack's name.
    pub pack: String,
    /// What makes a group.
    pub by: By,
    /// Whether a group was kept alone rather than taken away.
    pub only: bool,
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
    engine: Arc<dyn Engine>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Sensitivity, EvaluateError> {
    let runner = Runner::new(engine, Arc::clone(base))?;
    let groups: BTreeMap<&str, String> =
        base.manifest().maskable.iter().map(|tensor| (tensor.name.as_str(), by.group(tensor))).collect();
    let names = changed(base, pack, by);
    let whole = measure(&runner, pack.clone(), data, &mut |_| ())?;
    progress(1, names.len() + 1);
    let mut measured = Vec::with_capacity(names.len());
    for group in &names {
        let stays = |tensor: &str| groups.get(tensor).is_none_or(|of| (of == group) == only);
        let mut part = pack.clone();
        part.masks.retain(|mask| stays(&mask.tensor));
        part.deltas.retain(|delta| stays(&delta.tensor));
        let metric = measure(&runner, part, data, &mut |_| ())?.card.main();
        measured.push(Group { group: group.clone(), metric, drop: whole.card.main() - metric });
        progress(measured.len() + 1, names.len() + 1);
    }
    Ok(Sensitivity {
        analysis: "sensitivity",
        pack: pack.document.name.clone(),
        by,
        only,
        metric: whole.card.metric,
        base: whole.card.main(),
        groups: measured,
    })
}

/// The groups of which a pack masks or replaces a tensor, in the order of the base's manifest.
fn changed(base: &Base, pack: &Pack, by: By) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for tensor in &base.manifest().maskable {
        let group = by.group(tensor);
        let changed = pack.masks.iter().any(|mask| mask.tensor == tensor.name)
            || pack.deltas.iter().any(|delta| delta.tensor == tensor.name);
        if changed && !names.contains(&group) {
            names.push(group);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use overmask::pack::{Delta, FloatType};

    use super::super::tests::{base, pack};
    use super::*;

    #[test]
    fn groups_are_read_by_name() {
        for (text, by) in [("layer", By::Layer), ("module", By::Module), ("both", By::Both)] {
            assert_eq!(text.parse(), Ok(by));
            // Reports read the same name.
            assert_eq!(serde_json::to_value(by).unwrap(), text);
        }
        for wrong in ["", "Layer", "layers", "head"] {
            let error = wrong.parse::<By>().unwrap_err();
            assert_eq!(error, format!("`{wrong}` is not `layer`, `module` or `both`"));
        }
    }

    #[test]
    fn groups_have_the_names_of_layers_and_modules() {
        let (_dir, base) = base();
        let tensor = |end: &str| base.manifest().maskable.iter().find(|t| t.name.ends_with(end)).unwrap();
        for (end, layer, module, both) in [
            ("layer.0.attention.self.query.weight", "layer 0", "query", "layer 0 query"),
            ("layer.1.attention.output.dense.weight", "layer 1", "attention-output", "layer 1 attention-output"),
            ("layer.1.output.dense.weight", "layer 1", "output", "layer 1 output"),
            ("layer.0.intermediate.dense.weight", "layer 0", "intermediate", "layer 0 intermediate"),
        ] {
            let found = [By::Layer, By::Module, By::Both].map(|by| by.group(tensor(end)));
            assert_eq!(found, [layer, module, both], "{end}");
        }
    }

    #[test]
    fn what_a_pack_masks_or_replaces_is_a_group_and_nothing_else() {
        let (_dir, base) = base();
        let maskable = &base.manifest().maskable;
        let [query, key, value] =
            ["0.attention.self.query", "1.attention.self.key", "1.attention.self.value"].map(|name| {
                let name = format!("layer.{name}.weight");
                maskable.iter().position(|tensor| tensor.name.ends_with(&name)).unwrap()
            });
        let delta = |name: &str| {
            let (shape, values) = base.tensor_f32(name).unwrap();
            Delta { tensor: name.to_owned(), shape: shape.to_vec(), values: values.to_vec(), dtype: FloatType::F32 }
        };
        let deltas = vec![delta(&maskable[query].name), delta("embeddings.LayerNorm.weight")];
        let pack = pack(&base, "p", &[(value, &|w| w == 0), (key, &|_| false)]).with_deltas(deltas).unwrap();
        assert_eq!(changed(&base, &pack, By::Layer), ["layer 0", "layer 1"]);
        assert_eq!(changed(&base, &pack, By::Module), ["query", "key", "value"]);
        assert_eq!(changed(&base, &pack, By::Both), ["layer 0 query", "layer 1 key", "layer 1 value"]);
    }
}
