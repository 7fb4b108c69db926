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
