//! How small packs are and how fast their masks are coded, beside others, in one run.
//!
//! All on one thread. Speeds are in million weights a second, the best of several passes over all
//! masks of the pack.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use overmask::base::{Base, Int8Tensor};
use overmask::codec;
use overmask::mask::{Granularity, Mask};
use overmask::pack::{PackFile, Sizes};

use crate::rows::Rows;
use crate::{coders, f32_base};

/// Passes over the masks, of which the fastest counts.
const PASSES: usize = 7;

/// Measures the masks of each pack.
pub(crate) fn run(base: &Path, packs: &[PathBuf]) -> Result<Rows> {
    let base = f32_base(base)?;
    let mut rows = Rows::default();
    for path in packs {
        pack(&base, path, &mut rows)?;
    }
    adversarial(&base, &mut rows)?;
    Ok(rows)
}

/// A mask with the weights that it is for.
struct Item<'a> {
    mask: Mask,
    weights: &'a [f32],
    coded: Vec<u8>,
}

fn pack(base: &Base, path: &Path, rows: &mut Rows) -> Result<()> {
    let file = PackFile::open(path)?;
    let (sizes, digest): (Sizes, String) = (*file.sizes(), file.digest()[..12].to_owned());
    let pack = file.decode(Some(base))?;
    let granularity = pack.document.granularity;
    let title = format!("{} {granularity} {digest}", pack.document.name);
    let mut items = Vec::new();
    for named in pack.masks {
        let (_, weights) = base.tensor_f32(&named.tensor)?;
        let classes = codec::classes(&Int8Tensor::quantize(weights, named.mask.inputs()), granularity);
        let coded = codec::encode(&named.mask, &classes)?;
        items.push(Item { mask: named.mask, weights, coded });
    }
    ensure!(!items.is_empty(), "{} masks nothing", path.display());

    let units: usize = items.iter().map(|item| item.mask.unit_bits().len()).sum();
    let zeros: usize = items.iter().map(|item| item.mask.zero_units()).sum();
    let bytes: usize = items.iter().map(|item| item.coded.len()).sum();
    let share = zeros as f64 / units as f64;
    let entropy = -(share * share.log2() + (1.0 - share) * (1.0 - share).log2()) * units as f64 / 8.0;
    let weight = granularity == Granularity::Weight;
    rows.add(format!("{title}: zeros"), "%", 100.0 * share, None, "");
    let reach = if weight { "<= 0.52 (0.48 wanted)" } else { "" };
    rows.add(format!("{title}: masks, against i.i.d. entropy"), "bytes", bytes as f64, Some(entropy), reach);
    let reach = if weight { "" } else { "<= 20000 (trec: 18000 wanted)" };
    rows.add(format!("{title}: whole pack"), "bytes", sizes.total() as f64, None, reach);
    speeds(&title, &items, bytes, weight, rows)
}

fn speeds(title: &str, items: &[Item<'_>], bytes: usize, weight: bool, rows: &mut Rows) -> Result<()> {
    let classes = |item: &Item<'_>| {
        codec::classes(&Int8Tensor::quantize(item.weights, item.mask.inputs()), item.mask.granularity())
    };
    let weights: usize = items.iter().map(|item| item.weights.len()).sum();
    let speed = |pass: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..PASSES {
            let start = Instant::now();
            pass()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(weights as f64 / best / 1e6)
    };
    let decode = |item: &Item<'_>, coded: &[u8], classes: &[u8]| -> Result<()> {
        let Item { mask, .. } = item;
        let found = codec::decode(coded, mask.granularity(), mask.outputs(), mask.inputs(), classes)?;
        ensure!(found == *mask, "a mask does not come back");
        Ok(())
    };
    let ours = speed(&mut || items.iter().try_for_each(|item| decode(item, &item.coded, &classes(item))))?;
    let encode = speed(&mut || {
        items.iter().try_for_each(|item| {
            let coded = codec::encode(&item.mask, &classes(item))?;
            ensure!(coded == item.coded, "coding is not the same twice");
            Ok(())
        })
    })?;
    let reach = if weight { ">= 150" } else { "" };
    rows.add(format!("{title}: decode, contexts included"), "M weights/s", ours, None, reach);
    let reach = if weight { ">= 50" } else { "" };
    rows.add(format!("{title}: encode, contexts included"), "M weights/s", encode, None, reach);

    // The same coder without contexts: every unit in one class.
    let flat: Vec<Vec<u8>> = items.iter().map(|item| vec![0; item.mask.unit_bits().len()]).collect();
    let iid = items.iter().zip(&flat).map(|(item, flat)| codec::encode(&item.mask, flat));
    let iid: Vec<Vec<u8>> = iid.collect::<Result<_, _>>()?;
    let iid_speed = speed(&mut || {
        items.iter().zip(&iid).zip(&flat).try_for_each(|((item, coded), flat)| decode(item, coded, flat))
    })?;
    let size = |coded: &[Vec<u8>]| coded.iter().map(Vec::len).sum::<usize>() as f64;
    rows.add(format!("{title}: decode, against our coder without contexts"), "M weights/s", ours, Some(iid_speed), "");
    rows.add(
        format!("{title}: masks, against our coder without contexts"),
        "bytes",
        bytes as f64,
        Some(size(&iid)),
        "",
    );

    let all: Vec<Vec<u8>> = items.iter().map(classes).collect();
    let coded: Vec<_> =
        items.iter().zip(&all).map(|(item, classes)| coders::Constriction::encode(&item.mask, classes)).collect();
    let theirs = speed(&mut || {
        items.iter().zip(&coded).try_for_each(|(item, coded)| {
            ensure!(coded.decode(&classes(item)) == item.mask.as_bytes(), "constriction: a mask does not come back");
            Ok(())
        })
    })?;
    let name = format!("{title}: decode, against constriction, same contexts");
    rows.add(name, "M weights/s", ours, Some(theirs), "");

    let zstd = items.iter().map(|item| zstd::bulk::compress(item.mask.as_bytes(), 19));
    let zstd: Vec<Vec<u8>> = zstd.collect::<Result<_, _>>()?;
    let theirs = speed(&mut || {
        items.iter().zip(&zstd).try_for_each(|(item, coded)| {
            let plain = zstd::bulk::decompress(coded, item.mask.as_bytes().len())?;
            ensure!(plain == item.mask.as_bytes(), "zstd: a mask does not come back");
            Ok(())
        })
    })?;
    rows.add(format!("{title}: decode, against zstd -19"), "M weights/s", ours, Some(theirs), "");
    rows.add(format!("{title}: masks, against zstd -19"), "bytes", bytes as f64, Some(size(&zstd)), "");

    let copied = speed(&mut || {
        items.iter().try_for_each(|item| {
            let copy = std::hint::black_box(item.mask.as_bytes()).to_vec();
            ensure!(copy == item.mask.as_bytes(), "a copy is another");
            Ok(())
        })
    })?;
    rows.add(format!("{title}: decode, against a copy of the bitmap"), "M weights/s", ours, Some(copied), "");
    Ok(())
}

/// Masks that no training makes: none may be much larger than its bitmap.
fn adversarial(base: &Base, rows: &mut Rows) -> Result<()> {
    for granularity in [Granularity::Weight, Granularity::Block { rows: 32, cols: 1 }] {
        let (mut worst, mut name) = (f64::NEG_INFINITY, "");
        for tensor in &base.manifest().maskable {
            let classes = codec::classes(&base.int8(tensor)?, granularity);
            let random = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let kinds: [(&str, &dyn Fn(usize) -> bool); 5] = [
                ("all zero", &|_| false),
                ("all one", &|_| true),
                ("random", &|i| random(i) % 2 == 0),
                ("striped", &|i| i % 2 == 0),
                ("the largest zero", &|i| classes[i] < 32),
            ];
            for (kind, keep) in kinds {
                let mask = Mask::from_units(granularity, tensor.outputs, tensor.inputs, (0..classes.len()).map(keep))?;
                let over = codec::encode(&mask, &classes)?.len() as f64 - 1.01 * mask.as_bytes().len() as f64;
                if over > worst {
                    (worst, name) = (over, kind);
                }
            }
        }
        let title = format!("adversarial {granularity}, worst ({name}): over 1.01 x bitmap");
        rows.add(title, "bytes", worst, None, "<= 256");
    }
    Ok(())
}
