use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::{Isa, Tabled, Units};

/// The most rows and outputs, and where long inputs begin; an interpreter takes its time.
const SIZES: [usize; 4] = if cfg!(miri) { [8, 40, 1, 1] } else { [40, 100, 380, 1530] };

/// An element whose products are compared with their definition.
trait Sample: Tabled {
    /// A weight and an activation for a value from -0.5 to 0.5.
    fn weight(value: f32) -> Self;
    fn activation(value: f32) -> Self::Activation;

    /// What they stand for.
    fn of_weight(self) -> f64;
    fn of_activation(activation: Self::Activation, isa: Isa) -> f64;

    fn sum(value: i16) -> Self::Sum;
    fn of_sum(sum: Self::Sum) -> f64;

    /// How far a sum may be from the definition.
    const TOLERANCE: f64;
}

/// Elements that are numbers themselves, multiplied with f32.
macro_rules! floats {
    ($($element:ident: $from:expr),*) => {$(
        impl Sample for $element {
            fn weight(value: f32) -> $element {
                $from(value)
            }

            fn activation(value: f32) -> f32 {
                value
            }

            fn of_weight(self) -> f64 {
                self.into()
            }

            fn of_activation(activation: f32, isa: Isa) -> f64 {
                if isa.rounds::<$element>() { $from(activation).into() } else { activation.into() }
            }

            fn sum(value: i16) -> f32 {
                value.into()
            }

            fn of_sum(sum: f32) -> f64 {
                sum.into()
            }

            const TOLERANCE: f64 = 1e-4;
        }
    )*};
}

floats!(f32: std::convert::identity, bf16: bf16::from_f32);

impl Sample for i8 {
    /// Both ends are common: what is too large for a register shows there.
    fn weight(value: f32) -> i8 {
        (value * 400.0).clamp(-127.0, 127.0) as i8
    }

    fn activation(value: f32) -> u8 {
        (value * 400.0 + 128.0).clamp(0.0, 255.0) as u8
    }

    fn of_weight(self) -> f64 {
        self.into()
    }

    fn of_activation(activation: u8, isa: Isa) -> f64 {
        // With a sign or without one.
        if isa.activation_zero() == 0 { activation.into() } else { activation.cast_signed().into() }
    }

    fn sum(value: i16) -> i32 {
        value.into()
    }

    fn of_sum(sum: i32) -> f64 {
        sum.into()
    }

    const TOLERANCE: f64 = 0.0;
}

/// A product.
#[derive(Debug, Clone)]
struct Case {
    rows: usize,
    outputs: usize,
    inputs: usize,
    /// Rows that are not of the product.
    more: usize,
    /// None: no mask.
    block: Option<(usize, usize)>,
    seed: u32,
}

fn cases() -> impl Strategy<Value = Case> {
    let inputs = prop_oneof![1..80usize, SIZES[2]..SIZES[2] + 20, SIZES[3]..SIZES[3] + 100];
    let block = prop_oneof![
        Just(None),
        Just(Some((1, 1))),
        Just(Some((32, 1))),
        Just(Some((32, 4))),
        Just(Some((64, 8))),
        Just(Some((64, 3))),
        Just(Some((5, 3)))
    ];
    (0..SIZES[0], 1..SIZES[1], inputs, 0usize..5, block, any::<u32>())
        .prop_map(|(rows, outputs, inputs, more, block, seed)| Case { rows, outputs, inputs, more, block, seed })
}

fn random(seed: u32) -> impl FnMut() -> f32 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    }
}

/// Compares products on every instruction set with their definition.
fn check<E: Sample>(case: &Case) -> Result<(), TestCaseError> {
    let Case { rows, outputs, inputs, more, block, seed } = *case;
    let mut next = random(seed);
    let weight: Vec<E> = (0..outputs * inputs).map(|_| E::weight(next())).collect();
    // What lies behind the last input is there, but is multiplied with zeros.
    let activations: Vec<Row<E::Activation>> =
        (0..(rows + more) * inputs.div_ceil(NR)).map(|_| std::array::from_fn(|_| E::activation(next()))).collect();
    let (rows_of_units, across) = block.unwrap_or((1, 1));
    // Everything is kept, nearly everything, half, nothing.
    let least = [-0.6, -0.4, 0.0, 0.6][seed as usize / 2 % 4];
    let mut bits = vec![0; (outputs.div_ceil(rows_of_units) * inputs.div_ceil(across)).div_ceil(8)];
    for byte in &mut bits {
        *byte = (0..8).fold(0, |byte, bit| byte | u8::from(block.is_none() || next() > least) << bit);
    }
    let mask = Units { outputs, inputs, block: block.unwrap_or((1, 1)), bits: &bits };
    let mut packed = vec![E::default(); Panels::<E>::packed_len(outputs, inputs)];
    Panels::pack(&weight, outputs, inputs, &mut packed);
    let panels = Panels::new(&packed, outputs, inputs);
    let mut words = vec![0; PanelMask::packed_len::<E>(mask.block, outputs, inputs)];
    let panel_mask = if block.is_none() { PanelMask::Dense } else { PanelMask::pack::<E>(&mask, &mut words) };
    let expected = match block {
        None => "no mask",
        Some((rows, cols)) if rows % NR == 0 && cols % E::INPUTS == 0 => "steps",
        Some((rows, _)) if rows % NR == 0 => "inputs",
        Some(_) => "weights",
    };
    let found = match panel_mask {
        PanelMask::Dense => "no mask",
        PanelMask::Steps(_) => "steps",
        PanelMask::Inputs(_) => "inputs",
        PanelMask::Weights(_) => "weights",
    };
    prop_assert_eq!(found, expected);

    // With a bias, what is there before does not count.
    let seven = [E::sum(7); NR];
    let (bias, before) = if more % 2 == 0 { (None, seven) } else { (Some(&seven), [E::sum(999); NR]) };
    for isa in Isa::available() {
        let of = |row: usize, k: usize| E::of_activation(activations[k / NR * (rows + more) + more + row][k % NR], isa);
        let mut expected = vec![7.0; rows * outputs];
        for (i, expected) in expected.iter_mut().enumerate() {
            let (row, output) = (i / outputs, i % outputs);
            let kept = (0..inputs).filter(|k| mask.keeps(output, *k));
            *expected += kept.map(|k| of(row, k) * weight[output * inputs + k].of_weight()).sum::<f64>();
        }
        let mut scratch = Scratch::default();
        let mut found = vec![before; panels.len() * rows];
        for (panel, sums) in found.chunks_mut(rows.max(1)).enumerate() {
            let activations = Activations::new(&activations, rows + more, inputs).of_rows(more..rows + more);
            let product = Product { activations, weight: panels, mask: panel_mask, panel, bias };
            product.run(isa, &mut scratch, sums);
        }
        for (i, expected) in expected.iter().enumerate() {
            let (row, output) = (i / outputs, i % outputs);
            let found = E::of_sum(found[output / NR * rows + row][output % NR]);
            prop_assert!(
                (found - expected).abs() <= E::TOLERANCE,
                "{isa}, row {row}, output {output}: {found} {expected}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 300 }))]

    #[test]
    fn products_of_f32_are_those_of_the_definition(case in cases()) {
        check::<f32>(&case)?;
    }

    #[test]
    fn products_of_bf16_are_those_of_the_definition(case in cases()) {
        check::<bf16>(&case)?;
    }

    #[test]
    fn products_of_int8_are_those_of_the_definition(case in cases()) {
        check::<i8>(&case)?;
    }
}
