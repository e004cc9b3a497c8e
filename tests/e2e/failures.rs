//! Parts of the hub fail, and the whole hub.

use harness::{LIMIT, Packet, Set, Shell, TestHub, TestUser, answer_like_a_shell, both_sets, wait_until};
use std::time::{Duration, Instant};

both_sets!([
    a_panic_in_one_device_s_actor_is_noticed_by_nobody_else,
    every_service_comes_back_after_a_panic_with_what_it_knew,
    a_hub_that_stops_sends_everybody_away_in_good_order,
]);

/// Devices that connect and answer like a shell until their connection ends.
async fn fleet(hub: &TestHub, user: &TestUser, size: usize) -> Vec<(String, tokio::task::JoinHandle<harness::Closed>)> {
    let mut fleet = Vec::new();
    for _ in 0..size {
        let mut device = hub.device();
        let body = serde_json::json!({"identity_data": device.identity, "pubkey": device.key.public_pem()});
        user.post("/api/management/v2/devauth/devices", &body).await.expect(201);
        device.take_token().await;
        let mut socket = device.connect().await;
        fleet.push((device.id, tokio::spawn(async move { socket.serve(answer_like_a_shell).await })));
    }
    fleet
}

async fn a_panic_in_one_device_s_actor_is_noticed_by_nobody_else(set: Set) {
    const OTHERS: usize = 200;
    let _turn = harness::turn_of_the_heavy().await;
    let hub = set.hub().await;
    let user = hub.user().await;
    let others = fleet(&hub, &user, OTHERS).await;
    let unlucky = hub.accepted_by(&user).await;
    let mut socket = unlucky.connect().await;
    let mut bystander = Shell::start(user.open(&others[0].0).await).await;
    let mut session = user.open(&unlucky.id).await;
    session.say(&Packet::shell("new")).await;
    socket.hear().await;

    hub.crash_device(&unlucky.id);

    socket.end(LIMIT).await;
    bystander.echoes("nothing happened here").await;
    let mut again = unlucky.connect_soon().await;
    user.sees(&unlucky.id, "connected", LIMIT).await;
    tokio::spawn(async move { again.serve(answer_like_a_shell).await });
    // Its session goes on with the new connection.
    Shell::start(session).await.echoes("back").await;

    bystander.echoes("still nothing").await;
    for (id, connection) in &others {
        assert!(!connection.is_finished(), "{id} lost its connection");
    }
    for (id, _) in [&others[0], &others[OTHERS / 2], &others[OTHERS - 1]] {
        assert_eq!(user.status(id).await, "connected");
        Shell::start(user.open(id).await).await.echoes("here").await;
    }
}

async fn every_service_comes_back_after_a_panic_with_what_it_knew(set: Set) {
    let hub = set.hub_with(|config| config.actors.lease = Duration::from_secs(3)).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    let mut shell = Shell::start(user.open(&device.id).await).await;
    let services = hub.services();
    assert!(!services.is_empty());

    for service in services {
        let before = hub.restarts(service);
        hub.crash_service(service);
        wait_until(LIMIT, &format!("{service} to be restarted"), async || {
            (hub.restarts(service) > before).then_some(())
        })
        .await;
        // What was there goes on, what comes is noticed, and access is still withdrawn at once.
        shell.echoes(format!("{service} is back")).await;
        assert_eq!(user.status(&device.id).await, "connected");
        let newcomer = hub.accepted_by(&user).await;
        let newcomers_socket = newcomer.connect().await;
        user.sees(&newcomer.id, "connected", LIMIT).await;
        newcomers_socket.reset();
        user.sees(&newcomer.id, "disconnected", LIMIT).await;
        user.decide(&newcomer.id, &newcomer.set(), "rejected").await.expect(204);
        assert!(!newcomer.has_access().await);
    }
    // Longer than a lease: whoever renews it does so again.
    let crashed = Instant::now();
    wait_until(LIMIT, "a lease to pass", async || {
        assert_eq!(user.status(&device.id).await, "connected");
        (crashed.elapsed() > Duration::from_secs(4)).then_some(())
    })
    .await;
    Shell::start(user.open(&device.id).await).await.echoes("a new session").await;
}

async fn a_hub_that_stops_sends_everybody_away_in_good_order(set: Set) {
    const DEVICES: usize = 20;
    let window = Duration::from_secs(2);
    let hub = set.hub_with(|config| config.api.sockets.drain_window = window).await;
    let user = hub.user().await;
    let (mut ids, mut ends) = (vec![], vec![]);
    let mut with_shell = None;
    for number in 0..DEVICES {
        let device = hub.accepted_by(&user).await;
        let mut socket = device.connect().await;
        if number == 0 {
            let mut session = user.open(&device.id).await;
            session.say(&Packet::shell("new")).await;
            socket.hear().await;
            with_shell = Some(session);
        }
        ids.push(device.id);
        let door = hub.door().clone();
        ends.push(tokio::spawn(async move {
            let (closed, at) = (socket.end(LIMIT).await, Instant::now());
            // Whoever comes back finds this node shut, not a queue.
            assert!(!door.is_open().await, "a connection was taken after the first goodbye");
            (closed, at)
        }));
    }
    let mut session = with_shell.unwrap();
    let watching = tokio::spawn(async move {
        assert!(session.hear().await.is(1, "stop"));
        session.end(LIMIT).await
    });

    let started = Instant::now();
    let site = hub.stop().await;

    let code = watching.await.unwrap().code();
    assert!(code.is_some_and(|code| [1001, 1012].contains(&code)), "{code:?}");
    let mut times = vec![];
    for end in ends {
        let (closed, at) = end.await.unwrap();
        assert_eq!(closed.code(), Some(1012));
        times.push(at.saturating_duration_since(started));
    }
    times.sort();
    let spread = times[DEVICES - 1].saturating_sub(times[0]);
    // Spread over the window: neither all at once nor beyond it.
    assert!(spread > window / 2, "{times:?}");
    assert!(times[DEVICES / 2] > window / 5, "{times:?}");

    let hub = site.hub().await;
    let user = hub.user().await;
    for id in ids {
        assert_eq!(user.status(&id).await, "disconnected");
    }
}

#[tokio::test]
async fn an_embedded_hub_that_was_killed_knows_its_devices_again() {
    let site = Set::Embedded.site().await;
    let mut hub = site.process(&[]).await;
    let user = hub.user().await;
    let mut device = hub.accepted_by(&user).await;
    let socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;

    hub.kill();
    drop(socket);

    let hub = site.process(&[]).await;
    let user = user.at(&hub);
    // The tokens are as good as before, and nothing is said to be connected that is not.
    assert_eq!(user.status(&device.id).await, "disconnected");
    device.go_to(&hub);
    assert!(device.has_access().await);
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    Shell::start(user.open(&device.id).await).await.echoes("as if nothing had happened").await;
}

#[tokio::test]
async fn a_wrong_setting_stops_the_start_in_one_sentence() {
    let mooring = harness::Mooring::alone();
    for (name, value, expected) in [
        ("MOORING_DATABASE_URL", "mysql://x", "database_url"),
        ("MOORING_LISTEN", "somewhere", "listen"),
        ("MOORING_NATS_URL", "http://x", "nats_url"),
        ("MOORING_TLS_CERT", "/nowhere/cert.pem", "tls_key"),
    ] {
        let mut command = mooring.command(&["serve"]);
        command.env(name, value);
        let directory = harness::temporary_directory();
        let mut process = harness::Process::start(&command, &directory.join("log"));
        let status = process.end(LIMIT).await;
        let said = process.log();
        assert!(!status.success(), "{name}={value}");
        assert!(said.contains(expected) && said.contains(value), "{name}={value}: {said}");
        assert_eq!(said.trim().lines().count(), 1, "{said}");
    }
}
