//! Recordings from end to end: what goes in comes out, whatever the store does meanwhile.

use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::StorageError;
use tempfile::TempDir;

use super::*;

fn memory() -> Objects {
    Objects::open(&storage::Config::in_memory()).unwrap()
}

fn in_directory(directory: &TempDir) -> Objects {
    let objects_url = format!("file:{}", directory.path().join("objects").display());
    Objects::open(&storage::Config { objects_url, ..storage::Config::in_memory() }).unwrap()
}

/// Impatient enough for a test.
fn config() -> RecordingConfig {
    RecordingConfig {
        gather: Duration::from_millis(20),
        shortest_pause: Duration::from_millis(2),
        longest_pause: Duration::from_millis(20),
        patience: Duration::from_millis(50),
        ..RecordingConfig::default()
    }
}

fn header() -> CastHeader {
    CastHeader { width: 80, height: 24, started: Timestamp::from_seconds(1_700_000_000), title: "device".to_owned() }
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn frames(objects: &Objects, session: SessionId) -> Result<Vec<Frame>, StorageError> {
    Recordings::new(objects).frames(session).try_collect().await
}

async fn shown(objects: &Objects, session: SessionId) -> Vec<u8> {
    let frames = frames(objects, session).await.unwrap();
    let outputs = frames.iter().filter_map(|frame| match &frame.content {
        Content::Output(bytes) => Some(&bytes[..]),
        Content::Resize { .. } => None,
    });
    outputs.collect::<Vec<_>>().concat()
}

async fn cast_file(objects: &Objects, session: SessionId) -> String {
    let pieces: Vec<Bytes> = Recordings::new(objects).cast(session).try_collect().await.unwrap();
    String::from_utf8(pieces.concat()).unwrap()
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        tokio::time::sleep(at(2)).await;
    }
}

/// Random bytes, as they are or as some text.
fn random_output(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let mut output = Vec::with_capacity(len + 4);
    while output.len() < len {
        match rng.random_range(0..4) {
            0 => output.push(rng.random()),
            1 => output.extend("\u{1b}[31m".as_bytes()),
            2 => output.extend(rng.random::<char>().to_string().as_bytes()),
            _ => output.push(rng.random_range(b' '..=b'~')),
        }
    }
    output
}

#[tokio::test]
async fn any_bytes_come_back_wherever_they_were_cut() {
    let objects = memory();
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let len = rng.random_range(0..60_000);
        let output = random_output(&mut rng, len);
        let longest = if seed % 2 == 0 { 4 } else { 40_000 };
        let session = SessionId::random();
        let mut recorder = Recorder::start(&objects, &config(), session, &header());
        let (mut rest, mut millis, mut sizes) = (&output[..], 0, Vec::new());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rng.random_range(0..=rest.len().min(longest)));
            millis += rng.random_range(0..5);
            recorder.output(at(millis), piece);
            rest = after;
            if rng.random_ratio(1, 50) {
                sizes.push(Content::Resize { width: rng.random(), height: rng.random() });
                let Some(&Content::Resize { width, height }) = sizes.last() else { unreachable!() };
                recorder.resize(at(millis), width, height);
            }
            if rng.random_ratio(1, 500) {
                tokio::task::yield_now().await;
            }
        }
        let summary = recorder.finish(at(millis)).await.unwrap();
        assert_eq!(summary, RecordingSummary { bytes: output.len() as u64, is_truncated: false }, "seed {seed}");
        assert_eq!(shown(&objects, session).await, output, "seed {seed}");
        let frames = frames(&objects, session).await.unwrap();
        assert!(frames.is_sorted_by_key(|frame| frame.at), "seed {seed}");
        let resizes =
            frames.into_iter().map(|frame| frame.content).filter(|content| matches!(content, Content::Resize { .. }));
        assert_eq!(resizes.collect::<Vec<_>>(), sizes, "seed {seed}");
    }
}

#[tokio::test]
async fn nine_megabytes_of_noise_come_back() {
    let objects = memory();
    let session = SessionId::random();
    let mut rng = StdRng::seed_from_u64(9);
    let mut output = vec![0; 9 * 1024 * 1024];
    rng.fill(&mut output[..]);
    let mut recorder = Recorder::start(&objects, &config(), session, &header());
    for (millis, piece) in output.chunks(32 * 1024).enumerate() {
        recorder.output(at(millis as u64), piece);
        let spool = Arc::clone(&recorder.spool);
        eventually("the store has caught up", async || spool.waiting() < 4 * 1024 * 1024).await;
    }
    let summary = recorder.finish(at(9_999)).await.unwrap();
    assert_eq!(summary, RecordingSummary { bytes: output.len() as u64, is_truncated: false });
    assert!(shown(&objects, session).await == output);
    assert!(objects.list("recordings").await.unwrap().len() > 5);
}

#[tokio::test]
async fn a_burst_that_the_store_cannot_follow_is_kept_all_the_same() {
    let objects = memory();
    let session = SessionId::random();
    let output: Vec<u8> = (0..9 * 256 * 1024_u32).flat_map(u32::to_be_bytes).collect();
    let mut recorder = Recorder::start(&objects, &config(), session, &header());
    // Without a moment for the writer: all of it waits at once.
    recorder.output(at(1), &output);
    let summary = recorder.finish(at(2)).await.unwrap();
    assert_eq!(summary, RecordingSummary { bytes: output.len() as u64, is_truncated: false });
    assert!(shown(&objects, session).await == output);
    assert!(objects.list("recordings").await.unwrap().len() <= 10, "what waits is written in larger objects");
}

#[tokio::test]
async fn the_file_is_an_asciicast_with_one_header() {
    let objects = memory();
    let session = SessionId::random();
    let mut recorder = Recorder::start(&objects, &config(), session, &header());
    recorder.output(at(500), b"$ ");
    let stored = Recordings::new(&objects);
    eventually("it can be read while the session goes on", async || {
        cast_file(&objects, session).await.contains("\"$ \"")
    })
    .await;
    recorder.resize(at(1_000), 120, 40);
    // A clock that goes back does not make time go back.
    recorder.output(at(900), b"ls\r\n");
    recorder.finish(at(2_000)).await.unwrap();

    let file = cast_file(&objects, session).await;
    let mut lines = file.lines();
    let header: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(
        header,
        serde_json::json!({"version": 2, "width": 80, "height": 24, "timestamp": 1_700_000_000, "title": "device"})
    );
    let expected = ["[0.500000, \"o\", \"$ \"]", "[1.000000, \"r\", \"120x40\"]", "[1.000000, \"o\", \"ls\\r\\n\"]"];
    assert_eq!(lines.collect::<Vec<_>>(), expected);
    assert!(stored.exists(session).await.unwrap());
}

#[tokio::test]
async fn a_session_that_shows_nothing_has_an_empty_recording() {
    let objects = memory();
    let session = SessionId::random();
    let recordings = Recordings::new(&objects);
    assert!(!recordings.exists(session).await.unwrap());
    let recorder = Recorder::start(&objects, &config(), session, &header());
    let summary = recorder.finish(at(0)).await.unwrap();
    assert_eq!(summary, RecordingSummary { bytes: 0, is_truncated: false });
    assert!(recordings.exists(session).await.unwrap());
    assert_eq!(frames(&objects, session).await.unwrap(), []);

    assert!(recordings.remove(session).await.unwrap());
    assert!(!recordings.exists(session).await.unwrap() && !recordings.remove(session).await.unwrap());
}

/// Where a store puts recordings; a file in its place makes every write fail.
fn barrier(directory: &TempDir) -> PathBuf {
    directory.path().join("objects/recordings")
}

#[tokio::test]
async fn nothing_is_lost_when_the_store_comes_back() {
    let directory = TempDir::new().unwrap();
    let objects = in_directory(&directory);
    std::fs::write(barrier(&directory), "").unwrap();
    let session = SessionId::random();
    let mut recorder = Recorder::start(&objects, &config(), session, &header());
    let mut output = Vec::new();
    for millis in 0..200 {
        let piece = [b'a' + u8::try_from(millis % 26).unwrap(); 5_000];
        output.extend(piece);
        recorder.output(at(millis), &piece);
        if millis % 10 == 0 {
            tokio::time::sleep(at(2)).await;
        }
    }
    assert!(recorder.spool.waiting() >= output.len(), "all of it waits");

    std::fs::remove_file(barrier(&directory)).unwrap();
    recorder.output(at(300), b"back");
    output.extend(b"back");
    let summary = recorder.finish(at(300)).await.unwrap();

    assert_eq!(summary, RecordingSummary { bytes: output.len() as u64, is_truncated: false });
    assert!(shown(&objects, session).await == output);
}

#[tokio::test]
async fn a_store_that_stays_away_costs_the_rest_of_the_recording_and_no_more_memory() {
    let directory = TempDir::new().unwrap();
    let objects = in_directory(&directory);
    let config = RecordingConfig { waiting_limit: 1024 * 1024, ..config() };
    let session = SessionId::random();
    let mut recorder = Recorder::start(&objects, &config, session, &header());
    recorder.output(at(1), b"before");
    eventually("the beginning is stored", async || shown(&objects, session).await == b"before").await;

    let (away, here) = (directory.path().join("away"), barrier(&directory));
    std::fs::rename(&here, &away).unwrap();
    std::fs::write(&here, "").unwrap();
    for millis in 2..2_000 {
        recorder.output(at(millis), &[b'x'; 10_000]);
        recorder.output(at(millis), b"y");
        recorder.resize(at(millis), 80, 24);
        assert!(recorder.spool.waiting() <= config.waiting_limit + EVENT);
    }
    assert!(recorder.is_truncated() && recorder.recorded_bytes() < config.waiting_limit as u64);

    // The session ends, and after a while the attempts to write its recording do.
    let summary = recorder.finish(at(2_000)).await.unwrap();
    assert_eq!(summary, RecordingSummary { bytes: 6, is_truncated: true });
    assert_eq!(config.node.used.load(Ordering::Relaxed), 0, "the room is given back");
    std::fs::remove_file(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    assert_eq!(shown(&objects, session).await, b"before");
}

/// More than the last event of a recording takes.
const EVENT: usize = 128;

#[tokio::test]
async fn a_recording_that_ran_out_of_room_says_where_it_ends() {
    let directory = TempDir::new().unwrap();
    let objects = in_directory(&directory);
    std::fs::write(barrier(&directory), "").unwrap();
    let config = RecordingConfig { waiting_limit: 100_000, patience: Duration::from_secs(30), ..config() };
    let session = SessionId::random();
    let mut recorder = Recorder::start(&objects, &config, session, &header());
    let output: Vec<u8> = (0..20_000_u32).flat_map(u32::to_be_bytes).collect();
    recorder.output(at(1), &output);
    recorder.output(at(2), &vec![0; 60_000]);
    assert!(recorder.is_truncated());
    std::fs::remove_file(barrier(&directory)).unwrap();
    // What comes after the gap is left out, so that what is there is the beginning.
    recorder.output(at(3), b"after");
    let so_far = recorder.recorded_bytes();
    let summary = recorder.finish(at(4)).await.unwrap();

    assert_eq!(summary, RecordingSummary { bytes: so_far, is_truncated: true });
    let all = [&output[..], &vec![0; 60_000]].concat();
    assert!(shown(&objects, session).await == all[..usize::try_from(so_far).unwrap()]);
    let last = cast_file(&objects, session).await.lines().last().unwrap().to_owned();
    assert!(last.contains("\"m\", \"The recording ends here: "), "{last}");
}

#[tokio::test]
async fn all_recordings_of_a_node_share_its_room() {
    let directory = TempDir::new().unwrap();
    let objects = in_directory(&directory);
    std::fs::write(barrier(&directory), "").unwrap();
    let config = RecordingConfig { node: NodeRoom::of(100_000), ..config() };
    let start = || Recorder::start(&objects, &config, SessionId::random(), &header());
    let (mut one, mut other) = (start(), start());
    one.output(at(1), &vec![b'x'; 200_000]);
    assert!(one.spool.waiting() < 100_000 + cast::PIECE + EVENT);
    other.output(at(1), b"x");
    assert!(one.is_truncated() && other.is_truncated());
    for recorder in [one, other] {
        recorder.finish(at(2)).await.unwrap();
    }
    let mut third = start();
    third.output(at(1), b"x");
    assert!(!third.is_truncated());
}

#[tokio::test]
async fn a_recording_has_a_limit() {
    let objects = memory();
    let config = RecordingConfig { limit: 1_000, ..config() };
    let (session, resized) = (SessionId::random(), SessionId::random());
    let mut recorder = Recorder::start(&objects, &config, session, &header());
    recorder.output(at(1), &[b'x'; 900]);
    assert!(!recorder.is_truncated());
    recorder.output(at(2), &[b'y'; 900]);
    recorder.output(at(3), b"z");
    let summary = recorder.finish(at(3)).await.unwrap();
    assert_eq!(summary, RecordingSummary { bytes: 1_000, is_truncated: true });
    assert_eq!(shown(&objects, session).await, [[b'x'; 900].as_slice(), &[b'y'; 100]].concat());

    let mut recorder = Recorder::start(&objects, &config, resized, &header());
    (0..1_000).for_each(|width| recorder.resize(at(1), width, 24));
    assert!(recorder.is_truncated());
    recorder.finish(at(1)).await.unwrap();
    assert!(frames(&objects, resized).await.unwrap().len() < 100);
}

#[tokio::test]
async fn what_was_stored_before_a_crash_can_be_read() {
    let objects = memory();
    let session = SessionId::random();
    let mut recorder = Recorder::start(&objects, &config(), session, &header());
    recorder.output(at(1), "stored €".as_bytes());
    eventually("the first chunk is stored", async || !shown(&objects, session).await.is_empty()).await;
    recorder.output(at(2), b"lost");
    // As in a crash: the task is gone before it could write.
    recorder.writing.as_ref().unwrap().abort();
    let _cancelled = recorder.writing.as_mut().unwrap().await;
    assert_eq!(shown(&objects, session).await, "stored €".as_bytes());

    // Another node takes the session over.
    let mut recorder = Recorder::start(&objects, &config(), session, &header());
    recorder.output(at(3), b", and more");
    recorder.finish(at(4)).await.unwrap();
    assert_eq!(shown(&objects, session).await, "stored €, and more".as_bytes());
    assert_eq!(cast_file(&objects, session).await.matches("\"version\"").count(), 1);
}

#[tokio::test]
async fn a_recorder_that_is_dropped_leaves_all_it_was_given() {
    let objects = memory();
    let session = SessionId::random();
    let mut recorder = Recorder::start(&objects, &config(), session, &header());
    recorder.output(at(1), b"the last words \xe2\x82");
    drop(recorder);
    eventually("it is stored", async || shown(&objects, session).await == b"the last words \xe2\x82").await;
}

#[tokio::test]
async fn a_bomb_in_the_store_is_not_unpacked() {
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;
    let objects = memory();
    let session = SessionId::random();
    let recordings = Recordings::new(&objects);
    let path = format!("recordings/{session}/00000000.cast.gz");

    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..64 {
        bomb.write_all(&vec![b' '; 1024 * 1024]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 100_000);
    for content in [bomb, vec![0; 9 * 1024 * 1024], b"no gzip".to_vec()] {
        objects.put(&path, content.into()).await.unwrap();
        let read = recordings.cast(session).boxed().next().await.unwrap();
        assert!(matches!(read, Err(StorageError::Corrupt(_))), "{read:?}");
        let read = recordings.frames(session).boxed().next().await.unwrap();
        assert!(matches!(read, Err(StorageError::Corrupt(_))), "{read:?}");
    }
}
