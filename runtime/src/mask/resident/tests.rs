//! Tests of resident files: they come back as they were, and whatever is wrong is an error.

use proptest::prelude::*;

use super::super::tests::case;
use super::*;

const KEY: [u8; 32] = [7; 32];

/// A directory with a file of these bytes.
fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("masks");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn opened(bytes: &[u8]) -> Result<Vec<(String, Mask)>, ResidentError> {
    let (_dir, path) = file(bytes);
    open(&path, &KEY)
}

/// The digest made right again, as someone does who makes a file by hand.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some((start, rest)) = bytes.split_at_mut_checked(DIGESTED) {
        start[MAGIC.len()..].copy_from_slice(&Sha256::digest(rest));
    }
    bytes
}

fn mask(granularity: Granularity, outputs: usize, inputs: usize) -> Mask {
    let units = Mask::keep_all(granularity, outputs, inputs).unwrap().unit_bits().len();
    Mask::from_units(granularity, outputs, inputs, (0..units).map(|i| i % 3 != 1)).unwrap()
}

/// Two masks of few bits, so that much of the file is header, table and padding.
fn small() -> Vec<u8> {
    let block = Granularity::Block { rows: 4, cols: 1 };
    let (a, b) = (mask(block, 8, 5), mask(block, 6, 300));
    file_of(block, &KEY, &[("encoder.0.query", &a), ("β", &b)])
}

proptest! {
    #[test]
    fn masks_come_back_as_they_were((g, outputs, inputs, keep) in case(), names in prop::collection::vec(".{0,9}", 0..4)) {
        let owned = Mask::from_units(g, outputs, inputs, keep.into_iter()).unwrap();
        let masks: Vec<(&str, &Mask)> = names.iter().map(|name| (name.as_str(), &owned)).collect();
        let (_dir, path) = file(b"an older one");
        write(&path, &KEY, &masks).unwrap();
        let mapped = open(&path, &KEY).unwrap();
        // The masks keep the map, which outlives the file's name.
        std::fs::remove_file(&path).unwrap();
        prop_assert_eq!(mapped.len(), names.len());
        for ((name, mapped), expected) in mapped.iter().zip(&names) {
            prop_assert_eq!(name, expected);
            prop_assert_eq!(mapped.as_bytes().as_ptr() as usize % ALIGNMENT, 0);
            prop_assert_eq!(mapped.as_bytes(), owned.as_bytes());
            prop_assert_eq!(mapped.unit_bits(), owned.unit_bits());
            prop_assert_eq!(mapped, &owned);
            prop_assert_eq!(format!("{mapped:?}"), format!("{owned:?}"));
            prop_assert_eq!(mapped.expand(), owned.expand());
            prop_assert_eq!(mapped.xor(&owned).unwrap().unit_bits().count_ones(), 0);
            prop_assert_eq!(mapped.zero_in_both(&owned).unwrap(), owned.zero_weights());
        }
    }

    #[test]
    fn hostile_bytes_are_masks_or_an_error(
        changes in prop::collection::vec((DIGESTED..small().len(), any::<u8>()), 1..5), cut: prop::sample::Index,
    ) {
        let mut bytes = small();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let _ = opened(&sealed(bytes.clone()));
        bytes.truncate(cut.index(bytes.len() + 1));
        let _ = opened(&sealed(bytes));
    }
}

#[test]
fn every_truncation_and_extension_is_an_error() {
    let bytes = small();
    assert!(opened(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(opened(&bytes[..length]).is_err(), "{length}");
        assert!(opened(&sealed(bytes[..length].to_vec())).is_err(), "{length}, sealed");
    }
    for more in [1, ALIGNMENT] {
        let longer = [&bytes[..], &vec![0; more]].concat();
        assert!(opened(&longer).is_err());
        assert!(opened(&sealed(longer)).is_err());
    }
    assert!(opened(&[&bytes[..], &bytes].concat()).is_err());
}

#[test]
fn every_changed_byte_is_an_error() {
    let mut bytes = small();
    for at in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff] {
            bytes[at] ^= change;
            let found = opened(&bytes).unwrap_err();
            assert_eq!(found.exit_code(), ExitCode::CorruptFile, "byte {at}");
            assert!(found.to_string().contains("delete it"), "{found}");
            bytes[at] ^= change;
        }
    }
    assert!(opened(&bytes).is_ok());
}

#[test]
fn sealed_numbers_that_cannot_be_are_errors() {
    // Rows and columns of a block, number of masks; outputs, inputs, start, length of the name.
    let fields = [44..48, 48..52, 52..60, 92..100, 100..108, 108..116, 116..124];
    for field in fields {
        for value in [0, u64::MAX, u64::MAX / 8, 1 << 31, 1 << 62] {
            let mut bytes = small();
            let same = value.to_le_bytes()[..field.len()] == bytes[field.clone()];
            bytes[field.clone()].copy_from_slice(&value.to_le_bytes()[..field.len()]);
            let found = opened(&sealed(bytes));
            assert!(same || matches!(found, Err(ResidentError::Damaged { .. })), "{field:?} = {value}: {found:?}");
        }
    }
    // What lies after the bits.
    for at in [193, 255] {
        let mut bytes = small();
        bytes[at] |= 0x80;
        assert!(matches!(opened(&sealed(bytes)), Err(ResidentError::Damaged { .. })), "{at}");
    }
}

#[test]
fn each_error_says_what_it_is() {
    let (_dir, path) = file(&small());
    let other = open(&path, &[8; 32]).unwrap_err();
    assert!(matches!(&other, ResidentError::OtherKey { expected, found, .. } if (*expected, *found) == ([8; 32], KEY)));
    assert!(other.to_string().contains(&"08".repeat(32)) && other.to_string().contains(&"07".repeat(32)), "{other}");

    let mut newer = small();
    newer[DIGESTED] = 2;
    for bytes in [&sealed(newer)[..], b"", b"something else"] {
        assert!(matches!(opened(bytes), Err(ResidentError::NotResident { .. })), "{bytes:?}");
    }
    assert!(matches!(opened(&small()[..100]), Err(ResidentError::Damaged { offset: 8, .. })));

    let missing = open(&path.with_extension("no"), &KEY).unwrap_err();
    assert_eq!(missing.exit_code(), ExitCode::InputData);
    let nowhere = write(&path.join("no"), &KEY, &[]).unwrap_err();
    assert_eq!(nowhere.exit_code(), ExitCode::DeviceOrStore);
    let (a, b) = (mask(Granularity::Weight, 2, 2), mask(Granularity::Block { rows: 2, cols: 1 }, 2, 2));
    let mixed = write(&path, &KEY, &[("a", &a), ("b", &b)]).unwrap_err();
    assert!(matches!(&mixed, ResidentError::Granularity { tensor, .. } if tensor == "b"), "{mixed}");
    assert!(open(&path, &KEY).is_ok(), "a failed write leaves the old file");
}

#[test]
fn blocks_of_an_encoder_take_no_more_than_a_bit_each() {
    let block = Granularity::Block { rows: 32, cols: 1 };
    let layer =
        [("attention.self.query", 384, 384), ("attention.self.key", 384, 384), ("attention.self.value", 384, 384)];
    let rest = [("attention.output.dense", 384, 384), ("intermediate.dense", 1536, 384), ("output.dense", 384, 1536)];
    let masks: Vec<(String, Mask)> = (0..6)
        .flat_map(|i| layer.iter().chain(&rest).map(move |(name, outputs, inputs)| (i, *name, *outputs, *inputs)))
        .map(|(i, name, outputs, inputs)| (format!("encoder.layer.{i}.{name}.weight"), mask(block, outputs, inputs)))
        .collect();
    let named: Vec<(&str, &Mask)> = masks.iter().map(|(name, mask)| (name.as_str(), mask)).collect();
    let (_dir, path) = file(&[]);
    write(&path, &KEY, &named).unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(named.len() == 36 && size <= 48_000, "{size} bytes");
    assert_eq!(open(&path, &KEY).unwrap(), masks);
}
