//! Pieces of HTML. Text goes through [`escape`], whatever it is.

use std::fmt::Write as _;

use overmask::text::printable;

/// Text by others, as HTML text or an attribute's value shows it: no markup, and no characters that
/// turn the direction of what follows.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Words: to the left.
    Words,
    /// Numbers: to the right, digits below digits.
    Numbers,
}

/// A table. What it holds is text: it is escaped when the table is written.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(String, Column)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows.
    pub(super) fn new(columns: &[(&str, Column)]) -> Self {
        Table { columns: columns.iter().map(|&(name, c)| (name.to_owned(), c)).collect(), rows: Vec::new() }
    }

    /// One more row; the first cell is its name.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The element. The caption is text too.
    pub(super) fn html(&self, caption: &str) -> String {
        let class = |column: usize| match self.columns.get(column) {
            Some((_, Column::Numbers)) => " class=\"n\"",
            _ => "",
        };
        let mut out = format!("<div class=\"scroll\"><table><caption>{}</caption>\n<thead><tr>", escape(caption));
        for (i, (name, _)) in self.columns.iter().enumerate() {
            let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(i), escape(name));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            out.push_str("<tr>");
            for (i, cell) in row.iter().enumerate() {
                let _ = match i {
                    0 => write!(out, "<th scope=\"row\"{}>{}</th>", class(i), escape(cell)),
                    _ => write!(out, "<td{}>{}</td>", class(i), escape(cell)),
                };
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        out
    }

    /// The element, folded away under its caption.
    pub(super) fn folded(&self, caption: &str) -> String {
        format!("<details><summary>{}</summary>{}</details>\n", escape(caption), self.html(caption))
    }
}

/// A cell for what may be missing.
pub(super) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_table_is_markup() {
        let mut table = Table::new(&[("<b>", Column::Words), ("a&b", Column::Numbers)]);
        table.row(vec!["<script>alert('x')</script>".to_owned(), "\"1\u{202e}\u{1b}\"".to_owned()]);
        let html = table.html("<img src=x onerror=y>");
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("<b>"), "{html}");
        assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"), "{html}");
        assert!(html.contains("<td class=\"n\">&quot;1  &quot;</td>"), "{html}");
    }
}
