//! What a registry, or who gives tokens for it, answers in JSON besides manifests: a token, and why it refuses.

use overmask::fs::JsonBudget;
use overmask::text::printable;
use serde::Deserialize;

/// What reading an answer may take in memory.
const MAX_JSON: u64 = 16 << 20;

/// How many characters of what a registry says are told.
const MAX_TOLD: usize = 300;

/// The token that an answer gives: something that a header can hold.
///
/// # Errors
/// Why it is none.
pub(crate) fn token(bytes: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Token {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
    }
    JsonBudget::new(MAX_JSON).take(bytes).map_err(|error| error.to_string())?;
    let given: Token = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let token = if given.token.is_empty() { given.access_token } else { given.token };
    match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(token),
        false => Err("it is none".to_owned()),
    }
}

/// What an answer that is no yes says of why, for a person; nothing where it says nothing that can be read.
pub(crate) fn told(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Told>,
    }
    #[derive(Deserialize)]
    struct Told {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    // It is a courtesy, and left out where it would cost too much.
    if JsonBudget::new(MAX_JSON).take(bytes).is_err() {
        return String::new();
    }
    let Ok(Errors { errors }) = serde_json::from_slice(bytes) else { return String::new() };
    let told = errors.iter().map(|told| format!("{} {}", told.code, told.message)).collect::<Vec<_>>().join("; ");
    printable(&told).trim().chars().take(MAX_TOLD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_a_header_can_hold() {
        for (answer, expected) in [
            (r#"{"token": "a.b-c="}"#, "a.b-c="),
            (r#"{"token": "", "access_token": "b", "expires_in": 300}"#, "b"),
            (r#"{"token": "a", "access_token": "b"}"#, "a"),
        ] {
            assert_eq!(token(answer.as_bytes()).as_deref(), Ok(expected));
        }
        for answer in ["", "{}", "[]", "null", r#"{"token": 1}"#, r#"{"token": "a b"}"#, r#"{"token": "a\r\nX: y"}"#] {
            assert!(token(answer.as_bytes()).is_err(), "{answer}");
        }
        let wide = format!("{{\"x\":[{}0],\"token\":\"a\"}}", "{},".repeat(100_000));
        assert!(token(wide.as_bytes()).unwrap_err().contains("MiB"));
    }

    #[test]
    fn why_it_refuses_is_told_in_one_line() {
        let errors = r#"{"errors": [{"code": "DENIED", "message": "no\nway", "detail": [1]}, {"message": "x"}]}"#;
        let said = told(errors.as_bytes());
        assert!(said.starts_with("DENIED no") && said.ends_with("x") && !said.contains('\n'), "{said:?}");
        for nothing in ["", "<html>", "{}", r#"{"errors": []}"#, r#"{"errors": [{}]}"#, r#"{"errors": {"code": "x"}}"#]
        {
            assert_eq!(told(nothing.as_bytes()), "", "{nothing}");
        }
        let long = format!(r#"{{"errors": [{{"message": "{}"}}]}}"#, "é".repeat(10_000));
        assert_eq!(told(long.as_bytes()).chars().count(), MAX_TOLD);
    }
}
