//! `mooring deploy` as a person, or a script, meets it.

use harness::{
    ADMIN_EMAIL, ADMIN_PASSWORD, ArtifactRecipe, LIMIT, Mooring, Output, Set, TerminalScreen, TestDevice, TestHub,
    TestUser, both_sets, wait_until,
};
use serde_json::json;

both_sets!([
    a_deployment_is_made_and_watched_to_its_end,
    a_deployment_that_fails_is_told_by_the_status_and_shown,
    ctrl_c_leaves_a_deployment_as_it_is,
    a_deployment_in_phases_pauses_by_itself_and_by_hand,
]);

/// Somebody with `mooring` who is logged in.
struct Operator {
    mooring: Mooring,
    server: String,
}

impl Operator {
    async fn of(hub: &TestHub) -> Self {
        let this = Self { mooring: Mooring::alone(), server: hub.url() };
        let login = ["login", "--server", &this.server, "--user", ADMIN_EMAIL, "--password-stdin"];
        let login = this.mooring.run(&login, &format!("{ADMIN_PASSWORD}\n")).await;
        assert!(login.status.success(), "{login:?}");
        this
    }

    fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["deploy"], arguments, &["--server", &self.server]].concat()
    }

    async fn deploy(&self, arguments: &[&str]) -> Output {
        self.mooring.run(&self.arguments(arguments), "").await
    }

    /// The same for one that works; what it prints.
    async fn deploys(&self, arguments: &[&str]) -> String {
        let output = self.deploy(arguments).await;
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    async fn on_a_screen(&self, arguments: &[&str]) -> TerminalScreen {
        TerminalScreen::run(&self.mooring.command(&self.arguments(arguments))).await
    }
}

async fn group(user: &TestUser, device: &TestDevice, name: &str) {
    let path = format!("/api/management/v1/inventory/devices/{}/group", device.id);
    user.put(&path, &json!({"group": name})).await.expect(204);
}

/// Waits until the device is told of a deployment, and goes through it to this end; the deployment.
async fn goes_through(device: &TestDevice, end: &str) -> String {
    let offer = wait_until(LIMIT, "a deployment for the device", async || {
        let answer = device.polls("base-1", "rpi4").await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    let id = offer["id"].as_str().unwrap().to_owned();
    for status in ["downloading", "installing", end] {
        device.says(&id, status).await.expect(204);
    }
    id
}

async fn a_deployment_is_made_and_watched_to_its_end(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (one, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    for device in [&one, &other] {
        group(&user, device, "hall").await;
    }
    let operator = Operator::of(&hub).await;
    assert_eq!(operator.deploys(&["list"]).await.trim(), "no deployments");
    user.has_uploaded(&ArtifactRecipe::module("app-1", "rpi4").make()).await;

    let devices = async {
        let id = goes_through(&one, "success").await;
        assert_eq!(goes_through(&other, "success").await, id);
        id
    };
    let (printed, id) = tokio::join!(operator.deploys(&["app-1", "--group", "hall"]), devices);

    assert!(printed.starts_with(&format!("deployment {id}\n")), "{printed}");
    assert!(printed.ends_with("finished: 2 success\n"), "{printed}");
    assert_eq!(user.deployment(&id).await["name"], "hall");
    let listed = operator.deploys(&["list", "--status", "finished"]).await;
    for part in [&*id, "hall", "app-1", "2 of 2"] {
        assert!(listed.contains(part), "{part} is not in {listed}");
    }
    // One that is over is watched for a moment.
    assert_eq!(operator.deploys(&["watch", &id[..13]]).await.lines().last(), Some("finished: 2 success"));

    // Devices are named as elsewhere; a script may do something else meanwhile.
    let mac = one.identity["mac"].as_str().unwrap();
    let made = operator.deploys(&["app-1", "--device", mac, "--device", &other.id, "--force", "--detach"]).await;
    let deployment = user.deployment(made.trim()).await;
    assert_eq!((&deployment["max_devices"], &deployment["name"]), (&json!(2), &json!("2 devices")));
    assert_eq!(deployment["force_installation"], true);
    let term = json!({"scope": "system", "attribute": "group", "type": "$eq", "value": "hall"});
    let filter = json!({"name": "in the hall", "terms": [term]});
    user.post("/api/management/v2/inventory/filters", &filter).await.expect(201);
    let wish = ["app-1", "--filter", "in the hall", "--max-devices", "7", "--name", "by hand", "--detach"];
    let deployment = user.deployment(operator.deploys(&wish).await.trim()).await;
    assert_eq!((&deployment["max_devices"], &deployment["name"]), (&json!(7), &json!("by hand")));
    assert_eq!(deployment["filter"]["terms"], json!([term]));
}

async fn a_deployment_that_fails_is_told_by_the_status_and_shown(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (one, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let operator = Operator::of(&hub).await;
    for (wrong, code, says) in [
        (&["app-1"][..], 2, "required"),
        (&["app-1", "--all", "--group", "hall"], 2, "cannot be used with"),
        (&["app-1", "--all"], 1, "no release \"app-1\""),
        (&["Cargo.toml", "--all"], 1, "no release"),
        (&["app-1", "--group", "nobody"], 1, "No devices"),
        (&["app-1", "--device", "nobody"], 1, "no device \"nobody\""),
        (&["app-1", "--filter", "nothing"], 1, "no saved filter \"nothing\": there are none"),
        (&["abort", "6b1d"], 1, "no deployment \"6b1d\""),
        (&["watch", "3f8f5c8e-0000-4000-8000-000000000000"], 1, "no deployment"),
    ] {
        let output = operator.deploy(wrong).await;
        assert_eq!(output.status.code(), Some(code), "{wrong:?}: {output:?}");
        assert!(output.stderr.contains(says), "{wrong:?}: {output:?}");
    }
    user.has_uploaded(&ArtifactRecipe::module("app-1", "rpi4").make()).await;

    let devices = async {
        let id = goes_through(&one, "failure").await;
        let message =
            json!({"timestamp": "2026-01-02T03:04:05Z", "level": "error", "message": "no room\u{1b}[2J left"});
        one.logs(&id, &json!({"messages": [message]})).await.expect(204);
        goes_through(&other, "success").await
    };
    let (output, id) = tokio::join!(operator.deploy(&["app-1", "--all"]), devices);

    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.contains("finished: 1 success, 1 failure\n"), "{output:?}");
    assert!(output.stdout.contains(&format!("mooring deploy show {id} --server {}", operator.server)), "{output:?}");
    let shown = operator.deploys(&["show", &id, "--status", "failure"]).await;
    assert!(shown.contains("app-1 for All devices") && shown.contains("1 success, 1 failure"), "{shown}");
    assert!(shown.contains(&one.id) && !shown.contains(&other.id), "{shown}");
    let log = operator.deploys(&["log", &id, &one.id]).await;
    assert_eq!(log, "2026-01-02 03:04:05 +0000 UTC error: no room\u{fffd}[2J left\n");
    let none = operator.deploy(&["log", &id, &other.id]).await;
    assert!(!none.status.success() && none.stderr.contains("sent no log"), "{none:?}");
    let over = operator.deploy(&["abort", &id]).await;
    assert!(!over.status.success() && over.stderr.contains("already finished"), "{over:?}");
}

async fn ctrl_c_leaves_a_deployment_as_it_is(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (one, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let operator = Operator::of(&hub).await;
    user.has_uploaded(&ArtifactRecipe::module("app-1", "rpi4").make()).await;

    let screen = operator.on_a_screen(&["app-1", "--all"]).await;
    screen.shows("app-1 for All devices: pending", LIMIT).await;
    let id = goes_through(&one, "success").await;
    screen.shows("app-1 for All devices: in progress", LIMIT).await;
    screen.shows("█", LIMIT).await;
    screen.shows("1   50 %", LIMIT).await;
    screen.press("C-c");

    assert_eq!(screen.ended(LIMIT).await, 130, "{}", screen.text());
    screen.shows("the deployment goes on", LIMIT).await;
    screen.shows(&format!("mooring deploy watch {id}"), LIMIT).await;
    assert!(!screen.text().contains('█'), "{}", screen.text());
    assert_eq!(user.deployment(&id).await["status"], "inprogress");
    let aborted = operator.deploys(&["abort", &id[..13]]).await;
    assert_eq!(aborted, format!("{id} is aborted\n"));
    other.says(&id, "downloading").await.expect(404);
    let watched = operator.deploy(&["watch", &id]).await;
    assert_eq!(watched.status.code(), Some(1), "{watched:?}");
    assert!(watched.stdout.contains("finished: 1 success, 1 aborted"), "{watched:?}");
}

async fn a_deployment_in_phases_pauses_by_itself_and_by_hand(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let devices = [hub.accepted_by(&user).await, hub.accepted_by(&user).await, hub.accepted_by(&user).await];
    let operator = Operator::of(&hub).await;
    user.has_uploaded(&ArtifactRecipe::module("app-1", "rpi4").make()).await;
    let wish = ["app-1", "--all", "--phases", "1,rest", "--max-failed", "0", "--detach"];
    let id = operator.deploys(&wish).await.trim().to_owned();
    assert!(operator.deploys(&["show", &id]).await.contains("pending, phase 1 of 2"));

    // There is room for one, and it fails.
    goes_through(&devices[0], "failure").await;
    let left = operator.deploy(&["watch", &id, "--leave-when-paused"]).await;
    assert_eq!(left.status.code(), Some(3), "{left:?}");
    assert!(left.stdout.contains("paused, ") && left.stdout.contains("failed"), "{left:?}");
    assert!(left.stdout.contains(&format!("mooring deploy resume {id}")), "{left:?}");
    devices[1].polls("base-1", "rpi4").await.expect(204);

    assert_eq!(operator.deploys(&["resume", &id[..13]]).await, format!("{id} goes on\n"));
    goes_through(&devices[1], "success").await;
    operator.deploys(&["pause", &id]).await;
    devices[2].polls("base-1", "rpi4").await.expect(204);
    let shown = operator.deploys(&["show", &id]).await;
    assert!(shown.contains("paused ") && shown.contains("by an operator"), "{shown}");
    operator.deploys(&["resume", &id]).await;
    let end = async { goes_through(&devices[2], "success").await };
    let watch = ["watch", &id];
    let (watched, _) = tokio::join!(operator.deploy(&watch), end);
    assert_eq!(watched.status.code(), Some(1), "{watched:?}");
    assert!(watched.stdout.contains("finished: 2 success, 1 failure"), "{watched:?}");
}
