//! The fuzz targets of `tests/fuzz` as ordinary tests: every committed input, and then random changes of them for a few
//! seconds. Without coverage to guide it this finds what is easy to find; the search is `make fuzz`.

#[path = "../../tests/fuzz/src/artifact.rs"]
mod artifact;
#[path = "../../tests/fuzz/src/frames.rs"]
mod frames;
#[path = "../../tests/fuzz/src/message.rs"]
mod message;
#[path = "../../tests/fuzz/src/recording.rs"]
mod recording;
#[path = "../../tests/fuzz/src/upload_form.rs"]
mod upload_form;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{
    fmt::Write,
    fs,
    panic::catch_unwind,
    path::Path,
    time::{Duration, Instant},
};

/// How long each target is fed random changes.
const SEARCH: Duration = Duration::from_secs(8);
/// The same on every run, so that a failure can be repeated.
const SEED: u64 = 0x6d6f_6f72;
const LONGEST: usize = 16 * 1024;
/// Markers and lengths that lead to other branches.
const TELLING: [u8; 16] = [0, 1, 0x7f, 0x80, 0x81, 0xc0, 0xc4, 0xc6, 0xcf, 0xd3, 0xd9, 0xdb, 0xdf, 0xfe, 0xff, b'"'];

#[test]
fn messages_keep_their_promises() {
    feed("message", message::run);
}

#[test]
fn frames_keep_their_promises() {
    feed("frames", frames::run);
}

#[test]
fn recordings_keep_their_promises() {
    feed("recording", recording::run);
}

#[test]
fn upload_forms_keep_their_promises() {
    feed("upload_form", upload_form::run);
}

#[test]
fn artifacts_keep_their_promises() {
    feed("artifact", artifact::run);
}

fn feed(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).expect("a corpus");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    // The order of a folder is no seed.
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("an input")).collect();
    assert!(!corpus.is_empty(), "nothing in {}", folder.display());
    for (input, file) in corpus.iter().zip(&files) {
        try_input(run, input, &file.display().to_string());
    }
    let mut random = StdRng::seed_from_u64(SEED);
    let end = Instant::now() + SEARCH;
    let mut tried = 0_u64;
    while Instant::now() < end {
        let mut input = corpus.choose(&mut random).expect("not empty").clone();
        for _ in 0..random.random_range(1..=6) {
            change(&mut input, &corpus, &mut random);
        }
        input.truncate(LONGEST);
        try_input(run, &input, "a change");
        tried += 1;
    }
    println!("{target}: {} inputs, {tried} changes of them", corpus.len());
}

fn try_input(run: fn(&[u8]), input: &[u8], name: &str) {
    if catch_unwind(|| run(input)).is_err() {
        let mut hex = String::new();
        for byte in input {
            write!(hex, "{byte:02x}").expect("written to memory");
        }
        panic!("broken by {name}, in hexadecimal: {hex}");
    }
}

/// One of the changes that libFuzzer makes as well.
fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut StdRng) {
    let at = random.random_range(0..=input.len());
    match random.random_range(0..7) {
        0 => input.insert(at, random.random()),
        1 => input.insert(at, *TELLING.choose(random).expect("not empty")),
        2 if at < input.len() => input[at] = random.random(),
        3 if at < input.len() => input[at] = *TELLING.choose(random).expect("not empty"),
        4 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        5 => {
            let end = random.random_range(at..=input.len());
            input.drain(at..end);
        }
        _ => {
            let other = corpus.choose(random).expect("not empty");
            let from = random.random_range(0..=other.len());
            let to = random.random_range(from..=other.len());
            input.splice(at..at, other[from..to].iter().copied());
        }
    }
}
