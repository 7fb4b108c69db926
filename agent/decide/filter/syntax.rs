//! What is known of attributes, matching rules and classes, and how values are made comparable (RFC 4517, RFC 4518).
//! The rows follow OpenLDAP's own schema files: where an attribute has no substring or ordering rule there, it has none here.

use crate::model::{Timestamp, UserKey, normalized_dn};
use std::borrow::Cow;
use std::cmp::Ordering;

/// How two values of an attribute are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    CaseIgnore,
    CaseExact,
    CaseIgnoreIa5,
    CaseExactIa5,
    Telephone,
    Octets,
    Integer,
    Boolean,
    Time,
    Dn,
    Uuid,
    /// Like a name, and a class matches its superclasses too.
    ObjectClass,
    /// Active Directory: a DN, and `person` stands for `CN=Person,CN=Schema,…`.
    Category,
    /// Nothing is known of the attribute: text without case, numbers and moments in order.
    Guess,
}

/// Which matching rules an attribute has beside equality.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Also {
    Nothing,
    Substrings,
    Ordering,
}

pub(super) struct Attribute {
    /// Lower case, as records name it.
    pub name: Cow<'static, str>,
    pub rule: Rule,
    pub has_substrings: bool,
    pub has_ordering: bool,
}

/// Names (the first is what servers return), OID, equality rule, other rules.
type Row = (&'static [&'static str], &'static str, Rule, Also);

const ATTRIBUTES: &[Row] = {
    use Also::*;
    use Rule::*;
    &[
        // RFC 4512, RFC 4530, operational.
        (&["objectclass"], "2.5.4.0", ObjectClass, Nothing),
        (&["structuralobjectclass"], "2.5.21.9", ObjectClass, Nothing),
        (&["createtimestamp"], "2.5.18.1", Time, Ordering),
        (&["modifytimestamp"], "2.5.18.2", Time, Ordering),
        (&["creatorsname"], "2.5.18.3", Dn, Nothing),
        (&["modifiersname"], "2.5.18.4", Dn, Nothing),
        (&["hassubordinates"], "2.5.18.9", Boolean, Nothing),
        (&["entryuuid"], "1.3.6.1.1.16.4", Uuid, Ordering),
        (&["entrydn"], "1.3.6.1.1.20", Dn, Nothing),
        // RFC 4519, core.schema. Those below `name` have no ordering rule.
        (&["cn", "commonname"], "2.5.4.3", CaseIgnore, Substrings),
        (&["sn", "surname"], "2.5.4.4", CaseIgnore, Substrings),
        (&["serialnumber"], "2.5.4.5", CaseIgnore, Substrings),
        (&["c", "countryname"], "2.5.4.6", CaseIgnore, Substrings),
        (&["l", "localityname"], "2.5.4.7", CaseIgnore, Substrings),
        (&["st", "stateorprovincename"], "2.5.4.8", CaseIgnore, Substrings),
        (&["street"], "2.5.4.9", CaseIgnore, Substrings),
        (&["o", "organizationname"], "2.5.4.10", CaseIgnore, Substrings),
        (&["ou", "organizationalunitname"], "2.5.4.11", CaseIgnore, Substrings),
        (&["title"], "2.5.4.12", CaseIgnore, Substrings),
        (&["description"], "2.5.4.13", CaseIgnore, Substrings),
        (&["businesscategory"], "2.5.4.15", CaseIgnore, Substrings),
        (&["postalcode"], "2.5.4.17", CaseIgnore, Substrings),
        (&["postofficebox"], "2.5.4.18", CaseIgnore, Substrings),
        (&["physicaldeliveryofficename"], "2.5.4.19", CaseIgnore, Substrings),
        (&["telephonenumber"], "2.5.4.20", Telephone, Substrings),
        (&["member"], "2.5.4.31", Dn, Nothing),
        (&["owner"], "2.5.4.32", Dn, Nothing),
        (&["roleoccupant"], "2.5.4.33", Dn, Nothing),
        (&["seealso"], "2.5.4.34", Dn, Nothing),
        (&["userpassword"], "2.5.4.35", Octets, Nothing),
        (&["name"], "2.5.4.41", CaseIgnore, Substrings),
        (&["givenname", "gn"], "2.5.4.42", CaseIgnore, Substrings),
        (&["initials"], "2.5.4.43", CaseIgnore, Substrings),
        (&["generationqualifier"], "2.5.4.44", CaseIgnore, Substrings),
        (&["distinguishedname"], "2.5.4.49", Dn, Nothing),
        (&["uniquemember"], "2.5.4.50", Dn, Nothing),
        (&["pseudonym"], "2.5.4.65", CaseIgnore, Substrings),
        (&["labeleduri"], "1.3.6.1.4.1.250.1.57", CaseExact, Nothing),
        // RFC 4524, cosine.schema.
        (&["uid", "userid"], "0.9.2342.19200300.100.1.1", CaseIgnore, Substrings),
        (&["mail", "rfc822mailbox"], "0.9.2342.19200300.100.1.3", CaseIgnoreIa5, Substrings),
        (&["info"], "0.9.2342.19200300.100.1.4", CaseIgnore, Substrings),
        (&["roomnumber"], "0.9.2342.19200300.100.1.6", CaseIgnore, Substrings),
        (&["userclass"], "0.9.2342.19200300.100.1.8", CaseIgnore, Substrings),
        (&["host"], "0.9.2342.19200300.100.1.9", CaseIgnore, Substrings),
        (&["manager"], "0.9.2342.19200300.100.1.10", Dn, Nothing),
        (&["homephone", "hometelephonenumber"], "0.9.2342.19200300.100.1.20", Telephone, Substrings),
        (&["secretary"], "0.9.2342.19200300.100.1.21", Dn, Nothing),
        (&["dc", "domaincomponent"], "0.9.2342.19200300.100.1.25", CaseIgnoreIa5, Substrings),
        (&["associateddomain"], "0.9.2342.19200300.100.1.37", CaseIgnoreIa5, Substrings),
        (&["personaltitle"], "0.9.2342.19200300.100.1.40", CaseIgnore, Substrings),
        (&["mobile", "mobiletelephonenumber"], "0.9.2342.19200300.100.1.41", Telephone, Substrings),
        (&["pager", "pagertelephonenumber"], "0.9.2342.19200300.100.1.42", Telephone, Substrings),
        (&["co", "friendlycountryname"], "0.9.2342.19200300.100.1.43", CaseIgnore, Substrings),
        (&["organizationalstatus"], "0.9.2342.19200300.100.1.45", CaseIgnore, Substrings),
        (&["buildingname"], "0.9.2342.19200300.100.1.48", CaseIgnore, Substrings),
        // RFC 2798.
        (&["carlicense"], "2.16.840.1.113730.3.1.1", CaseIgnore, Substrings),
        (&["departmentnumber"], "2.16.840.1.113730.3.1.2", CaseIgnore, Substrings),
        (&["employeenumber"], "2.16.840.1.113730.3.1.3", CaseIgnore, Substrings),
        (&["employeetype"], "2.16.840.1.113730.3.1.4", CaseIgnore, Substrings),
        (&["preferredlanguage"], "2.16.840.1.113730.3.1.39", CaseIgnore, Substrings),
        (&["displayname"], "2.16.840.1.113730.3.1.241", CaseIgnore, Substrings),
        // RFC 2307.
        (&["uidnumber"], "1.3.6.1.1.1.1.0", Integer, Ordering),
        (&["gidnumber"], "1.3.6.1.1.1.1.1", Integer, Ordering),
        (&["gecos"], "1.3.6.1.1.1.1.2", CaseIgnoreIa5, Substrings),
        (&["homedirectory"], "1.3.6.1.1.1.1.3", CaseExactIa5, Nothing),
        (&["loginshell"], "1.3.6.1.1.1.1.4", CaseExactIa5, Nothing),
        (&["shadowlastchange"], "1.3.6.1.1.1.1.5", Integer, Nothing),
        (&["shadowexpire"], "1.3.6.1.1.1.1.10", Integer, Nothing),
        (&["memberuid"], "1.3.6.1.1.1.1.12", CaseExactIa5, Substrings),
        // Password policy (draft-behera-ldap-password-policy).
        (&["pwdchangedtime"], "1.3.6.1.4.1.42.2.27.8.1.16", Time, Ordering),
        (&["pwdaccountlockedtime"], "1.3.6.1.4.1.42.2.27.8.1.17", Time, Ordering),
        (&["pwdreset"], "1.3.6.1.4.1.42.2.27.8.1.22", Boolean, Nothing),
        (&["pwdstarttime"], "1.3.6.1.4.1.42.2.27.8.1.27", Time, Ordering),
        (&["pwdendtime"], "1.3.6.1.4.1.42.2.27.8.1.28", Time, Ordering),
        // Active Directory.
        (&["memberof"], "1.2.840.113556.1.2.102", Dn, Nothing),
        (&["whencreated"], "1.2.840.113556.1.2.2", Time, Ordering),
        (&["whenchanged"], "1.2.840.113556.1.2.3", Time, Ordering),
        (&["usncreated"], "1.2.840.113556.1.2.19", Integer, Ordering),
        (&["usnchanged"], "1.2.840.113556.1.2.120", Integer, Ordering),
        (&["objectguid"], "1.2.840.113556.1.4.2", Octets, Nothing),
        (&["useraccountcontrol"], "1.2.840.113556.1.4.8", Integer, Ordering),
        (&["badpwdcount"], "1.2.840.113556.1.4.12", Integer, Ordering),
        (&["lastlogon"], "1.2.840.113556.1.4.52", Integer, Ordering),
        (&["pwdlastset"], "1.2.840.113556.1.4.96", Integer, Ordering),
        (&["primarygroupid"], "1.2.840.113556.1.4.98", Integer, Ordering),
        (&["objectsid"], "1.2.840.113556.1.4.146", Octets, Nothing),
        (&["accountexpires"], "1.2.840.113556.1.4.159", Integer, Ordering),
        (&["samaccounttype"], "1.2.840.113556.1.4.302", Integer, Ordering),
        (&["lockouttime"], "1.2.840.113556.1.4.662", Integer, Ordering),
        (&["grouptype"], "1.2.840.113556.1.4.750", Integer, Ordering),
        (&["objectcategory"], "1.2.840.113556.1.4.782", Category, Nothing),
        (&["iscriticalsystemobject"], "1.2.840.113556.1.4.868", Boolean, Nothing),
        (&["msds-user-account-control-computed"], "1.2.840.113556.1.4.1460", Integer, Ordering),
        (&["lastlogontimestamp"], "1.2.840.113556.1.4.1696", Integer, Ordering),
        (&["msexchimvirtualserver"], "1.2.840.113556.1.4.7000.102.7037", Dn, Nothing),
    ]
};

/// Matching rules that may be named in an extensible match: name, OID.
const RULES: &[(&str, &str, Rule)] = &[
    ("caseignorematch", "2.5.13.2", Rule::CaseIgnore),
    ("caseexactmatch", "2.5.13.5", Rule::CaseExact),
    ("caseignoreia5match", "1.3.6.1.4.1.1466.109.114.2", Rule::CaseIgnoreIa5),
    ("caseexactia5match", "1.3.6.1.4.1.1466.109.114.1", Rule::CaseExactIa5),
    ("distinguishednamematch", "2.5.13.1", Rule::Dn),
    ("booleanmatch", "2.5.13.13", Rule::Boolean),
    ("integermatch", "2.5.13.14", Rule::Integer),
    ("octetstringmatch", "2.5.13.17", Rule::Octets),
    ("telephonenumbermatch", "2.5.13.20", Rule::Telephone),
    ("generalizedtimematch", "2.5.13.27", Rule::Time),
];

/// Standard classes: name, OID, superclass. `top` is above all.
const CLASSES: &[(&str, &str, &str)] = &[
    ("top", "2.5.6.0", ""),
    ("country", "2.5.6.2", "top"),
    ("locality", "2.5.6.3", "top"),
    ("organization", "2.5.6.4", "top"),
    ("organizationalunit", "2.5.6.5", "top"),
    ("person", "2.5.6.6", "top"),
    ("organizationalperson", "2.5.6.7", "person"),
    ("organizationalrole", "2.5.6.8", "top"),
    ("groupofnames", "2.5.6.9", "top"),
    ("residentialperson", "2.5.6.10", "person"),
    ("applicationprocess", "2.5.6.11", "top"),
    ("device", "2.5.6.14", "top"),
    ("groupofuniquenames", "2.5.6.17", "top"),
    ("inetorgperson", "2.16.840.1.113730.3.2.2", "organizationalperson"),
    ("account", "0.9.2342.19200300.100.4.5", "top"),
    ("domain", "0.9.2342.19200300.100.4.13", "top"),
    ("simplesecurityobject", "0.9.2342.19200300.100.4.19", "top"),
    ("dcobject", "1.3.6.1.4.1.1466.344", "top"),
    ("posixaccount", "1.3.6.1.1.1.2.0", "top"),
    ("shadowaccount", "1.3.6.1.1.1.2.1", "top"),
    ("posixgroup", "1.3.6.1.1.1.2.2", "top"),
];

/// An attribute by name or OID; one that is not in the table is guessed at.
pub(super) fn attribute(name: &str) -> Attribute {
    let row = ATTRIBUTES
        .iter()
        .find(|(names, oid, ..)| *oid == name || names.iter().any(|known| known.eq_ignore_ascii_case(name)));
    match row {
        Some((names, _, rule, also)) => Attribute {
            name: Cow::Borrowed(names[0]),
            rule: *rule,
            has_substrings: *also == Also::Substrings,
            has_ordering: *also == Also::Ordering,
        },
        None => Attribute {
            name: Cow::Owned(name.to_ascii_lowercase()),
            rule: Rule::Guess,
            has_substrings: true,
            has_ordering: true,
        },
    }
}

pub(super) fn rule(name: &str) -> Option<Rule> {
    let row = RULES.iter().find(|(known, oid, _)| *oid == name || known.eq_ignore_ascii_case(name));
    row.map(|(_, _, rule)| *rule)
}

/// Whether values of an attribute compared by `attribute` may be compared by `asked` (RFC 4511 4.5.1.7.7: else Undefined).
pub(super) fn is_usable(asked: Rule, attribute: Rule) -> bool {
    use Rule::*;
    match asked {
        CaseIgnore | CaseExact => matches!(attribute, CaseIgnore | CaseExact | Telephone | Guess),
        CaseIgnoreIa5 | CaseExactIa5 => matches!(attribute, CaseIgnoreIa5 | CaseExactIa5 | Guess),
        Dn => matches!(attribute, Dn | Category | Guess),
        Telephone | Octets | Integer | Boolean | Time | Uuid | ObjectClass | Category | Guess => {
            attribute == asked || attribute == Guess
        }
    }
}

/// The classes whose entries are also of class `name`, itself first. `None`: every entry is.
pub(super) fn classes_below(name: &str) -> Option<Vec<String>> {
    let row = CLASSES.iter().find(|(known, oid, _)| *oid == name || known.eq_ignore_ascii_case(name));
    let wanted = row.map_or_else(|| name.to_ascii_lowercase(), |(known, ..)| (*known).to_owned());
    if wanted == "top" {
        return None;
    }
    let mut found = vec![wanted];
    let mut at = 0;
    while let Some(above) = found.get(at).cloned() {
        let below = CLASSES.iter().filter(|(_, _, superclass)| *superclass == above);
        found.extend(below.map(|(known, ..)| (*known).to_owned()));
        at += 1;
    }
    Some(found)
}

/// Which part of a value is made comparable: spaces at a cut are kept (RFC 4518 2.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Whole,
    Initial,
    Any,
    Final,
    /// Any part, as the IA5 rules of slapd take it: without outer spaces, even if nothing is left.
    Trimmed,
}

/// Values of up to this many octets are made comparable without allocation.
const ROOM_BYTES: usize = 256;
pub(super) type Room = [u8; ROOM_BYTES];
pub(super) const ROOM: Room = [0; ROOM_BYTES];

/// `8-4-4-4-12` hexadecimal digits (RFC 4530); nothing else is taken.
const UUID_BYTES: usize = 36;

/// The comparable form of a value: two are equal when their forms are. `None`: not a value of that syntax.
pub(super) fn normalized<'a>(rule: Rule, octets: &'a [u8], part: Part, room: &'a mut Room) -> Option<Cow<'a, [u8]>> {
    match rule {
        Rule::CaseIgnore | Rule::CaseExact => {
            let text = std::str::from_utf8(octets).ok().filter(|text| !text.is_empty())?;
            Some(folded(text, rule == Rule::CaseIgnore, part, room))
        }
        Rule::CaseIgnoreIa5 | Rule::CaseExactIa5 => {
            let text = std::str::from_utf8(octets).ok().filter(|text| text.is_ascii())?;
            Some(folded(text, rule == Rule::CaseIgnoreIa5, Part::Trimmed, room))
        }
        Rule::Guess => Some(match std::str::from_utf8(octets) {
            Ok(text) => folded(text, true, part, room),
            Err(_) => Cow::Borrowed(octets),
        }),
        Rule::ObjectClass => Some(Cow::Owned(octets.to_ascii_lowercase())),
        Rule::Telephone => {
            if octets.is_empty() || !octets.iter().copied().all(is_printable) {
                return None;
            }
            let mut digits: Vec<u8> = octets.iter().copied().filter(|byte| !matches!(byte, b' ' | b'-')).collect();
            if digits.is_empty() {
                digits.push(b' ');
            }
            Some(Cow::Owned(digits))
        }
        Rule::Octets => Some(Cow::Borrowed(octets)),
        Rule::Integer => is_integer(octets).then_some(Cow::Borrowed(octets)),
        Rule::Boolean => matches!(octets, b"TRUE" | b"FALSE").then_some(Cow::Borrowed(octets)),
        Rule::Time => {
            let time = Timestamp::from_generalized_time(std::str::from_utf8(octets).ok()?)?;
            // Octets that sort as the moments do.
            Some(Cow::Owned((time.0 ^ i64::MIN).to_be_bytes().to_vec()))
        }
        Rule::Dn | Rule::Category => {
            let dn = std::str::from_utf8(octets).ok().filter(|dn| is_dn(dn))?;
            let mut form = normalized_dn(&plainly_escaped(dn));
            while form.contains("  ") {
                form = form.replace("  ", " ");
            }
            Some(Cow::Owned(form.into_bytes()))
        }
        Rule::Uuid if octets.len() != UUID_BYTES || octets.contains(&b' ') => None,
        Rule::Uuid => Some(Cow::Owned(UserKey::parse(std::str::from_utf8(octets).ok()?)?.0.to_vec())),
    }
}

/// Lower case where asked, outer spaces off, inner runs of spaces to one (RFC 4518 2.6.1).
fn folded<'a>(text: &str, ignore_case: bool, part: Part, room: &'a mut Room) -> Cow<'a, [u8]> {
    if text.is_ascii() && text.len() <= room.len() {
        let mut length = 0;
        squeezed(text.bytes(), b' ', part, |byte| {
            // A squeezed text is never longer than the text.
            if let Some(place) = room.get_mut(length) {
                *place = if ignore_case { byte.to_ascii_lowercase() } else { byte };
                length += 1;
            }
        });
        return Cow::Borrowed(room.get(..length).unwrap_or_default());
    }
    let mut out = String::with_capacity(text.len());
    squeezed(text.chars(), ' ', part, |c| if ignore_case { out.extend(c.to_lowercase()) } else { out.push(c) });
    Cow::Owned(out.into_bytes())
}

fn squeezed<T: Copy + PartialEq>(items: impl Iterator<Item = T>, space: T, part: Part, mut push: impl FnMut(T)) {
    let mut keep_next = matches!(part, Part::Any | Part::Final);
    let mut pending = false;
    let mut only_spaces = true;
    for item in items {
        if item == space {
            pending = true;
            continue;
        }
        if pending && keep_next {
            push(space);
        }
        push(item);
        (pending, keep_next, only_spaces) = (false, true, false);
    }
    // Spaces alone count as one space; at the end of a substring as nothing (slapd).
    let keep_last = match part {
        Part::Initial | Part::Any => true,
        Part::Whole => only_spaces,
        Part::Final | Part::Trimmed => false,
    };
    if pending && keep_last {
        push(space);
    }
}

/// Whether the text can name a class: `keystring` or `numericoid` of RFC 4512.
pub(super) fn is_oid(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

/// PrintableString (RFC 4517 3.2).
fn is_printable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"'()+,-.=/:? ".contains(&byte)
}

/// INTEGER (RFC 4517 3.3.16): no plus sign, no leading zero, any length.
pub(super) fn is_integer(octets: &[u8]) -> bool {
    match octets {
        b"0" => true,
        [b'-', digits @ ..] | digits => digits.iter().all(u8::is_ascii_digit) && !matches!(digits, [] | [b'0', ..]),
    }
}

/// Order of two comparable forms.
pub(super) fn compared(rule: Rule, left: &[u8], right: &[u8]) -> Ordering {
    if rule != Rule::Integer {
        return left.cmp(right);
    }
    let size = |number: &[u8], other: &[u8]| number.len().cmp(&other.len()).then_with(|| number.cmp(other));
    match (left, right) {
        ([b'-', left @ ..], [b'-', right @ ..]) => size(right, left),
        ([b'-', ..], _) => Ordering::Less,
        (_, [b'-', ..]) => Ordering::Greater,
        _ => size(left, right),
    }
}

/// A 64-bit integer for the bitwise rules.
pub(super) fn bits(octets: &[u8]) -> Option<i64> {
    is_integer(octets).then(|| std::str::from_utf8(octets).ok()?.parse().ok())?
}

/// Whether the text has the form of a DN (RFC 4514): every part is `type=value`.
fn is_dn(text: &str) -> bool {
    text.is_empty() || parts(text).all(|part| split_part(part).is_some())
}

/// The `type=value` parts of a DN, with those of multi-valued names one by one.
fn parts(dn: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    dn.split(move |c| {
        let separates = !escaped && matches!(c, ',' | ';' | '+');
        escaped = !escaped && c == '\\';
        separates
    })
}

fn split_part(part: &str) -> Option<(&str, &str)> {
    let (name, value) = part.split_once('=')?;
    let name = name.trim_matches(' ');
    is_oid(name).then_some((name, value))
}

/// Attribute names (as in the table) and values of a DN, unescaped: what `:dn:` matches too.
pub(super) fn dn_values(dn: &str) -> impl Iterator<Item = (Attribute, Vec<u8>)> {
    parts(dn).filter_map(split_part).map(|(name, value)| (attribute(name), unescaped(value)))
}

/// A DN with `\2C` written as `\,`, and `\C3\AB` as the character: servers and people write either.
fn plainly_escaped(dn: &str) -> Cow<'_, str> {
    if !dn.contains('\\') {
        return Cow::Borrowed(dn);
    }
    let mut out = Vec::with_capacity(dn.len());
    let mut rest = dn.as_bytes();
    loop {
        rest = match rest {
            [] => break,
            [b'\\', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let octet = hex(*high) << 4 | hex(*low);
                if octet.is_ascii() && !octet.is_ascii_alphanumeric() {
                    out.push(b'\\');
                }
                out.push(octet);
                tail
            }
            [b'\\', escaped, tail @ ..] => {
                out.extend([b'\\', *escaped]);
                tail
            }
            [octet, tail @ ..] => {
                out.push(*octet);
                tail
            }
        };
    }
    // Escaped octets that make no text: compared as written.
    String::from_utf8(out).map_or(Cow::Borrowed(dn), Cow::Owned)
}

fn unescaped(value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.trim_start_matches(' ').as_bytes();
    let mut kept = 0;
    loop {
        rest = match rest {
            [] => break,
            [b'\\', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(hex(*high) << 4 | hex(*low));
                kept = out.len();
                tail
            }
            [b'\\', byte, tail @ ..] => {
                out.push(*byte);
                kept = out.len();
                tail
            }
            [byte, tail @ ..] => {
                out.push(*byte);
                if *byte != b' ' {
                    kept = out.len();
                }
                tail
            }
        };
    }
    out.truncate(kept);
    out
}

/// The value of a hexadecimal digit; others count as 0.
pub(super) fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).unwrap_or(0) as u8
}

/// Whether a DN differs from its comparable form in case at most: then no form needs to be made.
pub(super) fn is_plain_dn(octets: &[u8]) -> bool {
    let mut after_separator = true;
    let mut after_space = false;
    for byte in octets {
        let separator = matches!(byte, b',' | b'+' | b'=');
        let spaced = (*byte == b' ' && (after_separator || after_space)) || (separator && after_space);
        if spaced || !byte.is_ascii() || matches!(byte, b'\\' | b';') {
            return false;
        }
        (after_separator, after_space) = (separator, *byte == b' ');
    }
    !after_space
}
