//! Bytes as text: a data file is UTF-8, and what is something else is told what it is.

use std::path::Path;

use super::DataError;

/// How files begin that are no UTF-8, and what they are.
const BEGINNINGS: [(&[u8], &str); 6] = [
    (b"\xff\xfe\0\0", "UTF-32; convert it to UTF-8 with `iconv -f UTF-32 -t UTF-8`"),
    (b"\0\0\xfe\xff", "UTF-32; convert it to UTF-8 with `iconv -f UTF-32 -t UTF-8`"),
    (b"\xff\xfe", "UTF-16; convert it to UTF-8 with `iconv -f UTF-16 -t UTF-8`"),
    (b"\xfe\xff", "UTF-16; convert it to UTF-8 with `iconv -f UTF-16 -t UTF-8`"),
    (b"PK\x03\x04", "a zip archive, as a spreadsheet's own file is one; save the table as CSV in UTF-8"),
    (b"\x1f\x8b", "compressed with gzip; unpack it with `gunzip`"),
];

/// What UTF-16 without a mark at its beginning is to be told.
const LITTLE_ENDIAN: &str = "UTF-16; convert it to UTF-8 with `iconv -f UTF-16LE -t UTF-8`";
const BIG_ENDIAN: &str = "UTF-16; convert it to UTF-8 with `iconv -f UTF-16BE -t UTF-8`";

/// The bytes as text, without a byte order mark.
pub(super) fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, DataError> {
    if let Some(what) = other(bytes) {
        return Err(DataError::NotText { path: path.to_owned(), what });
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let offset = e.valid_up_to();
        let advice = match e.error_len() {
            None => "the file ends amid a character, as one does that was cut off",
            // In Windows' code page these are quotation marks and dashes, which Latin-1 does not have.
            Some(_) => "convert it first, for example with `iconv -f WINDOWS-1252 -t UTF-8`",
        };
        DataError::Encoding {
            path: path.to_owned(),
            line: 1 + bytes[..offset].iter().filter(|b| **b == b'\n').count(),
            offset,
            byte: bytes[offset],
            advice,
        }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// What the bytes are, if that is no text in UTF-8.
fn other(bytes: &[u8]) -> Option<&'static str> {
    let known = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)).map(|(_, what)| *what);
    // A header's letters, or a brace and a quotation mark, have a zero byte each.
    known.or(match bytes {
        [1..=255, 0, 1..=255, 0, ..] => Some(LITTLE_ENDIAN),
        [0, 1..=255, 0, 1..=255, ..] => Some(BIG_ENDIAN),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<&str, String> {
        text(Path::new("a.csv"), bytes).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_no_utf_8_is_told_how_to_become_it() {
        let wide = |mark: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            format!("{mark}text,label\n").encode_utf16().flat_map(bytes).collect()
        };
        for (bytes, said) in [
            (
                wide("\u{feff}", u16::to_le_bytes),
                "a.csv is UTF-16; convert it to UTF-8 with `iconv -f UTF-16 -t UTF-8`",
            ),
            (wide("\u{feff}", u16::to_be_bytes), "`iconv -f UTF-16 -t UTF-8`"),
            (wide("", u16::to_le_bytes), "`iconv -f UTF-16LE -t UTF-8`"),
            (wide("", u16::to_be_bytes), "`iconv -f UTF-16BE -t UTF-8`"),
            (b"\xff\xfe\0\0t\0\0\0".to_vec(), "`iconv -f UTF-32 -t UTF-8`"),
            (b"PK\x03\x04\x14\0".to_vec(), "is a zip archive"),
            (b"\x1f\x8b\x08\0".to_vec(), "`gunzip`"),
            (b"a\ncaf\xe9,x".to_vec(), "a.csv:2: byte 5 of the file (0xe9) is not UTF-8; convert it first"),
            (b"a\n\x93b\x94".to_vec(), "WINDOWS-1252"),
            (b"a\ncaf\xc3".to_vec(), "a.csv:2: byte 5 of the file (0xc3) is not UTF-8; the file ends amid"),
        ] {
            let message = read(&bytes).unwrap_err();
            assert!(message.contains(said), "{message}\nnot\n{said}");
        }
    }

    #[test]
    fn utf_8_is_read_with_or_without_a_mark() {
        assert_eq!(read("\u{feff}é".as_bytes()), Ok("é"));
        assert_eq!(read("é".as_bytes()), Ok("é"));
        assert_eq!(read(b""), Ok(""));
    }
}
