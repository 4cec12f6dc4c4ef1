//! Tables for people.

use std::fmt::Write as _;

/// Text that came from elsewhere, as one line that a terminal obeys nothing of.
pub(super) fn clean(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if c.is_control() {
            let _ = write!(shown, "{}", c.escape_default()); // cannot fail
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Columns under their heads, as wide as they have to be.
pub(super) fn render(heads: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| clean(cell)).collect())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max();
        let head = heads.get(column).map_or(0, |head| head.chars().count());
        widest.unwrap_or_default().max(head)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&heads).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  "); // cannot fail
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_are_shown() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}".to_owned(), String::new()],
            vec!["\u{1b}[2J".to_owned(), "x\ny".to_owned()],
        ];
        assert_eq!(
            render(&["NAME", "N"], &rows),
            "NAME       N\n\
             a          1\n\
             \u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\n\
             \\u{1b}[2J  x\\ny\n"
        );
    }
}
