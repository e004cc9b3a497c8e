//! Postgres, Redis and NATS die under open terminals, one at a time, and come back.

use harness::{
    ADMIN_EMAIL, ADMIN_PASSWORD, Backend, LIMIT, OwnServers, Shell, Site, TestDevice, TestHub, TestUser,
    answer_like_a_shell, wait_until, within,
};
use std::time::{Duration, Instant};

/// Terminals that are open while a backend is away: half of them with the device on the operator's node, half across.
const TERMINALS: usize = 50;
const DEVICES: usize = 10;

/// How long anything may take to be as it was, once the backend is back: clients of backends back off.
const RECOVERY: Duration = Duration::from_mins(1);

/// Two nodes in servers of their own.
struct Place {
    servers: Option<OwnServers>,
    one: TestHub,
    two: TestHub,
    user: TestUser,
    devices: Vec<TestDevice>,
    /// Terminals on the node of their device.
    near: Vec<Shell>,
    /// Terminals that go across.
    far: Vec<Shell>,
}

async fn node(site: &Site) -> TestHub {
    // An outage is what this is about: the hub waits for a database as long as it does by default.
    site.process(&[("MOORING_ACTORS__LEASE", "5s"), ("MOORING_STORAGE__ACQUIRE_TIMEOUT", "2500ms")]).await
}

/// A device on a node, which answers like a shell and comes back whenever it is sent away.
async fn device(hub: &TestHub, user: &TestUser) -> TestDevice {
    let device = hub.accepted_by(user).await;
    let mut socket = device.connect().await;
    let mut again = hub.device();
    (again.token, again.id) = (device.token.clone(), device.id.clone());
    tokio::spawn(async move {
        loop {
            socket.serve(answer_like_a_shell).await;
            socket = again.connect_again().await;
        }
    });
    device
}

impl Place {
    async fn new() -> Self {
        let servers = OwnServers::start().await;
        let site = servers.site();
        let (one, two) = (node(&site).await, node(&site).await);
        let user = one.user().await;
        let mut devices = Vec::new();
        for _ in 0..DEVICES {
            devices.push(device(&one, &user).await);
        }
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for number in 0..TERMINALS {
            let device = &devices[number % DEVICES];
            if number % 2 == 0 {
                near.push(Shell::start(user.open_soon(&device.id).await).await);
            } else {
                far.push(Shell::start(user.at(&two).open_soon(&device.id).await).await);
            }
        }
        Self { servers: Some(servers), one, two, user, devices, near, far }
    }

    async fn kill(&mut self, backend: Backend) {
        self.servers.as_mut().unwrap().kill(backend).await;
    }

    async fn restart(&mut self, backend: Backend) {
        self.servers = Some(self.servers.take().unwrap().restart(backend).await);
    }

    /// Every terminal that is left goes on.
    async fn go_on(&mut self, what: &str) {
        let shells = self.near.iter_mut().chain(&mut self.far);
        let echoes = shells.map(|shell| shell.echoes(what));
        within(LIMIT, what, futures_util::future::join_all(echoes)).await;
    }

    /// Everything that needs all backends works again: a login, a newcomer, a session from either node.
    async fn is_well(&self) {
        wait_until(RECOVERY, "logins to work", async || {
            (TestUser::try_log_in(&self.two, ADMIN_EMAIL, ADMIN_PASSWORD).await.status == 200).then_some(())
        })
        .await;
        wait_until(RECOVERY, "the hub to be ready", async || {
            (self.one.get("/health/ready").await.status == 200 && self.two.get("/health/ready").await.status == 200)
                .then_some(())
        })
        .await;
        let newcomer = device(&self.two, &self.user.at(&self.two)).await;
        for (node, id) in [(&self.one, &newcomer.id), (&self.two, &newcomer.id), (&self.two, &self.devices[0].id)] {
            let user = self.user.at(node);
            wait_until(RECOVERY, "the device to be connected for all", async || {
                let answer = user.connection(id).await;
                (answer.status == 200 && answer.json()["status"] == "connected").then_some(())
            })
            .await;
            let session = wait_until(RECOVERY, "a new session", async || user.try_open(id).await.ok()).await;
            Shell::start(session).await.echoes("new").await;
        }
    }
}

#[tokio::test]
async fn terminals_go_on_without_the_database_and_writes_are_told_to_wait() {
    let _turn = harness::turn_of_the_heavy().await;
    let mut place = Place::new().await;
    let mut idle = place.one.accepted_by(&place.user).await;
    place.go_on("before").await;

    place.kill(Backend::Postgres).await;

    place.go_on("without a database").await;
    // What would have to be written is refused, and says when to try again.
    let refusal = wait_until(LIMIT, "a refusal", async || {
        let answer = place.user.decide(&idle.id, &idle.set(), "rejected").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert!(refusal.header("retry-after").parse::<u32>().is_ok(), "{refusal}: {:?}", refusal.headers);
    refusal.error();
    place.go_on("still without").await;

    place.restart(Backend::Postgres).await;

    place.is_well().await;
    place.go_on("after").await;
    // What was refused was not half done. A device whose access was in doubt may have to ask for its token again.
    assert_eq!(place.user.device(&idle.id).await["status"], "accepted");
    idle.take_token().await;
    assert!(idle.has_access().await);
    assert_eq!((place.near.len(), place.far.len()), (TERMINALS / 2, TERMINALS / 2));
}

#[tokio::test]
async fn terminals_go_on_without_redis_and_new_ones_across_nodes_are_refused_clearly() {
    let _turn = harness::turn_of_the_heavy().await;
    let mut place = Place::new().await;
    place.go_on("before").await;

    place.kill(Backend::Redis).await;

    place.go_on("without presence").await;
    // Where its device is nobody can say on the other node; that is told, and nobody is left waiting.
    let asked = Instant::now();
    match within(LIMIT, "an answer", place.user.at(&place.two).try_open(&place.devices[0].id)).await {
        // A node that still knows the way may use it.
        Ok(session) => Shell::start(session).await.echoes("knew the way").await,
        Err(refusal) => {
            assert!([404, 500, 502, 503].contains(&refusal.status), "{refusal}");
            refusal.error();
        }
    }
    assert!(asked.elapsed() < LIMIT);
    place.go_on("still without").await;

    // It comes back with nothing in it: the nodes say again what they have.
    place.restart(Backend::Redis).await;

    place.is_well().await;
    place.go_on("after").await;
}

#[tokio::test]
async fn terminals_on_their_device_s_node_go_on_without_nats_and_others_end_with_a_reason_or_go_on_later() {
    let _turn = harness::turn_of_the_heavy().await;
    let mut place = Place::new().await;
    place.go_on("before").await;

    place.kill(Backend::Nats).await;

    let near = place.near.iter_mut().map(|shell| shell.echoes("without a bus"));
    within(LIMIT, "terminals on one node", futures_util::future::join_all(near)).await;
    // A new one on the device's node needs no bus either.
    Shell::start(place.user.open(&place.devices[0].id).await).await.echoes("new, without a bus").await;
    for shell in &mut place.far {
        shell.type_in("typed without a bus").await;
    }

    place.restart(Backend::Nats).await;

    // Each of the others either ends with a word, or everything that was typed comes back.
    let mut left = Vec::new();
    for mut shell in place.far.drain(..) {
        let mut shown = Vec::new();
        let outcome = within(RECOVERY, "a terminal to go on or to end", async {
            while shown.len() < b"typed without a bus".len() {
                match shell.socket.next().await {
                    harness::Event::Message(heard) if heard.is(1, "shell") => shown.extend_from_slice(heard.body()),
                    harness::Event::Message(heard) if heard.is(1, "stop") => {
                        assert!(!heard.body().is_empty(), "it ended without a reason");
                        return false;
                    }
                    harness::Event::Closed(closed) => {
                        assert!(closed.code().is_some(), "it was cut without a word");
                        return false;
                    }
                    _ => {}
                }
            }
            true
        })
        .await;
        if outcome {
            assert_eq!(shown, b"typed without a bus");
            left.push(shell);
        }
    }
    eprintln!("{} of {} terminals across nodes went on over an outage of NATS", left.len(), TERMINALS / 2);
    place.far = left;
    place.is_well().await;
    place.go_on("after").await;
}

/// Nobody was told, since the bus was away: the nodes look for themselves, often enough.
#[tokio::test]
async fn access_withdrawn_while_nats_was_away_is_withdrawn_on_every_node_all_the_same() {
    let mut servers = OwnServers::start().await;
    let site = servers.site();
    let (one, two) = (node(&site).await, node(&site).await);
    let user = one.user().await;
    let rejected = one.accepted_by(&user).await;
    let mut socket = rejected.connect().await;
    let other = device(&one, &user).await;
    let leaving = one.user().await;
    let mut session = leaving.open(&other.id).await;

    servers.kill(Backend::Nats).await;
    // Both are done on the other node, which cannot tell anybody.
    user.at(&two).decide(&rejected.id, &rejected.set(), "rejected").await.expect(204);
    let logout = leaving.at(&two).request("POST", "/api/management/v1/useradm/auth/logout");
    harness::Answer::to(logout).await.expect(202);
    let servers = servers.restart(Backend::Nats).await;

    assert!(socket.end(RECOVERY).await.code().is_some(), "the device is told");
    assert!(session.end(RECOVERY).await.code().is_some(), "the operator is told");
    wait_until(RECOVERY, "the token to be refused", async || (!rejected.has_access().await).then_some(())).await;
    wait_until(RECOVERY, "the login to be refused", async || {
        (leaving.get("/api/management/v1/useradm/users/me").await.status == 401).then_some(())
    })
    .await;
    drop(servers);
}
