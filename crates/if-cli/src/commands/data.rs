use crate::args::DataCommand;
use crate::error::Failure;
use crate::output::Report;
pub fn run(_args: &DataCommand) -> Result<Report, Failure> {
    Err(Failure::input("later"))
}
