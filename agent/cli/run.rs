//! `run`: the agent.

use super::{CliError, FINE, HELD, PROBLEMS, context};
use crate::config::Config;
use crate::store::StoreError;
use crate::supervise::{self, Ended};
use crate::telemetry;

pub fn run(config: Config, once: bool, verbosity: u8) -> Result<u8, CliError> {
    telemetry::init(config.log.format, verbosity);
    let ended = context::block_on(async {
        supervise::run(config, once).await.map_err(|error| match error.downcast::<StoreError>() {
            Ok(error) => error.into(),
            Err(error) => CliError::Run(error.chain().map(|cause| cause.to_string()).collect()),
        })
    })?;
    Ok(match ended {
        Ended::Stopped => FINE,
        Ended::Quiet { held: 1.., .. } => HELD,
        Ended::Quiet { problems: 1.., .. } => PROBLEMS,
        Ended::Quiet { .. } => FINE,
    })
}
