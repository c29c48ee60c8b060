//! One panel of a product: the loop over the tiles, for every element and instruction set.

use std::ops::Range;

use super::activations::split;
use super::kernel::{Ahead, DEPTH, Kernel, Operands, detected};
use super::{Activations, Element, NR, PanelMask, Panels, Row};

/// Memory that a product needs and that the next one uses again; one for each thread.
#[derive(Debug, Default)]
pub struct Scratch<E: Element = f32> {
    /// Some steps of a panel, masked.
    masked: Vec<Row<E::Lane>>,
    /// Which of them are kept.
    kept: Vec<u32>,
    /// Their mask, a bit for each weight.
    bits: Vec<u32>,
}

/// Activations [rows, inputs] times one panel of a masked weight [outputs, inputs].
#[derive(Debug, Clone, Copy)]
pub struct Product<'a, E: Element = f32> {
    /// The activations.
    pub activations: Activations<'a, E::Activation>,
    /// The weight.
    pub weight: Panels<'a, E>,
    /// Which of the weights are kept, packed for the element.
    pub mask: PanelMask<'a>,
    /// The number of the panel.
    pub panel: usize,
    /// What the products are added to; without it, to what the sums are.
    pub bias: Option<&'a Row<E::Sum>>,
}

/// Runs a product.
type Run<E> = fn(&Product<'_, E>, &mut Scratch<E>, &mut [Row<<E as Element>::Sum>]);

/// What an instruction set offers for an element.
pub struct Kernels<E: Element> {
    pub(super) run: Run<E>,
    /// What is done with a mask in a product of so many rows.
    pub(super) form: fn(PanelMask<'_>, usize) -> &'static str,
    pub(super) rounds: bool,
}

impl<E: Element> Kernels<E> {
    pub(super) const fn new<K: Kernel<E>>() -> Self {
        Kernels { run: run::<E, K>, form: form::<E, K>, rounds: K::ROUNDS }
    }
}

fn form<E: Element, K: Kernel<E>>(mask: PanelMask<'_>, rows: usize) -> &'static str {
    match mask {
        PanelMask::Dense => "no mask",
        // Of all panels together: each goes its own way.
        PanelMask::Steps(words) if K::lists(count(words), 32 * words.len(), rows) => "kept steps",
        _ if rows < K::MERGE_BELOW => "masked multiply-adds",
        _ => "masked panels",
    }
}

fn run<E: Element, K: Kernel<E>>(product: &Product<'_, E>, scratch: &mut Scratch<E>, sums: &mut [Row<E::Sum>]) {
    let kernel: K = detected();
    let Product { activations, weight, mut mask, panel, bias } = *product;
    let (rows, steps) = (activations.rows(), weight.steps());
    assert_eq!(activations.inputs(), weight.inputs(), "activations and weight have not the same inputs");
    assert_eq!(sums.len(), rows, "activations and sums have not the same rows");
    assert!(mask.fits(weight), "the mask is of another weight");
    let Scratch { masked, kept, bits } = scratch;
    masked.resize(DEPTH, [E::Lane::default(); NR]);
    let tiles = split(rows, K::MAX_ROWS);
    let mut listed = false;
    if let PanelMask::Steps(words) = mask {
        let kept = count(&words[panel * steps.div_ceil(32)..][..steps.div_ceil(32)]);
        (mask, listed) = if kept == steps { (PanelMask::Dense, false) } else { (mask, K::lists(kept, steps, rows)) };
    }
    let depth = if listed { K::LISTED_DEPTH } else { DEPTH };
    for start in (0..steps).step_by(depth) {
        let range = start..steps.min(start + depth);
        let b = &weight.panel(panel)[range.clone()];
        let masked = &mut masked[..b.len()];
        let mut masks: &[u32] = &[];
        match mask {
            PanelMask::Dense => {}
            PanelMask::Steps(words) => {
                let words = &words[panel * steps.div_ceil(32)..][range.start / 32..range.end.div_ceil(32)];
                if listed {
                    kernel.kept(words, kept);
                } else {
                    all_or_nothing::<E>(words, b.len(), bits);
                    masks = bits;
                }
            }
            PanelMask::Weights(words) => {
                masks = &words[panel * steps * E::INPUTS..][range.start * E::INPUTS..range.end * E::INPUTS];
            }
            PanelMask::Inputs(words) => {
                spread::<E>(&words[panel * weight.inputs().div_ceil(32)..], range.clone(), bits);
                masks = bits;
            }
        }
        // What comes next lies behind; each tile asks for its share, step by step.
        let used = if listed { kept.len() } else { b.len() };
        let (next, stride) = (b.as_ptr_range().end.cast::<i8>(), size_of_val(b).div_ceil((tiles.len() * used).max(1)));
        for (tile, (first, height)) in split(rows, K::MAX_ROWS).enumerate() {
            let (a, sums) = (activations.tile(first, start * E::INPUTS), &mut sums[first..first + height]);
            let ahead = Ahead { start: next.wrapping_add(tile * stride * used), stride };
            let operands = Operands { a, b, bias: bias.filter(|_| start == 0), ahead };
            match mask {
                PanelMask::Dense => kernel.dense(operands, sums),
                PanelMask::Steps(_) if listed => kernel.listed(operands, kept, sums),
                PanelMask::Steps(_) | PanelMask::Weights(_) | PanelMask::Inputs(_) => match tile {
                    _ if rows < K::MERGE_BELOW => kernel.masked(operands, masks, masked, sums),
                    0 => kernel.masking(operands, masks, masked, sums),
                    _ => kernel.dense(Operands { b: masked, ..operands }, sums),
                },
            }
        }
    }
    // Without steps there is none that the bias could come with.
    if let (0, Some(bias)) = (steps, bias) {
        sums.fill(*bias);
    }
}

/// The bits of some steps' inputs, for each of a panel's weights.
fn spread<E: Element>(words: &[u32], steps: Range<usize>, bits: &mut Vec<u32>) {
    // As often as a word has room for a step's.
    let (lane, copies) = (u32::MAX >> (32 - E::INPUTS), u32::MAX / (u32::MAX >> (32 - E::INPUTS)));
    bits.clear();
    for step in steps {
        let input = step * E::INPUTS;
        let bits_of_lane = words[input / 32] >> (input % 32) & lane;
        bits.extend(std::iter::repeat_n(bits_of_lane * copies, E::INPUTS));
    }
}

/// How many bits are set.
fn count(words: &[u32]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

/// The bits of some steps, for each of a panel's weights.
fn all_or_nothing<E: Element>(words: &[u32], steps: usize, bits: &mut Vec<u32>) {
    bits.resize(steps * E::INPUTS, 0);
    for (word, bits) in words.iter().zip(bits.chunks_mut(32 * E::INPUTS)) {
        for (step, bits) in bits.chunks_exact_mut(E::INPUTS).enumerate() {
            bits.fill(0u32.wrapping_sub(word >> step & 1));
        }
    }
}

#[cfg(test)]
mod tests;
