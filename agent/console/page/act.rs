//! What an operator asks for here: the verbs of the command line. Each is shown first, with what it means; only the form on
//! that page leaves the wish. The worker takes it and writes the audit row, as for any wish.

use super::{Html, Refused, Signed, command, operator, shell};
use crate::console::door::local_path;
use crate::console::{App, tokens};
use crate::model::{AdminState, HomeId, UserKey};
use crate::store::enablement::Verb;
use crate::view::{Reader, ViewError, problem, wish};
use axum::extract::{Form, Query, State};
use axum::http::HeaderMap;
use axum::response::Redirect;
use maud::{Markup, html};
use serde::Deserialize;

#[derive(Clone, Default, Deserialize)]
pub struct Ask {
    act: String,
    #[serde(default)]
    home: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    to: String,
    #[serde(default)]
    problem: String,
    #[serde(default)]
    hash: String,
    #[serde(default)]
    form_token: String,
}

/// A verb, what it is called, what it means, the command that does the same, and where to go afterwards.
struct Act {
    verb: Verb,
    what: String,
    means: &'static str,
    typed: String,
    back: String,
}

fn act_of(c: &Reader, ask: &Ask) -> Result<Option<Act>, ViewError> {
    let db = c.enablement()?;
    let home = |state: AdminState, word: &str, what: &str, means: &'static str| {
        let id = home_of(c, &db, &ask.home)?;
        Ok(Some(Act {
            what: format!("{what} {id}"),
            typed: format!("homeward home {word} {id}"),
            verb: Verb::SetHome { id, wish: state },
            means,
            back: "/".into(),
        }))
    };
    let user = |make: &dyn Fn(UserKey) -> Verb, typed: &str, what: &str, means: &'static str| {
        let standing = c.user(&db, &ask.user)?;
        let (key, login) = (standing.key, c.login_of(&standing));
        let typed = typed.replace("USER", &login);
        Ok(Some(Act { verb: make(key), what: format!("{what} {login}"), means, typed, back: format!("/users/{key}") }))
    };
    let of_problem = |make: fn(i64) -> Verb, word: &str, means: &'static str| {
        let (problem, login) = problem::find(c, &ask.problem)?;
        let id = problem.id;
        Ok(Some(Act {
            verb: make(id),
            what: format!("{word} problem P{id} of {login}"),
            means,
            typed: format!("homeward problem {word} P{id}"),
            back: "/problems".into(),
        }))
    };
    match ask.act.as_str() {
        "cordon" => home(
            AdminState::Cordoned,
            "cordon",
            "let nobody new live at",
            "Who lives there stays. Newcomers go elsewhere.",
        ),
        "drain" => home(
            AdminState::Draining,
            "drain",
            "move everybody away from",
            "Everybody who lives there is moved to another home, under the guard: more moves than it allows are held until approved.",
        ),
        "activate" => {
            home(AdminState::Active, "activate", "let users live at", "Newcomers may be given a place there again.")
        }
        "move" => {
            let to = c.home(&db, &ask.to)?;
            let typed = format!("homeward user move USER --to {to}");
            let means = "The user lives there if there is room. The address stays. It counts under the guard.";
            user(&|key| Verb::MoveUser { key, to: to.clone() }, &typed, &format!("move to {to}:"), means)
        }
        "recheck" => user(
            &|key| Verb::Recheck { key },
            "homeward user recheck USER",
            "look again at",
            "The user is decided anew. It also ends a release or a freeze.",
        ),
        "readdress" => user(
            &|key| Verb::Readdress { key },
            "homeward user readdress USER",
            "work out the address anew of",
            "Contacts know the user by the address that they have now; it may change. It counts under the guard.",
        ),
        "release" => user(
            &|key| Verb::Release { key },
            "homeward user release USER",
            "release",
            "The values are taken out of the directory and the place is freed, until the user is rechecked. The address rests for them.",
        ),
        "freeze" => user(
            &|key| Verb::Freeze { key },
            "homeward user freeze USER",
            "freeze",
            "The user is left as is, whatever the rules say, until rechecked.",
        ),
        "retry" => of_problem(
            |id| Verb::RetryProblem { id },
            "retry",
            "It is tried again now. If nothing changed, the problem stays.",
        ),
        "dismiss" => of_problem(
            |id| Verb::DismissProblem { id },
            "dismiss",
            "It is not counted any more until it changes. The user stays as is.",
        ),
        "approve" => {
            let known = problem::approvable(c, &db)?;
            let Some((hash, what)) = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(ask.hash.trim())) else {
                let known = known.into_iter().map(|(hash, what)| format!("{hash} ({what})")).collect();
                return Err(ViewError::NoSuchPlan { hash: ask.hash.clone(), known });
            };
            Ok(Some(Act {
                verb: Verb::Approve { hash: hash.clone() },
                what: format!("approve {hash}: {what}"),
                means: "Exactly these users are let through, as far as they still decide the same. There is no way back but one by one.",
                typed: format!("homeward approve {hash}"),
                back: "/guard".into(),
            }))
        }
        "sweep" => Ok(Some(Act {
            verb: Verb::Sweep,
            what: "compare the whole directory with what is stored".into(),
            means: "The directory is read as a whole. It repairs whatever was missed, and tries problems again.",
            typed: "homeward sweep".into(),
            back: "/".into(),
        })),
        _ => Ok(None),
    }
}

/// A home that is configured, or that users live at.
fn home_of(c: &Reader, db: &rusqlite::Connection, name: &str) -> Result<HomeId, ViewError> {
    let fleet = c.world(db)?.fleet;
    let found = fleet.homes.iter().map(|state| state.home.id.clone()).find(|id| id.0.eq_ignore_ascii_case(name));
    found.map_or_else(|| c.home(db, name), Ok)
}

pub async fn confirm(
    State(app): State<App>,
    axum::Extension(who): Signed,
    Query(ask): Query<Ask>,
) -> Result<Html, Refused> {
    operator(&who)?;
    let asked = ask.clone();
    let body = if ask.act == "move" && ask.to.is_empty() {
        let look = move |c: &Reader| {
            let standing = c.user(&c.enablement()?, &asked.user)?;
            let from = standing.holds().map(|lives| lives.home.clone());
            let homes: Vec<HomeId> =
                c.config.homes.iter().map(|home| home.id.clone()).filter(|id| Some(id) != from.as_ref()).collect();
            Ok((c.login_of(&standing), standing.key, homes))
        };
        let (login, key, homes) = app.look(look).await?;
        where_to(&login, &key, &homes)
    } else {
        let act = app.look(move |c| act_of(c, &asked)).await?.ok_or(Refused::NotFound)?;
        question(&act, &ask, who.form_token())
    };
    Ok(shell(&app, &who, "", "Are you sure?", body))
}

fn where_to(login: &str, key: &UserKey, homes: &[HomeId]) -> Markup {
    html! {
        section .card .narrow {
            h1 { "Move " (crate::view::words::printable(login)) }
            form .stack action="/confirm" {
                input type="hidden" name="act" value="move";
                input type="hidden" name="user" value=(key);
                label for="to" { "To which home server?" }
                select #to name="to" required { @for id in homes { option value=(id) { (id) } } }
                button .primary type="submit" { "Go on" }
            }
        }
    }
}

fn question(act: &Act, ask: &Ask, form_token: &str) -> Markup {
    html! {
        section .card .narrow {
            h1 { "Are you sure?" }
            p .what { (crate::view::words::printable(&act.what)) "." }
            p { (act.means) }
            p .hint { "The same in a terminal: " (command(&act.typed)) }
            form .row method="post" action="/do" {
                input type="hidden" name="form_token" value=(form_token);
                @for (name, value) in [("act", &ask.act), ("home", &ask.home), ("user", &ask.user), ("to", &ask.to), ("problem", &ask.problem), ("hash", &ask.hash)] {
                    @if !value.is_empty() { input type="hidden" name=(name) value=(value); }
                }
                button .primary type="submit" { "Do it" }
                a .button href=(act.back) { "Leave it" }
            }
        }
    }
}

pub async fn carry_out(
    State(app): State<App>,
    axum::Extension(who): Signed,
    headers: HeaderMap,
    Form(ask): Form<Ask>,
) -> Result<Redirect, Refused> {
    let name = operator(&who)?.to_owned();
    let expected = who.form_token();
    // A program that presents its token has no form; a browser's session always has.
    let by_program = headers.contains_key(axum::http::header::AUTHORIZATION);
    if !by_program && (expected.is_empty() || !tokens::same(ask.form_token.as_bytes(), expected.as_bytes())) {
        return Err(Refused::Forbidden("the form is out of date; open the page again"));
    }
    let look = move |c: &Reader| {
        let Some(act) = act_of(c, &ask)? else { return Ok(None) };
        let left = wish::leave(c, &format!("{name} (console)"), &act.verb, &act.what)?;
        Ok(Some((act, left)))
    };
    let (act, left) = app.look(look).await?.ok_or(Refused::NotFound)?;
    // Who comes back to a page sees what was done.
    *app.overview.lock().await = None;
    let came = match &left.result {
        Some(result) => format!("taken: {result}"),
        None if left.runs => "the agent is busy and takes it next".to_owned(),
        None => "it is taken when the agent runs".to_owned(),
    };
    app.door.note(&headers, Some(format!("{}: {came}", act.what)));
    Ok(Redirect::to(local_path(&act.back)))
}
