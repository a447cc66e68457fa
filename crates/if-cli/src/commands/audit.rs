use crate::args::AuditArgs;
use crate::console::Console;
use crate::error::Failure;
use crate::output::Report;
pub fn run(_args: &AuditArgs, _console: &Console) -> Result<Report, Failure> {
    Err(Failure::input("later"))
}
