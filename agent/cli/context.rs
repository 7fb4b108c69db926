//! What every verb needs: what is shown of the stores (`view`), and where it is printed.

use super::CliError;
use super::print::Out;
use crate::config::Config;
use crate::decide::filter::Filter;
use crate::view::Reader;
pub use crate::view::ambiguous;
use std::future::Future;
use std::ops::Deref;
use std::path::Path;

pub fn load_config(path: Option<&Path>) -> Result<Config, CliError> {
    Ok(Config::load(path, |text| Filter::parse(text).map(drop).map_err(|error| error.to_string()))?)
}

/// Runs what waits for the network.
pub fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|cause| CliError::Start { what: "the network runtime", cause })?;
    let done = runtime.block_on(work);
    // Somebody's search at the console, or a home that does not answer, is not waited for.
    runtime.shutdown_background();
    done
}

pub struct Context {
    pub reader: Reader,
    pub out: Out,
}

impl Context {
    pub fn new(config: Config, out: Out) -> Context {
        Context { reader: Reader::new(config), out }
    }
}

impl Deref for Context {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}
