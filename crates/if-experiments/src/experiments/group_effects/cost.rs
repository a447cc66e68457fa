//! What many groups cost, beside a few retrainings: first order by one solve for each query, the others by one
//! factorisation of the Hessian.

use std::time::Instant;

use if_linalg::{BlockCg, Loss, Prepared, Solver};
use if_methods::{GroupDraw, GroupInfluence, Order};
use if_models::{Curvature, Dataset, RiskSettings};

use super::{LARGEST, QUERIES, SMALLEST};
use crate::Context;
use crate::result::{Gate, Metric};
use crate::support::{F64, FACTORED, Problem, fit, group_effects};

const L2: f64 = 0.01;
const GROUPS: usize = 500;
const RETRAININGS: usize = 5;
const GRADIENT: f64 = 1e-8;
const ITERATIVE: BlockCg = BlockCg { tolerance: 1e-8, max_iterations: 1000 };

/// Seconds of effects of random groups by every order, solver included, over those of retrainings by Newton-CG from the
/// whole model: softmax regression on the ten digits.
pub fn measure(
    context: &Context,
    (train, test): &(Dataset, Dataset),
    seed: u64,
) -> anyhow::Result<Vec<Metric>> {
    let n = if context.full { 55_000 } else { 10_000 };
    let problem =
        Problem::linear(train.slice(0, n), test.slice(0, QUERIES), (10, false, Loss::CrossEntropy))?;
    let risk = problem.risk(RiskSettings::mean(L2))?;
    let theta = fit(&risk, None, GRADIENT)?.theta;
    let mut draw = GroupDraw::new(seed);
    let size = |g: usize| {
        let share = SMALLEST + (LARGEST - SMALLEST) * g as f64 / (GROUPS - 1) as f64;
        (share * n as f64).round() as usize
    };
    let groups: Vec<Vec<usize>> = (0..GROUPS).map(|g| draw.random(n, size(g))).collect();

    let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
    let start = Instant::now();
    let solver: Box<dyn Prepared<F64>> = ITERATIVE.prepare(&operator)?;
    let influence = GroupInfluence::new(&operator, &*solver);
    group_effects(context, &influence, (&groups, &problem.test), (Order::First, false))?;
    let first = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let solver = FACTORED.prepare(&operator)?;
    let factorisation = start.elapsed().as_secs_f64();
    let influence = GroupInfluence::new(&operator, &*solver);
    let seconds = |order| -> anyhow::Result<f64> {
        let start = Instant::now();
        group_effects(context, &influence, (&groups, &problem.test), (order, false))?;
        Ok(factorisation + start.elapsed().as_secs_f64())
    };
    let second = seconds(Order::Second)?;
    let start = Instant::now();
    // Of all sizes.
    for group in groups.iter().skip(GROUPS / RETRAININGS / 2).step_by(GROUPS / RETRAININGS) {
        let _ = fit(&risk.without(group), Some(&theta), GRADIENT)?;
    }
    let retraining = start.elapsed().as_secs_f64();
    let ratio = |order: &str, seconds: f64| {
        let name = format!(
            "seconds of {GROUPS} groups by {order} over those of {RETRAININGS} retrainings, softmax, n = {n}"
        );
        Metric::new(name, seconds / retraining)
    };
    let mut metrics = vec![
        ratio("first order", first).gate(Gate::Below(1.0)),
        ratio("second order", second).gate(Gate::Below(1.0)),
        Metric::new(
            "seconds of one retraining over those of one group by second order",
            (retraining / RETRAININGS as f64) / (second / GROUPS as f64),
        ),
        Metric::new(format!("seconds of {RETRAININGS} retrainings"), retraining),
        Metric::new("seconds of the factorisation", factorisation),
    ];
    // Judged by nothing, and the dearest.
    if context.full {
        metrics.push(ratio("Newton", seconds(Order::Newton)?));
    }
    Ok(metrics)
}
