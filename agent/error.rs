//! Errors are named by what happens next. Each boundary has its own enum; each variant knows its disposition and hint.

/// What follows from an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// The world may be better soon: nobody has to act.
    Retry,
    /// This user cannot be served as things are: a problem, the others go on.
    Park,
    /// This loop cannot go on for anybody until the operator acts; tried again at the longest interval.
    Hold,
}

/// What to check, and the command to type afterwards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint(pub String);

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error with its causes, on one line: "opening the store: disk full".
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// A URL that may be shown: without user and password, and without a query, which may hold a token.
pub fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (path, query) = match path.find(['?', '#']) {
        Some(at) => (path.get(..at).unwrap_or_default(), "?…"),
        None => (path, ""),
    };
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{host}{path}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_holds_no_secret() {
        for (url, shown) in [
            ("http://im1.example.com:9090/metrics", "http://im1.example.com:9090/metrics"),
            ("http://ann:pa@ss@im1.example.com/metrics", "http://im1.example.com/metrics"),
            ("https://im1.example.com/load?token=secret", "https://im1.example.com/load?…"),
            ("https://im1.example.com?token=a@b", "https://im1.example.com?…"),
            ("ldapi://%2Frun%2Fslapd", "ldapi://%2Frun%2Fslapd"),
            ("", ""),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
