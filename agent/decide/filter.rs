//! RFC 4515 filters, evaluated here over what is stored of a user instead of by the server: the language that directory
//! people already write. PURE: takes values and returns a value, knows only `model`.
//!
//! It answers as OpenLDAP would, with three values (RFC 4511 4.5.1.7): `Undefined` for an unknown matching rule, a value
//! that the attribute's syntax refuses, or an ordering or substring test of an attribute without such a rule. Where we
//! deliberately differ from slapd:
//!
//! | | slapd | here | because |
//! | --- | --- | --- | --- |
//! | attribute that nobody knows | Undefined | compared as text without case; `>=`, `<=` as integers or generalizedTime, if both are | other servers' attributes have no row in our table |
//! | class that nobody knows | Undefined | compared by name | the same |
//! | `~=` | sounds-like for text | equality | what is close differs per server |
//! | attribute options (`cn;lang-fr`) | only values with these options | ignored | records carry none |
//! | subtypes (`name` for `cn`, `sn`, …) | included | not | on Active Directory `name` is an attribute of its own |
//! | compatibility characters, composed and decomposed accents | equal (NFKC) | different | not worth the tables |
//! | DN values | compared by each attribute's own rule | lower case, spaces folded, escapes made alike | no schema needed; order of `+` parts counts |
//! | generalizedTime | any fraction | milliseconds | directories write whole seconds or microseconds |
//! | 1.2.840.113556.1.4.1941 | Undefined | membership through groups, on `memberOf` only | Active Directory has it |
//! | `objectCategory=person` | Undefined | `CN=Person,…` | the same |
//! | `entryUUID:=…`, `hasSubordinates:=…` | Undefined, False | as with `=` | nobody means the difference |
//! | `:rule:=value` without an attribute | every attribute of the entry | those in the record | the others were not asked for |

mod parse;
mod syntax;
#[cfg(test)]
mod tests;

use crate::model::UserRecord;
use parse::Item;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use syntax::{Part, ROOM, Rule};

/// A longer filter is refused.
pub const FILTER_BYTES_MAX: usize = 65_536;
/// Parentheses in parentheses; deeper is refused.
pub const FILTER_DEPTH_MAX: usize = 64;
/// The record attribute with the DNs of every group that the user is in, through other groups too.
pub const NESTED_MEMBERSHIP: &str = "memberof;nested";

const IN_CHAIN: &str = "1.2.840.113556.1.4.1941";
const BIT_AND: &str = "1.2.840.113556.1.4.803";
const BIT_OR: &str = "1.2.840.113556.1.4.804";

/// A filter, read and made ready. `Display` gives it back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    root: Node,
}

/// The outcome of a test. And is the smallest, or the greatest, of its parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Truth {
    False,
    /// Neither: the entry is not selected, and would not be by the opposite either.
    Undefined,
    True,
}

/// Why a text is no filter. `Display` shows the filter with a mark below the place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterError {
    pub filter: String,
    /// Bytes before the place.
    pub offset: usize,
    pub expected: String,
}

impl Filter {
    /// Reads a filter; the outer parentheses are required.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        parse::parse(text).map(|root| Filter { root })
    }

    pub fn evaluate(&self, record: &UserRecord) -> Truth {
        self.root.evaluate(record)
    }

    /// Whether the filter selects the record.
    pub fn matches(&self, record: &UserRecord) -> bool {
        self.evaluate(record) == Truth::True
    }

    /// The attributes that it reads, in lower case, so that they can be asked for.
    pub fn attributes(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        self.root.each(&mut |test| {
            names.extend(test.attribute.as_deref().map(|name| name.split(';').next().unwrap_or(name).to_owned()));
        });
        names
    }

    /// The DNs of groups whose membership it asks for, as written.
    pub fn named_groups(&self) -> Vec<String> {
        let mut groups = Vec::new();
        self.root.each(&mut |test| groups.extend(test.group()));
        groups
    }

    /// Whether it reads [`NESTED_MEMBERSHIP`].
    pub fn reads_nested_membership(&self) -> bool {
        let mut found = false;
        self.root.each(&mut |test| found |= test.attribute.as_deref() == Some(NESTED_MEMBERSHIP));
        found
    }

    /// The tests that are Undefined for every record, and why: almost certainly not what the author meant.
    pub fn undefined_tests(&self) -> Vec<(String, &'static str)> {
        let mut found = Vec::new();
        self.root.each(&mut |test| {
            if let Check::Undefined(why) = test.check {
                found.push((test.text.clone(), why));
            }
        });
        found
    }

    /// The same filter, with membership meant through groups in groups: `memberOf` tests read [`NESTED_MEMBERSHIP`].
    pub fn with_nested_membership(mut self) -> Filter {
        self.root.each_mut(&mut |test| {
            if test.group().is_some()
                && test.attribute.as_deref() != Some(NESTED_MEMBERSHIP)
                && let Some((_, value)) = test.text.split_once('=')
            {
                // Written as the rule that means it, so that what is printed can be read again.
                test.text = format!("memberOf:{IN_CHAIN}:={value}");
                test.attribute = Some(NESTED_MEMBERSHIP.to_owned());
                test.in_dn = false;
            }
        });
        self
    }
}

/// One level of a filter.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Test(Test),
}

impl Node {
    fn evaluate(&self, record: &UserRecord) -> Truth {
        match self {
            // RFC 4526: an empty and is true, an empty or is false.
            Node::And(nodes) => least(nodes.iter().map(|node| node.evaluate(record))),
            Node::Or(nodes) => most(nodes.iter().map(|node| node.evaluate(record))),
            Node::Not(node) => match node.evaluate(record) {
                Truth::True => Truth::False,
                Truth::Undefined => Truth::Undefined,
                Truth::False => Truth::True,
            },
            Node::Test(test) => test.evaluate(record),
        }
    }

    fn each(&self, visit: &mut impl FnMut(&Test)) {
        match self {
            Node::And(nodes) | Node::Or(nodes) => nodes.iter().for_each(|node| node.each(visit)),
            Node::Not(node) => node.each(visit),
            Node::Test(test) => visit(test),
        }
    }

    fn each_mut(&mut self, visit: &mut impl FnMut(&mut Test)) {
        match self {
            Node::And(nodes) | Node::Or(nodes) => nodes.iter_mut().for_each(|node| node.each_mut(visit)),
            Node::Not(node) => node.each_mut(visit),
            Node::Test(test) => visit(test),
        }
    }
}

fn least(truths: impl Iterator<Item = Truth>) -> Truth {
    let mut least = Truth::True;
    for truth in truths {
        least = least.min(truth);
        if least == Truth::False {
            break;
        }
    }
    least
}

fn most(truths: impl Iterator<Item = Truth>) -> Truth {
    let mut most = Truth::False;
    for truth in truths {
        most = most.max(truth);
        if most == Truth::True {
            break;
        }
    }
    most
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    Equal,
    Approximate,
    AtLeast,
    AtMost,
    Extensible,
}

/// One assertion, made ready to be compared.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Test {
    /// As written, without the parentheses.
    text: String,
    /// In lower case, as records name it. `None`: every attribute that the rule can compare.
    attribute: Option<String>,
    /// The values in the DN count too.
    in_dn: bool,
    check: Check,
}

/// What is asked of one value. The octets are comparable forms (see `syntax::normalized`).
#[derive(Clone, PartialEq, Eq, Debug)]
enum Check {
    Undefined(&'static str),
    Present,
    Equal(Rule, Vec<u8>),
    AtLeast(Rule, Vec<u8>),
    AtMost(Rule, Vec<u8>),
    Substrings(Rule, Substrings),
    /// One of these classes, in lower case; `None`: any.
    Class(Option<Vec<String>>),
    /// The first part of the DN, in lower case without hyphens.
    Category(String),
    AllBits(i64),
    AnyBit(i64),
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Substrings {
    initial: Vec<u8>,
    any: Vec<Vec<u8>>,
    last: Vec<u8>,
}

const NO_SUCH_SYNTAX: &str = "the value does not fit the attribute's syntax";

impl Test {
    fn new(item: Item<'_>) -> Test {
        let known = (!item.name.is_empty()).then(|| syntax::attribute(item.name));
        let mut attribute = known.as_ref().map(|attribute| attribute.name.clone().into_owned());
        let single = match item.pieces.as_slice() {
            [value] => Some(value.as_slice()),
            _ => None,
        };
        let check = match (item.operator, &known, single) {
            (Operator::Equal | Operator::Approximate, Some(known), Some(value)) => equal(known.rule, value),
            (Operator::AtLeast, Some(known), Some(value)) => match ordering(known, value) {
                Ok((rule, wanted)) => Check::AtLeast(rule, wanted),
                Err(why) => Check::Undefined(why),
            },
            (Operator::AtMost, Some(known), Some(value)) => match ordering(known, value) {
                Ok((rule, wanted)) => Check::AtMost(rule, wanted),
                Err(why) => Check::Undefined(why),
            },
            (Operator::Extensible, known, Some(value)) => {
                let (check, nested) = extensible(known.as_ref(), item.rule, value);
                if nested {
                    attribute = Some(NESTED_MEMBERSHIP.to_owned());
                }
                check
            }
            (_, Some(_), None) if item.pieces.iter().all(Vec::is_empty) => Check::Present,
            (_, Some(known), None) if known.has_substrings => match substrings(known.rule, &item.pieces) {
                Some(parts) => Check::Substrings(known.rule, parts),
                None => Check::Undefined(NO_SUCH_SYNTAX),
            },
            (_, Some(_), None) => Check::Undefined("the attribute has no substring matching rule"),
            (_, None, _) => Check::Undefined("there is neither an attribute nor a matching rule"),
        };
        Test { text: item.text.to_owned(), attribute, in_dn: item.in_dn, check }
    }

    /// The group whose membership is asked for, as written.
    fn group(&self) -> Option<String> {
        let Check::Equal(Rule::Dn, _) = self.check else { return None };
        let (_, value) = self.text.split_once('=')?;
        matches!(self.attribute.as_deref(), Some("memberof" | NESTED_MEMBERSHIP)).then(|| unescaped(value))
    }

    fn evaluate(&self, record: &UserRecord) -> Truth {
        if let Check::Undefined(_) = self.check {
            return Truth::Undefined;
        }
        let truth = match &self.attribute {
            Some(name) => most(record.values(name).iter().map(|value| self.check.one(value.as_bytes()))),
            None => {
                let usable = record.attributes.iter().filter(|(name, _)| self.reads(syntax::attribute(name).rule));
                // What the rule cannot compare is not looked at.
                let any =
                    usable.flat_map(|(_, values)| values).any(|value| self.check.one(value.as_bytes()) == Truth::True);
                if any { Truth::True } else { Truth::False }
            }
        };
        if !self.in_dn || truth == Truth::True {
            return truth;
        }
        let named = syntax::dn_values(&record.dn).filter(|(attribute, _)| match &self.attribute {
            Some(name) => attribute.name == *name,
            None => self.reads(attribute.rule),
        });
        truth.max(most(named.map(|(_, value)| self.check.one(&value))))
    }

    /// Whether a test without an attribute looks at values compared by `rule`.
    fn reads(&self, rule: Rule) -> bool {
        match self.check {
            Check::Equal(asked, _) => syntax::is_usable(asked, rule),
            Check::AllBits(_) | Check::AnyBit(_) => syntax::is_usable(Rule::Integer, rule),
            Check::Undefined(_)
            | Check::Present
            | Check::AtLeast(..)
            | Check::AtMost(..)
            | Check::Substrings(..)
            | Check::Class(_)
            | Check::Category(_) => false,
        }
    }
}

fn equal(rule: Rule, value: &[u8]) -> Check {
    match (rule, std::str::from_utf8(value)) {
        (Rule::ObjectClass, Ok(name)) if syntax::is_oid(name) => return Check::Class(syntax::classes_below(name)),
        (Rule::ObjectClass, _) => return Check::Undefined(NO_SUCH_SYNTAX),
        (Rule::Category, Ok(name)) if !name.contains('=') => {
            // The classes below person share its category.
            let name = name.to_ascii_lowercase().replace('-', "");
            let shared = matches!(name.as_str(), "user" | "inetorgperson" | "contact" | "organizationalperson");
            return Check::Category(if shared { "person".into() } else { name });
        }
        _ => {}
    }
    match syntax::normalized(rule, value, Part::Whole, &mut ROOM.clone()) {
        Some(wanted) => Check::Equal(rule, wanted.into_owned()),
        None => Check::Undefined(NO_SUCH_SYNTAX),
    }
}

fn ordering(known: &syntax::Attribute, value: &[u8]) -> Result<(Rule, Vec<u8>), &'static str> {
    if !known.has_ordering {
        return Err("the attribute has no ordering rule");
    }
    let rules = if known.rule == Rule::Guess { &[Rule::Integer, Rule::Time][..] } else { &[known.rule][..] };
    let mut room = ROOM;
    for rule in rules {
        if let Some(wanted) = syntax::normalized(*rule, value, Part::Whole, &mut room) {
            return Ok((*rule, wanted.into_owned()));
        }
    }
    Err(NO_SUCH_SYNTAX)
}

fn substrings(rule: Rule, pieces: &[Vec<u8>]) -> Option<Substrings> {
    let part = |octets: &Vec<u8>, part| match octets.is_empty() {
        true => Some(Vec::new()),
        false => syntax::normalized(rule, octets, part, &mut ROOM.clone()).map(Cow::into_owned),
    };
    let [initial, any @ .., last] = pieces else { return None };
    Some(Substrings {
        initial: part(initial, Part::Initial)?,
        any: any.iter().filter(|any| !any.is_empty()).map(|any| part(any, Part::Any)).collect::<Option<_>>()?,
        last: part(last, Part::Final)?,
    })
}

/// The check of `attribute:rule:=value`, and whether it reads membership through groups.
fn extensible(known: Option<&syntax::Attribute>, rule: Option<&str>, value: &[u8]) -> (Check, bool) {
    let usable = |asked| known.is_none_or(|known| syntax::is_usable(asked, known.rule));
    let check = match (rule, known) {
        (None, Some(known)) => equal(known.rule, value),
        (Some(BIT_AND | BIT_OR), _) if usable(Rule::Integer) => match syntax::bits(value) {
            Some(mask) if rule == Some(BIT_AND) => Check::AllBits(mask),
            Some(mask) => Check::AnyBit(mask),
            None => Check::Undefined(NO_SUCH_SYNTAX),
        },
        (Some(IN_CHAIN), Some(known)) if known.name == "memberof" => return (equal(Rule::Dn, value), true),
        (Some(IN_CHAIN), _) => Check::Undefined("this matching rule is known for memberOf only"),
        (Some(name), _) => match syntax::rule(name) {
            Some(asked) if usable(asked) => equal(asked, value),
            Some(_) => Check::Undefined("the matching rule does not fit the attribute"),
            None if matches!(name, BIT_AND | BIT_OR) => {
                Check::Undefined("the matching rule does not fit the attribute")
            }
            None => Check::Undefined("nothing is known of the matching rule"),
        },
        (None, None) => Check::Undefined("there is neither an attribute nor a matching rule"),
    };
    (check, false)
}

impl Check {
    /// The answer for one value.
    fn one(&self, octets: &[u8]) -> Truth {
        let mut room = ROOM;
        let answer = match self {
            Check::Undefined(_) => None,
            Check::Present => Some(true),
            Check::Equal(rule, wanted) => equals(*rule, octets, wanted),
            Check::AtLeast(rule, wanted) => syntax::normalized(*rule, octets, Part::Whole, &mut room)
                .map(|value| syntax::compared(*rule, &value, wanted).is_ge()),
            Check::AtMost(rule, wanted) => syntax::normalized(*rule, octets, Part::Whole, &mut room)
                .map(|value| syntax::compared(*rule, &value, wanted).is_le()),
            // Text that is no UTF-8 is compared as it is: it holds no piece of text by accident.
            Check::Substrings(rule, parts) => Some(match syntax::normalized(*rule, octets, Part::Whole, &mut room) {
                Some(value) => parts.are_in(&value),
                None => parts.are_in(octets),
            }),
            Check::Class(classes) => Some(
                classes
                    .as_ref()
                    .is_none_or(|classes| classes.iter().any(|class| class.as_bytes().eq_ignore_ascii_case(octets))),
            ),
            Check::Category(wanted) => std::str::from_utf8(octets).ok().map(|dn| {
                let first = syntax::dn_values(dn).next().map(|(_, value)| value).unwrap_or_default();
                first.iter().filter(|byte| **byte != b'-').map(u8::to_ascii_lowercase).eq(wanted.bytes())
            }),
            Check::AllBits(mask) => syntax::bits(octets).map(|value| value & mask == *mask),
            Check::AnyBit(mask) => syntax::bits(octets).map(|value| value & mask != 0),
        };
        match answer {
            Some(true) => Truth::True,
            Some(false) => Truth::False,
            None => Truth::Undefined,
        }
    }
}

/// Equality; the usual cases without making a comparable form.
fn equals(rule: Rule, octets: &[u8], wanted: &[u8]) -> Option<bool> {
    match rule {
        Rule::CaseIgnore | Rule::CaseIgnoreIa5 | Rule::Guess | Rule::Dn if octets.eq_ignore_ascii_case(wanted) => {
            return Some(true);
        }
        Rule::Dn if syntax::is_plain_dn(octets) => return Some(false),
        Rule::CaseExact | Rule::CaseExactIa5 | Rule::Octets | Rule::Integer if octets == wanted => return Some(true),
        _ => {}
    }
    match syntax::normalized(rule, octets, Part::Whole, &mut ROOM.clone()) {
        Some(value) => Some(*value == *wanted),
        // Text that is no UTF-8 equals no text.
        None if matches!(rule, Rule::CaseIgnore | Rule::CaseExact | Rule::CaseIgnoreIa5 | Rule::CaseExactIa5) => {
            Some(false)
        }
        None => None,
    }
}

impl Substrings {
    fn are_in(&self, value: &[u8]) -> bool {
        let Some(middle) = value.strip_prefix(self.initial.as_slice()) else { return false };
        let Some(mut middle) = middle.strip_suffix(self.last.as_slice()) else { return false };
        self.any.iter().all(|piece| {
            let found = piece
                .is_empty()
                .then_some(0)
                .or_else(|| middle.windows(piece.len()).position(|window| window == piece.as_slice()));
            found.and_then(|at| middle.get(at + piece.len()..)).is_some_and(|rest| {
                middle = rest;
                true
            })
        })
    }
}

/// A written assertion value as text; octets that are no UTF-8 become the replacement character.
fn unescaped(value: &str) -> String {
    let mut octets = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = match (byte, tail) {
            (b'\\', [high, low, after @ ..]) => {
                octets.push(syntax::hex(*high) << 4 | syntax::hex(*low));
                after
            }
            _ => {
                octets.push(*byte);
                tail
            }
        };
    }
    String::from_utf8_lossy(&octets).into_owned()
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

impl std::str::FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Filter, FilterError> {
        Filter::parse(text)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::And(nodes) => {
                f.write_str("(&")?;
                nodes.iter().try_for_each(|node| node.fmt(f))?;
            }
            Node::Or(nodes) => {
                f.write_str("(|")?;
                nodes.iter().try_for_each(|node| node.fmt(f))?;
            }
            Node::Not(node) => write!(f, "(!{node}")?,
            Node::Test(test) => write!(f, "({}", test.text)?,
        }
        f.write_str(")")
    }
}

impl std::error::Error for FilterError {}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Characters of a long filter shown on either side of the place.
        const SHOWN: usize = 60;
        let before: Vec<char> =
            self.filter.char_indices().take_while(|(at, _)| *at < self.offset).map(|(_, c)| c).collect();
        let cut = before.len().saturating_sub(SHOWN);
        let lead = if cut > 0 { "…" } else { "" };
        let rest = self.filter.chars().skip(before.len());
        // One column a character, whatever it is: the mark has to stand below the place.
        let shown: String = before.iter().skip(cut).copied().chain(rest.clone().take(SHOWN)).map(printable).collect();
        let tail = if rest.count() > SHOWN { "…" } else { "" };
        let indent = " ".repeat(before.len() - cut + lead.chars().count());
        write!(f, "at position {}: expected {}\n  {lead}{shown}{tail}\n  {indent}^", self.offset + 1, self.expected)
    }
}

fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}
