//! Tests of masks: against a plain model, and that bytes are read strictly.

use proptest::prelude::*;

use super::*;

fn granularity() -> impl Strategy<Value = Granularity> {
    prop_oneof![
        Just(Granularity::Weight),
        (1u32..40, 2u32..9).prop_map(|(rows, cols)| Granularity::Block { rows, cols }),
        Just(Granularity::Block { rows: 32, cols: 1 }),
        Just(Granularity::Block { rows: u32::MAX, cols: u32::MAX }),
    ]
}

/// A tensor's granularity and size with one decision a unit.
pub(super) fn case() -> impl Strategy<Value = (Granularity, usize, usize, Vec<bool>)> {
    (granularity(), 0usize..70, 0usize..20).prop_flat_map(|(g, outputs, inputs)| {
        let units = outputs.div_ceil(g.block().0) * inputs.div_ceil(g.block().1);
        (Just(g), Just(outputs), Just(inputs), prop::collection::vec(any::<bool>(), units))
    })
}

#[test]
fn two_of_four_keeps_no_third() {
    let mask = |inputs: usize, keep: &[u8]| {
        Mask::from_units(Granularity::TwoOfFour, keep.len() / inputs, inputs, keep.iter().map(|k| *k == 1))
    };
    let sound = mask(8, &[1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0]).unwrap();
    assert_eq!((sound.zero_weights(), sound.granularity().to_string()), (10, "2:4".to_owned()));
    assert!(sound.keeps(0, 1) && !sound.keeps(0, 2));
    let crowded = mask(8, &[1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0]);
    assert_eq!(crowded, Err(MaskError::Crowded { output: 1, input: 4, kept: 3 }));
    // Groups start anew with each output, and the last of a row may be smaller.
    mask(6, &[1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1]).unwrap();
    assert_eq!(
        mask(6, &[1, 1, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0]),
        Err(MaskError::Crowded { output: 1, input: 0, kept: 3 })
    );
    assert!(Mask::keep_all(Granularity::TwoOfFour, 1, 8).is_err());
}

proptest! {
    #[test]
    fn a_mask_does_what_one_bool_a_weight_does((g, outputs, inputs, keep) in case()) {
        let mask = Mask::from_units(g, outputs, inputs, keep.iter().copied()).unwrap();
        let (rows, cols) = g.block();
        let across = inputs.div_ceil(cols);
        let mut model = Vec::new();
        for output in 0..outputs {
            for input in 0..inputs {
                model.push(keep[output / rows * across + input / cols]);
                prop_assert_eq!(mask.keeps(output, input), *model.last().unwrap());
            }
        }
        prop_assert_eq!(&mask.expand(), &model);
        let zeros = model.iter().filter(|k| !**k).count();
        prop_assert_eq!(mask.zero_weights(), zeros as u64);
        if !model.is_empty() {
            prop_assert!((mask.sparsity() - zeros as f64 / model.len() as f64).abs() < 1e-12);
        }
        let mut weights: Vec<f32> = (0..model.len()).map(|i| i as f32 + 1.0).collect();
        mask.apply(&mut weights).unwrap();
        for (i, (w, k)) in weights.iter().zip(&model).enumerate() {
            prop_assert_eq!(*w, if *k { i as f32 + 1.0 } else { 0.0 });
        }
    }

    #[test]
    fn bytes_come_back_as_the_same_mask((g, outputs, inputs, keep) in case()) {
        let mask = Mask::from_units(g, outputs, inputs, keep.iter().copied()).unwrap();
        let again = Mask::from_bytes(g, outputs, inputs, mask.as_bytes()).unwrap();
        prop_assert_eq!(again.as_bytes(), mask.as_bytes());
        prop_assert_eq!(again, mask);
    }

    #[test]
    fn any_bytes_and_sizes_are_a_mask_or_an_error(
        g in granularity(), outputs in any::<usize>(), inputs in any::<usize>(),
        bytes in prop::collection::vec(any::<u8>(), 0..32),
    ) {
        let _ = Mask::from_bytes(g, outputs, inputs, &bytes);
        let _ = Mask::from_bytes(g, outputs % 20, inputs % 20, &bytes);
    }
}

#[test]
fn bits_lie_where_the_format_says() {
    let keep = [true, false, false, true, true, true, false, false, false, true];
    let mask = Mask::from_units(Granularity::Weight, 2, 5, keep.into_iter()).unwrap();
    assert_eq!(mask.as_bytes(), [0b0011_1001, 0b10]);
    assert!(mask.keeps(1, 4) && !mask.keeps(1, 3));
}

#[test]
fn edge_blocks_count_their_real_weights() {
    let block = Granularity::Block { rows: 4, cols: 4 };
    let mask = Mask::from_units(block, 5, 6, [true, true, true, false].into_iter()).unwrap();
    assert_eq!((mask.unit_rows(), mask.unit_cols()), (2, 2));
    assert_eq!(mask.zero_weights(), 2);
}

#[test]
fn wrong_sizes_are_errors() {
    let g = Granularity::Weight;
    let nine = Mask::from_units(g, 3, 3, std::iter::repeat_n(true, 8));
    assert!(matches!(nine, Err(MaskError::Units { expected: 9, found: 8, .. })));
    // An endless source is not read to its end.
    let endless = Mask::from_units(g, 3, 3, std::iter::repeat(true));
    assert!(matches!(endless, Err(MaskError::Units { expected: 9, found: 10, .. })));
    assert!(matches!(Mask::from_bytes(g, 3, 3, &[0xff]), Err(MaskError::Bytes { expected: 2, found: 1, .. })));
    assert!(matches!(Mask::from_bytes(g, 3, 3, &[0xff, 2]), Err(MaskError::Padding { byte: 2, from: 1 })));
    assert!(Mask::from_bytes(g, 3, 3, &[0xff, 1]).is_ok());
    assert!(matches!(Mask::keep_all(g, usize::MAX, 2), Err(MaskError::TooLarge { .. })));
    let empty = Granularity::Block { rows: 0, cols: 1 };
    assert!(matches!(Mask::keep_all(empty, 3, 3), Err(MaskError::EmptyBlock { .. })));
    let all = Mask::keep_all(g, 3, 3).unwrap();
    assert_eq!(all.sparsity(), 0.0);
    assert!(matches!(all.apply(&mut [0.0; 8]), Err(MaskError::Weights { expected: 9, found: 8 })));
}
