//! Two hubs are one: on Postgres, Redis and NATS, with a balancer in front.

use harness::{
    ADMIN_EMAIL, ADMIN_PASSWORD, Balancer, LIMIT, MenderCli, Packet, RealDevice, Set, Shell, Site, TestHub, TestUser,
    answer_like_a_shell, wait_until,
};
use std::time::Duration;

/// How long a dead node's devices may be said to be connected; the default is 30 s.
const LEASE: Duration = Duration::from_secs(3);

/// How long a terminal waits for its device.
const GRACE: Duration = Duration::from_secs(1);

async fn two_nodes() -> (TestHub, TestHub) {
    let site = Set::Production.site().await;
    (node(&site).await, node(&site).await)
}

async fn node(site: &Site) -> TestHub {
    let short = |config: &mut hub::Config| {
        config.actors.lease = LEASE;
        config.actors.sessions.device_grace = GRACE;
    };
    site.hub_with(short).await
}

async fn process(site: &Site) -> TestHub {
    site.process(&[("MOORING_ACTORS__LEASE", "3s"), ("MOORING_ACTORS__SESSIONS__DEVICE_GRACE", "1s")]).await
}

#[tokio::test]
async fn a_device_on_one_node_is_reached_through_the_other() {
    let (one, two) = two_nodes().await;
    let user = one.user().await.at(&two);
    let device = one.accepted_by(&user).await;
    let mut socket = device.connect().await;
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    user.sees(&device.id, "connected", Duration::from_secs(1)).await;

    let mut shell = Shell::start(user.open(&device.id).await).await;
    shell.echoes("from afar").await;
    // More than any window holds, so that credit has to come back across the nodes.
    for line in 0..400 {
        shell.echoes(format!("{line}:{}\n", "x".repeat(2000))).await;
    }
}

#[tokio::test]
async fn either_end_s_loss_is_felt_across_nodes() {
    let (one, two) = two_nodes().await;
    let user = one.user().await.at(&two);
    let device = one.accepted_by(&user).await;
    let mut socket = device.connect().await;

    let mut session = user.open_soon(&device.id).await;
    session.say(&Packet::shell("new")).await;
    let sid = socket.hear().await.sid().to_owned();
    session.reset();
    let stop = socket.hear_within(Duration::from_secs(2)).await;
    assert!(stop.is(1, "stop") && stop.sid() == sid, "{stop:?}");
    assert_eq!(stop.text("user_id"), Some(user.id.as_str()));

    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    socket.hear().await;
    socket.reset();
    let stop = session.hear_for(1, "stop", GRACE + Duration::from_secs(3)).await;
    assert_eq!(stop.body(), b"device disconnected");
    assert!(session.end(Duration::from_secs(2)).await.code().is_some());
}

#[tokio::test]
async fn a_device_that_moves_to_the_other_node_is_there_and_nowhere_else() {
    let (one, two) = two_nodes().await;
    let user = one.user().await;
    let mut device = one.accepted_by(&user).await;
    let mut first = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    let begun = user.connection(&device.id).await.json()["updated_ts"].clone();

    device.go_to(&two);
    let mut second = device.connect().await;

    assert!(first.end(LIMIT).await.code().is_some(), "the first is told");
    tokio::spawn(async move { second.serve(answer_like_a_shell).await });
    for user in [&user, &user.at(&two)] {
        user.sees(&device.id, "connected", LIMIT).await;
        Shell::start(user.open_soon(&device.id).await).await.echoes("once").await;
    }
    // Each node writes down what it knows: the end of the old connection may be there first, but it is not the end of the new
    // one.
    wait_until(LIMIT, "the new connection to be written down", async || {
        let answer = user.connection(&device.id).await.json();
        (answer["status"] == "connected" && answer["updated_ts"] != begun).then_some(())
    })
    .await;
    assert_eq!(user.status(&device.id).await, "connected");
    assert_eq!(user.at(&two).status(&device.id).await, "connected");
}

#[tokio::test]
async fn access_withdrawn_on_one_node_is_withdrawn_on_the_other() {
    let (one, two) = two_nodes().await;
    let user = one.user().await;
    let mut device = one.accepted_by(&user).await;
    device.go_to(&two);
    assert!(device.has_access().await);
    let mut socket = device.connect().await;

    user.decide(&device.id, &device.set(), "rejected").await.expect(204);

    wait_until(Duration::from_secs(2), "the other node to refuse the device", async || {
        (!device.has_access().await).then_some(())
    })
    .await;
    assert!(socket.end(Duration::from_secs(5)).await.code().is_some());

    let leaving = one.user().await;
    let elsewhere = leaving.at(&two);
    elsewhere.get("/api/management/v1/useradm/users/me").await.expect(200);
    harness::Answer::to(leaving.request("POST", "/api/management/v1/useradm/auth/logout")).await.expect(202);
    wait_until(Duration::from_secs(2), "the other node to refuse the token", async || {
        (elsewhere.get("/api/management/v1/useradm/users/me").await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_node_s_devices_are_disconnected_within_the_lease() {
    assert!(hub::Config::default().actors.lease <= Duration::from_secs(90));
    let site = Set::Production.site().await;
    let (mut one, two) = (process(&site).await, process(&site).await);
    let user = one.user().await.at(&two);
    let mut device = one.accepted_by(&user).await;
    let _socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    let mut session = user.open_soon(&device.id).await;
    session.say(&Packet::shell("new")).await;

    one.kill();

    user.sees(&device.id, "disconnected", LEASE + Duration::from_secs(3)).await;
    user.try_open(&device.id).await.err().unwrap().expect(404).error();
    // The operator on the living node is not left hanging.
    let end = session.end(LIMIT).await;
    assert!(end.code().is_some(), "{end:?}");

    device.go_to(&two);
    let mut again = device.connect().await;
    tokio::spawn(async move { again.serve(answer_like_a_shell).await });
    user.sees(&device.id, "connected", LIMIT).await;
    Shell::start(user.open(&device.id).await).await.echoes("back").await;
}

#[tokio::test]
async fn a_real_device_survives_the_death_of_its_node_behind_a_balancer() {
    let site = Set::Production.site().await;
    let (mut one, two) = (process(&site).await, process(&site).await);
    let balancer = Balancer::in_front_of(&[&one, &two]).await;
    let user = TestUser::log_in(&two, ADMIN_EMAIL, ADMIN_PASSWORD).await;
    let device = RealDevice::start(balancer.door()).await;
    let id = device.join(&user).await;
    let cli = MenderCli::new(&two);
    cli.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;

    let mut terminal = cli.terminal_that_prints(&id, "echo before-$((40+2))\nexit\n", "before-42").await;
    assert!(terminal.end(LIMIT).await.success());

    one.kill();

    user.sees(&id, "disconnected", LEASE + Duration::from_secs(5)).await;
    device.connected(&user, &id, true).await;
    let mut terminal = cli.terminal_that_prints(&id, "echo after-$((40+2))\nexit\n", "after-42").await;
    assert!(terminal.end(LIMIT).await.success());
}
