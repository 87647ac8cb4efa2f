//! An address pool that may be absent: TOML has no null, so it is written as "".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address pool in CIDR notation, or `""` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool<N>(pub Option<N>);

impl<N: fmt::Display> Serialize for Pool<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(network) => serializer.collect_str(network),
            None => serializer.serialize_str(""),
        }
    }
}

impl<'de, N: FromStr> Deserialize<'de> for Pool<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(network) => Ok(Self(Some(network))),
            Err(_) => Err(serde::de::Error::custom(format!(
                "{text:?} is not a network of this family: write an address and a prefix length \
                 with a slash between, or \"\" for none"
            ))),
        }
    }
}
