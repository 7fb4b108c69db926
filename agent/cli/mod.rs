//! The command line: what can be typed, and what comes of it. A file for each verb.
//!
//! Verbs that look read the stores as they are, beside a running agent. Verbs that change something leave a wish that the
//! worker takes; none of them writes a standing, and none but `run` writes to the directory.

mod check;
mod config;
mod console;
mod context;
mod error;
mod events;
mod home;
mod plan;
mod print;
mod problem;
mod resets;
mod run;
mod status;
mod store;
mod tail;
mod user;
mod wish;

pub use error::CliError;

use crate::config::ConfigError;
use crate::model::{OutcomeKind, Sequence, Status, Timestamp};
use crate::view::events::FeedName;
use clap::{Args, CommandFactory, Parser, Subcommand};
use context::Context;
use print::Out;
use std::path::PathBuf;

/// Exit code: fine.
pub const FINE: u8 = 0;
/// Exit code: failed.
pub const FAILED: u8 = 1;
/// Exit code: what was typed makes no sense.
pub const USAGE: u8 = 2;
/// Exit code: it went well, but there are problems that want a person.
pub const PROBLEMS: u8 = 3;
/// Exit code: it went well, but the guard holds changes until they are approved.
pub const HELD: u8 = 4;
/// Exit code: the configuration cannot be used (`EX_CONFIG` of sysexits.h).
pub const CONFIGURATION: u8 = ConfigError::EXIT_CODE;

const EXIT_CODES: &str =
    "Exit codes: 0 fine, 1 failed, 2 usage, 3 there are problems, 4 held by the guard, 78 configuration";

/// Watch a directory and give every entitled user a home server
#[derive(Parser, Debug)]
#[command(name = "homeward", version, after_help = EXIT_CODES, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args, Debug)]
struct Global {
    /// Read the configuration from FILE; default: /etc/homeward/homeward.toml, else ./homeward.toml
    #[arg(long, global = true, env = "HOMEWARD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Say more on stderr; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Run the agent: follow the directory, decide, write back
    #[command(
        after_long_help = "Examples:\n  homeward run                follow the directory until stopped\n  homeward run --once         work until all is quiet, then exit (3: problems, 4: held by the guard)"
    )]
    Run {
        /// Exit once everything is read, decided and written
        #[arg(long)]
        once: bool,
    },
    /// Check configuration, directory, rights, schema, DNS, homes and stores
    #[command(
        after_long_help = "One line each: ok, warn or FAIL, and what to do. Exits 1 if something fails. Nothing is written."
    )]
    Check,
    /// Read the directory now, decide for everyone, change nothing
    #[command(
        after_long_help = "Examples:\n  homeward plan               what the agent would do now\n  homeward plan ann           for one user\n  homeward plan --json        with each user who would change\n\nExits 3 if users would be refused, 4 if the guard would hold the plan."
    )]
    Plan {
        /// Only these: login, mail, DN or key
        #[arg(value_name = "USER")]
        users: Vec<String>,
    },
    /// Show how things stand, on one screen
    #[command(
        after_long_help = "Reads the stores only: the agent need not run. Exits 3 if there are problems, 4 if the guard holds changes."
    )]
    Status,
    /// Show what became of users, a line each
    #[command(
        after_long_help = "Examples:\n  homeward tail -f                    follow what happens\n  homeward tail --user ann            everything about one user\n  homeward tail --kind problem --since 2h"
    )]
    Tail(TailArgs),
    /// Print a feed as CloudEvents, one JSON document a line
    #[command(
        after_long_help = "Examples:\n  homeward events --follow                         everyone who is there, then what changes\n  homeward events --feed outcomes --after 0        how every user stands, then what became of them\n\nTo go on later, give the `sequence` of the last event to --after."
    )]
    Events(EventsArgs),
    /// List, show, explain or change users
    #[command(subcommand)]
    User(UserVerb),
    /// List home servers, or change who may live there
    #[command(subcommand)]
    Home(HomeVerb),
    /// List who needs a new password for Digest authentication, and since when
    Resets {
        /// Print CSV (RFC 4180)
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
    /// List, show, retry or dismiss problems
    #[command(subcommand)]
    Problem(ProblemVerb),
    /// Let a held plan pass, named by its hash
    #[command(
        after_long_help = "The hash is shown by `homeward status` and `homeward problem show guard`. It names these users and these changes;\nwhoever decides otherwise meanwhile is not let through."
    )]
    Approve {
        #[arg(value_name = "PLAN-HASH")]
        hash: String,
    },
    /// Compare the whole directory with what is stored, now
    Sweep,
    /// Look after the stores
    #[command(subcommand)]
    Store(StoreVerb),
    /// Manage who may use the console
    #[command(subcommand)]
    Console(ConsoleVerb),
    /// Show the configuration, or what may stand in it
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

#[derive(Args, Debug)]
struct TailArgs {
    /// Go on as things happen
    #[arg(short, long)]
    follow: bool,
    /// Only this user: login, mail, DN or key
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only this kind
    #[arg(long, value_parser = outcome_kind)]
    kind: Option<OutcomeKind>,
    /// Only since then: RFC 3339, or a span such as 2h; without it, the last 50
    #[arg(long, value_parser = since)]
    since: Option<Timestamp>,
}

#[derive(Args, Debug)]
struct EventsArgs {
    /// Which feed
    #[arg(long, value_enum, default_value_t = FeedName::Users)]
    feed: FeedName,
    /// Go on behind this sequence; 0: from everybody's present state
    #[arg(long, value_name = "SEQUENCE", default_value = "0", value_parser = sequence)]
    after: Sequence,
    /// Go on as things happen
    #[arg(short, long)]
    follow: bool,
}

#[derive(Subcommand, Debug)]
enum UserVerb {
    /// List users
    List {
        /// Only with this status
        #[arg(long, value_parser = status_word)]
        status: Option<Status>,
        /// Only at this home
        #[arg(long)]
        home: Option<String>,
    },
    /// Show one user
    Show { user: String },
    /// Show why it is decided so: each step and what it saw
    Explain { user: String },
    /// Show what became of a user, from the beginning
    History { user: String },
    /// Move a user to another home
    Move {
        user: String,
        /// The home to move to
        #[arg(long, value_name = "HOME")]
        to: String,
    },
    /// Look at a user again; also ends a release or freeze
    Recheck { user: String },
    /// Work the address of a user out anew
    Readdress { user: String },
    /// Release a user, until rechecked
    Release { user: String },
    /// Leave a user as is, whatever the rules say, until rechecked
    Freeze { user: String },
    /// Give the place and address of OLD, who is gone, to NEW
    Inherit { new: String, old: String },
}

#[derive(Subcommand, Debug)]
enum HomeVerb {
    /// List home servers with load and health
    List,
    /// Let nobody new live there
    Cordon { home: String },
    /// Let nobody new live there, and move residents away
    Drain { home: String },
    /// Take users again
    Activate { home: String },
}

#[derive(Subcommand, Debug)]
enum ProblemVerb {
    /// List problems; exits 3 if there are any
    List,
    /// Show one problem and what to do; `guard` shows the held plan
    Show {
        /// 12, P12 or guard
        id: String,
    },
    /// Try again now
    Retry { id: String },
    /// Stop counting it until it changes
    Dismiss { id: String },
}

#[derive(Subcommand, Debug)]
enum StoreVerb {
    /// Show files, sizes, schema versions and the last backup
    Info,
    /// Copy both stores while the agent runs
    Backup {
        /// A folder, or the beginning of the file names: FILE-directory.db, FILE-enablement.db
        file: PathBuf,
    },
    /// Look for damage
    Verify,
    /// Bring both stores to the schema of this program
    Migrate,
}

#[derive(Subcommand, Debug)]
enum ConsoleVerb {
    /// Make, list or remove tokens
    #[command(subcommand)]
    Token(TokenVerb),
}

#[derive(Subcommand, Debug)]
enum TokenVerb {
    /// Make a token and print it, once
    #[command(
        after_long_help = "Examples:\n  homeward console token add olga --role operator\n  homeward console token add prometheus --role reader\n\nThe name stands in the audit. The token is kept as a hash in [agent] state_dir."
    )]
    Add {
        /// Letters, digits, and . _ @ -
        name: String,
        /// What its bearer may do
        #[arg(long, value_enum)]
        role: crate::console::tokens::Role,
    },
    /// List tokens: name, role, when made
    List,
    /// Remove a token; who signed in with it is signed out
    Remove { name: String },
}

#[derive(Subcommand, Debug)]
enum ConfigVerb {
    /// Print the configuration as checked, without secrets
    Show,
    /// Print the JSON Schema of the configuration
    Schema,
}

/// Does what was typed. The number is the exit code.
pub fn run(cli: Cli) -> Result<u8, CliError> {
    let Cli { global, verb } = cli;
    let mut out = Out::new(global.json);
    match verb {
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "homeward", &mut script);
            out.text(&String::from_utf8_lossy(&script))?;
            out.flush()?;
            return Ok(FINE);
        }
        Verb::Config(ConfigVerb::Schema) => {
            out.text(&crate::config::schema_json())?;
            out.flush()?;
            return Ok(FINE);
        }
        _ => {}
    }
    let config = context::load_config(global.config.as_deref())?;
    if global.verbose > 0 && !matches!(verb, Verb::Run { .. }) {
        crate::telemetry::init(config.log.format, global.verbose);
    }
    let mut context = Context::new(config, out);
    let c = &mut context;
    let code = match verb {
        Verb::Run { once } => run::run(c.config.clone(), once, global.verbose),
        Verb::Check => check::check(c),
        Verb::Plan { users } => plan::plan(c, &users),
        Verb::Status => status::status(c),
        Verb::Tail(args) => tail::tail(c, &args),
        Verb::Events(args) => events::events(c, &args),
        Verb::User(verb) => user::user(c, verb),
        Verb::Home(verb) => home::home(c, verb),
        Verb::Resets { csv } => resets::resets(c, csv),
        Verb::Problem(verb) => problem::problem(c, verb),
        Verb::Approve { hash } => problem::approve(c, &hash),
        Verb::Sweep => wish::leave(c, crate::store::enablement::Verb::Sweep, "a full comparison", None),
        Verb::Store(verb) => store::store(c, verb),
        Verb::Console(verb) => console::console(c, verb),
        Verb::Config(_) => config::show(c),
        Verb::Completions { .. } => Ok(FINE),
    }?;
    context.out.flush()?;
    Ok(code)
}

fn outcome_kind(text: &str) -> Result<OutcomeKind, String> {
    OutcomeKind::parse(text).ok_or_else(|| format!("one of {}", OutcomeKind::ALL.map(OutcomeKind::as_str).join(", ")))
}

fn status_word(text: &str) -> Result<Status, String> {
    Status::parse(text).ok_or_else(|| format!("one of {}", Status::ALL.map(Status::as_str).join(", ")))
}

fn sequence(text: &str) -> Result<Sequence, String> {
    Sequence::parse(text).ok_or_else(|| "0, or the `sequence` of an event".to_owned())
}

fn since(text: &str) -> Result<Timestamp, String> {
    if let Some(at) = Timestamp::from_rfc3339(text) {
        return Ok(at);
    }
    crate::config::file::Span::parse(text)
        .map(|span| Timestamp::now().minus(span.0))
        .ok_or_else(|| "RFC 3339 (2026-01-31T12:00:00Z), or a span such as 30m, 2h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn first_lines_of_help_have_no_full_stop() {
        fn look(command: &clap::Command) {
            for below in command.get_subcommands() {
                let about = below.get_about().map(|about| about.to_string()).unwrap_or_default();
                assert!(
                    below.get_name() == "help" || !about.is_empty() && !about.ends_with('.'),
                    "{}",
                    below.get_name()
                );
                look(below);
            }
        }
        look(&Cli::command());
    }
}
