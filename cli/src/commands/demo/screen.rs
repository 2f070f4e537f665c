//! The narration: numbered titles, lines, and progress bars where standard output is a terminal.

use crate::output::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::IsTerminal;

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
        let target = if self.bars { ProgressDrawTarget::stdout() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        let style = ProgressStyle::with_template("   {msg:<28} [{bar:40}] {percent:>3} %");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.to_owned());
        Bar(bar)
    }
}

/// A progress bar.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// How far it is.
    pub(super) fn set(&self, position: u64) {
        self.0.set_position(position);
    }

    /// A line above the bar.
    pub(super) fn line(&self, screen: &Screen, text: &str) {
        self.0.suspend(|| screen.line(text));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
