//! The entropy coder: range asymmetric numeral systems (Duda 2013) over single bits, with the
//! probability of every bit given.
//!
//! A state x in [2^32, 2^64) holds what was coded. To code a bit whose share of 2^16 is f and
//! starts at s: x ← ⌊x / f⌋ · 2^16 + x mod f + s, after moving the lower 32 bits out if x would
//! not fit. Zero has the share [0, p), one the share [p, 2^16). The decoder does the reverse, so
//! the encoder goes through the bits backwards. Several states take turns, bit i using state
//! i mod n: a processor works on all of them at once.

/// A probability of one, and the end of the range of shares.
const ONE: u64 = 1 << 16;

/// States are at least this; each starts with it, so a decoder must end with it.
const LOW: u64 = 1 << 32;

/// Units from which several states pay for themselves.
const MANY: usize = 1 << 16;

/// States of a large tensor.
const LANES: usize = 4;

/// Why a stream cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// It ends before the last bit.
    Short,
    /// After the last bit, something is left, or the states are not those of the start.
    End,
}

/// Codes `bits` (true = one); the share of zero for each is `zero[class]`, from 1 to 65535.
///
/// The stream is the states, 8 bytes each, then words of 4 bytes, all little-endian, in the
/// order in which they are read.
pub(super) fn encode(bits: impl DoubleEndedIterator<Item = bool>, classes: &[u8], zero: &[u16; 256]) -> Vec<u8> {
    let mut states = vec![LOW; lanes(classes.len())];
    let mut words = Vec::new();
    for ((i, class), bit) in classes.iter().enumerate().rev().zip(bits.rev()) {
        let lane = i % states.len();
        let x = &mut states[lane];
        let p = u64::from(zero[usize::from(*class)]);
        let (start, share) = if bit { (p, ONE - p) } else { (0, p) };
        if *x >> 48 >= share {
            words.push(*x as u32);
            *x >>= 32;
        }
        *x = ((*x / share) << 16) + *x % share + start;
    }
    let states = states.iter().flat_map(|x| x.to_le_bytes());
    states.chain(words.iter().rev().flat_map(|w| w.to_le_bytes())).collect()
}

/// Reads what [`encode`] made: eight bits a byte, the lowest first; unused bits are 0.
pub(super) fn decode(stream: &[u8], classes: &[u8], zero: &[u16; 256]) -> Result<Vec<u8>, Damage> {
    match lanes(classes.len()) {
        LANES => decode_lanes::<LANES>(stream, classes, zero),
        _ => decode_lanes::<1>(stream, classes, zero),
    }
}

fn lanes(units: usize) -> usize {
    if units < MANY { 1 } else { LANES }
}

fn decode_lanes<const N: usize>(stream: &[u8], classes: &[u8], zero: &[u16; 256]) -> Result<Vec<u8>, Damage> {
    let (states, words) = stream.split_at_checked(8 * N).ok_or(Damage::Short)?;
    let mut x = [0u64; N];
    for (x, bytes) in x.iter_mut().zip(states.as_chunks::<8>().0) {
        *x = u64::from_le_bytes(*bytes);
    }
    let (words, rest) = words.as_chunks::<4>();
    if x.iter().any(|x| *x < LOW) || !rest.is_empty() {
        return Err(Damage::End);
    }
    let mut words = words.iter();
    let mut bits = Vec::with_capacity(classes.len().div_ceil(8));
    let mut step = |x: &mut u64, class: u8| -> Result<u8, Damage> {
        let p = u64::from(zero[usize::from(class)]);
        let (slot, high) = (*x % ONE, *x / ONE);
        let one = slot >= p;
        // Of a zero: high · p + slot. Of a one: high · (2^16 - p) + slot - p.
        *x = if one { *x - (high + 1) * p } else { high * p + slot };
        if *x < LOW {
            let word = words.next().ok_or(Damage::Short)?;
            *x = (*x << 32) | u64::from(u32::from_le_bytes(*word));
        }
        Ok(u8::from(one))
    };
    let (eights, rest) = classes.as_chunks::<8>();
    for eight in eights {
        let mut byte = 0;
        for (i, class) in eight.iter().enumerate() {
            byte |= step(&mut x[i % N], *class)? << i;
        }
        bits.push(byte);
    }
    if !rest.is_empty() {
        let mut byte = 0;
        for (i, class) in rest.iter().enumerate() {
            byte |= step(&mut x[i % N], *class)? << i;
        }
        bits.push(byte);
    }
    if words.next().is_some() || x.iter().any(|x| *x != LOW) {
        return Err(Damage::End);
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(p: impl Fn(usize) -> u16) -> [u16; 256] {
        std::array::from_fn(p)
    }

    fn unpack(bytes: &[u8], count: usize) -> Vec<bool> {
        (0..count).map(|i| (bytes[i / 8] >> (i % 8)) & 1 == 1).collect()
    }

    /// The definition, word by word.
    fn slow(stream: &[u8], classes: &[u8], zero: &[u16; 256]) -> Option<Vec<bool>> {
        let mut numbers = stream.chunks(8).map(|b| b.try_into().ok().map(u64::from_le_bytes));
        let count = if classes.len() < 65_536 { 1 } else { 4 };
        let mut states: Vec<u128> = numbers.by_ref().take(count).map(|x| x.map(u128::from)).collect::<Option<_>>()?;
        let mut words = stream.get(8 * count..)?.chunks(4).map(|b| b.try_into().ok().map(u32::from_le_bytes));
        let mut bits = Vec::new();
        for (i, class) in classes.iter().enumerate() {
            let (x, p) = (&mut states[i % count], u128::from(zero[usize::from(*class)]));
            let (slot, high) = (*x % 65_536, *x / 65_536);
            bits.push(slot >= p);
            *x = if slot < p { high * p + slot } else { high * (65_536 - p) + slot - p };
            if *x < 1 << 32 {
                *x = (*x << 32) + u128::from(words.next()??);
            }
        }
        (words.next().is_none() && states.iter().all(|x| *x == 1 << 32)).then_some(bits)
    }

    #[test]
    fn the_size_is_the_entropy() {
        // 1 in 16 zeros with the right share: 0.3373 bits each.
        let bits: Vec<bool> = (0..200_000).map(|i| i * 7919 % 16 != 0).collect();
        let stream = encode(bits.iter().copied(), &vec![0; bits.len()], &shares(|_| 4096));
        let ideal = 200_000.0 * 0.337_29 / 8.0;
        assert!((stream.len() as f64) < ideal * 1.001 + 40.0, "{} of {ideal}", stream.len());
    }

    #[test]
    fn nothing_is_the_start() {
        let stream = encode(std::iter::empty(), &[], &shares(|_| 1));
        assert_eq!(stream, LOW.to_le_bytes());
        assert_eq!(decode(&stream, &[], &shares(|_| 1)).unwrap(), Vec::<u8>::new());
    }

    proptest! {
        #[test]
        fn what_is_coded_comes_back(
            bits in prop::collection::vec(any::<bool>(), 0..400),
            many: bool,
            extreme: bool,
        ) {
            let count = if many && !bits.is_empty() { MANY + bits.len() } else { bits.len() };
            let bits: Vec<bool> = bits.iter().copied().cycle().take(count).collect();
            let classes: Vec<u8> = (0..count).map(|i| (i * 31 % 256) as u8).collect();
            let zero = shares(|c| if extreme { [1, 65535][c % 2] } else { (c * 256 + 1) as u16 });
            let stream = encode(bits.iter().copied(), &classes, &zero);
            prop_assert_eq!(slow(&stream, &classes, &zero), Some(bits.clone()));
            prop_assert_eq!(unpack(&decode(&stream, &classes, &zero).unwrap(), count), bits);
        }

        #[test]
        fn damage_is_noticed(
            bits in prop::collection::vec(any::<bool>(), 1..300),
            at: prop::sample::Index,
            change in 1u8..,
            extra: u8,
        ) {
            let classes: Vec<u8> = (0..bits.len()).map(|i| (i % 5) as u8).collect();
            let zero = shares(|c| [200, 5000, 30_000, 60_000, 1][c % 5]);
            let stream = encode(bits.iter().copied(), &classes, &zero);
            let mut changed = stream.clone();
            changed[at.index(stream.len())] ^= change;
            // Another stream of the same length decodes to other bits or not at all.
            if let Ok(other) = decode(&changed, &classes, &zero) {
                prop_assert_ne!(unpack(&other, bits.len()), bits);
            }
            prop_assert!(decode(&stream[..at.index(stream.len())], &classes, &zero).is_err());
            prop_assert!(decode(&[&stream[..], &[extra]].concat(), &classes, &zero).is_err());
            prop_assert!(decode(&[&stream[..], &[extra; 4]].concat(), &classes, &zero).is_err());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(stream in prop::collection::vec(any::<u8>(), 0..200), count in 0usize..500) {
            let zero = shares(|c| (c * 200 + 1) as u16);
            let classes: Vec<u8> = (0..count).map(|i| (i % 256) as u8).collect();
            // What decodes is what encodes to these bytes: there is one stream for each mask.
            if let Ok(bits) = decode(&stream, &classes, &zero) {
                prop_assert_eq!(encode(unpack(&bits, count).into_iter(), &classes, &zero), stream);
            }
        }
    }
}
