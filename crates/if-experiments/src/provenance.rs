//! Where, when and of what a result was measured.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// What a measurement cannot be repeated without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Cores, processor and memory.
    pub machine: String,
    /// Git revision, `+` where files differ from it; "unknown" outside a repository.
    pub revision: String,
    /// Day in UTC, such as `2026-11-26`.
    pub date: String,
}

impl Provenance {
    /// Here and now.
    pub fn now() -> Self {
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self {
            machine: machine(),
            revision: revision().unwrap_or_else(|| "unknown".into()),
            date: date.chars().take_while(|c| *c != 'T').collect(),
        }
    }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let read = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = read("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    let kibibytes = read("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
    let memory =
        kibibytes.map_or(String::new(), |size: f64| format!(", {:.0} GiB", size / f64::from(1 << 20)));
    let cores = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
    format!("{cores}, {processor}{memory}")
}

/// Results and what is written from them do not count as changes.
fn revision() -> Option<String> {
    let git = |arguments: &[&str]| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short=10", "HEAD"])?;
    let written = [":!crates/if-experiments/results", ":!REPRODUCTION.md"];
    let changes = git(&["status", "--porcelain", "--", ".", written[0], written[1]])?;
    Some(if changes.is_empty() { head } else { head + "+" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_says_where_and_when() {
        let here = Provenance::now();
        assert!(here.machine.contains("core"), "{here:?}");
        assert!(here.date.len() == 10 && here.date.starts_with("20"), "{here:?}");
        assert!(!here.revision.is_empty());
    }
}
