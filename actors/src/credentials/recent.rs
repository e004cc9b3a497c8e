//! A map that keeps what was used lately and never grows beyond its limit.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Two maps that take turns: what is used moves into the new one; when that is full, the old one is thrown away and the
/// new one becomes the old. So anything used within the last half a limit of insertions is still there, and both using and
/// forgetting cost the same however many there are.
#[derive(Debug)]
pub struct Recent<K, V> {
    new: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    /// An empty map that keeps at most `limit` entries (at least two).
    pub fn new(limit: usize) -> Self {
        Self { new: HashMap::new(), old: HashMap::new(), half: (limit / 2).max(1) }
    }

    /// The value under `key`, which has been used now.
    pub fn get<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.insert(key, value);
        }
        self.new.get_mut(key)
    }

    /// Puts a value under `key`.
    pub fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.new.len() >= self.half && !self.new.contains_key(&key) {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(key, value);
    }

    /// Forgets what is under `key`.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // It is in one of them at most.
        self.new.remove(key).or_else(|| self.old.remove(key))
    }

    /// Forgets every entry that is not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.new.retain(&mut keep);
        self.old.retain(keep);
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.new.len() + self.old.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_limit() {
        let mut recent = Recent::new(100);
        for key in 0..10_000 {
            recent.insert(key, key);
            assert!(recent.len() <= 100);
        }
        assert_eq!(recent.get(&9_999), Some(&mut 9_999));
        assert_eq!(recent.get(&0), None);
    }

    #[test]
    fn what_is_used_stays() {
        let mut recent = Recent::new(100);
        recent.insert(-1, ());
        for key in 0..10_000 {
            recent.insert(key, ());
            assert!(recent.get(&-1).is_some(), "after {key}");
        }
    }

    #[test]
    fn what_is_forgotten_is_gone_from_both_halves() {
        let mut recent = Recent::new(4);
        for key in 0..4 {
            recent.insert(key, key);
        }
        assert_eq!((recent.remove(&0), recent.remove(&3), recent.remove(&3)), (Some(0), Some(3), None));
        recent.retain(|key, _| *key == 1);
        assert_eq!(recent.len(), 1);
        assert!(recent.get(&1).is_some());
    }

    #[test]
    fn a_newer_value_replaces_the_older_one() {
        let mut recent = Recent::new(2);
        recent.insert(1, 'a');
        recent.insert(2, 'b');
        recent.insert(1, 'c');
        assert_eq!(recent.get(&1), Some(&mut 'c'));
        assert_eq!(recent.len(), 2);
        assert!(!recent.is_empty());
    }
}
