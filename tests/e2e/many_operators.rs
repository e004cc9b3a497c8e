//! Several operators on one device: none is in another's way, whatever one of them does or does not do.

use harness::{
    Heard, LIMIT, Packet, Set, Shell, TestDevice, TestHub, TestUser, answer_like_a_shell, wait_until, within,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Growth of the hub that is no growth: what a few more messages on their way need.
const ALLOWED_GROWTH: u64 = 1024 * 1024;

/// Keys whose way there and back is timed.
const KEYS: usize = 400;

/// What the agent's writes may take before it gives its connection up.
const LONGEST_WRITE: Duration = Duration::from_secs(2);

/// The output offered to an operator who reads nothing.
const OFFERED: usize = 16 * 1024 * 1024;

/// A device that answers like a shell; told to flood, it floods that session beside everything else.
struct Flooding {
    device: TestDevice,
    /// Bytes that the flooded session was offered.
    offered: Arc<AtomicUsize>,
    /// The longest time that one message took to be written, in microseconds.
    longest: Arc<AtomicUsize>,
    /// Pings answered by the hub.
    pongs: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<harness::Closed>,
}

impl Flooding {
    async fn start(hub: &TestHub, user: &TestUser) -> Self {
        let device = hub.accepted_by(user).await;
        let mut socket = device.connect().await;
        let [offered, longest, pongs]: [Arc<AtomicUsize>; 3] = Default::default();
        let (offers, longs, pong_count) = (Arc::clone(&offered), Arc::clone(&longest), Arc::clone(&pongs));
        let task = tokio::spawn(async move {
            let mut flooded: Option<String> = None;
            let output = [b'z'; 200];
            let mut since_ping = 0;
            loop {
                let is_flooding = flooded.is_some() && offers.load(Ordering::Relaxed) < OFFERED;
                let event = if is_flooding {
                    // As the agent does it: small messages, and in between whatever the hub says.
                    let sid = flooded.as_deref().unwrap_or_default();
                    let packet = Packet::shell("shell").sid(sid).prop("status", 1).body(output).bytes();
                    let started = Instant::now();
                    for _ in 0..32 {
                        if socket.try_send(packet.clone()).await.is_err() {
                            return harness::Closed::Cut;
                        }
                    }
                    let micros = usize::try_from(started.elapsed().as_micros()).unwrap_or(usize::MAX);
                    longs.fetch_max(micros, Ordering::Relaxed);
                    offers.fetch_add(32 * output.len(), Ordering::Relaxed);
                    since_ping += 1;
                    if since_ping == 100 {
                        since_ping = 0;
                        socket.ping(b"60").await;
                    }
                    match tokio::time::timeout(Duration::from_millis(1), socket.next()).await {
                        Ok(event) => event,
                        Err(_) => continue,
                    }
                } else {
                    socket.next().await
                };
                match event {
                    harness::Event::Message(heard) => {
                        if heard.is(1, "shell") && heard.body() == b"flood" {
                            flooded = Some(heard.sid().to_owned());
                            continue;
                        }
                        if heard.is(1, "stop") && flooded.as_deref() == Some(heard.sid()) {
                            flooded = None;
                        }
                        for packet in answer_like_a_shell(&heard) {
                            if socket.try_send(packet.bytes()).await.is_err() {
                                return harness::Closed::Cut;
                            }
                        }
                    }
                    harness::Event::Pong(_) => {
                        pong_count.fetch_add(1, Ordering::Relaxed);
                    }
                    harness::Event::Closed(closed) => return closed,
                }
            }
        });
        Self { device, offered, longest, pongs, task }
    }
}

/// Times of single keys, there and back, sorted.
async fn timed_keys(shells: &mut [Shell; 2]) -> Vec<Duration> {
    let mut times = Vec::with_capacity(2 * KEYS);
    for key in 0..KEYS {
        for shell in shells.iter_mut() {
            let started = Instant::now();
            within(LIMIT, "a key to come back", shell.echoes(format!("{key};"))).await;
            times.push(started.elapsed());
        }
    }
    times.sort_unstable();
    times
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

#[tokio::test]
async fn a_frozen_session_changes_nothing_for_the_others_on_its_device() {
    let _turn = harness::turn_of_the_heavy().await;
    // What a recording takes is measured where one is: `a_stalled_operator_of_a_recorded_terminal_costs_the_hub_little`.
    let mut hub = Set::Embedded.process(&[("MOORING_ACTORS__SESSIONS__RECORD", "false")]).await;
    let user = hub.user().await;
    let flooding = Flooding::start(&hub, &user).await;
    let mut others = [
        Shell::start(user.open(&flooding.device.id).await).await,
        Shell::start(user.open(&flooding.device.id).await).await,
    ];
    // A reader first, so that the hub has once had all that such traffic needs.
    let mut third = Shell::start(user.open(&flooding.device.id).await).await;
    third.type_in("key").await;
    timed_keys(&mut others).await;
    let before = timed_keys(&mut others).await;
    let memory = hub.anonymous_memory();

    // From here on it is not read.
    third.type_in("flood").await;
    let mut most = memory;
    wait_until(LIMIT, "more than any window to be offered", async || {
        (flooding.offered.load(Ordering::Relaxed) > 1024 * 1024).then_some(())
    })
    .await;
    let frozen = timed_keys(&mut others).await;
    most = most.max(hub.anonymous_memory());
    wait_until(LIMIT * 4, "everything to be offered", async || {
        most = most.max(hub.anonymous_memory());
        (flooding.offered.load(Ordering::Relaxed) >= OFFERED).then_some(())
    })
    .await;
    let after = timed_keys(&mut others).await;

    let ratio = |times: &[Duration]| p99(times).as_secs_f64() / p99(&before).as_secs_f64();
    eprintln!(
        "p99 of a key beside a frozen session, to before ({:?}): {:.2} while it is flooded, {:.2} then",
        p99(&before),
        ratio(&frozen),
        ratio(&after)
    );
    // Not a figure of speed: what the agent bears.
    let longest = Duration::from_micros(flooding.longest.load(Ordering::Relaxed) as u64);
    assert!(longest < LONGEST_WRITE, "the hub did not read the device for {longest:?}");
    assert!(flooding.pongs.load(Ordering::Relaxed) > 10, "pings of the device were answered");
    let growth = most.saturating_sub(memory);
    assert!(growth <= ALLOWED_GROWTH, "the hub grew by {growth} bytes");
    assert!(!flooding.task.is_finished(), "the device is lost");
    assert_eq!(user.status(&flooding.device.id).await, "connected");
}

/// What was not read is skipped or the session ends, and the operator is told which; a terminal never just goes on with a
/// hole in it.
#[tokio::test]
async fn an_operator_who_reads_again_after_a_flood_is_told_what_is_missing() {
    // However long the flood takes here: an operator who takes nothing for longer is cut off, and no word gets through to it.
    let hub = Set::Embedded.hub_with(|config| config.api.sockets.stall_limit = Duration::from_mins(10)).await;
    let user = hub.user().await;
    let flooding = Flooding::start(&hub, &user).await;
    let mut frozen = Shell::start(user.open(&flooding.device.id).await).await;
    frozen.type_in("flood").await;
    wait_until(LIMIT * 4, "everything to be offered", async || {
        (flooding.offered.load(Ordering::Relaxed) >= OFFERED).then_some(())
    })
    .await;

    let (mut output, mut said, mut ended) = (0, String::new(), false);
    within(LIMIT, "the operator to hear what happened", async {
        while !ended && !is_notice(&said) {
            match frozen.socket.next().await {
                harness::Event::Message(heard) if heard.is(1, "shell") => {
                    let before = said.len();
                    said.extend(heard.body().iter().filter(|byte| **byte != b'z').map(|byte| char::from(*byte)));
                    output += heard.body().len().saturating_sub(said.len() - before);
                }
                harness::Event::Message(heard) => ended = heard.is(1, "stop"),
                harness::Event::Pong(_) => {}
                harness::Event::Closed(closed) => {
                    assert!(closed.code().is_some(), "cut without a word");
                    ended = true;
                }
            }
        }
    })
    .await;
    assert!(output < OFFERED, "all of it was kept somewhere");
    if !ended {
        // It goes on, with the newest.
        frozen.type_in("and on\n").await;
        within(LIMIT * 4, "what was typed", async {
            while !said.contains("and on") {
                let heard = frozen.socket.hear().await;
                said.extend(heard.body().iter().filter(|byte| **byte != b'z').map(|byte| char::from(*byte)));
            }
        })
        .await;
    }
}

/// Words in the output that the device never said.
fn is_notice(said: &str) -> bool {
    said.chars().filter(char::is_ascii_alphabetic).count() > 10
}

/// Rows 21: many sessions of two users at once, each with its own bytes and sizes, on the same device.
#[tokio::test]
async fn sixteen_sessions_on_one_device_hear_only_their_own_in_order() {
    const LINES: usize = 300;
    let _turn = harness::turn_of_the_heavy().await;
    let hub = Set::Production.hub().await;
    let users = [hub.user().await, hub.another_user("second@example.com").await];
    let device = hub.accepted_by(&users[0]).await;
    let mut socket = device.connect().await;
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });

    let mut work = Vec::new();
    for number in 0..16 {
        let mut shell = Shell::start(users[number % 2].open(&device.id).await).await;
        work.push(tokio::spawn(async move {
            for line in 0..LINES {
                let text = format!("{number}:{line}:{}\n", "y".repeat(line % 97 * (number + 1)));
                shell.echoes(text).await;
            }
        }));
    }
    for task in work {
        within(LIMIT * 4, "every session", task).await.unwrap();
    }
}

/// Sessions beyond what one device or one user may have are refused with a reason, and nobody loses one for it.
#[tokio::test]
async fn a_session_too_many_is_refused_and_the_others_stay() {
    let hub = Set::Embedded.hub_with(|config| config.actors.sessions.per_device = 3).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    let mut shells = Vec::new();
    for _ in 0..3 {
        shells.push(Shell::start(user.open(&device.id).await).await);
    }
    // Said before or after the handshake: only the device's node knows.
    match user.try_open(&device.id).await {
        Err(refusal) => {
            assert!([409, 429, 503].contains(&refusal.status), "{refusal}");
            refusal.error();
        }
        Ok(mut session) => {
            let closed = session.end(LIMIT).await;
            assert!(matches!(&closed, harness::Closed::Properly(_, why) if why.contains("too many")), "{closed:?}");
        }
    }
    for shell in &mut shells {
        shell.echoes("still here").await;
    }
    shells.pop().unwrap().socket.close(1000).await;
    wait_until(LIMIT, "a shell in the free place", async || {
        let mut session = user.try_open(&device.id).await.ok()?;
        session.try_send(Packet::shell("new").bytes()).await.ok()?;
        matches!(session.next().await, harness::Event::Message(heard) if heard.is(1, "new")).then_some(())
    })
    .await;
}

/// What an operator hears is told apart by its session alone.
#[tokio::test]
async fn output_is_never_mixed_between_sessions_however_it_is_cut() {
    let hub = Set::Embedded.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let mut session = user.open(&device.id).await;
        session.say(&Packet::shell("new")).await;
        let sid = socket.hear().await.sid().to_owned();
        for answer in answer_like_a_shell(&Heard::read(Packet::shell("new").sid(&sid).bytes())) {
            socket.say(&answer).await;
        }
        session.hear().await;
        sessions.push((session, sid));
    }
    for round in 0..200_usize {
        for (number, (_, sid)) in sessions.iter().enumerate() {
            let letter = b'a' + u8::try_from(number).unwrap();
            let body = vec![letter; 1 + round % 255];
            socket.say(&Packet::shell("shell").sid(sid).prop("status", 1).body(body)).await;
        }
    }
    let wanted: usize = (0..200_usize).map(|round| 1 + round % 255).sum();
    for (number, (mut session, sid)) in sessions.into_iter().enumerate() {
        let mut seen = Vec::new();
        while seen.len() < wanted {
            let heard = session.hear().await;
            assert!(heard.is(1, "shell") && heard.sid() == sid, "{heard:?}");
            seen.extend_from_slice(heard.body());
        }
        let letter = b'a' + u8::try_from(number).unwrap();
        assert!(seen.len() == wanted && seen.iter().all(|byte| *byte == letter));
    }
}
