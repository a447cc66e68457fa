//! From a request to results: what can run runs, one experiment after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{anyhow, bail, ensure};

use crate::eta::Eta;
use crate::harness::{Context, Experiment, Outcome};
use crate::provenance::Provenance;
use crate::result::{Record, compare};
use crate::{report, store, terminal};

/// What the user asked for.
pub struct Request {
    /// Ids of the experiments to run; all if empty.
    pub only: Vec<String>,
    /// The folder of results.
    pub out: PathBuf,
    /// The folder of committed results, `ID.json`, whose gates must not be lost.
    pub committed: PathBuf,
    /// Keep results of the same command that were written after this moment, that of the program's own build.
    pub keep_since: Option<SystemTime>,
}

/// A request found to be possible: the experiments exist and their results can be written.
pub struct Plan {
    experiments: Vec<Box<dyn Experiment>>,
    context: Context,
    request: Request,
    /// At the start: what changes in the repository during a run is not what runs.
    provenance: Provenance,
}

/// How a run ended.
#[derive(Debug, Default, PartialEq)]
pub struct Summary {
    /// Ids of the experiments that gave an error.
    pub failed: Vec<String>,
    /// Gates (`ID: metric`) that the committed results met and this run missed.
    pub lost: Vec<String>,
    /// Ids of the experiments that did not run because their data is missing.
    pub skipped: Vec<String>,
}

impl Summary {
    /// Whether nothing failed and nothing was lost; a miss that was known, or missing data, is no failure.
    pub fn success(&self) -> bool {
        self.failed.is_empty() && self.lost.is_empty()
    }
}

impl Plan {
    /// Checks `request` before any work; an error is the user's to correct.
    pub fn new(all: Vec<Box<dyn Experiment>>, context: Context, request: Request) -> anyhow::Result<Self> {
        if let Some(data) = context.data_dir() {
            ensure!(data.is_dir(), "the data folder {} does not exist", data.display());
        }
        let known: Vec<&str> = all.iter().map(|experiment| experiment.id()).collect();
        if let Some(unknown) = request.only.iter().find(|id| !known.contains(&id.as_str())) {
            bail!("no experiment '{unknown}'; there are: {}", known.join(", "));
        }
        let wanted = |id: &str| request.only.is_empty() || request.only.iter().any(|only| only == id);
        let experiments: Vec<_> = all.into_iter().filter(|experiment| wanted(experiment.id())).collect();
        let ids: Vec<&str> = experiments
            .iter()
            .filter(|experiment| context.missing(experiment.as_ref()).is_empty())
            .map(|experiment| experiment.id())
            .collect();
        store::prepare(&request.out, &ids)?;
        Ok(Self { experiments, context, request, provenance: Provenance::now() })
    }

    /// Runs the experiments, prints a table for each, and writes the report over all results after each.
    pub fn run(&self) -> anyhow::Result<Summary> {
        let mut summary = Summary::default();
        let mut waiting: Vec<&dyn Experiment> = Vec::new();
        for experiment in self.experiments.iter().map(AsRef::as_ref) {
            if !self.context.missing(experiment).is_empty() {
                summary.skipped.push(experiment.id().into());
            } else if let Some(record) = self.kept(experiment) {
                println!("{}\n{}: kept from the run before\n", terminal::table(&record), record.id);
                self.compare(&record, &mut summary)?;
            } else {
                waiting.push(experiment);
            }
        }
        self.run_all(&waiting, &mut summary)?;
        self.write_report()?;
        self.print_summary(&summary);
        Ok(summary)
    }

    fn run_all(&self, waiting: &[&dyn Experiment], summary: &mut Summary) -> anyhow::Result<()> {
        let expected = waiting.iter().map(|experiment| self.expected_seconds(*experiment));
        let mut eta = Eta::new(expected.collect::<anyhow::Result<_>>()?);
        for (i, experiment) in waiting.iter().enumerate() {
            self.context.set_run(&eta);
            let (id, title, of) = (experiment.id(), experiment.title(), waiting.len());
            eprintln!("{id}  {title} ... ({} of {of}, {})", i + 1, eta.text());
            let start = Instant::now();
            match self.run_one(*experiment, summary) {
                Ok(()) => self.write_report()?,
                Err(error) => {
                    eprintln!("{id} failed: {error:#}");
                    summary.failed.push(id.into());
                }
            }
            eta.finished(start.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// What the committed run of the same command took.
    fn expected_seconds(&self, experiment: &dyn Experiment) -> anyhow::Result<Option<f64>> {
        let committed = store::committed(&self.request.committed, experiment.id())?;
        let same = |record: &Record| record.command == self.context.command(experiment.id());
        Ok(committed.filter(same).map(|record| record.seconds))
    }

    /// The result of an interrupted run that this one goes on with.
    fn kept(&self, experiment: &dyn Experiment) -> Option<Record> {
        let record = store::written_since(&self.request.out, experiment.id(), self.request.keep_since?)?;
        (record.command == self.context.command(experiment.id())).then_some(record)
    }

    fn run_one(&self, experiment: &dyn Experiment, summary: &mut Summary) -> anyhow::Result<()> {
        let start = Instant::now();
        // A panic must not cost the results of the experiments that follow.
        let outcome = catch_unwind(AssertUnwindSafe(|| experiment.run(&self.context)));
        self.context.clear_progress();
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked")))?;
        let record = self.record(experiment, &outcome, start.elapsed().as_secs_f64());
        store::save(&self.request.out, &record, &outcome)?;
        println!("{}", terminal::table(&record));
        self.compare(&record, summary)
    }

    fn record(&self, experiment: &dyn Experiment, outcome: &Outcome, seconds: f64) -> Record {
        Record {
            id: experiment.id().into(),
            paper: experiment.paper().into(),
            title: experiment.title().into(),
            claim: experiment.claim().into(),
            metrics: outcome.metrics.clone(),
            seeds: outcome.seeds.clone(),
            seconds,
            settings: outcome.settings.clone(),
            command: self.context.command(experiment.id()),
            measured: Some(self.provenance.clone()),
            plots: outcome.plots.iter().map(store::figure_file).collect(),
            pictures: outcome.pictures.iter().map(store::figure_file).collect(),
            tables: outcome.tables.clone(),
            notes: outcome.notes.clone(),
        }
    }

    fn compare(&self, record: &Record, summary: &mut Summary) -> anyhow::Result<()> {
        let Some(committed) = store::committed(&self.request.committed, &record.id)? else { return Ok(()) };
        let comparison = compare(&committed, record);
        for gate in comparison.unmeasured {
            eprintln!("{}: not measured in this run, met in the committed one: {gate}", record.id);
        }
        summary.lost.extend(comparison.lost.iter().map(|gate| format!("{}: {gate}", record.id)));
        Ok(())
    }

    fn write_report(&self) -> anyhow::Result<()> {
        let (results, unreadable) = store::load_all(&self.request.out)?;
        for error in unreadable {
            eprintln!("left out of the report: {error}");
        }
        store::write(&self.request.out.join("index.html"), &report::html(&results))
    }

    fn print_summary(&self, summary: &Summary) {
        for experiment in &self.experiments {
            for dataset in self.context.missing(experiment.as_ref()) {
                println!(
                    "{} skipped, its data is missing: cargo xtask data fetch {dataset}",
                    experiment.id()
                );
            }
        }
        for gate in &summary.lost {
            println!("lost: {gate} was met in the committed results");
        }
        println!("report: {}", self.request.out.join("index.html").display());
    }
}

/// One line per experiment: id, paper, title, and the data that it lacks.
pub fn list(all: &[Box<dyn Experiment>], context: &Context) -> String {
    let line = |experiment: &dyn Experiment| {
        let missing = context.missing(experiment);
        let lacks =
            if missing.is_empty() { String::new() } else { format!(" (needs {})", missing.join(", ")) };
        format!("{:<12} {}: {}{lacks}\n", experiment.id(), experiment.paper(), experiment.title())
    };
    all.iter().map(|experiment| line(experiment.as_ref())).collect()
}

/// The folder of committed results in this repository.
pub fn committed_results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Gate, Metric};
    use crate::sample;
    use std::fs;

    #[test]
    fn a_failure_does_not_stop_the_next_and_missing_data_is_skipped() {
        let out = tempfile::tempdir().unwrap();
        let summary = sample::run(out.path(), &[]).unwrap();
        assert_eq!(summary.failed, ["broken"]);
        assert_eq!(summary.skipped, ["needy"]);
        assert!(!summary.success());
        let record = fs::read_to_string(out.path().join("sample/result.json")).unwrap();
        let record: Record = serde_json::from_str(&record).unwrap();
        assert_eq!(record.gates(), (2, 4));
        assert_eq!(record.seeds, [0, 1, 2]);
    }

    #[test]
    fn known_misses_and_missing_data_are_no_failure() {
        let out = tempfile::tempdir().unwrap();
        assert!(sample::run(out.path(), &["sample", "needy"]).unwrap().success());
    }

    /// What was finished is not run again, unless the program is newer or was asked for something else.
    #[test]
    fn an_interrupted_run_goes_on() {
        let out = tempfile::tempdir().unwrap();
        let run = |keep_since| {
            let mut plan = sample::plan(out.path(), &["sample"]).unwrap();
            plan.request.keep_since = keep_since;
            assert!(plan.run().unwrap().success());
            fs::read_to_string(out.path().join("sample/result.json")).unwrap()
        };
        let first = run(None);
        let marked = first.replacen("\"seconds\"", "\"kept\": true, \"seconds\"", 1);
        fs::write(out.path().join("sample/result.json"), &marked).unwrap();
        assert_eq!(run(Some(SystemTime::UNIX_EPOCH)), marked);
        assert_ne!(run(Some(SystemTime::now() + std::time::Duration::from_secs(60))), marked);
        let other = marked.replace("--only sample", "--only sample --full");
        fs::write(out.path().join("sample/result.json"), &other).unwrap();
        assert_ne!(run(Some(SystemTime::UNIX_EPOCH)), other);
        fs::write(out.path().join("sample/result.json"), "{").unwrap();
        assert_ne!(run(Some(SystemTime::UNIX_EPOCH)), "{");
    }

    #[test]
    fn a_gate_that_the_committed_run_met_must_not_be_lost() {
        let out = tempfile::tempdir().unwrap();
        let met = |name: &str| Metric::new(name, 1.0).gate(Gate::AtLeast(1.0));
        let mut committed = sample::record("sample");
        committed.metrics = vec![met("R, top 100"), met("slope through the origin"), met("no longer there")];
        let folder = out.path().join("committed");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("sample.json"), serde_json::to_string(&committed).unwrap()).unwrap();

        let summary = sample::run(out.path(), &["sample"]).unwrap();
        assert_eq!(summary.lost, ["sample: slope through the origin"]);
        assert!(!summary.success());
    }

    #[test]
    fn the_report_holds_earlier_results_too() {
        let out = tempfile::tempdir().unwrap();
        let earlier = serde_json::to_string(&sample::record("earlier")).unwrap();
        fs::create_dir(out.path().join("earlier")).unwrap();
        fs::write(out.path().join("earlier/result.json"), earlier).unwrap();
        fs::create_dir(out.path().join("spoilt")).unwrap();
        fs::write(out.path().join("spoilt/result.json"), "{").unwrap();

        sample::run(out.path(), &["sample"]).unwrap();
        let page = fs::read_to_string(out.path().join("index.html")).unwrap();
        assert!(page.contains("id=\"earlier\"") && page.contains("id=\"sample\""));
        assert!(!page.contains("spoilt"));
    }

    #[test]
    fn bad_requests_are_found_before_any_work() {
        let out = tempfile::tempdir().unwrap();
        let error = sample::plan(out.path(), &["1z"]).err().unwrap().to_string();
        assert_eq!(error, "no experiment '1z'; there are: broken, sample, needy");

        let file = out.path().join("file");
        fs::write(&file, "").unwrap();
        let error = sample::plan(&file, &["sample"]).err().unwrap().to_string();
        assert!(error.contains("cannot create"), "{error}");
    }

    #[test]
    fn the_list_names_missing_data() {
        let plan = sample::plan(tempfile::tempdir().unwrap().path(), &[]).unwrap();
        let text = list(&plan.experiments, &plan.context);
        assert!(text.contains("needy        Nobody 2000: Lacks its data (needs no-such-set)\n"), "{text}");
    }
}
