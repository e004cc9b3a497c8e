//! `CONFORMANCE.md` names the test that shows each statement; this looks whether the tests are there.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Every function that is a test, or a story that becomes one.
fn functions() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut left: Vec<PathBuf> = vec![harness::repository().to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    left.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let found = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
                names.extend(found.map(str::to_owned));
            }
        }
    }
    names
}

/// `(item, statement, tests)` of each row.
fn rows() -> Vec<(String, String, Vec<String>)> {
    let text = fs::read_to_string(harness::repository().join("tests/CONFORMANCE.md")).unwrap();
    text.lines()
        .filter_map(|line| {
            let cells: Vec<&str> =
                line.trim().strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
            let [item, statement, tests] = cells.try_into().ok()?;
            let number = item.rsplit_once('-')?.1;
            number.parse::<u32>().ok()?;
            let tests = tests.split(',').map(|test| test.trim().trim_matches('`').to_owned()).collect();
            Some((item.to_owned(), statement.to_owned(), tests))
        })
        .collect()
}

#[test]
fn every_statement_names_tests_that_exist() {
    let functions = functions();
    for (item, statement, tests) in rows() {
        assert!(!statement.is_empty(), "{item} says nothing");
        for test in tests {
            assert!(functions.contains(&test), "{item} is shown by {test}, which is nowhere");
        }
    }
}

#[test]
fn statements_stand_once_and_under_known_headings() {
    let mut seen = BTreeSet::new();
    for (item, _, _) in rows() {
        let prefix = item.rsplit_once('-').map(|(prefix, _)| prefix.to_owned()).unwrap();
        assert!(["deviceconnect", "auth", "fleet-state", "updates"].contains(&prefix.as_str()), "{item}");
        assert!(seen.insert(item.clone()), "{item} stands twice");
    }
    let promised: [(&str, &[RangeInclusive<u32>]); 3] =
        [("deviceconnect", &[1..=48]), ("auth", &[1..=58]), ("fleet-state", &[1..=43, 47..=54])];
    for (prefix, ranges) in promised {
        for number in ranges.iter().cloned().flatten() {
            assert!(seen.contains(&format!("{prefix}-{number}")), "{prefix}-{number} is missing");
        }
    }
}
