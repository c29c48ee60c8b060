//! Tables for people.

/// Prints rows as a table: the first row is the head, the first column is left-aligned, the
/// others are right-aligned.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        let cells = rows.iter().filter_map(|row| row.get(c));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        for (c, cell) in row.iter().enumerate() {
            let w = widths[c];
            match c {
                0 => text.push_str(&format!("{cell:<w$}")),
                _ => text.push_str(&format!("  {cell:>w$}")),
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        if i == 0 {
            let total = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
            text.push_str(&"-".repeat(total));
            text.push('\n');
        }
    }
    text
}

/// A share as a percentage with two digits.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect();
        let text = table(&[row(&["task", "n"]), row(&["a", "100"]), row(&["long name", "5"])]);
        assert_eq!(text, "task         n\n--------------\na          100\nlong name    5\n");
    }

    #[test]
    fn shares_become_percentages() {
        assert_eq!(percent(0.91234), "91.23 %");
    }
}
