//! Progress and cancellation of long computations.

/// Told how a long computation goes, and asked whether to stop it. Libraries never print; the
/// program draws a progress bar from these calls. `()` ignores everything.
pub trait Observer: Sync {
    /// `done` of `total` units of `stage` are finished.
    fn progress(&self, _stage: &str, _done: usize, _total: usize) {}

    /// Whether to stop as soon as a consistent state is reached.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Observer for () {}
