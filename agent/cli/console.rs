//! `console token`: who may use the console. A token is shown once, when it is made.

use super::context::Context;
use super::print::{Table, moment};
use super::{CliError, ConsoleVerb, FINE, TokenVerb};
use crate::console::tokens;
use crate::model::Timestamp;

pub fn console(c: &mut Context, verb: ConsoleVerb) -> Result<u8, CliError> {
    let ConsoleVerb::Token(verb) = verb;
    match verb {
        TokenVerb::Add { name, role } => {
            let secret = tokens::add(c.state_dir(), &name, role, Timestamp::now())?;
            if c.out.json {
                let role = role.as_str();
                c.out.document(&serde_json::json!({ "name": name, "role": role, "token": secret }))?;
                return Ok(FINE);
            }
            c.out.line(&secret)?;
            c.out.flush()?;
            eprintln!("this is the token of {name} ({}); it is shown once and kept as a hash", role.as_str());
        }
        TokenVerb::List => {
            let tokens = tokens::read(c.state_dir())?;
            if c.out.json {
                let shown = |token: &tokens::Token| {
                    let created_at = token.created_at.to_string();
                    serde_json::json!({ "name": token.name, "role": token.role, "created_at": created_at })
                };
                c.out.document(&tokens.iter().map(shown).collect::<Vec<_>>())?;
                return Ok(FINE);
            }
            let mut table = Table::new(["NAME", "ROLE", "MADE"]);
            for token in tokens {
                table.row([token.name, token.role.as_str().to_owned(), moment(token.created_at)]);
            }
            table.show(&mut c.out)?;
        }
        TokenVerb::Remove { name } => {
            tokens::remove(c.state_dir(), &name)?;
            c.out.line(format_args!("the token of {name} is removed; who signed in with it is signed out"))?;
        }
    }
    Ok(FINE)
}
