//! The curvatures that the steps of conjugate gradients meet, and what they say.

use crate::{Real, Termination};

/// Smallest and largest Rayleigh quotient `p.Ap / p.p` so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quotients(Option<[f64; 2]>);

impl Quotients {
    /// What `p.Ap` must exceed for a step: below rounding of the largest curvature so far, its sign is unknown.
    pub fn floor<T: Real>(self, pp: f64) -> f64 {
        T::EPSILON * self.0.map_or(0.0, |[_, high]| high) * pp
    }

    /// Takes in a direction; `None` where it was above its floor.
    pub fn judge<T: Real>(&mut self, pq: f64, pp: f64) -> Option<Termination> {
        let (floor, curvature) = (self.floor::<T>(pp), pq / pp);
        if !curvature.is_finite() {
            return Some(Termination::NonFinite);
        }
        let [low, high] = self.0.unwrap_or([curvature, 0.0]);
        let largest = high.max(curvature);
        self.0 = Some([low.min(curvature), largest]);
        if pq > floor {
            return None;
        }
        Termination::of_curvature::<T>(curvature, largest).or(Some(Termination::Singular))
    }

    /// The two, once there was a direction.
    pub fn extremes(self) -> Option<[f64; 2]> {
        self.0
    }
}
