//! Texts by someone else, made fit to be shown.

/// A text fit for one line of a terminal: what could drive the terminal or turn the text's direction is
/// replaced by spaces.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect()
}

/// Whether a character drives a terminal or turns the direction of text.
pub fn is_unprintable(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_no_control_characters() {
        assert_eq!(printable("a\u{1b}[2J\tb\u{9b}é\u{202e}c\n"), "a [2J b é c ");
    }
}
