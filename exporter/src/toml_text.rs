//! Documents in TOML, with errors of one line.

use serde::de::DeserializeOwned;

/// Reads a document.
///
/// # Errors
/// Line and column, and what is wrong there.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let (line, column) = (before.split('\n').count(), before.chars().rev().take_while(|c| *c != '\n').count() + 1);
        format!("line {line}, column {column}: {}", error.message())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_place() {
        for (text, expected) in [
            ("a = 1\nb = 2\nc = [1", "line 3, column 7: "),
            ("hello", "line 1, column 6: "),
            ("a = 1\n  é =", "line 2, column 3: "),
        ] {
            let error = parse::<toml::Table>(text).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{error}");
        }
        assert_eq!(parse::<toml::Table>("a = 1").unwrap().len(), 1);
    }
}
