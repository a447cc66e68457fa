//! One progress bar on stderr, with the time that is left; nothing where stderr is no terminal.

use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};

#[derive(Default)]
pub struct Progress {
    /// The task under way and its bar.
    current: Mutex<Option<(String, ProgressBar)>>,
}

impl Progress {
    /// Draws `done` of `total`; another `what` starts another bar in the place of the first.
    pub fn show(&self, what: &str, done: usize, total: usize) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|(name, _)| name != what) {
            take_down(&mut current);
        }
        let (_, bar) = current.get_or_insert_with(|| (what.to_string(), new_bar(what)));
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        take_down(&mut self.lock());
    }

    // A panic elsewhere leaves a bar that is still good to be drawn or taken down.
    fn lock(&self) -> MutexGuard<'_, Option<(String, ProgressBar)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("  {msg} {wide_bar} {pos}/{len}, {eta} left");
    ProgressBar::no_length()
        .with_message(what.to_string())
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn take_down(current: &mut Option<(String, ProgressBar)>) {
    if let Some((_, bar)) = current.take() {
        bar.finish_and_clear();
    }
}
