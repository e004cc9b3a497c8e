//! Somebody types into a shell on a device, and things go wrong on either side.

use harness::{Closed, LIMIT, Packet, Set, Shell, answer_like_a_shell, both_sets, within};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

both_sets!([
    what_is_typed_comes_back,
    a_shell_ends_with_its_operator_s_connection,
    an_operator_who_leaves_by_any_way_leaves_no_shell,
    an_operator_who_stopped_the_shell_is_not_stopped_again,
    a_session_that_forwarded_a_port_is_closed_on_the_device,
    a_lost_device_is_told_to_its_operators,
    a_session_without_a_terminal_just_ends_with_its_device,
    shells_left_over_from_a_dead_hub_are_stopped_once,
    two_operators_under_load_hear_only_their_own_in_order,
    a_withdrawn_operator_loses_the_session,
]);

/// What the wire promises for the device's side of a lost operator, and for the operator's side of a lost device.
const PROMPT: Duration = Duration::from_secs(2);

async fn what_is_typed_comes_back(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let serving = tokio::spawn(async move { socket.serve(answer_like_a_shell).await });

    let mut shell = Shell::start(user.open(&device.id).await).await;
    shell.echoes("echo hello\n").await;
    shell.echoes([0, 0xff, 0x1b, b'[', b'A']).await;
    shell.socket.say(&Packet::shell("resize").prop("terminal_width", 100).prop("terminal_height", 30)).await;
    shell.echoes("exit\n").await;

    shell.socket.say(&Packet::shell("stop")).await;
    assert!(shell.socket.hear().await.is(1, "stop"));
    shell.socket.close(1000).await;
    assert!(!serving.is_finished(), "the device stays");
}

async fn a_shell_ends_with_its_operator_s_connection(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    let new = socket.hear().await;
    socket.say(&Packet::shell("new").sid(new.sid()).prop("status", 1).body("Shell started")).await;
    session.hear().await;

    session.reset();

    let stop = socket.hear_within(PROMPT).await;
    assert!(stop.is(1, "stop"), "{stop:?}");
    assert_eq!(stop.sid(), new.sid());
    assert_eq!((stop.number("status"), stop.text("user_id")), (Some(2), Some(user.id.as_str())));
    assert_eq!(stop.body(), b"user disconnected");

    // A device takes its time to stop a shell; its answer finds nobody, and the next shell is not in its way.
    socket.say(&Packet::shell("stop").sid(new.sid()).prop("status", 1)).await;
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    let again = async { Shell::start(user.open(&device.id).await).await };
    within(Duration::from_secs(10), "another shell", again).await.echoes("again").await;
}

async fn an_operator_who_leaves_by_any_way_leaves_no_shell(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    for way in ["close", "hang up", "reset"] {
        let mut session = user.open(&device.id).await;
        session.say(&Packet::shell("new")).await;
        let sid = socket.hear().await.sid().to_owned();
        match way {
            "close" => session.close(1000).await,
            "hang up" => session.hang_up(),
            _ => session.reset(),
        }
        let stop = socket.hear_within(PROMPT).await;
        assert!(stop.is(1, "stop") && stop.sid() == sid, "after a {way}: {stop:?}");
    }
}

async fn an_operator_who_stopped_the_shell_is_not_stopped_again(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    let sid = socket.hear().await.sid().to_owned();
    session.say(&Packet::shell("stop")).await;
    let stop = socket.hear().await;
    assert!(stop.is(1, "stop") && !stop.has_body(), "the operator's own: {stop:?}");
    session.hang_up();

    // The next thing the device hears is another session's.
    let mut other = user.open(&device.id).await;
    other.say(&Packet::shell("new")).await;
    let new = socket.hear().await;
    assert!(new.is(1, "new") && new.sid() != sid, "{new:?}");
}

async fn a_session_that_forwarded_a_port_is_closed_on_the_device(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut session = user.open(&device.id).await;
    session.say(&Packet::control("open")).await;
    let sid = socket.hear().await.sid().to_owned();
    session.say(&Packet::new(3, "new").prop("connection_id", "c").body("x")).await;
    let stream = socket.hear().await.sid().to_owned();
    socket.say(&Packet::new(3, "new").sid(&stream).prop("connection_id", "c")).await;
    assert!(session.hear().await.is(3, "new"));

    session.hang_up();

    for closed in [&sid, &stream] {
        let close = socket.hear_within(PROMPT).await;
        assert!(close.is(65535, "close") && close.sid() == *closed, "{close:?}");
        assert!(!close.has_body());
    }
}

async fn a_lost_device_is_told_to_its_operators(set: Set) {
    let hub = set.hub_with(|config| config.actors.sessions.device_grace = Duration::from_millis(100)).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    for way in ["reset", "hang up", "close"] {
        let mut socket = device.connect_soon().await;
        let mut session = user.open_soon(&device.id).await;
        session.say(&Packet::shell("new")).await;
        let sid = socket.hear().await.sid().to_owned();
        socket.say(&Packet::shell("new").sid(&sid).prop("status", 1).body("Shell started")).await;
        session.hear().await;

        match way {
            "reset" => socket.reset(),
            "hang up" => socket.hang_up(),
            _ => socket.close(1000).await,
        }

        let lost = Instant::now();
        let stop = session.hear_within(PROMPT).await;
        assert!(stop.is(1, "stop") && stop.sid() == sid, "after a {way}: {stop:?}");
        assert_eq!((stop.number("status"), stop.body()), (Some(2), &b"device disconnected"[..]));
        // A browser shows a cut connection as "forbidden", so there is a Close frame.
        let end = session.end(PROMPT).await;
        assert!(end.code().is_some_and(|code| code != 1006), "after a {way}: {end:?}");
        assert!(lost.elapsed() < PROMPT, "{:?}", lost.elapsed());
    }
}

async fn a_session_without_a_terminal_just_ends_with_its_device(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut session = user.open(&device.id).await;
    session.say(&Packet::new(3, "new").prop("connection_id", "c").body("x")).await;
    socket.hear().await;
    socket.reset();
    // Port forwarding clients start over by themselves; a `stop` would mean nothing to them.
    let end = within(PROMPT, "the end", session.next()).await;
    assert!(matches!(&end, harness::Event::Closed(Closed::Properly(..))), "{end:?}");
}

async fn shells_left_over_from_a_dead_hub_are_stopped_once(set: Set) {
    let hub = set.hub_with(|config| config.actors.sessions.device_grace = Duration::from_millis(100)).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    // It kept its shells over a lost socket, and goes on where it was.
    let mut socket = device.connect().await;
    let sid = "594d1483-b55d-4afb-83f2-400bf1aec49a";
    for _ in 0..5 {
        socket.say(&Packet::shell("shell").sid(sid).prop("status", 1).body("output")).await;
    }
    let stop = socket.hear_within(PROMPT).await;
    assert!(stop.is(1, "stop") && stop.sid() == sid, "{stop:?}");

    socket.hears_nothing().await;
    // The answer to that is not worth another one either.
    socket.say(&Packet::shell("stop").sid(sid).prop("status", 1)).await;
    socket.hears_nothing().await;
    // Transfers and forwards left over are closed.
    let other = "694d1483-b55d-4afb-83f2-400bf1aec49a";
    socket.say(&Packet::new(3, "forward").sid(other).prop("connection_id", "c").body("x")).await;
    let close = socket.hear_within(PROMPT).await;
    assert!(close.is(65535, "close") && close.sid() == other, "{close:?}");
}

async fn two_operators_under_load_hear_only_their_own_in_order(set: Set) {
    const LINES: u32 = 2_000;
    let _turn = harness::turn_of_the_heavy().await;
    let hub = set.hub().await;
    let users = [hub.user().await, hub.another_user("second@example.com").await];
    let device = hub.accepted_by(&users[0]).await;
    let mut socket = device.connect().await;
    // When the device said what, by session; `flood` makes it say a mebibyte at once.
    let said: Arc<Mutex<HashMap<String, VecDeque<Instant>>>> = Arc::default();
    let says = Arc::clone(&said);
    tokio::spawn(async move {
        let answer = |heard: &harness::Heard| {
            if heard.body() == b"flood" {
                return vec![Packet::shell("shell").sid(heard.sid()).prop("status", 1).body([b'z'; 16 * 1024]); 64];
            }
            if heard.is(1, "shell") {
                // Neither lock is held while anything is awaited; a poisoned one means that the other side has failed.
                says.lock()
                    .expect("the operators live")
                    .entry(heard.sid().to_owned())
                    .or_default()
                    .push_back(Instant::now());
            }
            answer_like_a_shell(heard)
        };
        socket.serve(answer).await
    });

    let work = users.map(|user| {
        let (id, said) = (device.id.clone(), Arc::clone(&said));
        tokio::spawn(async move {
            let mut shell = Shell::start(user.open(&id).await).await;
            let mut seen = String::new();
            let (mut typed, mut wanted) = (0, String::new());
            // A few lines are on their way at any time.
            for line in 0..LINES {
                let text = format!("{}:{line}\n", shell.sid);
                wanted += &text;
                shell.type_in(&text).await;
                typed += 1;
                if typed % 8 == 0 {
                    while seen.len() < wanted.len() {
                        let heard = shell.socket.hear().await;
                        assert_eq!(heard.sid(), shell.sid);
                        let moment =
                            said.lock().expect("the device lives").get_mut(&shell.sid).and_then(VecDeque::pop_front);
                        let moment = moment.expect("only what the device said is heard");
                        assert!(moment.elapsed() <= Duration::from_secs(1), "{:?} on the way", moment.elapsed());
                        seen += std::str::from_utf8(heard.body()).unwrap();
                    }
                }
            }
            assert_eq!(seen, wanted);
        })
    });
    // Somebody who has a shell there and never reads.
    let mut stalled = Shell::start(hub.user().await.open(&device.id).await).await;
    let mut third = Shell::start(hub.user().await.open(&device.id).await).await;
    for _ in 0..8 {
        stalled.type_in("flood").await;
        within(Duration::from_secs(1), "a key to come back", third.echoes("key")).await;
    }
    for task in work {
        within(Duration::from_mins(2), "both operators", task).await.unwrap();
    }
}

async fn a_withdrawn_operator_loses_the_session(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let leaving = hub.user().await;
    let mut session = leaving.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    socket.hear().await;

    let logout = leaving.request("POST", "/api/management/v1/useradm/auth/logout");
    harness::Answer::to(logout).await.expect(202);

    assert!(session.end(Duration::from_secs(5)).await.code().is_some());
    assert!(socket.hear_for(1, "stop", LIMIT).await.text("user_id").is_some());
}
