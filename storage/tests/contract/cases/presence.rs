//! Who is connected where.

use std::collections::HashSet;
use std::time::Duration;

use storage::{Claim, DeviceId, Epoch, NodeId, Presence, Route, Timestamp, clock};

use crate::backends::{TestPresence, eventually};

const LEASE: Duration = Duration::from_mins(1);

async fn alive(presence: &Presence) -> NodeId {
    let node = NodeId::random();
    presence.renew(node, LEASE).await.expect("a lease");
    node
}

async fn claim(presence: &Presence, device: DeviceId, node: NodeId) -> Claim {
    presence.claim(device, node, clock::now()).await.expect("a claim")
}

async fn find(presence: &Presence, device: DeviceId) -> Option<Route> {
    presence.find(device).await.expect("an answer")
}

pub async fn a_route_is_found_while_its_node_is_alive(test: &TestPresence) {
    let (presence, node, device) = (&test.presence, NodeId::random(), DeviceId::random());
    assert!(!presence.is_alive(node).await.expect("an answer"));
    let epoch = claim(presence, device, node).await.epoch;
    assert_eq!(find(presence, device).await, None);
    presence.renew(node, Duration::from_millis(400)).await.expect("a lease");
    assert_eq!(find(presence, device).await, Some(Route { node, epoch }));
    eventually("the lease ends", async || find(presence, device).await.is_none()).await;
    assert!(!presence.is_alive(node).await.expect("an answer"));
    presence.renew(node, LEASE).await.expect("a lease");
    assert_eq!(find(presence, device).await, Some(Route { node, epoch }));
}

pub async fn claims_displace_the_route_before(test: &TestPresence) {
    let presence = &test.presence;
    let (one, other, device) = (alive(presence).await, alive(presence).await, DeviceId::random());
    let first = claim(presence, device, one).await;
    assert_eq!(first.displaced, None);
    let second = claim(presence, device, one).await;
    assert_eq!(second.displaced, Some(Route { node: one, epoch: first.epoch }));
    let third = claim(presence, device, other).await;
    assert_eq!(third.displaced, Some(Route { node: one, epoch: second.epoch }));
    assert!(first.epoch < second.epoch && second.epoch < third.epoch);
    presence.leave(other).await.expect("it leaves");
    assert_eq!(claim(presence, device, one).await.displaced, None);
}

pub async fn parallel_claims_get_distinct_growing_epochs(test: &TestPresence) {
    let device = DeviceId::random();
    let now = clock::now();
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let presence = test.presence.clone();
        claims.spawn(async move {
            let node = alive(&presence).await;
            let mut epochs = Vec::new();
            for _ in 0..20 {
                epochs.push((presence.claim(device, node, now).await.expect("a claim").epoch, node));
            }
            epochs
        });
    }
    let epochs = claims.join_all().await;
    assert!(epochs.iter().all(|of_one_node| of_one_node.is_sorted_by(|a, b| a.0 < b.0)));
    let all: Vec<(Epoch, NodeId)> = epochs.into_iter().flatten().collect();
    assert_eq!(all.iter().map(|(epoch, _)| *epoch).collect::<HashSet<_>>().len(), 200);
    let (epoch, node) = *all.iter().max().expect("there are some");
    assert_eq!(find(&test.presence, device).await, Some(Route { node, epoch }));
}

pub async fn an_epoch_is_never_behind_the_clock(test: &TestPresence) {
    let presence = &test.presence;
    let (node, device) = (alive(presence).await, DeviceId::random());
    let now = clock::now();
    let first = presence.claim(device, node, now).await.expect("a claim").epoch;
    assert_eq!(first, Epoch(now.0));
    // The clock of another node is behind, and the route is gone: it grows all the same.
    presence.release(&[(device, first)]).await.expect("released");
    let second = presence.claim(device, node, now.minus(LEASE)).await.expect("a claim").epoch;
    assert!(second > first);
    let far = Timestamp(9_000_000_000_000_000);
    assert_eq!(presence.claim(device, node, far).await.expect("a claim").epoch, Epoch(far.0));
    assert_eq!(presence.claim(device, node, now).await.expect("a claim").epoch, Epoch(far.0 + 1));
}

pub async fn only_the_newest_connection_releases_its_route(test: &TestPresence) {
    let presence = &test.presence;
    let (node, device) = (alive(presence).await, DeviceId::random());
    let old = claim(presence, device, node).await.epoch;
    let new = claim(presence, device, node).await.epoch;
    presence.release(&[(device, old)]).await.expect("ignored");
    assert_eq!(find(presence, device).await, Some(Route { node, epoch: new }));
    presence.release(&[(device, new)]).await.expect("released");
    assert_eq!(find(presence, device).await, None);
    presence.release(&[(device, new)]).await.expect("nothing to release");
}

pub async fn many_routes_are_released_together(test: &TestPresence) {
    let presence = &test.presence;
    let node = alive(presence).await;
    let mut ended = Vec::new();
    // More than one call takes.
    for _ in 0..1_100 {
        let device = DeviceId::random();
        ended.push((device, claim(presence, device, node).await.epoch));
    }
    let (back, _) = ended[1_050];
    let newer = claim(presence, back, node).await.epoch;
    presence.release(&ended).await.expect("released");
    for (device, _) in ended {
        let expected = (device == back).then_some(Route { node, epoch: newer });
        assert_eq!(find(presence, device).await, expected);
    }
    presence.release(&[]).await.expect("nobody left");
}

pub async fn announcing_never_replaces_a_newer_route(test: &TestPresence) {
    let presence = &test.presence;
    let (one, other) = (alive(presence).await, alive(presence).await);
    let (lost, moved) = (DeviceId::random(), DeviceId::random());
    let old = claim(presence, moved, one).await.epoch;
    let new = claim(presence, moved, other).await.epoch;
    let future = Epoch(clock::now().plus(LEASE).0);
    presence.announce(one, &[(lost, future), (moved, old)]).await.expect("announced");
    assert_eq!(find(presence, lost).await, Some(Route { node: one, epoch: future }));
    assert_eq!(find(presence, moved).await, Some(Route { node: other, epoch: new }));
    // What was announced counts as given out.
    assert!(claim(presence, DeviceId::random(), one).await.epoch > future);
}

pub async fn announcing_thousands(test: &TestPresence) {
    let presence = &test.presence;
    let node = alive(presence).await;
    let held: Vec<(DeviceId, Epoch)> = (1..=5_500).map(|epoch| (DeviceId::random(), Epoch(epoch))).collect();
    presence.announce(node, &held).await.expect("announced");
    presence.announce(node, &[]).await.expect("nothing to announce");
    for (device, epoch) in held.into_iter().step_by(499) {
        assert_eq!(find(presence, device).await, Some(Route { node, epoch }));
    }
}

pub async fn a_node_that_leaves_takes_its_routes_along(test: &TestPresence) {
    let presence = &test.presence;
    let (leaving, staying) = (alive(presence).await, alive(presence).await);
    let (gone, kept) = (DeviceId::random(), DeviceId::random());
    claim(presence, gone, leaving).await;
    claim(presence, kept, staying).await;
    presence.leave(leaving).await.expect("it leaves");
    assert!(!presence.is_alive(leaving).await.expect("an answer"));
    assert_eq!(find(presence, gone).await, None);
    assert!(find(presence, kept).await.is_some());
}

pub async fn counts_by_key_and_window(test: &TestPresence) {
    let presence = &test.presence;
    let count =
        async |key: &str, window, expires: Duration| presence.increment(key, window, expires).await.expect("a count");
    assert_eq!(count("ann", 1, LEASE).await, 1);
    assert_eq!(count("ann", 1, LEASE).await, 2);
    assert_eq!(count("bob", 1, LEASE).await, 1);
    assert_eq!(count("ann", 2, LEASE).await, 1);
    assert_eq!(count("ann", 1, LEASE).await, 3);

    let brief = Duration::from_millis(50);
    assert_eq!(count("eve", 1, brief).await, 1);
    eventually("the count is forgotten", async || {
        tokio::time::sleep(2 * brief).await;
        count("eve", 1, brief).await == 1
    })
    .await;
}
