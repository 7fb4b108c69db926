//! Attributes of more values than a server sends at once: Active Directory sends 1,500 of them as `member;range=0-1499`,
//! and leaves the rest to be asked for (MS-ADTS 3.1.1.3.1.3.3). Whoever took the first part for all of them would conclude
//! that the others left the group. Nothing here talks to a server.

/// More values of one attribute are a mistake of the server.
pub const VALUES_MAX: u64 = 5_000_000;

const OPTION: &[u8] = b"range=";

/// Whether an attribute description bears a range that is not the last: the last one ends in `-*`.
pub fn is_unfinished(described: &[u8]) -> bool {
    let option = described.iter().position(|byte| *byte == b';').and_then(|at| described.get(at + 1..));
    let range = option.and_then(|option| {
        let (name, range) = option.split_at_checked(OPTION.len())?;
        name.eq_ignore_ascii_case(OPTION).then_some(range)
    });
    range.is_some_and(|range| !range.ends_with(b"-*"))
}

/// Of the attribute names of one entry the first that is unfinished: attribute, and the number of its next value.
/// `Err`: a range that cannot be read, by name.
pub fn next_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Option<(String, u64)>, String> {
    let Some(name) = names.into_iter().find(|name| is_unfinished(name.as_bytes())) else { return Ok(None) };
    let last = name.rsplit('-').next().and_then(|last| last.parse::<u64>().ok());
    let attribute = name.split(';').next().unwrap_or_default();
    match last.and_then(|last| last.checked_add(1)) {
        Some(next) => Ok(Some((attribute.to_owned(), next))),
        None => Err(name.to_owned()),
    }
}

/// How to ask for the values from this one on.
pub fn from(attribute: &str, next: u64) -> String {
    format!("{attribute};range={next}-*")
}

/// Puts what the next read of the entry brought behind what is there. `false`: it brought nothing that goes on from there.
pub fn append(
    attributes: &mut Vec<(String, Vec<Vec<u8>>)>,
    attribute: &str,
    next: Vec<(String, Vec<Vec<u8>>)>,
) -> bool {
    let of = |name: &str| name.split(';').next() == Some(attribute);
    let mut values = Vec::new();
    attributes.retain_mut(|(name, known)| {
        if of(name) {
            values.append(known);
        }
        !of(name)
    });
    let before = values.len();
    let mut name = attribute.to_owned();
    for (found, mut more) in next {
        if of(&found) && !more.is_empty() {
            values.append(&mut more);
            name = found;
        }
    }
    let grew = values.len() > before;
    attributes.push((name, values));
    grew
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<Vec<u8>> {
        vec![b"x".to_vec(); count]
    }

    #[test]
    fn a_whole_attribute_is_finished_and_so_is_a_last_range() {
        for name in ["member", "member;range=1500-*", "cn;lang-de", "range", "member;ran"] {
            assert!(!is_unfinished(name.as_bytes()), "{name}");
        }
        assert_eq!(next_of(["member", "cn"]), Ok(None));
    }

    #[test]
    fn the_next_value_is_the_one_after_the_last() {
        assert_eq!(next_of(["cn", "member;range=0-1499"]), Ok(Some(("member".into(), 1500))));
        assert_eq!(from("member", 1500), "member;range=1500-*");
        assert!(next_of(["member;range=0-many"]).is_err());
        assert!(next_of([format!("member;range=0-{}", u64::MAX).as_str()]).is_err());
    }

    #[test]
    fn parts_are_put_together_until_the_last() {
        let mut entry = vec![("member".into(), values(0)), ("member;range=0-1499".to_owned(), values(1500))];
        assert!(append(&mut entry, "member", vec![("member;range=1500-2999".into(), values(1500))]));
        assert_eq!(next_of(entry.iter().map(|(name, _)| name.as_str())), Ok(Some(("member".into(), 3000))));
        assert!(append(&mut entry, "member", vec![("member".into(), values(7))]));
        assert_eq!(entry, [("member".into(), values(3007))]);
        assert!(!append(&mut entry, "member", vec![("cn".into(), values(1))]), "nothing came");
    }
}
