//! What a device may be for an artifact to fit it: every combination of the values its keys may have.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};

use crate::artifact_file::OneOrMany;

/// Combinations of one artifact. An artifact for 200 kinds of device with 50 former releases has as many.
const LIMIT: usize = 10_000;

/// Bytes of all combinations together, at most. They are never in memory at once, but each of them is hashed.
const TEXT_LIMIT: usize = 16 * 1024 * 1024;

/// One combination: a value for every key.
pub(super) type Combination<'a> = BTreeMap<&'a str, &'a str>;

/// Every combination of what an artifact depends on, made one at a time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Combinations<'a> {
    /// Each key with its different values, sorted.
    keys: Vec<(&'a str, Vec<&'a str>)>,
    count: usize,
}

impl<'a> Combinations<'a> {
    /// All of them; `None` if they are too many, or too much text.
    pub(super) fn of(depends: &'a BTreeMap<String, OneOrMany>) -> Option<Self> {
        let (mut keys, mut count, mut length) = (Vec::with_capacity(depends.len()), 1_usize, 0_usize);
        for (key, values) in depends {
            // A value that stands there twice is still one.
            let mut values: Vec<&str> = values.values().iter().map(String::as_str).collect();
            values.sort_unstable();
            values.dedup();
            count = count.checked_mul(values.len()).filter(|&count| count <= LIMIT)?;
            length += key.len() + values.iter().map(|value| value.len()).max().unwrap_or_default();
            keys.push((key.as_str(), values));
        }
        let fits = count.checked_mul(length).is_some_and(|bytes| bytes <= TEXT_LIMIT);
        fits.then_some(Self { keys, count })
    }

    /// The combination at this place.
    pub(super) fn at(&self, mut place: usize) -> Combination<'a> {
        let mut combination = Combination::new();
        for (key, values) in self.keys.iter().rev() {
            combination.insert(key, values[place % values.len()]);
            place /= values.len();
        }
        combination
    }

    /// The hash of each, in the order of their places: the same for the same combination.
    pub(super) fn hashes(&self) -> Vec<[u8; 32]> {
        (0..self.count).map(|place| hash(&self.at(place))).collect()
    }
}

fn hash(combination: &Combination<'_>) -> [u8; 32] {
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

    fn count(depends: &BTreeMap<String, OneOrMany>) -> Option<usize> {
        Combinations::of(depends).map(|all| all.count)
    }

    #[test]
    fn every_value_meets_every_other() {
        let depends_on = depends(&[("device_type", &["a", "b", "a"]), ("x", &["1", "2"])]);
        let all = Combinations::of(&depends_on).unwrap();
        let shown: Vec<String> = (0..all.count)
            .map(|place| all.at(place))
            .map(|one| format!("{}{}", one["device_type"], one["x"]))
            .collect();
        assert_eq!(shown, ["a1", "a2", "b1", "b2"]);
        let one = BTreeMap::from([("x".to_owned(), OneOrMany::One("1".into()))]);
        assert_eq!(Combinations::of(&one), Combinations::of(&depends(&[("x", &["1"])])));
        let hashes: std::collections::HashSet<_> = all.hashes().into_iter().collect();
        assert_eq!(hashes.len(), 4);
        let text = digest(&SHA256, br#"{"device_type":"a","x":"2"}"#);
        assert_eq!(&all.hashes()[1][..], text.as_ref(), "what is stored already stays comparable");
    }

    #[test]
    fn too_many_are_not_counted_out() {
        let many: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(count(&depends(&[("a", &many), ("b", &many[..50])])), Some(10_000));
        assert_eq!(count(&depends(&[("a", &many), ("b", &many[..51])])), None);
        let keys: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let keys: Vec<(&str, &[&str])> = keys.iter().map(|key| (key.as_str(), &many[..])).collect();
        assert_eq!(count(&depends(&keys)), None);
    }

    #[test]
    fn all_of_them_together_are_bounded() {
        let many: Vec<String> = (0..128).map(|number| format!("{number:03}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        // 128 × (1 + 3 + 1 + 131 067) bytes are 16 MiB.
        let long = "v".repeat(131_067);
        assert_eq!(count(&depends(&[("a", &many), ("b", &[&long])])), Some(128));
        let longer = "v".repeat(131_068);
        assert_eq!(count(&depends(&[("a", &many), ("b", &[&longer])])), None);
        assert_eq!(count(&depends(&[("a", &many), ("b", &[&longer, "short"])])), None);
    }
}
