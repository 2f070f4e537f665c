//! What commands print: text on standard output that survives a closed pipe, tables and figures for people.

use std::fmt::{Display, Write as _};
use std::io::{self, ErrorKind, Write as _};

/// Cells longer than this are cut, unless everything is asked for.
const CELL_MAX: usize = 60;
/// Rows of a list that are shown, unless everything is asked for.
const ROWS_MAX: usize = 50;

/// Whether standard output still has a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// As far as is known.
    There,
    /// The pipe is closed: more output is useless, and no error.
    Gone,
}

/// Prints text as it is.
///
/// # Errors
/// Those of the output, a full disk for example; a closed pipe is none.
pub(crate) fn print(text: impl Display) -> io::Result<Reader> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(e) => Err(e),
    }
}

/// A line for whoever watches a long-running command, on standard output. The command does not depend on it.
pub(crate) fn say(line: impl Display) {
    let _ = print(format_args!("{line}\n"));
}

/// A line on standard error.
pub(crate) fn complain(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Text of others on one line of a terminal: control and direction characters are escaped, and a backslash is doubled.
pub(crate) fn printable(text: &[u8]) -> String {
    let mut shown = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' || is_direction(c) {
                shown.extend(c.escape_default());
            } else {
                shown.push(c);
            }
        }
        for byte in chunk.invalid() {
            // A string takes what is written to it.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// Characters that make a terminal show the text around them in another order (Unicode TR 9).
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// How much of long lists and texts is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    cells: usize,
    rows: usize,
}

impl Extent {
    /// Everything, or as much as a person reads.
    pub(crate) fn new(all: bool) -> Self {
        if all {
            Self { cells: usize::MAX, rows: usize::MAX }
        } else {
            Self { cells: CELL_MAX, rows: ROWS_MAX }
        }
    }

    /// Text of others for a cell of a table.
    pub(crate) fn cell(self, text: &str) -> String {
        let shown = printable(text.as_bytes());
        match shown.char_indices().nth(self.cells) {
            Some((end, _)) => format!("{}...", &shown[..end]),
            None => shown,
        }
    }

    /// A table whose first row is the head, with a last line that counts what is left out.
    pub(crate) fn table(self, rows: &[Vec<String>]) -> String {
        let shown = rows.len().min(self.rows.saturating_add(1));
        let mut text = table(&rows[..shown]);
        if shown < rows.len() {
            let _ = writeln!(text, "... and {} more; --all shows them", rows.len() - shown);
        }
        text
    }
}

/// Bytes with three significant digits and a binary unit: `1.21 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (n as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{n} B"),
        _ if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 100.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Milliseconds as people say them: `340 ms`, `12 s`, `5 min`, `3 h`.
pub(crate) fn duration_ms(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{:.1} s", ms as f64 / 1000.0),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// Columns as wide as their widest cell; the first row is the head.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A row of a [`table`].
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|c| (*c).to_owned()).collect()
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1 << 20), "1.00 MiB");
        assert_eq!(bytes(1000 << 20), "0.98 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(duration_ms(340), "340 ms");
        assert_eq!(duration_ms(12_340), "12.3 s");
        assert_eq!(hex(&[0, 255]), "00ff");
    }

    #[test]
    fn text_of_others_cannot_steer_a_terminal() {
        assert_eq!(printable(b"web\x1b]0;owned\x07\n"), "web\\u{1b}]0;owned\\u{7}\\n");
        assert_eq!(printable("a\u{9b}31m\u{202e}b".as_bytes()), "a\\u{9b}31m\\u{202e}b");
        assert_eq!(printable(b"\xff\\ok"), "\\xff\\\\ok");
        let long = "x".repeat(4096);
        assert_eq!(Extent::new(false).cell(&long).len(), CELL_MAX + 3);
        assert_eq!(Extent::new(true).cell(&long), long);
    }

    #[test]
    fn long_lists_are_cut_and_say_so() {
        let rows: Vec<_> = (0..=1000).map(|n| row([&n.to_string()])).collect();
        let text = Extent::new(false).table(&rows);
        assert_eq!(text.lines().count(), ROWS_MAX + 2);
        assert!(text.ends_with("... and 950 more; --all shows them\n"), "{text}");
        assert_eq!(Extent::new(true).table(&rows).lines().count(), 1001);
    }

    #[test]
    fn columns_line_up() {
        let text = table(&[row(["ID", "STATE"]), row(["1", "healthy"])]);
        assert_eq!(text, "ID  STATE\n1   healthy\n");
    }
}
