//! The unmodified programs that Debian ships: `mender-client`, `mender-connect`, `mender-cli`.

use harness::{
    ADMIN_EMAIL, ADMIN_PASSWORD, Certificate, LIMIT, MenderCli, Mooring, RealDevice, Set, TerminalScreen, TestHub,
    both_sets, wait_until,
};
use serde_json::{Value, json};
use std::time::Duration;

both_sets!([
    a_real_device_and_a_real_operator_meet,
    a_real_device_recovers_from_an_expired_token,
    a_real_device_is_rejected_accepted_again_and_removed,
    a_shell_of_a_killed_terminal_ends_on_the_device,
]);

async fn inventory(hub: &TestHub, device: &str) -> Value {
    let user = hub.user().await;
    let answer = user.get(&format!("/api/management/v1/inventory/devices/{device}")).await.expect(200).json();
    let attributes = answer["attributes"].as_array().unwrap().iter();
    let entries = attributes.filter(|attribute| attribute["scope"] == "inventory");
    entries.map(|attribute| (attribute["name"].as_str().unwrap().to_owned(), attribute["value"].clone())).collect()
}

async fn a_real_device_and_a_real_operator_meet(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut device = RealDevice::start_without_key(&hub).await;

    let id = device.join(&user).await;

    let found = wait_until(LIMIT, "the inventory", async || {
        let found = inventory(&hub, &id).await;
        found.get("artifact_name").is_some().then_some(found)
    })
    .await;
    assert_eq!((&found["artifact_name"], &found["device_type"]), (&json!("e2e-0"), &json!("e2e")));
    assert_eq!(found["e2e_one"], "1");
    let mut list: Vec<&str> = found["e2e_list"].as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect();
    list.sort_unstable();
    assert_eq!(list, ["a", "b"]);

    let cli = MenderCli::new(&hub);
    let refused = cli.run(&["login", "--username", ADMIN_EMAIL, "--password", "wrong password"]).await;
    assert!(!refused.status.success() && refused.stderr.contains("401"), "{refused:?}");
    cli.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;
    let listed = cli.run(&["devices", "list"]).await;
    assert!(listed.status.success() && listed.stdout.contains(&id), "{listed:?}");

    // The arithmetic tells the output from the echo of what was typed.
    let mut terminal = cli.terminal_that_prints(&id, "echo sum-$((40+2))\n", "sum-42").await;
    terminal.type_in("exit\n");
    let status = terminal.end(LIMIT).await;
    assert!(status.success(), "{status}: {}", terminal.log());

    our_own_client_lists_and_sees(&hub, &id).await;

    device.kill_connect();
    device.connected(&user, &id, false).await;
    let mut terminal = cli.terminal(&id);
    assert!(!terminal.end(LIMIT).await.success(), "{}", terminal.log());
}

async fn our_own_client_lists_and_sees(hub: &TestHub, id: &str) {
    let mooring = Mooring::alone();
    let server = hub.url();
    let arguments = ["devices", "--server", &server, "--user", ADMIN_EMAIL, "--password-stdin"];
    let output = mooring.run(&arguments, &format!("{ADMIN_PASSWORD}\n")).await;
    assert!(output.status.success(), "{output:?}");
    let line = output.stdout.lines().find(|line| line.contains(&id[..8])).unwrap_or_else(|| panic!("{output:?}"));
    assert!(line.contains("accepted") && line.contains("yes"), "{line}");
}

async fn a_real_device_recovers_from_an_expired_token(set: Set) {
    let lifetime = Duration::from_secs(4);
    let hub = set.hub_with(|config| config.actors.device_token_lifetime = lifetime).await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let last_seen = async || {
        let time = user.device(&id).await["check_in_time"].as_str().map(str::to_owned);
        time.unwrap_or_default()
    };
    let first =
        wait_until(LIMIT, "a first check-in", async || Some(last_seen().await).filter(|time| !time.is_empty())).await;
    // Every request after the first few seconds needs a token that the device has asked for by itself.
    let renewals = |log: &str| log.matches("successfully received new authorization data").count();
    wait_until(Duration::from_mins(1), "the device to ask for new tokens and use them", async || {
        (renewals(&device.client_log()) >= 3 && last_seen().await > first).then_some(())
    })
    .await;
}

async fn a_real_device_is_rejected_accepted_again_and_removed(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let auth_set = user.device(&id).await["auth_sets"][0]["id"].as_str().unwrap().to_owned();

    user.decide(&id, &auth_set, "rejected").await.expect(204);
    device.connected(&user, &id, false).await;
    let tokens = |log: &str| log.matches("successfully received new authorization data").count();
    let before = tokens(&device.client_log());
    user.decide(&id, &auth_set, "accepted").await.expect(204);
    wait_until(Duration::from_mins(1), "the device to ask for a token again", async || {
        (tokens(&device.client_log()) > before).then_some(())
    })
    .await;
    device.connected(&user, &id, true).await;

    user.delete(&format!("/api/management/v2/devauth/devices/{id}")).await.expect(204);
    let back = wait_until(Duration::from_mins(1), "the device to come back as another", async || {
        user.device_with(&device.identity()).await
    })
    .await;
    assert_ne!(back["id"], id.as_str());
    assert_eq!(back["status"], "pending");
}

async fn a_shell_of_a_killed_terminal_ends_on_the_device(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let cli = MenderCli::new(&hub);
    cli.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;

    let mut terminal = cli.terminal(&id);
    let pid_file = device.path("shell.pid");
    terminal.type_in(&format!("echo $$ > {}\n", pid_file.display()));
    let pid = wait_until(LIMIT, "a shell on the device", async || {
        std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse::<u32>().ok())
    })
    .await;
    terminal.kill();

    wait_until(LIMIT, "the shell to end", async || {
        // A shell that nobody has waited for yet is gone all the same.
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (status.is_empty() || status.contains(") Z ")).then_some(())
    })
    .await;
    let mut again = cli.terminal_that_prints(&id, "echo sum-$((40+2))\nexit\n", "sum-42").await;
    assert!(again.end(LIMIT).await.success());
}

#[tokio::test]
async fn a_lost_real_device_ends_the_real_terminal() {
    let hub = Set::Embedded.hub_with(|config| config.actors.sessions.device_grace = Duration::from_secs(1)).await;
    let user = hub.user().await;
    let mut device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let cli = MenderCli::new(&hub);
    cli.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;
    let mut terminal = cli.terminal_that_prints(&id, "echo sum-$((40+2))\n", "sum-42").await;

    device.kill_connect();

    // It hangs for ever when its socket just dies; a `stop` lets it go.
    terminal.end(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_real_device_connects_over_tls() {
    let certificate = Certificate::new();
    let hub = Set::Embedded.site().await.tls_hub(&certificate).await;
    let user = hub.user().await;
    let device = RealDevice::start_trusting(&hub, &certificate).await;
    let id = device.join(&user).await;
    device.send_inventory();
    wait_until(LIMIT, "the inventory", async || inventory(&hub, &id).await.get("e2e_one").cloned()).await;
}

#[tokio::test]
async fn our_own_client_accepts_a_real_device_and_opens_its_shell() {
    let hub = Set::Embedded.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let asked =
        wait_until(LIMIT, "a real device to ask to join", async || user.device_with(&device.identity()).await).await;
    let (id, server) = (asked["id"].as_str().expect("a device has an id"), hub.url());
    let mooring = Mooring::alone();
    let login = ["--server", &server, "--user", ADMIN_EMAIL, "--password-stdin"];
    let accepted = mooring.run(&[&["accept", id][..], &login].concat(), &format!("{ADMIN_PASSWORD}\n")).await;
    assert!(accepted.status.success(), "{accepted:?}");
    device.connected(&user, id, true).await;

    // The login of before is remembered. As with `mender-cli`, a terminal in the agent's first seconds may stay silent.
    let mut prompted = None;
    for _ in 0..4 {
        let terminal = TerminalScreen::run(&mooring.command(&["terminal", id, "--server", &server])).await;
        // The prompt of root, or of anybody else.
        let prompt = wait_until(LIMIT, "a prompt", async || {
            terminal.text().lines().any(|line| ["#", "$"].contains(&line.trim())).then_some(())
        });
        if tokio::time::timeout(Duration::from_secs(12), prompt).await.is_ok() {
            prompted = Some(terminal);
            break;
        }
    }
    let terminal = prompted.expect("one of several terminals shows a prompt");
    terminal.type_line("echo sum-$((40+2))");
    terminal.shows("sum-42", LIMIT).await;
    terminal.type_line("exit");
    assert_eq!(terminal.ended(LIMIT).await, 0, "{}", terminal.text());
}
