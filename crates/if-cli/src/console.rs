//! The terminal while a command runs: progress, warnings, Ctrl-C. All of it on stderr.

#![allow(clippy::print_stderr)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use if_linalg::Observer;
use indicatif::{ProgressBar, ProgressStyle};

use crate::error::INTERRUPTED;

static INTERRUPT: AtomicBool = AtomicBool::new(false);

/// Makes the first Ctrl-C stop the work in an orderly way, and the second end the program.
pub fn catch_interrupts() {
    let handler = || {
        if INTERRUPT.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    };
    // Without a handler Ctrl-C still ends the program, only less tidily.
    let _ = ctrlc::set_handler(handler);
}

/// Draws a progress bar where stderr is a terminal, and prints warnings and notes anywhere.
pub struct Console {
    bar: Mutex<(String, ProgressBar)>,
}

impl Default for Console {
    fn default() -> Self {
        Self { bar: Mutex::new((String::new(), ProgressBar::hidden())) }
    }
}

impl Console {
    /// Something the user should act upon.
    pub fn warn(&self, text: &str) {
        self.say("warning", text);
    }

    /// Something the user may want to know.
    pub fn note(&self, text: &str) {
        self.say("note", text);
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        bar.1.finish_and_clear();
        *bar = (String::new(), ProgressBar::hidden());
    }

    fn say(&self, kind: &str, text: &str) {
        self.clear();
        eprintln!("{kind}: {text}");
    }
}

impl Observer for Console {
    fn progress(&self, stage: &str, done: usize, total: usize) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if bar.0 != stage {
            bar.1.finish_and_clear();
            *bar = (stage.to_owned(), new_bar(stage));
        }
        bar.1.set_length(total as u64);
        bar.1.set_position(done as u64);
    }

    fn cancelled(&self) -> bool {
        INTERRUPT.load(Ordering::SeqCst)
    }
}

/// Stops what runs under a console, and draws nothing: for works of which several go on at once.
pub struct Quiet<'a>(pub &'a Console);

impl Observer for Quiet<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

fn new_bar(stage: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left");
    ProgressBar::no_length()
        .with_message(stage.to_owned())
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
