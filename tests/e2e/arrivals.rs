//! More devices on their way in than the hub lets in at once.

use harness::{
    Answer, Backend, KeptTerminal, LIMIT, OwnServers, TestDevice, TestHub, TestUser, answer_like_a_shell, wait_until,
};

/// The number after this name and label on the page of metrics.
async fn metric(hub: &TestHub, name: &str) -> f64 {
    let page = Answer::to(hub.request("GET", "/metrics").bearer_auth("watch")).await.expect(200);
    let text = page.text();
    let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.rsplit_once(' '));
    line.map_or(0.0, |(_, number)| number.parse().expect("a number"))
}

async fn until_metric(hub: &TestHub, name: &str, number: f64) {
    let what = format!("{name} to be {number}");
    wait_until(LIMIT, &what, async || ((metric(hub, name).await - number).abs() < 0.5).then_some(())).await;
}

const INSIDE: &str = r#"mooring_arrivals_inside{door="connect"}"#;
const WAITING: &str = r#"mooring_arrivals_waiting{door="connect"}"#;
const SHED: &str = r#"mooring_arrivals_shed_total{door="connect"}"#;

/// Connects in a task of its own, and answers like a shell from then on.
fn come(hub: &TestHub, token: &str) -> tokio::task::JoinHandle<()> {
    let mut device = hub.device();
    token.clone_into(&mut device.token);
    tokio::spawn(async move {
        let mut socket = device.connect().await;
        tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    })
}

#[tokio::test]
async fn devices_beyond_what_the_store_can_take_wait_in_line_and_those_beyond_the_line_are_told_when_to_come_back() {
    let servers = OwnServers::start().await;
    let settings = [
        ("MOORING_ACTORS__ARRIVALS__AT_ONCE", "1"),
        ("MOORING_ACTORS__ARRIVALS__WAITING", "1"),
        ("MOORING_ACTORS__ARRIVALS__PATIENCE", "2m"),
        // What is frozen here is waited for.
        ("MOORING_STORAGE__REDIS_TIMEOUT", "1m"),
        ("MOORING_ACTORS__LEASE", "10m"),
        ("MOORING_API__METRICS_TOKEN", "watch"),
    ];
    let hub = servers.site().process(&settings).await;
    let user = hub.user().await;
    let mut devices: Vec<TestDevice> = vec![];
    for _ in 0..4 {
        devices.push(hub.accepted_by(&user).await);
    }
    let [awaited, first, second, third] = &devices[..] else { unreachable!("there are four") };
    let mut terminal = terminal_of_a_lost_device(&user, awaited).await;

    servers.freeze(Backend::Redis);
    let first = come(&hub, &first.token);
    until_metric(&hub, INSIDE, 1.0).await;
    let second = come(&hub, &second.token);
    until_metric(&hub, WAITING, 1.0).await;
    let refused = third.try_connect(&[]).await.err().expect("the line is full").expect(503);
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert!((metric(&hub, SHED).await - 1.0).abs() < 0.5);
    // There is always a place for a device that an operator waits for.
    let last = come(&hub, &awaited.token);
    until_metric(&hub, WAITING, 2.0).await;
    servers.thaw(Backend::Redis);
    for coming in [first, second, last] {
        coming.await.expect("it is let in");
    }
    until_metric(&hub, INSIDE, 0.0).await;
    terminal.type_in("here-again\r").await;
    terminal.shows("here-again", LIMIT).await;
    drop(third.connect_soon().await);
}

/// A terminal whose device was connected and is not any more.
async fn terminal_of_a_lost_device(user: &TestUser, device: &TestDevice) -> KeptTerminal {
    let mut socket = device.connect().await;
    let serving = tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    let mut terminal = KeptTerminal::open(user, &device.id).await;
    terminal.type_in("here\r").await;
    terminal.shows("here", LIMIT).await;
    serving.abort();
    wait_until(LIMIT, "the device to be away", async || {
        (user.status(&device.id).await == "disconnected").then_some(())
    })
    .await;
    terminal
}
