//! Identifiers of sandboxes and containers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// 64 lower-case hexadecimal digits, the pattern by which cAdvisor knows a container's cgroup.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// Number of digits of every id.
    pub const LEN: usize = 64;

    /// A new random id.
    pub fn random() -> Self {
        let mut bytes = [0; Self::LEN / 2];
        getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 13 digits, as `crictl` prints them.
    pub fn short(&self) -> &str {
        &self.0[..13]
    }

    /// The first 128 bits in the grouping of a UUID, for names that others expect to look like one.
    pub fn uuid(&self) -> String {
        let d = &self.0;
        format!("{}-{}-{}-{}-{}", &d[..8], &d[8..12], &d[12..16], &d[16..20], &d[20..32])
    }
}

/// A text that is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an id of 64 lower-case hexadecimal digits: {0:?}")]
pub struct NotAnId(String);

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == Self::LEN && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAnId(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for Id {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
        text.parse()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_parses_back() {
        let id = Id::random();
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_eq!(id.uuid().len(), 36);
    }

    #[test]
    fn other_texts_are_no_ids() {
        for text in [
            "",
            "abc",
            &"A".repeat(64),
            &"g".repeat(64),
            &"a".repeat(63),
            &"a".repeat(65),
        ] {
            assert!(text.parse::<Id>().is_err(), "{text}");
        }
    }
}
