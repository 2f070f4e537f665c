//! The narration: numbered titles, lines, and progress bars where standard output is a terminal.

use crate::output::{print, say};
use std::cell::Cell;
use std::io::IsTerminal;

/// Cells of a bar.
const BAR_CELLS: u64 = 40;
/// Back to the beginning of the line, and nothing on it (ECMA-48).
const CLEAR_LINE: &str = "\r\x1b[K";

/// Writes to standard output; bars only to a terminal.
pub(super) struct Screen {
    chapter: Cell<u32>,
    bars: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { chapter: Cell::new(0), bars: std::io::stdout().is_terminal() }
    }

    /// Begins the next step.
    pub(super) fn title(&self, text: &str) {
        self.chapter.set(self.chapter.get() + 1);
        say(format_args!("\n{}. {text}", self.chapter.get()));
    }

    /// A line of the present step.
    pub(super) fn line(&self, text: &str) {
        say(format_args!("   {text}"));
    }

    /// Several lines, indented.
    pub(super) fn block(&self, text: &str) {
        for line in text.lines() {
            self.line(line);
        }
    }

    /// A bar from 0 to `length`, removed when it is dropped.
    pub(super) fn bar(&self, length: u64, what: &str) -> Bar {
        Bar { shown: self.bars, length: length.max(1), what: what.to_owned() }
    }
}

/// A progress bar.
pub(super) struct Bar {
    shown: bool,
    length: u64,
    what: String,
}

impl Bar {
    /// How far it is.
    pub(super) fn set(&self, position: u64) {
        if self.shown {
            let (part, percent) = (position.min(self.length), 100 * position.min(self.length) / self.length);
            let done = (part * BAR_CELLS / self.length) as usize;
            let (full, empty) = ("#".repeat(done), "-".repeat(BAR_CELLS as usize - done));
            self.draw(&format!("{CLEAR_LINE}   {:<28} [{full}{empty}] {percent:>3} %", self.what));
        }
    }

    /// A line above the bar.
    pub(super) fn line(&self, screen: &Screen, text: &str) {
        self.clear();
        screen.line(text);
    }

    fn clear(&self) {
        if self.shown {
            self.draw(CLEAR_LINE);
        }
    }

    /// A terminal that is gone is noticed by the lines.
    fn draw(&self, text: &str) {
        let _ = print(text);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}
