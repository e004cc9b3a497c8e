//! Updates with the unmodified programs that Debian ships: `mender-artifact` makes them, `mender-cli` uploads them,
//! `mender-client` installs them.

use std::path::Path;
use std::time::{Duration, Instant};

use harness::{
    ADMIN_EMAIL, ADMIN_PASSWORD, ArtifactRecipe, CuttingProxy, DEPLOYMENTS, LIMIT, MenderCli, RealDevice, Set, TestHub,
    TestUser, both_sets, id_of, wait_until,
};
use serde_json::{Value, json};

both_sets!([
    a_real_device_installs_what_mender_cli_uploaded,
    a_real_device_that_has_it_or_is_of_another_kind_installs_nothing,
    a_failed_installation_on_a_real_device_is_explained,
    a_real_device_stops_at_an_aborted_deployment_and_goes_on_with_the_next,
    a_real_device_that_is_told_to_wait_shows_where,
    a_real_device_goes_on_with_a_download_that_was_cut,
]);

/// A client tries again a minute after its download broke off, whatever its settings say.
const AFTER_A_CUT: Duration = Duration::from_mins(3);

/// Bytes that no compression makes shorter.
fn noise(length: usize) -> Vec<u8> {
    (0..length as u64 / 8).flat_map(|number| (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect()
}

async fn logged_in(hub: &TestHub) -> MenderCli {
    let cli = MenderCli::new(hub);
    cli.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;
    cli
}

async fn uploads(cli: &MenderCli, artifact: &ArtifactRecipe) {
    std::fs::write(cli.path("app.mender"), artifact.make()).unwrap();
    let uploaded =
        cli.run_within(LIMIT * 4, &["artifacts", "upload", "--no-progress", "--description", "", "app.mender"]).await;
    assert!(uploaded.status.success(), "{uploaded:?}");
}

/// Waits until a deployment is over; where its devices stand.
async fn outcome(user: &TestUser, deployment: &str, device: &RealDevice, limit: Duration) -> Value {
    let deadline = Instant::now() + limit;
    while user.deployment(deployment).await["status"] != "finished" {
        assert!(Instant::now() < deadline, "{}\n{}", user.deployment(deployment).await, device.client_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    user.counts(deployment).await
}

/// Waits until the device says in its inventory that this is installed.
async fn runs(user: &TestUser, device: &str, artifact_name: &str) {
    wait_until(LIMIT, &format!("the inventory to say {artifact_name}"), async || {
        let found = user.get(&format!("/api/management/v1/inventory/devices/{device}")).await.expect(200).json();
        let wanted = json!({"name": "artifact_name", "value": artifact_name, "scope": "inventory"});
        found["attributes"].as_array().unwrap().iter().any(|attribute| is_same(attribute, &wanted)).then_some(())
    })
    .await;
}

fn is_same(attribute: &Value, wanted: &Value) -> bool {
    ["name", "value", "scope"].iter().all(|member| attribute[member] == wanted[member])
}

async fn a_real_device_installs_what_mender_cli_uploaded(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start_patient(&hub).await;
    let id = device.join(&user).await;
    let cli = logged_in(&hub).await;
    let mut terminal = cli.terminal_that_prints(&id, "echo sum-$((40+2))\n", "sum-42").await;
    let (folder, content) = (device.path("opt"), noise(300_000));
    uploads(&cli, &ArtifactRecipe::single_file("app-2.1", "e2e", &folder, "app.bin", content.clone())).await;
    let listed = cli.run(&["artifacts", "list"]).await;
    assert!(listed.status.success() && listed.stdout.contains("app-2.1"), "{listed:?}");
    // The signal that it is to ask is lost on a client that is at something else.
    device.client_logs("-> check-wait [Idle]", LIMIT).await;

    let made = Instant::now();
    let deployment = user.has_deployed("app-2.1", &[&id]).await;

    wait_until(LIMIT, "the device to begin, which asks by itself every half hour", async || {
        let devices = user.deployed(&deployment).await;
        devices.first().is_some_and(|device| device["status"] != "pending").then_some(())
    })
    .await;
    println!("a device that asks every 30 min began {:?} after its deployment was made ({set:?})", made.elapsed());
    let counts = outcome(&user, &deployment, &device, LIMIT).await;
    assert_eq!(counts, json!({"success": 1}), "{}", device.client_log());
    assert!(std::fs::read(folder.join("app.bin")).unwrap() == content);
    runs(&user, &id, "app-2.1").await;
    // Its token changed on the way, and with it its websocket.
    terminal.type_in("echo sum-$((50+3))\n");
    terminal.printed("sum-53", LIMIT).await;

    let artifact = user.deployment(&deployment).await["artifacts"][0].as_str().unwrap().to_owned();
    let deleted = cli.run(&["artifacts", "delete", &artifact]).await;
    assert!(deleted.status.success(), "{deleted:?}");
}

async fn a_real_device_that_has_it_or_is_of_another_kind_installs_nothing(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let folder = device.path("opt");
    let artifact = |name, kind| ArtifactRecipe::single_file(name, kind, &folder, "app.bin", noise(1_000)).make();
    // What it has from the beginning.
    user.has_uploaded(&artifact("e2e-0", "e2e")).await;
    user.has_uploaded(&artifact("app-1", "another kind")).await;

    let has_it = user.has_deployed("e2e-0", &[&id]).await;
    assert_eq!(outcome(&user, &has_it, &device, LIMIT).await, json!({"already-installed": 1}));
    let fits_others = user.has_deployed("app-1", &[&id]).await;
    assert_eq!(outcome(&user, &fits_others, &device, LIMIT).await, json!({"noartifact": 1}));
    // This time the hub offers it, and the client says by itself that it has it.
    let wish = json!({"name": "again", "artifact_name": "e2e-0", "devices": [id], "force_installation": true});
    let forced = id_of(&user.post(DEPLOYMENTS, &wish).await.expect(201));
    assert_eq!(outcome(&user, &forced, &device, LIMIT).await, json!({"already-installed": 1}));
    assert!(!folder.exists());
}

async fn a_failed_installation_on_a_real_device_is_explained(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let script = "echo the disk is made of cheese >&2; exit 3";
    user.has_uploaded(&ArtifactRecipe::script("app-1", "e2e", script).make()).await;

    let deployment = user.has_deployed("app-1", &[&id]).await;

    let counts = outcome(&user, &deployment, &device, LIMIT).await;
    assert_eq!(counts, json!({"failure": 1}), "{}", device.client_log());
    // The log follows the status.
    wait_until(LIMIT, "the log", async || (user.deployed(&deployment).await[0]["log"] == true).then_some(())).await;
    let log = user.get(&format!("{DEPLOYMENTS}/{deployment}/devices/{id}/log")).await.expect(200).text();
    for part in [" +0000 UTC ", "exit status 3", "the disk is made of cheese"] {
        assert!(log.contains(part), "{part:?} is not in:\n{log}");
    }
    // A script cannot be undone.
    runs(&user, &id, "app-1_INCONSISTENT").await;
}

async fn a_real_device_stops_at_an_aborted_deployment_and_goes_on_with_the_next(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let (started, go_on, folder) = (device.path("started"), device.path("go-on"), device.path("opt"));
    let script = format!("touch {}; while [ ! -e {} ]; do sleep 0.1; done", started.display(), go_on.display());
    user.has_uploaded(&ArtifactRecipe::script("app-1", "e2e", &script).make()).await;
    user.has_uploaded(&ArtifactRecipe::single_file("app-2", "e2e", &folder, "app.bin", noise(1_000)).make()).await;
    let deployment = user.has_deployed("app-1", &[&id]).await;
    wait_until(LIMIT, "the installation to be under way", async || started.exists().then_some(())).await;
    assert_eq!(user.counts(&deployment).await, json!({"installing": 1}));

    user.abort(&deployment).await.expect(204);
    std::fs::write(go_on, "").unwrap();

    let next = user.has_deployed("app-2", &[&id]).await;
    let counts = outcome(&user, &next, &device, LIMIT * 2).await;
    assert_eq!(counts, json!({"success": 1}), "{}", device.client_log());
    assert!(device.client_log().contains("aborted"), "{}", device.client_log());
    assert_eq!(user.counts(&deployment).await, json!({"aborted": 1}));
    assert_eq!(std::fs::read(folder.join("app.bin")).unwrap(), noise(1_000));
}

async fn a_real_device_that_is_told_to_wait_shows_where(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    user.has_uploaded(&ArtifactRecipe::script("app-1", "e2e", "exit 0").make()).await;
    let map = |states: Value| json!({"id": "3f8f5c8e-0000-4000-8000-0000000000aa", "priority": 1, "states": states});
    let stands_at = async |deployment: &str, status: &str| {
        wait_until(LIMIT, status, async || (user.counts(deployment).await == json!({status: 1})).then_some(())).await;
        let waiting =
            user.get(&format!("{DEPLOYMENTS}/{deployment}/devices/list?status=pause")).await.expect(200).json();
        assert_eq!((&waiting[0]["id"], &waiting[0]["status"]), (&json!(id), &json!(status)));
    };
    let pause = json!({"action": "pause"});
    device.control_updates(&map(json!({"ArtifactInstall_Enter": pause, "ArtifactCommit_Enter": pause}))).await;

    let deployment = user.has_deployed("app-1", &[&id]).await;

    stands_at(&deployment, "pause_before_installing").await;
    let go_on = json!({"action": "force_continue"});
    device.control_updates(&map(json!({"ArtifactInstall_Enter": go_on, "ArtifactCommit_Enter": pause}))).await;
    stands_at(&deployment, "pause_before_committing").await;
    assert_eq!(user.deployment(&deployment).await["status"], "inprogress");
    device.control_updates(&map(json!({}))).await;
    let counts = outcome(&user, &deployment, &device, LIMIT).await;
    assert_eq!(counts, json!({"success": 1}), "{}", device.client_log());
}

async fn a_real_device_goes_on_with_a_download_that_was_cut(set: Set) {
    goes_on_after_a_cut(set, 16 << 20, AFTER_A_CUT).await;
}

mod long {
    use super::*;

    #[tokio::test]
    #[ignore = "moves 200 MB twice; run it by its name"]
    async fn a_real_device_goes_on_with_a_large_download_that_was_cut() {
        for set in [Set::Embedded, Set::Production] {
            goes_on_after_a_cut(set, 200_000_000, AFTER_A_CUT * 4).await;
        }
    }
}

/// Installs so many bytes over a line that breaks when half of them have come.
async fn goes_on_after_a_cut(set: Set, length: usize, limit: Duration) {
    let site = set.site().await;
    let half = length as u64 / 2;
    let (hub, line, device);
    if let Some(objects) = site.objects_door() {
        // Devices fetch from the store itself, by links that are signed for its public address.
        line = CuttingProxy::to(&objects, half).await;
        let public = line.door().url();
        hub = site.hub_with(|config| config.storage.objects_public_endpoint = Some(public)).await;
        device = RealDevice::start(&hub).await;
    } else {
        hub = site.hub().await;
        line = CuttingProxy::to(hub.door(), half).await;
        device = RealDevice::start(line.door()).await;
    }
    let user = hub.user().await;
    let id = device.join(&user).await;
    let (folder, content) = (device.path("opt"), noise(length));
    let artifact = ArtifactRecipe::single_file("app-2.1", "e2e", &folder, "app.bin", content.clone());
    uploads(&logged_in(&hub).await, &artifact.with(&["--compression", "none"])).await;

    let deployment = user.has_deployed("app-2.1", &[&id]).await;

    let counts = outcome(&user, &deployment, &device, limit).await;
    assert_eq!(counts, json!({"success": 1}), "{}", device.client_log());
    assert!(is_file(&folder.join("app.bin"), &content));
    let (before, after) = line.brought().expect("the line was cut");
    println!("{before} of {length} bytes came before the cut, {after} after it ({set:?})");
    // What was on the way is lost with the connection, but not what had arrived.
    assert!(after < length as u64, "all {after} bytes came again");
}

fn is_file(path: &Path, content: &[u8]) -> bool {
    std::fs::read(path).is_ok_and(|found| found == content)
}
