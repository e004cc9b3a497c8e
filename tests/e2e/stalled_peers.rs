//! Peers that take nothing, while the other side offers a lot: the hub keeps its size, and everybody else their service.

use harness::{LIMIT, Packet, Set, Shell, Socket, TestHub, TestUser, answer_like_a_shell, wait_until, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const OFFERED: usize = 64 * 1024 * 1024;
const ALLOWED_GROWTH: u64 = 1024 * 1024;

/// With a recording there are its chunk, the compressor and the threads that write files besides.
const ALLOWED_GROWTH_RECORDED: u64 = 8 * 1024 * 1024;

/// The agent gives up its connection for good when it cannot write for four seconds.
const LONGEST_WRITE: Duration = Duration::from_secs(2);

/// A terminal message of about this many bytes, as one websocket frame masked with zeros.
fn frame(sid: &str, size: usize) -> Vec<u8> {
    let empty = Packet::shell("shell").sid(sid).prop("status", 1).body("").bytes().len();
    let message =
        Packet::shell("shell").sid(sid).prop("status", 1).body(vec![b'x'; size.saturating_sub(empty).max(8)]).bytes();
    let mut frame = match u16::try_from(message.len()).expect("a message below 64 KiB") {
        length @ 0..126 => vec![0x82, 0x80 | u8::try_from(length).expect("it was just compared")],
        length => [&[0x82, 0xfe][..], &length.to_be_bytes()].concat(),
    };
    frame.extend([0; 4]);
    frame.extend(message);
    frame
}

/// Offers messages of this size until 64 MiB of them were offered or nothing was taken for a while.
async fn offer(socket: &mut Socket, sid: &str, size: usize, offered: &AtomicUsize) -> Duration {
    let frame = frame(sid, size);
    let batch = frame.repeat((64 * 1024 / frame.len()).max(1));
    let mut longest = Duration::ZERO;
    while offered.load(Ordering::Relaxed) < OFFERED {
        let started = Instant::now();
        socket.write_raw(&batch).await;
        longest = longest.max(started.elapsed());
        offered.fetch_add(batch.len(), Ordering::Relaxed);
    }
    longest
}

/// Another device and its operator, who work while something else is stalled.
async fn others(hub: &TestHub, user: &TestUser) -> Shell {
    let device = hub.accepted_by(user).await;
    let mut socket = device.connect().await;
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    Shell::start(user.open(&device.id).await).await
}

/// The hub, warmed up: what it needs once for traffic of this kind it has.
async fn warm_hub(size: usize, recorded: bool) -> (TestHub, TestUser) {
    let record = if recorded { "true" } else { "false" };
    let settings = [("MOORING_API__SOCKETS__STALL_LIMIT", "5s"), ("MOORING_ACTORS__SESSIONS__RECORD", record)];
    let hub = Set::Embedded.process(&settings).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    let sid = socket.hear().await.sid().to_owned();
    let reading = tokio::spawn(async move { session.end(LIMIT * 4).await });
    let offered = AtomicUsize::new(OFFERED - 8 * 1024 * 1024);
    offer(&mut socket, &sid, size, &offered).await;
    socket.reset();
    reading.await.unwrap();
    (hub, user)
}

async fn a_stalled_operator(size: usize, recorded: bool, allowed: u64) {
    let _turn = harness::turn_of_the_heavy().await;
    let (mut hub, user) = warm_hub(size, recorded).await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut other = others(&hub, &user).await;
    // Not read from here on.
    let mut stalled = user.open(&device.id).await;
    stalled.say(&Packet::shell("new")).await;
    let sid = socket.hear().await.sid().to_owned();
    let before = hub.anonymous_memory();

    let offered = AtomicUsize::new(0);
    let mut most = before;
    let longest = {
        let offering = offer(&mut socket, &sid, size, &offered);
        tokio::pin!(offering);
        loop {
            tokio::select! {
                longest = &mut offering => break longest,
                () = within(Duration::from_secs(5), "a key of somebody else", other.echoes("key")) => {
                    most = most.max(hub.anonymous_memory());
                }
            }
        }
    };

    most = most.max(hub.anonymous_memory());
    let growth = most.saturating_sub(before);
    assert!(growth <= allowed, "the hub grew by {growth} bytes");
    assert!(longest < LONGEST_WRITE, "the hub did not read the device for {longest:?}");
    // The session of the operator who reads nothing is ended, and the device stays.
    let stop = socket.hear_for(1, "stop", LIMIT).await;
    assert_eq!(stop.sid(), sid);
    assert_eq!(user.status(&device.id).await, "connected");
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    Shell::start(user.open(&device.id).await).await.echoes("and goes on").await;
}

async fn a_stalled_device(size: usize) {
    let _turn = harness::turn_of_the_heavy().await;
    let (mut hub, user) = warm_hub(size, false).await;
    let device = hub.accepted_by(&user).await;
    // Not read from here on.
    let socket = device.connect().await;
    let mut other = others(&hub, &user).await;
    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    let before = hub.anonymous_memory();

    let offered = Arc::new(AtomicUsize::new(0));
    let offering = {
        let offered = Arc::clone(&offered);
        tokio::spawn(async move {
            offer(&mut session, "", size, &offered).await;
        })
    };
    // The hub takes what it has room for and then leaves the operator waiting.
    let mut most = before;
    let mut last = (0, Instant::now());
    while last.1.elapsed() < Duration::from_secs(2) && !offering.is_finished() {
        within(Duration::from_secs(5), "a key of somebody else", other.echoes("key")).await;
        most = most.max(hub.anonymous_memory());
        let taken = offered.load(Ordering::Relaxed);
        if taken != last.0 {
            last = (taken, Instant::now());
        }
    }

    let growth = most.saturating_sub(before);
    assert!(growth <= ALLOWED_GROWTH, "the hub grew by {growth} bytes");
    assert!(last.0 < OFFERED, "somebody has taken all of it");
    // It is given up in the end, so that it can come back.
    wait_until(LIMIT, "the stalled device to be given up", async || {
        (user.status(&device.id).await == "disconnected").then_some(())
    })
    .await;
    other.echoes("still here").await;
    offering.abort();
    drop(socket);
}

#[tokio::test]
async fn a_stalled_operator_offered_large_messages_costs_the_hub_nothing() {
    a_stalled_operator(32 * 1024, false, ALLOWED_GROWTH).await;
}

#[tokio::test]
async fn a_stalled_operator_offered_small_messages_costs_the_hub_nothing() {
    a_stalled_operator(64, false, ALLOWED_GROWTH).await;
}

#[tokio::test]
async fn a_stalled_operator_of_a_recorded_terminal_costs_the_hub_little() {
    a_stalled_operator(32 * 1024, true, ALLOWED_GROWTH_RECORDED).await;
}

#[tokio::test]
async fn a_stalled_device_offered_large_messages_costs_the_hub_nothing() {
    a_stalled_device(32 * 1024).await;
}

#[tokio::test]
async fn a_stalled_device_offered_small_messages_costs_the_hub_nothing() {
    a_stalled_device(64).await;
}
