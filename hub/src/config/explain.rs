//! Turning a wrong setting into one sentence for the person who wrote it.

use super::show;
use figment::{
    Figment,
    error::{Actual, Kind},
};

/// Names further away than this are no hint.
const FARTHEST_HINT: usize = 3;

/// One sentence: which key, which value, where it stands, what was expected.
pub(super) fn explain(error: &figment::Error, merged: &Figment) -> anyhow::Error {
    let origin = error.metadata.as_ref().map(origin).map_or_else(String::new, |origin| format!(" ({origin})"));
    let key = error.path.join(".");
    let sentence = match &error.kind {
        Kind::UnknownField(name, _) => unknown(&key, name, &origin),
        Kind::UnknownVariant(found, expected) => {
            format!("{key} is {found:?}{origin}: expected {}", one_of(expected))
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("{key} is {}{origin}: expected {}", shown(&key, found), expected_of(&key).unwrap_or(expected))
        }
        Kind::Message(message) if key.is_empty() => format!("{}{origin}", one_line(message)),
        Kind::Message(message) => {
            let found = merged.find_value(&key).ok().map(|value| shown(&key, &value.to_actual()));
            let found = found.map_or_else(|| "wrong".to_owned(), |found| format!("is {found}"));
            match expected_of(&key) {
                Some(expected) => format!("{key} {found}{origin}: expected {expected}"),
                // Types of ours say themselves what they expect.
                None => format!("{key} {found}{origin}: {}", one_line(message)),
            }
        }
        Kind::MissingField(name) => format!("{key}.{name} is missing{origin}"),
        other => format!("{key} has a wrong value{origin}: {}", one_line(&other.to_string())),
    };
    anyhow::anyhow!(sentence)
}

/// Where a value comes from, as a person would say it.
pub(super) fn origin(metadata: &figment::Metadata) -> String {
    match metadata.source.as_ref().and_then(figment::Source::file_path) {
        Some(path) => format!("file {}", path.display()),
        None => metadata.name.to_string(),
    }
}

fn unknown(path: &str, name: &str, origin: &str) -> String {
    // Depending on where in a section the name was met, the path ends with it or not.
    let section = path.strip_suffix(name).map_or(path, |section| section.trim_end_matches('.'));
    let full = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    let keys = show::keys();
    let in_other_section = keys.iter().find(|key| key.rsplit('.').next() == Some(name));
    match in_other_section.map(String::as_str).or_else(|| nearest(&full, keys.iter().map(String::as_str))) {
        Some(key) => format!("unknown setting {full}{origin}: did you mean {key}?"),
        None => format!("unknown setting {full}{origin}: `mooring config show` lists all settings"),
    }
}

/// The name that is a few typing errors away, if there is one.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.map(|candidate| (distance(name, candidate), candidate)).min().and_then(|(far, candidate)| {
        // In a short name a few errors change everything.
        (far <= FARTHEST_HINT && far * 2 < name.len()).then_some(candidate)
    })
}

/// How many letters have to be added, dropped or changed to make one text the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for column in 0..other.len() {
            let changed = diagonal + usize::from(letter != other[column]);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// What a value has to be, where the type's own message would not help.
fn expected_of(key: &str) -> Option<&'static str> {
    match key.rsplit('.').next()? {
        "listen" | "metrics_listen" => Some("an address with a port, such as \"127.0.0.1:8080\""),
        _ => None,
    }
}

fn shown(key: &str, found: &Actual) -> String {
    let is_secret = ["token", "password", "secret"].iter().any(|word| key.contains(word));
    match found {
        Actual::Str(_) if is_secret => "***".to_owned(),
        Actual::Str(text) => format!("{:?}", storage::config::without_password(text)),
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        other => other.to_string(),
    }
}

fn one_of(choices: &[&str]) -> String {
    choices.iter().map(|choice| format!("{choice:?}")).collect::<Vec<_>>().join(" or ")
}

/// The TOML reader draws a picture of the line; its first and last line say it all.
fn one_line(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => "unreadable".to_owned(),
        [only] => (*only).to_owned(),
        [first, .., last] => format!("{first}: {last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_unless_it_is_far() {
        let known = ["listen", "ui_dir"];
        assert_eq!(nearest("lisen", known.into_iter()), Some("listen"));
        assert_eq!(nearest("ui_drir", known.into_iter()), Some("ui_dir"));
        assert_eq!(nearest("colour", known.into_iter()), None);
    }

    #[test]
    fn distances_count_typing_errors() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
