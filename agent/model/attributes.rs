//! The attributes of a record: names and their values, in the order of names. A sorted list rather than a map: records are
//! made and dropped by the hundred thousand, and a dozen names are found as fast by comparing.

use super::Value;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;

/// As a JSON object: `{"cn": ["Ann"], …}`. Whoever reads one may rely on the order of names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes(Vec<(String, Vec<Value>)>);

/// What a user of average size has; more grow the list.
const USUAL: usize = 12;

impl Attributes {
    pub fn with_capacity(names: usize) -> Attributes {
        Attributes(Vec::with_capacity(names))
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.as_str().cmp(name))
    }

    pub fn get(&self, name: &str) -> Option<&Vec<Value>> {
        self.find(name).ok().and_then(|at| self.0.get(at)).map(|(_, values)| values)
    }

    /// The values of this name; none yet, if it is new.
    pub fn values_mut(&mut self, name: String) -> &mut Vec<Value> {
        // Servers and our own JSON mostly come in order, or nearly so.
        let at = match self.0.last() {
            Some((last, _)) if *last < name => Err(self.0.len()),
            Some(_) => self.find(&name),
            None => Err(0),
        };
        let at = at.unwrap_or_else(|at| {
            self.0.insert(at, (name, Vec::new()));
            at
        });
        &mut self.0[at].1
    }

    pub fn insert(&mut self, name: String, values: Vec<Value>) {
        *self.values_mut(name) = values;
    }

    pub fn remove(&mut self, name: &str) {
        if let Ok(at) = self.find(name) {
            self.0.remove(at);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Vec<Value>)> {
        self.0.iter().map(|(name, values)| (name, values))
    }

    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.0.iter().map(|(name, _)| name)
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Attributes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of attributes")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
                let mut attributes = Attributes::with_capacity(USUAL);
                while let Some((name, Values(values))) = map.next_entry()? {
                    attributes.insert(name, values);
                }
                Ok(attributes)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// A list that most often has one value.
struct Values(Vec<Value>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Values;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of values")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values, A::Error> {
                let mut values = Vec::with_capacity(1);
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(Values(values))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Few enough of them that some come twice, and some are removed.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof!["[a-d]{1,2}", any::<String>()]
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_the_order_of_names(
            writes in prop::collection::vec((name(), prop::collection::vec(any::<String>(), 0..4)), 0..24),
            removed in prop::collection::vec(name(), 0..8),
        ) {
            let mut map: BTreeMap<String, Vec<Value>> = BTreeMap::new();
            let mut attributes = Attributes::default();
            for (name, values) in &writes {
                let values: Vec<Value> = values.iter().cloned().map(Value::Text).collect();
                map.insert(name.clone(), values.clone());
                attributes.insert(name.clone(), values);
            }
            for name in &removed {
                map.remove(name);
                attributes.remove(name);
            }
            for (name, _) in &writes {
                prop_assert_eq!(attributes.get(name), map.get(name));
            }
            prop_assert!(attributes.iter().eq(map.iter()));
            let json = serde_json::to_string(&attributes).unwrap();
            prop_assert_eq!(&json, &serde_json::to_string(&map).unwrap());
            prop_assert_eq!(serde_json::from_str::<Attributes>(&json).unwrap(), attributes);
        }
    }

    #[test]
    fn names_out_of_order_are_read_in_order() {
        let attributes: Attributes = serde_json::from_str(r#"{"uid":["ann"],"cn":["Ann","Anna"]}"#).unwrap();
        assert_eq!(attributes.keys().collect::<Vec<_>>(), ["cn", "uid"]);
        assert_eq!(attributes.get("cn").map(Vec::len), Some(2));
    }
}
