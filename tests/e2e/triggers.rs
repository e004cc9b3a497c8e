//! Commands to devices' update clients: look for an update now, send the inventory now.

use harness::{
    Answer, LIMIT, Packet, RealDevice, Set, Shell, TestUser, answer_like_a_shell, both_sets, wait_until, within,
};
use std::time::Duration;

both_sets!([
    a_command_reaches_the_device_in_a_session_of_its_own,
    commands_to_a_device_that_is_not_there_are_404,
    equal_commands_in_a_row_join_and_one_begins_after_the_last,
    two_commands_in_a_row_do_not_stall_a_terminal,
    a_device_that_never_answers_gets_a_few_commands_and_no_close,
]);

const COMMANDS: [&str; 2] = ["check-update", "send-inventory"];

fn path(device: &str, command: &str) -> String {
    format!("/api/management/v1/deviceconnect/devices/{device}/{command}")
}

async fn tell(user: &TestUser, device: &str, command: &str) -> Answer {
    // As the web UI does: no body at all.
    Answer::to(user.request("POST", &path(device, command))).await
}

async fn a_command_reaches_the_device_in_a_session_of_its_own(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    let mut sessions = vec![];

    for (command, status) in [("check-update", 1), ("send-inventory", 2)] {
        let answer = tell(&user, &device.id, command).await.expect(202);
        assert_eq!(
            (answer.text().as_str(), answer.header("content-type")),
            ("null", "application/json; charset=utf-8")
        );
        let heard = socket.hear().await;
        assert!(heard.is(4, command) && !heard.has_body(), "{heard:?}");
        assert_eq!(heard.sid().len(), 36);
        assert_eq!(heard.text("user_id"), Some(user.id.as_str()));
        // Nothing more is said in a session whose worker is busy.
        socket.hears_nothing().await;
        socket.say(&Packet::new(4, command).sid(heard.sid()).prop("status", status).body("exit status 1")).await;
        let close = socket.hear().await;
        assert!(close.is(65535, "close") && close.sid() == heard.sid(), "{close:?}");
        sessions.push(heard.sid().to_owned());
    }
    assert_ne!(sessions[0], sessions[1]);
}

async fn commands_to_a_device_that_is_not_there_are_404(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    for id in [device.id.as_str(), "3f8f5c8e-0000-4000-8000-000000000000", "malformed"] {
        for command in COMMANDS {
            assert_eq!(tell(&user, id, command).await.expect(404).error(), "device not connected", "{id}");
        }
    }
    Answer::to(hub.request("POST", &path(&device.id, "check-update"))).await.refuses_token();
    Answer::to(device.request("POST", &path(&device.id, "check-update"))).await.refuses_token();
}

async fn equal_commands_in_a_row_join_and_one_begins_after_the_last(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;

    for _ in 0..5 {
        tell(&user, &device.id, "check-update").await.expect(202);
    }

    let first = socket.hear().await;
    socket.hears_nothing().await;
    socket.say(&Packet::new(4, "check-update").sid(first.sid()).prop("status", 1)).await;
    // What was asked for while the first ran is done once more, whoever asked how often.
    let second = socket.hear_for(4, "check-update", LIMIT).await;
    assert_ne!(first.sid(), second.sid());
    socket.say(&Packet::new(4, "check-update").sid(second.sid()).prop("status", 1)).await;
    let close = socket.hear_for(65535, "close", LIMIT).await;
    assert!([first.sid(), second.sid()].contains(&close.sid()));
    tell(&user, &device.id, "check-update").await.expect(202);
    let third = socket.hear_for(4, "check-update", LIMIT).await;
    assert!(![first.sid(), second.sid()].contains(&third.sid()));
}

async fn two_commands_in_a_row_do_not_stall_a_terminal(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    // A device that is busy with its commands for ever, and has a shell.
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    let mut shell = Shell::start(user.open(&device.id).await).await;
    for command in COMMANDS {
        tell(&user, &device.id, command).await.expect(202);
        within(Duration::from_secs(1), "an echo", shell.echoes(command)).await;
    }
}

async fn a_device_that_never_answers_gets_a_few_commands_and_no_close(set: Set) {
    let hub = set.hub_with(|config| config.actors.trigger_reply_limit = Duration::from_millis(50)).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;

    let refused = wait_until(LIMIT, "a refusal", async || {
        let answer = tell(&user, &device.id, "check-update").await;
        if answer.status != 429 {
            answer.expect(202);
            return None;
        }
        Some(answer)
    })
    .await;
    refused.error();

    let mut last = String::new();
    for _ in 0..4 {
        // A close in between would be another message.
        let heard = socket.hear().await;
        assert!(heard.is(4, "check-update"), "{heard:?}");
        heard.sid().clone_into(&mut last);
    }
    socket.hears_nothing().await;
    // A reply that comes late still ends its session in good order, and makes room.
    socket.say(&Packet::new(4, "check-update").sid(&last).prop("status", 1)).await;
    let close = socket.hear().await;
    assert!(close.is(65535, "close") && close.sid() == last, "{close:?}");
    wait_until(LIMIT, "room for another command", async || {
        (tell(&user, &device.id, "check-update").await.status == 202).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_command_crosses_nodes() {
    let site = Set::Production.site().await;
    let (one, two) = (site.hub().await, site.hub().await);
    let user = one.user().await;
    let device = one.accepted_by(&user).await;
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;

    let elsewhere = user.at(&two);
    wait_until(LIMIT, "the other node to find the device", async || {
        (tell(&elsewhere, &device.id, "send-inventory").await.status == 202).then_some(())
    })
    .await;

    let heard = socket.hear().await;
    assert!(heard.is(4, "send-inventory"), "{heard:?}");
    socket.say(&Packet::new(4, "send-inventory").sid(heard.sid()).prop("status", 1)).await;
    let close = socket.hear().await;
    assert!(close.is(65535, "close") && close.sid() == heard.sid(), "{close:?}");
}

#[tokio::test]
async fn a_real_device_does_as_it_is_told() {
    let hub = Set::Embedded.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    for (command, effect) in [
        ("check-update", "Forcing state machine to: update-check"),
        ("send-inventory", "Forcing state machine to: inventory-update"),
    ] {
        tell(&user, &id, command).await.expect(202);
        device.client_logs(effect, LIMIT).await;
    }
    // The agent was told that each session is over, after its reply.
    device.connect_logs("session: closed", LIMIT).await;
    // It is still there, and takes more.
    tell(&user, &id, "check-update").await.expect(202);
    assert_eq!(user.status(&id).await, "connected");
}
