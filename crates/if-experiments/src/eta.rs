//! How long the rest of a run takes, by what its experiments took in the committed runs.

use std::time::{Duration, Instant};

use crate::number::duration;

/// Seconds that say little of how fast this machine is.
const NOISE: f64 = 10.0;

/// The experiments of a run that are not finished, the running one first.
#[derive(Clone)]
pub struct Eta {
    /// Seconds of each in its committed run; none where there is none.
    expected: Vec<Option<f64>>,
    /// Seconds that finished experiments should have taken, and took.
    done: [f64; 2],
    started: Instant,
}

impl Eta {
    /// Before the first of experiments that are expected to take so long.
    pub fn new(expected: Vec<Option<f64>>) -> Self {
        Self { expected, done: [0.0; 2], started: Instant::now() }
    }

    /// The running one is finished after `seconds`.
    pub fn finished(&mut self, seconds: f64) {
        if let Some(expected) = self.expected.remove(0) {
            self.done[0] += expected;
            self.done[1] += seconds;
        }
        self.started = Instant::now();
    }

    /// Such as `about 3 min 20 s left`.
    pub fn text(&self) -> String {
        let (left, complete) = self.left(self.started.elapsed());
        let left = duration(left.round().max(1.0));
        format!("{} {left} left", if complete { "about" } else { "at least" })
    }

    /// Seconds, when the running one has run for so long; and whether they are those of all that is left.
    fn left(&self, running: Duration) -> (f64, bool) {
        let speed = (NOISE + self.done[1]) / (NOISE + self.done[0]);
        let known = |expected: &Option<f64>| expected.unwrap_or(0.0) * speed;
        let (first, later) = self.expected.split_first().map_or((0.0, 0.0), |(first, later)| {
            (known(first) - running.as_secs_f64(), later.iter().map(known).sum())
        });
        (first.max(0.0) + later, self.expected.iter().all(Option::is_some))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(eta: &Eta, running: u64) -> (f64, bool) {
        eta.left(Duration::from_secs(running))
    }

    #[test]
    fn what_is_left_falls_with_time_and_follows_the_speed_of_the_machine() {
        let mut eta = Eta::new(vec![Some(30.0), Some(60.0), Some(5.0)]);
        assert_eq!(left(&eta, 0), (95.0, true));
        assert_eq!(left(&eta, 20), (75.0, true));
        // Longer than it should: nothing is known of its end, and the others are still to come.
        assert_eq!(left(&eta, 100), (65.0, true));
        eta.finished(70.0);
        assert_eq!(left(&eta, 0), (130.0, true));
        eta.finished(120.0);
        eta.finished(10.0);
        assert_eq!(left(&eta, 3), (0.0, true));
    }

    #[test]
    fn an_experiment_without_a_committed_run_is_not_hidden() {
        let mut eta = Eta::new(vec![None, Some(100.0)]);
        assert_eq!(left(&eta, 7), (100.0, false));
        assert_eq!(eta.text(), "at least 1 min 40 s left");
        // It says nothing of the machine.
        eta.finished(500.0);
        assert_eq!(left(&eta, 0), (100.0, true));
        assert_eq!(eta.text(), "about 1 min 40 s left");
    }
}
