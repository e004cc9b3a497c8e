//! Who is at a session.

use crate::commands::operator::message::printable;
use serde::Deserialize;
use std::collections::HashMap;

/// More are not named one by one.
const MOST_NAMED: usize = 8;

/// Somebody at a session.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Person {
    #[serde(default)]
    attachment: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    role: String,
}

/// Everybody at a session.
#[derive(Debug, Default)]
pub struct People {
    /// E-mail addresses by user id.
    names: HashMap<String, String>,
    me: String,
    all: Option<Vec<Person>>,
}

impl People {
    /// Whoever has a name here is called by it, and not by the id.
    pub fn called(names: HashMap<String, String>) -> Self {
        Self { names, ..Self::default() }
    }

    /// This is who we are now.
    pub fn i_am(&mut self, attachment: &str) {
        attachment.clone_into(&mut self.me);
    }

    /// The hub says who is here; what is worth telling about it.
    pub fn now(&mut self, list: &[u8]) -> Vec<String> {
        // A list that nobody can read is none.
        let Ok(now) = serde_json::from_slice::<Vec<Person>>(list) else { return vec![] };
        let before = self.all.replace(now.clone()).unwrap_or_default();
        let is_new = |list: &[Person], person: &Person| list.iter().all(|other| other.attachment != person.attachment);
        let others = |list: &[Person]| -> Vec<Person> {
            list.iter().filter(|person| person.attachment != self.me).cloned().collect()
        };
        let mut news = Vec::new();
        for person in others(&now).iter().filter(|person| is_new(&before, person)).take(MOST_NAMED) {
            news.push(format!(
                "{} {}",
                self.name(&person.user),
                if person.role == "writer" { "is typing here" } else { "is watching" }
            ));
        }
        for person in others(&before).iter().filter(|person| is_new(&now, person)).take(MOST_NAMED) {
            news.push(format!("{} has left", self.name(&person.user)));
        }
        news
    }

    /// Everybody on one line.
    pub fn line(&self) -> String {
        let Some(all) = self.all.as_ref().filter(|all| !all.is_empty()) else {
            return "nobody else is here".to_owned();
        };
        let mut words: Vec<String> = all
            .iter()
            .take(MOST_NAMED)
            .map(|person| {
                let you = if person.attachment == self.me { ", you" } else { "" };
                format!("{} ({}{you})", self.name(&person.user), printable(&person.role))
            })
            .collect();
        if all.len() > MOST_NAMED {
            words.push(format!("and {} more", all.len() - MOST_NAMED));
        }
        format!("here: {}", words.join(", "))
    }

    /// What to call a user.
    pub fn name(&self, user: &str) -> String {
        match printable(self.names.get(user).map_or(user, String::as_str)) {
            empty if empty.is_empty() => "somebody".to_owned(),
            name => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(people: &[(&str, &str, &str)]) -> Vec<u8> {
        let people: Vec<_> = people
            .iter()
            .map(|(attachment, user, role)| serde_json::json!({ "attachment": attachment, "user": user, "role": role, "since": "" }))
            .collect();
        serde_json::to_vec(&people).expect("JSON")
    }

    #[test]
    fn whoever_comes_and_goes_is_told_but_not_ourselves() {
        let mut people = People::default();
        people.i_am("1");
        assert_eq!(people.now(&list(&[("1", "me@x", "writer")])), Vec::<String>::new());
        let two = list(&[("1", "me@x", "writer"), ("2", "anna\u{1b}@x", "watcher")]);
        assert_eq!(people.now(&two), ["anna@x is watching"]);
        assert_eq!(people.line(), "here: me@x (writer, you), anna@x (watcher)");
        assert_eq!(people.now(&list(&[("1", "me@x", "watcher")])), ["anna@x has left"]);
    }

    #[test]
    fn a_user_with_a_name_is_called_by_it() {
        let people = People::called([("7a1e".to_owned(), "anna@x".to_owned())].into());
        assert_eq!(people.name("7a1e"), "anna@x");
        assert_eq!((people.name("other"), people.name("")), ("other".to_owned(), "somebody".to_owned()));
    }

    #[test]
    fn a_list_that_is_none_changes_nothing() {
        let mut people = People::default();
        assert_eq!(people.now(b"{"), Vec::<String>::new());
        assert_eq!(people.line(), "nobody else is here");
    }
}
