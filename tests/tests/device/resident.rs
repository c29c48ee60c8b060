//! What tasks of ONNX Runtime keep: their weights, or the bits of their masks.

use std::sync::Arc;

use overmask::engine::{Device, Engine, EngineOptions};
use overmask::mask::Granularity;
use overmask::pack::Pack;
use overmask::task::Runner;
use overmask_ort::{OrtEngine, Resident};
use overmask_tests::{Recipe, base, classify, questions};

use super::conformance::{deltas, logits};

const BLOCK: Granularity = Granularity::Block { rows: 32, cols: 1 };

/// Tasks of ONNX Runtime that keep bits, and are applied when it is their turn, are those that keep their weights: as on
/// a GPU, whatever ran before.
#[test]
fn tasks_as_bits_are_what_they_are_as_weights() {
    let base = base();
    let (device, options) = (Device::Cpu, EngineOptions::default().threads(1));
    let [bits, weights] = [Resident::Bits, Resident::Weights].map(|resident| {
        let engine: Arc<dyn Engine> = Arc::new(OrtEngine::with(Arc::clone(&base), device, &options, resident).unwrap());
        Runner::new(engine, Arc::clone(&base)).unwrap()
    });
    let recipe = |granularity, seed| Recipe { granularity, seed, ..Default::default() };
    let mut packs: Vec<Pack> = [
        recipe(BLOCK, 2),
        recipe(Granularity::Weight, 1),
        Recipe { sparsity: 0.4, from_layer: 3, ..recipe(BLOCK, 3) },
        recipe(Granularity::Block { rows: 32, cols: 4 }, 4),
        // Blocks that do not divide the tensors.
        recipe(Granularity::Block { rows: 7, cols: 5 }, 4),
        Recipe { from_layer: base.manifest().architecture.layers, ..recipe(BLOCK, 5) },
    ]
    .into_iter()
    .map(|recipe| recipe.pack(&base))
    .collect();
    // One whose masks have blocks of two kinds, and one that replaces tensors, a maskable one among them.
    let mut mixed = packs[0].clone();
    mixed.masks.truncate(9);
    mixed.masks.extend(packs[1].masks[9..].iter().cloned());
    let mut replaced = packs[0].clone();
    replaced.deltas = deltas(&base);
    replaced.masks.retain(|mask| replaced.deltas.iter().all(|delta| delta.tensor != mask.tensor));
    packs.extend([mixed, replaced]);
    let texts = questions(3);
    let add = |runner: &Runner| packs.iter().map(|pack| runner.add_pack(pack.clone()).unwrap()).collect::<Vec<_>>();
    let (as_bits, as_weights) = (add(&bits), add(&weights));
    let compare = |number: usize| {
        let found = logits(&classify(&bits, as_bits[number], &texts));
        assert_eq!(found, logits(&classify(&weights, as_weights[number], &texts)), "{number}");
    };
    for number in (0..packs.len()).chain((0..packs.len()).rev()) {
        compare(number);
    }
    // What was active before another came and went is not what it was.
    let other = bits.add_pack(packs[1].clone()).unwrap();
    compare(0);
    classify(&bits, other, &texts);
    bits.remove(other).unwrap();
    compare(0);
}
