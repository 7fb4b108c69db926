//! `config show`.

use super::context::Context;
use super::{CliError, FINE};

pub fn show(c: &mut Context) -> Result<u8, CliError> {
    let text = c.config.to_toml_hidden();
    if !c.out.json {
        c.out.text(&text)?;
        return Ok(FINE);
    }
    // What we wrote ourselves is TOML.
    let value: toml::Value = toml::from_str(&text).unwrap_or_else(|_| toml::Value::Table(Default::default()));
    c.out.document(&value)?;
    Ok(FINE)
}
