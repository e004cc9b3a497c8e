//! What a session showed can be seen again: played back to the web UI, or downloaded for any player.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::{Compression, write::GzEncoder};
use harness::traffic::{Digest, Hasher};
use harness::{
    Answer, Closed, Event, Heard, LIMIT, Packet, RealDevice, Set, Shell, Socket, TestHub, TestUser, both_sets,
    wait_until, within,
};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

both_sets!([
    a_recording_is_played_back_whole_in_order_and_with_its_silences,
    playback_begins_late_enough_and_never_falls_silent,
    playback_as_fast_as_asked_ends_by_itself,
    a_viewer_who_leaves_or_stalls_costs_nothing,
    a_viewer_shows_a_token_and_comes_from_a_page_of_ours,
    an_unknown_session_has_no_recording,
    a_recording_is_downloaded_as_an_asciicast,
    a_recording_is_deleted,
]);

const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";

/// A session of which something was recorded.
const SESSION: &str = "7d5c2c4e-3b7a-4a63-9f0e-2f3f1b0a9c11";

/// Bytes in one event of a recording at most.
const EVENT: usize = 16 * 1024;

/// Events of one object of a recording, in these tests.
const CHUNK: usize = 16;

fn playback_path(session: &str, query: &str) -> String {
    format!("/api/management/v1/deviceconnect/sessions/{session}/playback{query}")
}

pub fn recording_path(session: &str) -> String {
    format!("/api/management/v1/mooring/sessions/{session}/recording")
}

/// The event that shows these bytes, as it stands in a recording.
pub fn shown(seconds: f64, bytes: &[u8]) -> String {
    let event = json!([seconds, "o", String::from_utf8_lossy(bytes)]);
    match std::str::from_utf8(bytes) {
        Ok(_) => format!("{event}\n"),
        Err(_) => format!("{event}\n{}\n", json!([seconds, "bytes", BASE64_STANDARD.encode(bytes)])),
    }
}

/// Puts a recording of these events where the hub keeps them.
pub async fn record(hub: &TestHub, session: &str, events: &[String]) {
    let header = json!({"version": 2, "width": 80, "height": 24, "timestamp": 1_700_000_000, "title": "a device"});
    let mut chunks: Vec<String> = events.chunks(CHUNK).map(<[String]>::concat).collect();
    if chunks.is_empty() {
        chunks.push(String::new());
    }
    chunks[0].insert_str(0, &format!("{header}\n"));
    for (number, lines) in chunks.iter().enumerate() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(lines.as_bytes()).unwrap();
        hub.keep_object(&format!("recordings/{session}/{number:08}.cast.gz"), packed.finish().unwrap()).await;
    }
}

/// Bytes without any order in them.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut next).take(len.div_ceil(8)).flatten().collect();
    bytes.truncate(len);
    bytes
}

pub async fn watch(user: &TestUser, hub: &TestHub, session: &str, query: &str) -> Socket {
    let bearer = format!("Bearer {}", user.token);
    let socket = Socket::connect(hub, &playback_path(session, query), &[("Authorization", &bearer)]).await;
    socket.unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// Everything that is played, and how it ends.
pub async fn see_all(socket: &mut Socket) -> (Vec<Heard>, Closed) {
    let mut heard = Vec::new();
    loop {
        match within(LIMIT, "the next of a playback", socket.next()).await {
            Event::Message(message) => heard.push(message),
            Event::Pong(_) => {}
            Event::Closed(closed) => return (heard, closed),
        }
    }
}

fn output(messages: &[Heard]) -> Vec<u8> {
    messages.iter().filter(|heard| heard.is(1, "shell")).flat_map(|heard| heard.body().to_vec()).collect()
}

async fn a_recording_is_played_back_whole_in_order_and_with_its_silences(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for len in [0, 1_023, 3_000, 100 * 1024, 9 * 1024 * 1024] {
        let session = format!("7d5c2c4e-3b7a-4a63-9f0e-{len:012}");
        let bytes = noise(len);
        let events: Vec<String> = bytes.chunks(EVENT).map(|piece| shown(0.5, piece)).collect();
        record(&hub, &session, &events).await;

        let mut socket = watch(&user, &hub, &session, "?sleep_ms=0").await;
        let (heard, closed) = see_all(&mut socket).await;

        assert_eq!(closed.code(), Some(1000), "{len} bytes");
        assert!(output(&heard) == bytes, "{len} bytes");
        for message in &heard {
            assert!(message.is(1, "shell") && (1..=1024).contains(&message.body().len()), "{message:?}");
            assert_eq!(message.sid(), session);
            assert_eq!(message.proto_marker(), 0xcd, "browsers compare it with a number");
        }
    }

    let events = [
        shown(1.4, b"a"),
        format!("{}\n", json!([1.5, "r", "132x43"])),
        shown(2.0, b"b"),
        shown(3.5, b"c"),
        shown(100.0, b"d"),
    ];
    record(&hub, SESSION, &events).await;
    let (heard, _) = see_all(&mut watch(&user, &hub, SESSION, "?sleep_ms=0").await).await;
    let told: Vec<String> = heard
        .iter()
        .map(|message| match message.typ() {
            "shell" => String::from_utf8(message.body().to_vec()).unwrap(),
            "delay" => format!("delay {}", message.number("delay_value").unwrap()),
            "resize" => {
                let size = |name| message.number(name).unwrap();
                format!("resize {}x{}", size("terminal_width"), size("terminal_height"))
            }
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(told, ["a", "resize 132x43", "b", "delay 1500", "c", "delay 65535", "d"]);
    assert!(heard.iter().filter(|heard| heard.typ() != "shell").all(|heard| !heard.has_body()));
}

async fn playback_begins_late_enough_and_never_falls_silent(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let events: Vec<String> = (0..4).map(|number| shown(f64::from(number), &[b'x'; 1024])).collect();
    record(&hub, SESSION, &events).await;
    // A pause that would look like the end is cut short.
    for (query, shortest) in [("", 90), ("?sleep_ms=250", 230), ("?sleep_ms=5000", 700)] {
        let began = Instant::now();
        let mut socket = watch(&user, &hub, SESSION, query).await;
        let (mut last, mut gaps) = (began, vec![]);
        for number in 0..4 {
            let heard = socket.hear().await;
            gaps.push(last.elapsed());
            last = Instant::now();
            assert!(heard.is(1, "shell"), "{heard:?}");
            let earliest = Duration::from_millis(100 + shortest * number);
            assert!(began.elapsed() >= earliest, "{query}: {:?} before message {number}", began.elapsed());
        }
        // Most of them: on a busy machine one may wait for its turn.
        gaps.sort();
        assert!(gaps[gaps.len() / 2] < Duration::from_secs(1), "{query}: {gaps:?}");
        assert_eq!(socket.end(Duration::from_secs(1)).await.code(), Some(1000), "{query}");
    }
}

async fn playback_as_fast_as_asked_ends_by_itself(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let events: Vec<String> = (0..50).map(|_| shown(0.1, &[b'x'; 1024])).collect();
    record(&hub, SESSION, &events).await;
    let begun = Instant::now();
    let mut socket = watch(&user, &hub, SESSION, "?sleep_ms=0").await;
    let first = socket.hear().await;
    assert!(first.is(1, "shell") && begun.elapsed() >= Duration::from_millis(100));
    let (heard, closed) = see_all(&mut socket).await;
    assert_eq!((heard.len(), closed.code()), (49, Some(1000)));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?} for 50 messages", begun.elapsed());

    record(&hub, UNKNOWN, &[]).await;
    let (heard, closed) = see_all(&mut watch(&user, &hub, UNKNOWN, "").await).await;
    assert_eq!((heard.len(), closed.code()), (0, Some(1000)), "nothing was shown, so nothing is");

    for wrong in ["?sleep_ms=-1", "?sleep_ms=soon"] {
        let bearer = format!("Bearer {}", user.token);
        let refused = Socket::connect(&hub, &playback_path(SESSION, wrong), &[("Authorization", &bearer)]).await;
        assert!(refused.err().unwrap().expect(400).error().contains("sleep_ms"));
    }
}

async fn a_viewer_who_leaves_or_stalls_costs_nothing(set: Set) {
    let hub = set.hub_with(|config| config.api.sockets.sockets_limit = 4).await;
    let user = hub.user().await;
    let events: Vec<String> = noise(2 * 1024 * 1024).chunks(EVENT).map(|piece| shown(0.5, piece)).collect();
    record(&hub, SESSION, &events).await;
    for round in 0..12 {
        let query = if round % 2 == 0 { "?sleep_ms=0" } else { "" };
        // The limit on sockets says whether those before are gone.
        let bearer = format!("Bearer {}", user.token);
        let mut socket = wait_until(LIMIT, "room for another viewer", async || {
            Socket::connect(&hub, &playback_path(SESSION, query), &[("Authorization", &bearer)]).await.ok()
        })
        .await;
        // What a viewer says is of no interest.
        socket.say(&Packet::shell("shell").body("anybody there?")).await;
        socket.hear().await;
        match round % 3 {
            0 => socket.reset(),
            1 => socket.hang_up(),
            _ => socket.close(1000).await,
        }
    }
    // One who takes nothing for a while gets all of it afterwards.
    let bearer = format!("Bearer {}", user.token);
    let mut stalled = wait_until(LIMIT, "room for another viewer", async || {
        Socket::connect(&hub, &playback_path(SESSION, "?sleep_ms=0"), &[("Authorization", &bearer)]).await.ok()
    })
    .await;
    let mut other = watch(&user, &hub, SESSION, "?sleep_ms=0").await;
    let (heard, _) = see_all(&mut other).await;
    assert!(output(&heard) == noise(2 * 1024 * 1024));
    let (heard, closed) = see_all(&mut stalled).await;
    assert_eq!(closed.code(), Some(1000));
    assert!(output(&heard) == noise(2 * 1024 * 1024));
}

async fn a_viewer_shows_a_token_and_comes_from_a_page_of_ours(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    record(&hub, SESSION, &[shown(0.0, b"x")]).await;
    let path = playback_path(SESSION, "");
    let of_device = format!("Bearer {}", device.token);
    for headers in [vec![], vec![("Authorization", "Bearer nonsense")], vec![("Authorization", of_device.as_str())]] {
        Socket::connect(&hub, &path, &headers).await.err().unwrap().refuses_token();
    }
    let cookie = format!("JWT={}", user.token);
    let foreign = [("Cookie", cookie.as_str()), ("Origin", "https://evil.example.com")];
    Socket::connect(&hub, &path, &foreign).await.err().unwrap().expect(403).error();
    let own = format!("http://{}", hub.address());
    let own = [("Cookie", cookie.as_str()), ("Origin", own.as_str())];
    let mut socket = Socket::connect(&hub, &path, &own).await.unwrap_or_else(|refusal| panic!("{refusal}"));
    assert_eq!(socket.hear().await.body(), b"x");

    let refused = user.get(&path).await.expect(400);
    assert!(refused.error().contains("the client is not using the websocket protocol"), "{refused}");
}

async fn an_unknown_session_has_no_recording(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let bearer = format!("Bearer {}", user.token);
    for id in [UNKNOWN, "malformed", "7D5C2C4E-3B7A-4A63-9F0E-2F3F1B0A9C11", "..", "%2e%2e"] {
        let path = playback_path(id, "");
        let refused = Socket::connect(&hub, &path, &[("Authorization", &bearer)]).await.err().unwrap();
        refused.expect(404).error();
        user.get(&path).await.expect(404).error();
        user.get(&recording_path(id)).await.expect(404).error();
        user.delete(&recording_path(id)).await.expect(404).error();
    }
}

async fn a_recording_is_downloaded_as_an_asciicast(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let events: Vec<String> = (0..100).map(|number| shown(f64::from(number), b"line\r\n")).collect();
    record(&hub, SESSION, &events).await;

    let answer = user.get(&recording_path(SESSION)).await.expect(200);

    assert_eq!(answer.header("content-type"), "application/x-asciicast");
    assert_eq!(answer.header("content-disposition"), format!("attachment; filename=\"{SESSION}.cast\""));
    let text = answer.text();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(lines.next().unwrap()["version"], 2);
    let expected: Vec<Value> = (0..100).map(|number| json!([f64::from(number), "o", "line\r\n"])).collect();
    assert_eq!(lines.collect::<Vec<_>>(), expected);

    // One whose end cannot be read breaks off instead of looking whole.
    hub.keep_object(&format!("recordings/{SESSION}/00000002.cast.gz"), b"no gzip".to_vec()).await;
    assert!(Answer::try_to(user.request("GET", &recording_path(SESSION))).await.is_err());
    hub.keep_object(&format!("recordings/{SESSION}/00000000.cast.gz"), b"no gzip".to_vec()).await;
    user.get(&recording_path(SESSION)).await.expect(500).error();
}

async fn a_recording_is_deleted(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let events: Vec<String> = (0..100).map(|number| shown(f64::from(number), b"x")).collect();
    record(&hub, SESSION, &events).await;
    record(&hub, UNKNOWN, &[shown(0.0, b"another")]).await;

    user.delete(&recording_path(SESSION)).await.expect(204);

    user.get(&recording_path(SESSION)).await.expect(404);
    user.delete(&recording_path(SESSION)).await.expect(404);
    assert!(user.get(&recording_path(UNKNOWN)).await.expect(200).text().contains("another"));
}

#[tokio::test]
async fn what_a_terminal_showed_is_played_back_and_what_was_only_typed_is_not() {
    let hub = Set::Production.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new").prop("terminal_width", 80).prop("terminal_height", 24)).await;
    let sid = socket.hear().await.sid().to_owned();
    socket.say(&Packet::shell("new").sid(&sid).prop("status", 1).body("Shell started")).await;
    session.hear().await;
    let mut shell = Shell { socket: session, sid: sid.clone() };
    // A device that does not echo, as when it asks for a password.
    shell.type_in("hunter2").await;
    socket.hear().await;
    let bytes = noise(9 * 1024 * 1024);
    for piece in bytes.chunks(32 * 1024) {
        socket.say(&Packet::shell("shell").sid(&sid).prop("status", 1).body(piece)).await;
        // An operator who falls behind would miss some of it.
        shell.shows(piece).await;
    }
    shell.socket.close(1000).await;

    let played = wait_until(LIMIT, "the whole recording", async || {
        let bearer = format!("Bearer {}", user.token);
        let path = playback_path(&sid, "?sleep_ms=0");
        let mut viewer = Socket::connect(&hub, &path, &[("Authorization", &bearer)]).await.ok()?;
        let played = output(&see_all(&mut viewer).await.0);
        (played.len() >= bytes.len()).then_some(played)
    })
    .await;

    assert!(played == bytes);
    let file = user.get(&recording_path(&sid)).await.expect(200).text();
    assert!(!file.contains("hunter2"));
}

/// What a shell says before and after a flood; what is typed for it looks different, in case it is echoed.
const FLOOD: [&str; 2] = ["flood-begins-42", "flood-ends-42"];

/// Finds a flood in the output of a shell, wherever it is cut, and digests it.
#[derive(Default)]
struct Flood {
    hasher: Option<Hasher>,
    /// The last bytes, of which a mark may begin.
    kept: Vec<u8>,
}

impl Flood {
    /// Bytes of it so far, once it has begun.
    fn seen(&self) -> Option<u64> {
        // What may be the beginning of a mark is not counted yet.
        self.hasher.as_ref().map(|hasher| hasher.length() + self.kept.len() as u64)
    }

    /// More output; the flood's digest once it is over.
    fn hear(&mut self, output: &[u8]) -> Option<Digest> {
        self.kept.extend_from_slice(output);
        loop {
            let mark = FLOOD[usize::from(self.hasher.is_some())].as_bytes();
            let found = self.kept.windows(mark.len()).position(|window| window == mark);
            let passed = found.unwrap_or_else(|| self.kept.len().saturating_sub(mark.len() - 1));
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.kept[..passed]);
            }
            self.kept.drain(..passed + if found.is_some() { mark.len() } else { 0 });
            match (found, self.hasher.take()) {
                (Some(_), Some(hasher)) => return Some(hasher.finish()),
                (Some(_), None) => self.hasher = Some(Hasher::default()),
                (None, hasher) => {
                    self.hasher = hasher;
                    return None;
                }
            }
        }
    }
}

/// The next output of a shell; the agent's question whether anybody is there is answered, as all clients do.
async fn more(shell: &mut Shell) -> Heard {
    loop {
        let heard = within(LIMIT, "more of the flood", shell.socket.hear()).await;
        if !heard.is(1, "ping") {
            assert!(heard.is(1, "shell"), "{heard:?}");
            return heard;
        }
        shell.socket.say(&Packet::shell("pong")).await;
    }
}

/// Bytes that a shell writes before it waits for a key, as fit into the way to an operator.
const BLOCK: u64 = 16 * 1024;

/// A real shell that floods a recorded terminal, as fast as its reader reads: nothing is lost on the way to the operator or
/// into the recording, and the hub holds none of it.
async fn a_flood_is_seen_recorded_and_played_back(size: u64) {
    /// The recorder's own: a chunk of events, and the compressor's.
    const ALLOWED_GROWTH: u64 = 8 * 1024 * 1024;
    let _turn = harness::turn_of_the_heavy().await;
    let mut hub = Set::Embedded.process(&[]).await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let connections = device.connections();
    let mut shell = Shell::start_real(&user, &id).await;

    // Once with little, so that the hub has had what it needs for traffic of this kind.
    let mut seen = vec![];
    let mut most = [0; 2];
    for (round, blocks) in [64, size / BLOCK].into_iter().enumerate() {
        let flood = format!("while read -r key; do yes 0123456789 | head -c {BLOCK}; done");
        shell.type_in(format!("stty -echo; echo flood-begins-$((6*7)); {flood}; echo flood-ends-$((6*7))\n")).await;
        let (mut flood, mut asked) = (Flood::default(), 0);
        seen.push(loop {
            let heard = more(&mut shell).await;
            if let Some(digest) = flood.hear(heard.body()) {
                break digest;
            }
            // Every line end is two bytes on a terminal.
            if flood.seen().is_some_and(|seen| seen >= asked * (BLOCK + BLOCK / 11)) {
                most[round] = most[round].max(hub.anonymous_memory());
                asked += 1;
                shell.type_in(if asked <= blocks { "\n" } else { "\x04" }).await;
            }
        });
        // The end of the mark's own line comes first.
        assert_eq!(seen[round].length, 2 + blocks * (BLOCK + BLOCK / 11));
    }
    assert_eq!(device.connections(), connections, "the device has been connected all along");
    let growth = most[1].saturating_sub(most[0]);
    assert!(growth <= ALLOWED_GROWTH, "the hub grew by {growth} bytes");
    shell.socket.close(1000).await;

    // The end of the recording may be on its way to the store. However often that takes, as long as it goes on: this only
    // ends recordings that are never whole.
    let limit = LIMIT * 2 + Duration::from_secs(size >> 21);
    let (played, took) = wait_until(limit, "the whole recording", async || {
        let begun = Instant::now();
        let bearer = format!("Bearer {}", user.token);
        let path = playback_path(&shell.sid, "?sleep_ms=0");
        let mut viewer = Socket::connect(&hub, &path, &[("Authorization", &bearer)]).await.ok()?;
        let (mut flood, mut played) = (Flood::default(), vec![]);
        loop {
            match within(LIMIT, "the next of a playback", viewer.next()).await {
                Event::Message(heard) if heard.is(1, "shell") => played.extend(flood.hear(heard.body())),
                Event::Message(_) | Event::Pong(_) => {}
                Event::Closed(_) => break,
            }
        }
        (played.len() == seen.len()).then(|| (played, begun.elapsed()))
    })
    .await;
    assert_eq!(played, seen);
    eprintln!("a flood of {size} bytes: the hub grew by {growth} bytes; its playback is equal and took {took:?}");
}

#[tokio::test]
async fn a_flood_of_sixteen_mebibytes_is_seen_recorded_and_played_back() {
    a_flood_is_seen_recorded_and_played_back(16 * 1024 * 1024).await;
}

#[tokio::test]
#[ignore = "takes minutes; run it by its name"]
async fn a_flood_of_a_gibibyte_is_seen_recorded_and_played_back() {
    a_flood_is_seen_recorded_and_played_back(1024 * 1024 * 1024).await;
}

/// The same without any pace: some of it may be skipped for its reader, but never the end of it, and the device and the
/// session live.
async fn a_flood_without_a_pace_ends_with_its_end(size: u64) {
    let _turn = harness::turn_of_the_heavy().await;
    let mut hub = Set::Embedded.process(&[]).await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let connections = device.connections();
    let mut shell = Shell::start_real(&user, &id).await;
    let mut most = [0; 2];
    for (round, bytes) in [1024 * 1024, size].into_iter().enumerate() {
        shell.type_in(format!("stty -echo; yes | head -c {bytes}; echo flood-ends-$((6*7))\n")).await;
        let (mut shown, mut messages) = (String::new(), 0_u64);
        while !shown.contains(FLOOD[1]) {
            let heard = more(&mut shell).await;
            shown.drain(..shown.len().saturating_sub(FLOOD[1].len()));
            shown += &String::from_utf8_lossy(heard.body());
            if messages.is_multiple_of(1024) {
                most[round] = most[round].max(hub.anonymous_memory());
            }
            messages += 1;
        }
    }
    shell.type_in("echo still-$((6*7))\n").await;
    within(LIMIT, "the shell's answer", shell.prints("still-42")).await;
    assert_eq!(device.connections(), connections, "the device has been connected all along");
    let growth = most[1].saturating_sub(most[0]);
    eprintln!("a flood of {size} bytes without a pace: the hub grew by {growth} bytes");
    assert!(growth <= 8 * 1024 * 1024, "the hub grew by {growth} bytes");
}

#[tokio::test]
async fn a_flood_of_sixteen_mebibytes_without_a_pace_ends_with_its_end() {
    a_flood_without_a_pace_ends_with_its_end(16 * 1024 * 1024).await;
}

#[tokio::test]
#[ignore = "takes minutes; run it by its name"]
async fn a_flood_of_a_gibibyte_without_a_pace_ends_with_its_end() {
    a_flood_without_a_pace_ends_with_its_end(1024 * 1024 * 1024).await;
}
