//! What `influence correct` says: the model before and after, by every choice of examples.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::output::{Table, short};

/// On which training examples steps are taken: what is asked for, then the controls.
pub const CHOICES: [&str; 3] = ["most helpful", "random", "most harmful"];

/// Accuracy and mean loss.
#[derive(Clone, Copy, Serialize)]
pub struct Judgement {
    /// Part of the examples that are right.
    pub accuracy: f64,
    /// Without regulariser.
    pub loss: f64,
}

/// What the rounds of one choice made of the model.
pub struct Corrected {
    /// One entry for each.
    pub rounds: Vec<Value>,
    /// One for each set of examples.
    pub judgements: Vec<Judgement>,
}

/// All of it.
pub struct Found {
    /// Names and sizes of the sets of examples.
    pub sets: Vec<(String, usize)>,
    /// One for each set.
    pub before: Vec<Judgement>,
    /// One for each choice.
    pub corrected: Vec<Corrected>,
}

impl Found {
    /// Accuracy and mean loss, each with a row for every set of examples.
    pub fn tables(&self) -> String {
        let percent = |found: &Judgement| format!("{:.2} %", 100.0 * found.accuracy);
        let loss = |found: &Judgement| short(found.loss);
        let shown: [(&str, &dyn Fn(&Judgement) -> String); 2] =
            [("<accuracy", &percent), ("<mean loss", &loss)];
        let mut text = String::new();
        for (heading, show) in shown {
            let headings: Vec<&str> = [heading, "examples", "before"].into_iter().chain(CHOICES).collect();
            let mut table = Table::new(&headings);
            for (s, (name, count)) in self.sets.iter().enumerate() {
                let after = self.corrected.iter().map(|choice| show(&choice.judgements[s]));
                table.row([name.clone(), count.to_string(), show(&self.before[s])].into_iter().chain(after));
            }
            text += &format!("\n{}", table.render());
        }
        text
    }

    /// What the controls say about set `s` of the examples.
    fn verdict_on(&self, s: usize) -> String {
        let name = &self.sets[s].0;
        let [helpful, random, harmful] = [0, 1, 2].map(|c| self.corrected[c].judgements[s].loss);
        let found = if helpful.is_nan() || helpful >= self.before[s].loss {
            "the most helpful did not lower the loss; try another --learning-rate, --rounds or --damping"
        } else if [random, harmful].iter().any(|control| *control <= helpful) {
            "a control lowered the loss as much as the most helpful: more training, not influence"
        } else {
            "the most helpful lowered the loss more than the controls did: influence, not more training alone"
        };
        format!("{name}: {found}")
    }

    /// What the controls say about the examples that errors were drawn from, and about each set that had no part in it,
    /// which begin at `tests`.
    pub fn verdict(&self, tests: usize) -> String {
        let said = std::iter::once(0).chain(tests..self.sets.len()).map(|s| self.verdict_on(s));
        said.collect::<Vec<_>>().join("\n")
    }

    /// For programs: every set before and after.
    pub fn judged(&self) -> Value {
        let set = |(s, (name, count)): (usize, &(String, usize))| {
            let mut entry = json!({ "name": name, "examples": count, "before": self.before[s] });
            for (choice, found) in CHOICES.iter().zip(&self.corrected) {
                entry[key(choice)] = json!(found.judgements[s]);
            }
            entry
        };
        self.sets.iter().enumerate().map(set).collect()
    }

    /// For programs: the rounds of every choice.
    pub fn rounds(&self) -> Value {
        let entries = CHOICES.iter().zip(&self.corrected);
        entries.map(|(choice, found)| (key(choice), json!(found.rounds))).collect::<Map<_, _>>().into()
    }
}

fn key(choice: &str) -> String {
    choice.replace(' ', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples that had no part in the correction are judged apart.
    #[test]
    fn a_gain_that_tests_do_not_share_is_not_praised() {
        let set = |name: &str| (name.to_owned(), 1);
        let judgement = |loss| Judgement { accuracy: 0.0, loss };
        let corrected = [[1.0, 1.9, 2.1], [1.5, 1.8, 2.0], [3.0, 2.5, 1.9]];
        let choice = |losses: [f64; 3]| Corrected {
            rounds: Vec::new(),
            judgements: losses.into_iter().map(judgement).collect(),
        };
        let found = Found {
            sets: vec![set("errors"), set("all"), set("test")],
            before: [2.0, 2.0, 2.0].map(judgement).to_vec(),
            corrected: corrected.map(choice).into_iter().collect(),
        };
        let said = found.verdict(2);
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].starts_with("errors: the most helpful lowered the loss more"), "{said}");
        assert!(lines[1].starts_with("test: the most helpful did not lower the loss"), "{said}");
        assert_eq!(lines.len(), 2);
    }

    /// The controls decide what is said.
    #[test]
    fn verdicts_follow_the_losses() {
        let said = |losses: [f64; 4]| {
            let judgement = |loss| Judgement { accuracy: 0.0, loss };
            let [before, after @ ..] = losses;
            let corrected =
                after.map(|loss| Corrected { rounds: Vec::new(), judgements: vec![judgement(loss)] });
            Found {
                sets: vec![("q".into(), 1)],
                before: vec![judgement(before)],
                corrected: corrected.into_iter().collect(),
            }
            .verdict(1)
        };
        assert!(said([2.0, 1.0, 1.5, f64::NAN]).contains("influence, not more training alone"));
        assert!(said([2.0, 1.0, 1.5, 3.0]).contains("influence, not more training alone"));
        for control in [[2.0, 1.5, 1.0, 3.0], [2.0, 1.5, 1.5, 3.0], [2.0, 1.5, 1.8, 1.4]] {
            assert!(said(control).contains("more training, not influence"), "{control:?}");
        }
        for nothing in [[2.0, 2.0, 3.0, 3.0], [2.0, f64::NAN, 1.0, 1.0]] {
            assert!(said(nothing).contains("did not lower"), "{nothing:?}");
        }
    }
}
