//! Connected devices are told of what there is to install, a few at a time, to whatever node they are connected.

use std::time::{Duration, Instant};

use harness::{ArtifactRecipe, DEPLOYMENTS, LIMIT, Packet, Set, Socket, TestDevice, TestUser, both_sets, id_of};
use serde_json::json;

both_sets!([
    connected_devices_are_told_of_a_deployment_however_they_were_chosen,
    devices_are_told_no_faster_than_is_set,
    nobody_is_told_if_that_is_switched_off,
]);

async fn connected(user: &TestUser, device: &TestDevice) -> Socket {
    let socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    socket
}

/// Waits until the device is told to ask, and says that it has.
async fn is_told(socket: &mut Socket) {
    let heard = socket.hear_for(4, "check-update", LIMIT).await;
    socket.say(&Packet::new(4, "check-update").sid(heard.sid()).prop("status", 1)).await;
    assert!(socket.hear().await.is(65535, "close"));
}

async fn upload(user: &TestUser, name: &str) {
    user.has_uploaded(&ArtifactRecipe::module(name, "rpi4").make()).await;
}

async fn connected_devices_are_told_of_a_deployment_however_they_were_chosen(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let (mut socket, mut others) = (connected(&user, &device).await, connected(&user, &other).await);
    let path = format!("/api/management/v1/inventory/devices/{}/group", device.id);
    user.put(&path, &json!({"group": "hall"})).await.expect(204);
    let term = json!({"scope": "system", "attribute": "group", "type": "$eq", "value": "hall"});
    let filter = json!({"name": "hall", "terms": [term]});
    let filter = id_of(&user.post("/api/management/v2/inventory/filters", &filter).await.expect(201));
    let offline = "3f8f5c8e-0000-4000-8000-000000000000";

    let v2 = "/api/management/v2/deployments/deployments";
    for (release, path, targets) in [
        ("app-1", DEPLOYMENTS, json!({"devices": [offline, "no id", device.id]})),
        ("app-2", &format!("{DEPLOYMENTS}/group/hall"), json!({})),
        ("app-3", v2, json!({"filter_id": filter})),
    ] {
        upload(&user, release).await;
        let mut wish = json!({"name": "fleet-7", "artifact_name": release});
        wish.as_object_mut().unwrap().extend(targets.as_object().unwrap().clone());
        let id = id_of(&user.post(path, &wish).await.expect(201));
        is_told(&mut socket).await;
        assert_eq!(device.polls("base-1", "rpi4").await.expect(200).json()["id"], id.as_str());
        device.says(&id, "success").await.expect(204);
    }
    others.hears_nothing().await;

    upload(&user, "app-4").await;
    let wish = json!({"name": "fleet-7", "artifact_name": "app-4", "all_devices": true});
    let id = id_of(&user.post(DEPLOYMENTS, &wish).await.expect(201));
    for (device, socket) in [(&device, &mut socket), (&other, &mut others)] {
        is_told(socket).await;
        assert_eq!(device.polls("base-1", "rpi4").await.expect(200).json()["id"], id.as_str());
    }
}

async fn devices_are_told_no_faster_than_is_set(set: Set) {
    const DEVICES: usize = 8;
    let hub = set.hub_with(|config| config.actors.wake_ups_per_second = 10).await;
    let user = hub.user().await;
    let mut sockets = vec![];
    for _ in 0..DEVICES {
        let device = hub.accepted_by(&user).await;
        sockets.push(connected(&user, &device).await);
    }
    upload(&user, "app-1").await;
    let began = Instant::now();
    let wish = json!({"name": "fleet-7", "artifact_name": "app-1", "all_devices": true});
    user.post(DEPLOYMENTS, &wish).await.expect(201);
    for socket in &mut sockets {
        is_told(socket).await;
    }
    // The first at once, each other a tenth of a second after the one before; 20 ms of that may have been made good.
    let least = Duration::from_millis(680);
    assert!(began.elapsed() >= least, "{:?}", began.elapsed());
}

async fn nobody_is_told_if_that_is_switched_off(set: Set) {
    let hub = set.hub_with(|config| config.actors.wake_ups_per_second = 0).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = connected(&user, &device).await;
    upload(&user, "app-1").await;
    let id = user.has_deployed("app-1", &[&device.id]).await;
    // Whoever asks by itself finds it, and by then it would have been told.
    assert_eq!(device.polls("base-1", "rpi4").await.expect(200).json()["id"], id.as_str());
    socket.hears_nothing().await;
}

#[tokio::test]
async fn a_device_on_another_node_is_told_and_finds_its_work_on_either() {
    let site = Set::Production.site().await;
    let (one, two) = (site.hub().await, site.hub().await);
    let user = one.user().await;
    let (mut device, mut other) = (one.accepted_by(&user).await, two.accepted_by(&user).await);
    let (mut socket, mut others) = (connected(&user, &device).await, connected(&user, &other).await);
    upload(&user, "app-1").await;

    let id = user.at(&two).has_deployed("app-1", &[&device.id, &other.id]).await;

    is_told(&mut socket).await;
    is_told(&mut others).await;
    // Behind a balancer a device may ask where it is not connected.
    device.go_to(&two);
    other.go_to(&one);
    for device in [&device, &other] {
        assert_eq!(device.polls("base-1", "rpi4").await.expect(200).json()["id"], id.as_str());
    }
}
