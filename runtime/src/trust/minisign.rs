//! The format of minisign's keys and signatures, as far as the crates that check and sign keep it to
//! themselves: what a line of base64 starts with (<https://jedisct1.github.io/minisign/>).
//!
//! Base64 is decoded here: the crate `base64` that the tokenizers bring is of 2021, and one more on
//! the device costs more than these few lines.

/// How the secret key of a key file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKeyKind {
    /// Encrypted: a password opens it.
    Encrypted,
    /// As it is, without a password.
    Plain,
}

impl SecretKeyKind {
    /// The kind that the base64 line of a key file is of; `None` if it is no secret key's.
    pub fn of_line(line: &str) -> Option<Self> {
        // Two bytes each: the algorithm of the signatures, of the password, and of the checksum.
        match decode(line.get(..8)?)?.as_slice() {
            b"EdScB2" => Some(Self::Encrypted),
            b"Ed\0\0B2" => Some(Self::Plain),
            _ => None,
        }
    }
}

/// The bytes of base64 in whole groups of four digits, without padding; `None` if it is anything else.
pub fn decode(base64: &str) -> Option<Vec<u8>> {
    let (groups, []) = base64.as_bytes().as_chunks::<4>() else { return None };
    let mut bytes = Vec::with_capacity(3 * groups.len());
    for group in groups {
        let mut bits = 0_u32;
        for &c in group {
            let digit = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(digit);
        }
        let [_, a, b, c] = bits.to_be_bytes();
        bytes.extend([a, b, c]);
    }
    Some(bytes)
}

/// What the base64 line of a public key or a signature starts with: its algorithm and the key's id.
pub(super) fn head(line: &str) -> Option<([u8; 2], u64)> {
    // 16 digits are 12 bytes: 2 of the algorithm, 8 of the id (little-endian), 2 of what follows.
    let bytes = decode(line.get(..16)?)?;
    let (algorithm, rest) = bytes.split_first_chunk()?;
    Some((*algorithm, u64::from_le_bytes(*rest.first_chunk()?)))
}

/// A key's id as minisign prints it.
pub(super) fn key_id(id: u64) -> String {
    format!("{id:016X}")
}

#[cfg(test)]
mod tests {
    use minisign::KeyPair;

    use super::*;

    /// The vectors of RFC 4648, section 10, that need no padding, and every digit.
    #[test]
    fn base64_is_that_of_the_rfc() {
        assert_eq!(decode("").unwrap(), b"");
        assert_eq!(decode("Zm9v").unwrap(), b"foo");
        assert_eq!(decode("Zm9vYmFy").unwrap(), b"foobar");
        let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let bytes = decode(digits).unwrap();
        assert_eq!((bytes.len(), &bytes[..3], &bytes[45..]), (48, &[0, 16, 131][..], &[243, 223, 191][..]));
        for wrong in ["Zg==", "Zm9", "Zm9vY", "Zm 9", "Zm-9", "Zm_9", "Zmé"] {
            assert!(decode(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_line_tells_of_which_kind_its_key_is() {
        let pair = KeyPair::generate_unencrypted_keypair().unwrap();
        let secret = pair.sk.to_box(None).unwrap().to_string();
        assert_eq!(SecretKeyKind::of_line(secret.lines().nth(1).unwrap()), Some(SecretKeyKind::Plain));
        assert_eq!(SecretKeyKind::of_line("RWRTY0Iy0123"), Some(SecretKeyKind::Encrypted));
        let public = pair.pk.to_base64();
        for other in [public.as_str(), "", "RWRTY0I", "RWRTY0Ié", "RWRTY0I=", "rwrty0iy"] {
            assert_eq!(SecretKeyKind::of_line(other), None, "{other}");
        }
    }

    #[test]
    fn a_head_is_the_algorithm_and_the_id() {
        let (algorithm, id) = head("RWTMNk2zu8WY8AlhGdAUdp3STu8tUowpurBGbke6EuyX6RCtXJ+3yN+7").unwrap();
        assert_eq!((&algorithm, key_id(id).as_str()), (b"Ed", "F098C5BBB34D36CC"));
        assert_eq!(key_id(1), "0000000000000001");
        for wrong in ["", "RWTMNk2zu8WY8Al", "RWTMNk2zu8WY8A==", "RWTMNk2zu8WY8é"] {
            assert!(head(wrong).is_none(), "{wrong}");
        }
    }
}
