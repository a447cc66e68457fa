//! Starting cargo, in the repository's root and with its data.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf()
}

/// Cargo in `root`. Where $INFLUENCE_DATA is not set, the shared data beside the repository are used.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root);
    // What cargo says of this package to its program would make build scripts of others run again.
    for (name, _) in std::env::vars_os() {
        let own = name.to_string_lossy();
        if own.starts_with("CARGO_PKG_") || own.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let shared = root.join("../shared/data").canonicalize();
    if let (None, Ok(shared)) = (std::env::var_os("INFLUENCE_DATA"), shared) {
        command.env("INFLUENCE_DATA", shared);
    }
    command
}

/// Runs `command` under a heading, with its time; an error names the command line.
pub fn step(name: &str, command: &mut Command) -> anyhow::Result<()> {
    println!("── {name}");
    let start = Instant::now();
    let line = command_line(command);
    let status = command.status().with_context(|| format!("{name}: cannot run {line}"))?;
    ensure!(status.success(), "{name} failed ({status}): {line}");
    println!("── {name}: {:.1} s\n", start.elapsed().as_secs_f64());
    Ok(())
}

/// The command as one could type it, with the program's name instead of its path.
fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_names_its_command_line() {
        let error = step("format", Command::new("cargo").arg("no-such-command")).unwrap_err();
        assert!(error.to_string().starts_with("format failed"), "{error}");
        assert!(error.to_string().ends_with(": cargo no-such-command"), "{error}");
    }
}
