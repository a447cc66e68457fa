//! The program `influence`.

fn main() -> std::process::ExitCode {
    if_cli::run(std::env::args_os())
}
