//! One progress bar on stderr, with the time that is left of the task and of the run; nothing where stderr is no terminal.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};

use crate::eta::Eta;

#[derive(Default)]
pub struct Progress {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The task under way and its bar.
    current: Option<(String, ProgressBar)>,
    /// Whether it is one of which the steps are not shown.
    outer: bool,
    /// What is left of the run.
    run: Option<Eta>,
}

/// Units that run side by side.
pub struct Outer<'a> {
    progress: &'a Progress,
    done: AtomicUsize,
    total: usize,
}

impl Outer<'_> {
    /// One more is finished.
    pub fn step(&self) {
        let done = 1 + self.done.fetch_add(1, Ordering::Relaxed);
        self.progress.lock().place(done, self.total);
    }
}

impl Drop for Outer<'_> {
    fn drop(&mut self) {
        self.progress.lock().outer = false;
    }
}

impl Progress {
    /// Shows from now on what `run` says is left.
    pub fn set_run(&self, run: &Eta) {
        self.lock().run = Some(run.clone());
    }

    /// Draws `done` of `total`; another `what` starts another bar in the place of the first. Within an outer task only
    /// what is left is drawn anew.
    pub fn show(&self, what: &str, done: usize, total: usize) {
        let mut state = self.lock();
        match state.outer {
            true => state.draw_run(),
            false => {
                state.begin(what);
                state.place(done, total);
            }
        }
    }

    /// Starts a task of `total` units in the place of whatever is shown.
    pub fn outer(&self, what: &str, total: usize) -> Outer<'_> {
        let mut state = self.lock();
        state.begin(what);
        state.place(0, total);
        state.outer = true;
        Outer { progress: self, done: AtomicUsize::new(0), total }
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        self.lock().take_down();
    }

    // A panic elsewhere leaves a bar that is still good to be drawn or taken down.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self, what: &str) {
        if self.current.as_ref().is_some_and(|(name, _)| name != what) {
            self.take_down();
        }
        self.current.get_or_insert_with(|| (what.to_string(), new_bar(what)));
    }

    fn place(&self, done: usize, total: usize) {
        self.draw_run();
        if let Some((_, bar)) = &self.current {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }

    fn draw_run(&self) {
        if let (Some((_, bar)), Some(run)) = (&self.current, &self.run) {
            bar.set_prefix(format!("; run: {}", run.text()));
        }
    }

    fn take_down(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("  {msg} {wide_bar} {pos}/{len}, {eta} left{prefix}");
    ProgressBar::no_length()
        .with_message(what.to_string())
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
