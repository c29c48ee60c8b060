//! Which tensors of the base a run masks or trains.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::str::FromStr;

use overmask::base::family::module;
use overmask::base::{Base, MaskableTensor};
use overmask_graph::proto::NodeProto;

use super::TrainError;

/// Layers of an encoder: `all`, or numbers and ranges such as `0-2,5` or `3-` (from 3 up).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers(Vec<(usize, Option<usize>)>);

impl Layers {
    /// Every layer.
    pub fn all() -> Self {
        Layers(vec![(0, None)])
    }

    fn contains(&self, layer: usize) -> bool {
        self.0.iter().any(|(first, last)| *first <= layer && last.is_none_or(|last| layer <= last))
    }

    /// The first layer that a base does not have.
    fn beyond(&self, layers: usize) -> Option<usize> {
        self.0.iter().map(|(first, last)| last.unwrap_or(*first)).find(|layer| *layer >= layers)
    }
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not `all`, or numbers and ranges such as `0-2,5` or `3-`");
        if text == "all" {
            return Ok(Self::all());
        }
        let number = |digits: &str| digits.trim().parse::<usize>().map_err(|_| wrong());
        let part = |part: &str| match part.split_once('-') {
            None => number(part).map(|layer| (layer, Some(layer))),
            Some((first, "")) => Ok((number(first)?, None)),
            Some((first, last)) => match (number(first)?, number(last)?) {
                (first, last) if first <= last => Ok((first, Some(last))),
                _ => Err(wrong()),
            },
        };
        text.split(',').map(part).collect::<Result<_, _>>().map(Layers)
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::all() {
            return f.write_str("all");
        }
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last {
                Some(last) if last == first => write!(f, "{comma}{first}")?,
                Some(last) => write!(f, "{comma}{first}-{last}")?,
                None => write!(f, "{comma}{first}-")?,
            }
        }
        Ok(())
    }
}

/// Small tensors that train beside what the method trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tune {
    /// Scales and biases of layer norms.
    pub norms: bool,
    /// Biases of linear layers.
    pub biases: bool,
}

/// Maskable tensors, by layer and module.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// Their layers.
    pub layers: &'a Layers,
    /// Their modules; all if empty.
    pub modules: &'a [String],
}

impl Selection<'_> {
    /// The tensors of a base, in the order of its manifest.
    ///
    /// # Errors
    /// When a layer or module is not the base's, or nothing is left.
    pub fn tensors(&self, base: &Base) -> Result<Vec<MaskableTensor>, TrainError> {
        let wrong = |field, reason| Err(TrainError::Option { field, reason });
        let (all, layers) = (&base.manifest().maskable, base.manifest().architecture.layers);
        if let Some(layer) = self.layers.beyond(layers) {
            return wrong("layers", format!("{layer} of a base with layers 0 to {}", layers - 1));
        }
        if let Some(unknown) = self.modules.iter().find(|m| all.iter().all(|tensor| module(tensor) != **m)) {
            let mut known: Vec<String> = all.iter().map(module).collect();
            known.sort();
            known.dedup();
            return Err(TrainError::Module { module: unknown.clone(), known: known.join(", ") });
        }
        let of_modules = |tensor: &&MaskableTensor| self.modules.is_empty() || self.modules.contains(&module(tensor));
        let chosen = all.iter().filter(of_modules).filter(|tensor| self.layers.contains(tensor.layer));
        let tensors: Vec<MaskableTensor> = chosen.cloned().collect();
        if tensors.is_empty() {
            let with: BTreeSet<usize> = all.iter().filter(of_modules).map(|tensor| tensor.layer).collect();
            let with: Vec<String> = with.iter().map(usize::to_string).collect();
            let of = if self.modules.is_empty() { "" } else { " of these `modules`" };
            let shared = "layers that share their weights count as the first of them";
            let reason = format!("have no maskable tensor{of}; those that have are {} ({shared})", with.join(", "));
            return wrong("layers", reason);
        }
        Ok(tensors)
    }
}

/// The norms and biases of a base's graph that are to train, in all layers.
///
/// # Errors
/// When the graph has none of a kind that is asked for.
pub(super) fn small_tensors(base: &Base, tune: Tune) -> Result<Vec<String>, TrainError> {
    let model = overmask_graph::read_model(&base.model_path())?;
    let external = overmask_graph::external_names(&model)?;
    let nodes: Vec<&NodeProto> = model.graph.iter().flat_map(|g| &g.node).collect();
    let of_norms: HashSet<&String> =
        nodes.iter().filter(|n| n.op_type == "LayerNormalization").flat_map(|n| n.input.iter().skip(1)).collect();
    let products: HashSet<&String> =
        nodes.iter().filter(|n| matches!(n.op_type.as_str(), "MatMul" | "Gemm")).flat_map(|n| &n.output).collect();
    // What a product has added to it, inside or right after.
    let of_products: HashSet<&String> = nodes
        .iter()
        .flat_map(|n| match n.op_type.as_str() {
            "Gemm" => n.input.get(2..).unwrap_or_default(),
            "Add" if n.input.iter().any(|i| products.contains(i)) => &n.input,
            _ => &[],
        })
        .collect();
    let mut chosen = Vec::new();
    let mut find = |wanted: bool, name: &str, among: &HashSet<&String>| -> Result<(), TrainError> {
        let before = chosen.len();
        for tensor in external.iter().filter(|tensor| wanted && among.contains(tensor)) {
            if base.tensor_f32(tensor)?.0.len() == 1 {
                chosen.push(tensor.clone());
            }
        }
        if wanted && chosen.len() == before {
            let reason = format!("the base's graph has no {name} that could be told as such; leave it out");
            return Err(TrainError::Option { field: "tune", reason });
        }
        Ok(())
    };
    find(tune.norms, "norms", &of_norms)?;
    find(tune.biases, "biases", &of_products)?;
    chosen.sort_by_key(|name| external.iter().position(|e| e == name));
    Ok(chosen)
}

/// Every tensor of a base's graph.
pub(super) fn all_tensors(base: &Base) -> Result<Vec<String>, TrainError> {
    Ok(overmask_graph::external_names(&overmask_graph::read_model(&base.model_path())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_numbers_and_ranges() {
        for (text, inside) in
            [("all", vec![0, 1, 2, 3, 4, 5]), ("0-2,5", vec![0, 1, 2, 5]), ("3-", vec![3, 4, 5]), ("4", vec![4])]
        {
            let layers: Layers = text.parse().unwrap();
            assert_eq!((0..6).filter(|l| layers.contains(*l)).collect::<Vec<_>>(), inside, "{text}");
            assert_eq!(layers.to_string(), text);
        }
        for wrong in ["", "a", "3-1", "-2", "1,,2", "all,1"] {
            assert!(wrong.parse::<Layers>().is_err(), "{wrong}");
        }
        assert_eq!("2-7".parse::<Layers>().unwrap().beyond(6), Some(7));
        assert_eq!("6-".parse::<Layers>().unwrap().beyond(6), Some(6));
        assert_eq!("3-".parse::<Layers>().unwrap().beyond(6), None);
    }
}
