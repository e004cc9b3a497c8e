//! What a device may be for an artifact to fit it: every combination of the values its keys may have.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};

use crate::artifact_file::OneOrMany;

/// Combinations of one artifact. An artifact for 200 kinds of device with 50 former releases has as many.
const LIMIT: usize = 10_000;

/// One combination: a value for every key.
pub(super) type Combination = BTreeMap<String, String>;

/// Every combination; `None` if they are too many.
pub(super) fn combinations(depends: &BTreeMap<String, OneOrMany>) -> Option<Vec<Combination>> {
    let mut all = vec![Combination::new()];
    for (key, values) in depends {
        // A value that stands there twice is still one.
        let mut values: Vec<&String> = values.values().iter().collect();
        values.sort_unstable();
        values.dedup();
        if all.len().checked_mul(values.len()).is_none_or(|count| count > LIMIT) {
            return None;
        }
        let with = |combination: &Combination, value: &str| {
            let mut combination = combination.clone();
            combination.insert(key.clone(), value.to_owned());
            combination
        };
        all = all.iter().flat_map(|combination| values.iter().map(|value| with(combination, value))).collect();
    }
    Some(all)
}

/// The same hash for the same combination.
pub(super) fn hash(combination: &Combination) -> [u8; 32] {
    let text = serde_json::to_vec(combination).expect("texts have a JSON form");
    digest(&SHA256, &text).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depends(keys: &[(&str, &[&str])]) -> BTreeMap<String, OneOrMany> {
        let many = |values: &[&str]| OneOrMany::Many(values.iter().map(|&value| value.to_owned()).collect());
        keys.iter().map(|(key, values)| ((*key).to_owned(), many(values))).collect()
    }

    #[test]
    fn every_value_meets_every_other() {
        let all = combinations(&depends(&[("device_type", &["a", "b", "a"]), ("x", &["1", "2"])])).unwrap();
        let shown: Vec<String> = all.iter().map(|one| format!("{}{}", one["device_type"], one["x"])).collect();
        assert_eq!(shown, ["a1", "a2", "b1", "b2"]);
        let one = BTreeMap::from([("x".to_owned(), OneOrMany::One("1".into()))]);
        assert_eq!(combinations(&one), combinations(&depends(&[("x", &["1"])])));
        let hashes: std::collections::HashSet<_> = all.iter().map(hash).collect();
        assert_eq!(hashes.len(), 4);
    }

    #[test]
    fn too_many_are_not_counted_out() {
        let many: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(combinations(&depends(&[("a", &many), ("b", &many[..50])])).unwrap().len(), 10_000);
        assert_eq!(combinations(&depends(&[("a", &many), ("b", &many[..51])])), None);
        let keys: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let keys: Vec<(&str, &[&str])> = keys.iter().map(|key| (key.as_str(), &many[..])).collect();
        assert_eq!(combinations(&depends(&keys)), None);
    }
}
