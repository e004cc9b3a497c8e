//! The rules about which crate may know what, checked on the sources as they are.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(directory: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut left = vec![harness::repository().join(directory)];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "there are sources in {directory}");
    found
}

/// The files in `directory` that name `word` in code.
fn naming(word: &str, directory: &str) -> Vec<String> {
    let names = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.into_iter().any(|line| {
            line.match_indices(word).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                let after = line[at + word.len()..].chars().next();
                let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                !is_part(before) && !is_part(after)
            })
        })
    };
    let relative = |path: PathBuf| path.strip_prefix(harness::repository()).unwrap().display().to_string();
    sources(directory).into_iter().filter(|path| names(path)).map(relative).collect()
}

fn dependencies(of: &str) -> String {
    let manifest = fs::read_to_string(harness::repository().join(of).join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap_or_default();
    section.split("\n[").next().unwrap_or_default().to_owned()
}

fn depends(of: &str, on: &str) -> bool {
    dependencies(of).lines().any(|line| line.split(['.', ' ', '=']).next() == Some(on))
}

#[test]
fn crates_depend_in_one_direction() {
    for (of, never) in [
        ("storage", &["actors", "api", "hub", "loadtest", "actix", "actix-web"][..]),
        ("actors", &["api", "hub", "loadtest", "actix-web", "actix-http"]),
        ("api", &["hub", "loadtest", "sqlx", "redis", "async-nats"]),
        ("hub", &["sqlx", "redis", "async-nats"]),
        ("loadtest", &["storage", "actors", "api", "hub"]),
        ("tests", &["storage", "actors", "api", "loadtest"]),
    ] {
        for on in never {
            assert!(!depends(of, on), "{of} depends on {on}");
        }
    }
}

#[test]
fn backends_are_named_where_they_belong() {
    assert_eq!(naming("async_nats", "actors/src"), ["actors/src/bus/nats.rs"]);
    // In `presence.rs` that is the name of its own module.
    let mut redis = naming("redis", "storage/src");
    redis.retain(|path| fs::read_to_string(path_of(path)).unwrap().contains("use redis::"));
    redis.retain(|path| path != "storage/src/presence.rs");
    assert_eq!(redis, ["storage/src/presence/redis.rs"]);
    for directory in ["actors/src", "api/src", "hub/src", "loadtest/src"] {
        assert_eq!(naming("sqlx", directory), Vec::<String>::new());
    }
}

fn path_of(relative: &str) -> PathBuf {
    harness::repository().join(relative)
}

#[test]
fn only_the_hub_reads_the_environment() {
    for directory in ["storage/src", "actors/src", "api/src"] {
        let reading: Vec<_> = naming("env", directory)
            .into_iter()
            .filter(|path| fs::read_to_string(path_of(path)).unwrap().contains("env::var"))
            .collect();
        assert_eq!(reading, Vec::<String>::new());
    }
}

#[test]
fn the_top_level_is_what_it_was_agreed_to_be() {
    let mut names: Vec<String> = fs::read_dir(harness::repository())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    names.sort();
    let mut wanted = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "Makefile",
        "README.md",
        "actors",
        "api",
        "hub",
        "loadtest",
        "storage",
        "tests",
    ];
    wanted.sort_unstable();
    assert_eq!(names, wanted);
}
