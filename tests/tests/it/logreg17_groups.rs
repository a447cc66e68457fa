//! Effects of groups on the problem of `logreg17`, against explicit matrices and retraining (`data/README.md`): 35 groups,
//! from 1 % to a quarter of the examples, 25 queries.

// The agreement itself is worth reading: `cargo test -p if-tests --test it groups -- --nocapture`.
#![allow(clippy::print_stdout)]

use if_linalg::{Cholesky, Solver};
use if_methods::{Agreement, GroupInfluence, Order, loss_changes_near};
use if_models::{Chord, Curvature, Removal};
use if_tests::{Golden, relative_error};

use crate::logreg17::{STRENGTHS, problem};

const QUERIES: usize = 25;

fn groups(golden: &Golden) -> Vec<Vec<usize>> {
    let members = golden.indices("groups_concat");
    let mut start = 0;
    let group = |size: usize| {
        start += size;
        members[start - size..start].to_vec()
    };
    golden.indices("group_sizes").into_iter().map(group).collect()
}

#[test]
fn every_order_and_retraining_agree_with_explicit_matrices() {
    let problem = problem();
    let golden = Golden::read("logreg17_groups.npz");
    let groups = groups(&golden);
    let queries = problem.some_queries(QUERIES);
    for (l2, prefix) in STRENGTHS {
        let golden = |name: &str| golden.values(&format!("{prefix}group_{name}"));
        let risk = problem.risk(l2, Removal::Fixed);
        let theta = problem.optimum(&risk);
        let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
        let solver = Cholesky { tolerance: 1e-9, memory_budget: usize::MAX }.prepare(&operator).unwrap();
        let influence = GroupInfluence::new(&operator, &*solver).with_newton(1e-11, 500);
        for (order, evaluated, name) in [
            (Order::First, false, "first"),
            (Order::Second, false, "second_no3_lin"),
            (Order::Newton, false, "newton_lin"),
            (Order::Newton, true, "newton_eval"),
        ] {
            let found = influence.effects(&groups, &queries, (order, evaluated), &()).unwrap();
            assert!(found.report.all_converged(), "{}", found.report.summary());
            let error = relative_error(&found.effects.concat(), &golden(name));
            assert!(error < 1e-7, "l2 {l2}: {name} is off by {error:e}");
            let agreement = Agreement::new(&found.effects.concat(), &golden("actual_fixed"));
            println!("l2 {l2}, {name}: {agreement:?}");
        }
        let before = problem.network.example_losses(&queries, &theta);
        for (removal, name) in [(Removal::Fixed, "actual_fixed"), (Removal::Renormalised, "actual_renorm")] {
            let risk = problem.risk(l2, removal);
            let chord = Chord { gradient_tolerance: 1e-12, ..Chord::default() };
            let near = (&chord, &theta, &*solver);
            let found = loss_changes_near(&risk, &groups, (&queries, &before), near, &()).unwrap();
            assert!(found.fits.iter().all(|fit| fit.converged()), "{:?}", found.fits);
            let error = relative_error(&found.changes.concat(), &golden(name));
            assert!(error < 1e-7, "l2 {l2}: {name} is off by {error:e}");
        }
    }
}
