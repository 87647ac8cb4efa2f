//! Printing: tables, JSON, YAML.

use std::io::{self, Write};

use serde::Serialize;

use super::args::Format;
use super::yaml::to_yaml;

/// Prints a list in the form that was asked for; `columns` and `rows` are the table.
///
/// # Errors
/// If standard output can't be written to.
pub(super) fn print<T: Serialize>(
    format: Format,
    value: &T,
    columns: &[&str],
    rows: impl FnOnce() -> Vec<Vec<String>>,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => table(columns, &rows()),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(value)?),
        Format::Yaml => to_yaml(&serde_json::to_value(value)?),
    };
    print_text(&text)?;
    Ok(())
}

/// Writes to standard output.
///
/// # Errors
/// If it can't be written to.
pub(super) fn print_text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A table of columns two blanks apart; the last is as wide as it is.
#[must_use]
pub(super) fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let width = |index: usize, title: &str| {
        let cells = rows.iter().filter_map(|row| row.get(index));
        cells
            .map(|cell| cell.chars().count())
            .chain([title.len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, title)| width(index, title))
        .collect();
    let titles: Vec<String> = columns.iter().map(ToString::to_string).collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Names come from pods: keep them from moving the cursor.
            let cell: String = cell
                .chars()
                .map(|c| if c.is_control() { '\u{fffd}' } else { c })
                .collect();
            line.push_str(&format!("{cell:<width$}  "));
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
    fn columns_line_up() {
        let rows = vec![
            vec!["a".to_owned(), "long cell".to_owned()],
            vec!["longer".to_owned(), String::new()],
            vec!["é".to_owned(), "x".to_owned()],
        ];
        let expected = "ID      NAME\na       long cell\nlonger\né       x\n";
        assert_eq!(table(&["ID", "NAME"], &rows), expected);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let rows = vec![vec!["a\x1b[2Jb\nc".to_owned()]];
        assert_eq!(table(&["X"], &rows), "X\na\u{fffd}[2Jb\u{fffd}c\n");
    }
}
