//! (temporary)
use crate::model::UserRecord;
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Truth {
    True,
    False,
    Undefined,
}
#[derive(Clone, PartialEq, Debug)]
pub struct Filter {
    attribute: String,
    value: String,
}
impl Filter {
    pub fn parse(text: &str) -> Result<Filter, String> {
        let (a, v) = text.trim_matches(['(', ')']).split_once('=').ok_or("bad")?;
        Ok(Filter { attribute: a.to_lowercase(), value: v.to_lowercase() })
    }
    pub fn evaluate(&self, record: &UserRecord) -> Truth {
        if record
            .values(&self.attribute)
            .iter()
            .any(|v| self.value == "*" || v.as_text().is_some_and(|t| t.to_lowercase() == self.value))
        {
            Truth::True
        } else {
            Truth::False
        }
    }
}
