//! Parse, run, exit code.

use clap::Parser as _;
use homeward::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    let code = match Cli::try_parse() {
        Ok(command) => cli::run(command).unwrap_or_else(|error| error.tell()),
        Err(error) => {
            // Help and version are asked for, and go to stdout; a closed pipe is nobody's problem here.
            let _ = error.print();
            if error.use_stderr() { cli::USAGE } else { cli::FINE }
        }
    };
    ExitCode::from(code)
}
