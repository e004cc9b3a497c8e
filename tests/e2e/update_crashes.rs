//! A hub that is killed while artifacts come and go and a rollout is under way: nothing is half there, and no device is told
//! the same twice.
//!
//! Each round kills one hub and looks at what is left with the next one, on the same data.

mod fleet;
mod shelf;

use std::sync::atomic::Ordering;

use harness::traffic::Pattern;
use harness::{ArtifactRecipe, LIMIT, Set, Settings, Site, TestDevice, both_sets, wait_until};

use crate::crashes::{Count, seed};
use fleet::{Fleet, RELEASE};
use shelf::Shelf;

both_sets!([a_hub_that_is_killed_during_updates_leaves_nothing_half_done]);

const SETTINGS: &Settings =
    &[("MOORING_API__AUTH_REQUEST_LIMIT__QUOTA", "0"), ("MOORING_API__LOGIN_LIMIT__QUOTA", "0")];

/// Devices that go through a deployment in each round.
const DEVICES: usize = 6;

/// A hub is killed at the latest after so many acknowledgements.
const LATEST: u64 = 50;

/// One life of a hub and its end.
async fn round(site: &Site, number: usize, pattern: &mut Pattern, devices: &mut Vec<TestDevice>) {
    let mut hub = site.process(SETTINGS).await;
    let user = hub.user().await;
    if number == 0 {
        user.has_uploaded(&ArtifactRecipe::module(RELEASE, "rpi4").make()).await;
        for _ in 0..DEVICES {
            devices.push(hub.accepted_by(&user).await);
        }
    }
    for device in devices.iter_mut() {
        device.go_to(&hub);
    }
    let mut shelf = Shelf::fill(&user, number).await;
    let mut fleet = Fleet::new(std::mem::take(devices), number, pattern);
    let mut random = [0; 8];
    pattern.fill(&mut random);
    let enough = u64::from_be_bytes(random) % LATEST;
    let count = Count::default();
    let killed = async {
        wait_until(LIMIT, "the moment", async || (count.load(Ordering::Relaxed) >= enough).then_some(())).await;
        hub.kill();
    };
    tokio::join!(shelf.comes_and_goes(&user, &count), fleet.goes_through_it(&user, &count), killed);

    let hub = site.hub_with(|config| config.api.login_limit.quota = 0).await;
    let user = hub.user().await;
    shelf.is_whole(&hub, &user).await;
    fleet.is_told_truly(&hub, &user).await;
    fleet.comes_to_its_end(&user).await;
    shelf.clear(&hub, &user).await;
    hub.stop().await;
    *devices = fleet.into_devices();
}

/// `kill -9` in the middle of uploads, generation, deletions, reports and changes of phase, again and again on the same data.
async fn rounds(set: Set, rounds: usize, seed: u64) {
    let _turn = harness::turn_of_the_heavy().await;
    let site = set.site().await;
    let mut pattern = Pattern::new(seed);
    let mut devices = Vec::new();
    for number in 0..rounds {
        eprintln!("round {number} of seed {seed}");
        round(&site, number, &mut pattern, &mut devices).await;
    }
}

async fn a_hub_that_is_killed_during_updates_leaves_nothing_half_done(set: Set) {
    rounds(set, 3, seed()).await;
}

/// `cargo test -p tests --test e2e -- --ignored a_hundred_kills_during_updates`
#[tokio::test]
#[ignore = "takes minutes; run it by its name"]
async fn a_hundred_kills_during_updates_of_an_embedded_hub_leave_nothing_half_done() {
    rounds(Set::Embedded, 100, seed()).await;
}

#[tokio::test]
#[ignore = "takes minutes; run it by its name"]
async fn a_hundred_kills_during_updates_of_a_production_hub_leave_nothing_half_done() {
    rounds(Set::Production, 100, seed()).await;
}
