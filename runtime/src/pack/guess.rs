//! What a file is that begins as no pack does: who names the wrong file shall be told so.

/// What kind of file it looks like, if it is no safetensors file: those begin with the length of a header, which
/// begins with `{`.
pub(super) fn other_kind(bytes: &[u8]) -> Option<&'static str> {
    const STARTS: [(&[u8], &str); 7] = [
        (b"PK\x03\x04", "a zip archive or wheel"),
        (b"\x1f\x8b", "an archive packed with gzip"),
        (b"\x28\xb5\x2f\xfd", "an archive packed with zstd"),
        (b"untrusted comment:", "a signature or key of minisign"),
        (b"version https://git-lfs", "a pointer of git-lfs, whose file was not fetched"),
        (b"\x7fELF", "a program or library"),
        (b"GGUF", "a model in GGUF"),
    ];
    if bytes.is_empty() {
        return Some("an empty file");
    }
    if bytes.get(8) == Some(&b'{') {
        return None;
    }
    let start = STARTS.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, kind)| *kind);
    Some(start.unwrap_or(match bytes {
        [b'{' | b'[', ..] if is_text(bytes) => "JSON",
        _ if is_text(bytes) => "a text",
        // The version of the format, then the producer's name or the graph.
        [0x08, 1..=32, 0x12 | 0x3a, ..] => "an ONNX model",
        _ => "a file of another kind, or damaged",
    }))
}

/// Whether a file begins as one of UTF-8 without control characters.
fn is_text(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(256)];
    // The last character may be cut.
    let whole = start.utf8_chunks().next().filter(|chunk| start.len() - chunk.valid().len() < 4);
    whole.is_some_and(|chunk| !chunk.valid().contains(|c: char| c.is_control() && !c.is_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_other_kinds_are_told_apart() {
        let long = "Where is Lima? ".repeat(40) + "Ünï";
        let cases: [(&[u8], &str); 10] = [
            (b"", "empty"),
            (b"{\"a\": 1, \"b\": 2}", "JSON"),
            (long.as_bytes(), "a text"),
            (b"untrusted comment: signature\n", "signature"),
            (b"PK\x03\x04\x14\0\0\0\0\0", "zip"),
            (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "gzip"),
            (b"\x08\x08\x12\x07pytorch\x1a", "ONNX"),
            (b"\0", "another kind"),
            (b"\x08\x08\x12", "ONNX"),
            (&[0xc3; 300], "another kind"),
        ];
        for (bytes, kind) in cases {
            assert!(other_kind(bytes).is_some_and(|found| found.contains(kind)), "{kind}: {:?}", other_kind(bytes));
        }
        // A damaged pack is none of another kind.
        assert_eq!(other_kind(b"\xff\xff\xff\xff\xff\xff\xff\xff{"), None);
    }
}
