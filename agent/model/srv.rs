//! What DNS says of an e-mail domain's instant messaging service.

use super::Timestamp;
use serde::{Deserialize, Serialize};

/// One SRV record (RFC 2782), host in lower case without the final dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub struct SrvRecord {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub host: String,
}

/// The answer to an SRV question. Unknown is a value: it never turns into an address.
#[derive(Clone, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SrvAnswer {
    /// At least one record, none of them with target `.`; sorted.
    Present { records: Vec<SrvRecord> },
    /// NXDOMAIN or no data.
    Absent,
    /// A single record with target `.`: decidedly not available.
    NotAvailable,
    /// SERVFAIL, timeout, refused, bogus: nobody knows.
    Unknown { why: String },
}

impl SrvAnswer {
    pub fn is_certain(&self) -> bool {
        !matches!(self, SrvAnswer::Unknown { .. })
    }

    /// The IM domain: lowest priority, highest weight, then name. An address is not random, so neither is this.
    pub fn target(&self) -> Option<&str> {
        match self {
            SrvAnswer::Present { records } => records
                .iter()
                .min_by(|a, b| {
                    (a.priority, std::cmp::Reverse(a.weight), &a.host).cmp(&(
                        b.priority,
                        std::cmp::Reverse(b.weight),
                        &b.host,
                    ))
                })
                .map(|record| record.host.as_str()),
            SrvAnswer::Absent | SrvAnswer::NotAvailable | SrvAnswer::Unknown { .. } => None,
        }
    }
}

/// What is known of a domain's SRV record, as a row keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SrvFact {
    pub domain: String,
    /// The answer that decisions rest on; the last certain one, or unknown.
    pub answer: SrvAnswer,
    pub seen_at: Timestamp,
    /// Asked again then.
    pub expires_at: Timestamp,
    /// A certain answer that contradicts `answer`, and since when; it must hold for `[dns] confirm`.
    pub contradicted: Option<(SrvAnswer, Timestamp)>,
    /// The last question was not answered with certainty.
    pub last_error: Option<String>,
}

impl SrvFact {
    /// The answer that a new decision may rest on: unknown while a certain answer contradicts the last certain one.
    pub fn effective(&self) -> SrvAnswer {
        match &self.contradicted {
            Some(_) => SrvAnswer::Unknown { why: "answers contradict each other; waiting for them to hold".into() },
            None => self.answer.clone(),
        }
    }
}
