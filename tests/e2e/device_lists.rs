//! Devices are listed, counted, preauthorized and limited.

use harness::{Key, LIMIT, Mooring, Set, TestDevice, TestHub, TestUser, both_sets, wait_until};
use serde_json::{Value, json};

both_sets!([
    devices_are_listed_by_status_and_id_in_pages,
    devices_are_found_by_status_and_id,
    devices_are_counted_by_status,
    a_search_takes_one_value_or_several_and_any_charset,
    a_known_identity_is_a_conflict_without_force,
    a_wish_to_preauthorize_that_makes_no_sense_is_refused,
    forced_on_an_accepted_device_the_new_key_waits_for_its_first_request,
    force_never_takes_what_a_key_has,
    a_device_that_was_only_preauthorized_goes_with_its_set,
    the_limit_of_devices_is_kept_and_shown,
    parallel_accepts_at_the_limit_let_one_in,
    a_decommissioned_device_stays_gone_when_the_hub_is_killed,
    the_operator_looks_whether_all_agrees_with_the_devices,
]);

const DEVICES: &str = "/api/management/v2/devauth/devices";
const LIMIT_OF_DEVICES: &str = "/api/management/v2/devauth/limits/max_devices";
const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";

fn id_of(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

/// Status and id of each.
fn briefly(devices: &Value) -> Vec<(String, String)> {
    let devices = devices.as_array().unwrap().iter();
    devices.map(|device| (device["status"].as_str().unwrap().to_owned(), id_of(device))).collect()
}

async fn asked(hub: &TestHub, user: &TestUser) -> (TestDevice, String, String) {
    let device = hub.device();
    device.ask().await.expect(401);
    let found = user.device_with(&device.identity).await.unwrap();
    (device, id_of(&found), id_of(&found["auth_sets"][0]))
}

/// A wish to let a device in.
fn wish(device: &TestDevice, force: bool) -> Value {
    json!({"identity_data": device.identity, "pubkey": device.key.public_pem(), "force": force})
}

/// Three pending, two rejected, one accepted, one preauthorized and one without sets, as the hub should list them.
async fn a_fleet(hub: &TestHub, user: &TestUser) -> Vec<(String, String)> {
    let mut fleet = Vec::new();
    for status in ["pending", "pending", "pending", "rejected", "rejected", "accepted", "noauth"] {
        let (_, id, set) = asked(hub, user).await;
        match status {
            "pending" => {}
            "noauth" => {
                user.delete(&format!("{DEVICES}/{id}/auth/{set}")).await.expect(204);
            }
            decided => {
                user.decide(&id, &set, decided).await.expect(204);
            }
        }
        fleet.push((status.to_owned(), id));
    }
    let location = user.post(DEVICES, &wish(&hub.device(), false)).await.expect(201).header("location").to_owned();
    fleet.push(("preauthorized".to_owned(), location.strip_prefix("devices/").unwrap().to_owned()));
    fleet.sort();
    fleet
}

async fn devices_are_listed_by_status_and_id_in_pages(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let fleet = a_fleet(&hub, &user).await;

    let all = user.get(DEVICES).await.expect(200);
    assert_eq!(briefly(&all.json()), fleet);
    assert_eq!(links(&all), [format!("<{DEVICES}?page=1&per_page=20>; rel=\"first\"")]);
    assert_eq!(all.header("x-total-count"), "");

    let mut sliced = Vec::new();
    for page in 1..=3 {
        let answer = user.get(&format!("{DEVICES}?per_page=3&page={page}")).await.expect(200);
        sliced.extend(briefly(&answer.json()));
        let link = |page: u32, relation: &str| format!("<{DEVICES}?page={page}&per_page=3>; rel=\"{relation}\"");
        let mut expected = vec![link(1, "first")];
        if page > 1 {
            expected.push(link(page - 1, "prev"));
        }
        if page < 3 {
            expected.push(link(page + 1, "next"));
        }
        assert_eq!(links(&answer), expected, "page {page}");
    }
    assert_eq!(sliced, fleet, "the slices are the whole");
    // Exactly full, and nothing follows.
    let full = user.get(&format!("{DEVICES}?per_page=8")).await.expect(200);
    assert_eq!(links(&full).len(), 1, "{full}");
    let past = user.get(&format!("{DEVICES}?page=99&per_page=500")).await.expect(200);
    assert_eq!(past.json(), json!([]));
    // The question is kept, its names in order.
    let asked = user.get(&format!("{DEVICES}?status=pending&per_page=2&page=1&b=%20x&a=1")).await.expect(200);
    assert!(
        links(&asked).contains(&format!("<{DEVICES}?a=1&b=+x&page=2&per_page=2&status=pending>; rel=\"next\"")),
        "{:?}",
        links(&asked)
    );

    for (query, text) in [
        ("per_page=501", "parameter \"per_page\" above limit (max: 500)"),
        ("page=0", "invalid page query: value must be a non-zero positive integer"),
        ("per_page=0", "invalid per_page query: value must be a non-zero positive integer"),
        ("page=-1", "invalid page query: value must be a non-zero positive integer"),
        ("page=two", "invalid page query: \"two\""),
        ("per_page=thirty", "invalid per_page query: \"thirty\""),
    ] {
        assert_eq!(user.get(&format!("{DEVICES}?{query}")).await.expect(400).error(), text);
    }
}

fn links(answer: &harness::Answer) -> Vec<String> {
    answer.headers.get_all("link").iter().map(|link| link.to_str().unwrap().to_owned()).collect()
}

async fn devices_are_found_by_status_and_id(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let fleet = a_fleet(&hub, &user).await;
    let list = async |query: &str| briefly(&user.get(&format!("{DEVICES}{query}")).await.expect(200).json());
    let having = |statuses: &[&str]| -> Vec<_> {
        fleet.iter().filter(|(status, _)| statuses.contains(&status.as_str())).cloned().collect()
    };

    for status in ["pending", "accepted", "rejected", "preauthorized", "noauth"] {
        assert_eq!(list(&format!("?status={status}")).await, having(&[status]), "{status}");
    }
    assert_eq!(list("?status=rejected&status=accepted").await, having(&["accepted", "rejected"]));
    for bad in ["?status=lost", "?status=pending&status=Accepted"] {
        let refused = user.get(&format!("{DEVICES}{bad}")).await.expect(400);
        assert_eq!(
            refused.error(),
            "filter status must be one of: accepted, pending, rejected, preauthorized or noauth"
        );
    }

    let (first, eighth) = (&fleet[0], &fleet[7]);
    assert_eq!(
        list(&format!("?id={}&id={}&id={UNKNOWN}&id=malformed", eighth.1, first.1)).await,
        [first.clone(), eighth.clone()]
    );
    assert_eq!(list(&format!("?id={}&status={}", first.1, eighth.0)).await, []);
    assert_eq!(list("?id=malformed").await, []);

    let device = user.get(&format!("{DEVICES}/{}", first.1)).await.expect(200).json();
    assert_eq!((&device["id"], &device["status"]), (&json!(first.1), &json!(first.0)));
    for unknown in [UNKNOWN, "malformed"] {
        let missing = user.get(&format!("{DEVICES}/{unknown}")).await.expect(404);
        assert_eq!(missing.error(), "device not found");
    }

    // The web UI asks for a table's devices by id and forgets to ask for a page of that size.
    let mut ids = Vec::new();
    for _ in 0..21 {
        ids.push(asked(&hub, &user).await.1);
    }
    let query: Vec<String> = ids.iter().map(|id| format!("id={id}")).collect();
    assert_eq!(list(&format!("?{}", query.join("&"))).await.len(), 21);
    assert_eq!(list(&format!("?{}&per_page=5", query.join("&"))).await.len(), 5);
    assert_eq!(list("").await.len(), 20, "twenty to a page");
}

async fn devices_are_counted_by_status(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    a_fleet(&hub, &user).await;
    for (query, count) in [
        ("", 8),
        ("?status=pending", 3),
        ("?status=rejected", 2),
        ("?status=accepted", 1),
        ("?status=preauthorized", 1),
        ("?status=noauth", 1),
    ] {
        let counted = user.get(&format!("{DEVICES}/count{query}")).await.expect(200).json();
        assert_eq!(counted, json!({"count": count}), "{query}");
    }
    let refused = user.get(&format!("{DEVICES}/count?status=lost")).await.expect(400);
    assert_eq!(refused.error(), "status must be one of: pending, accepted, rejected, preauthorized, noauth");
}

async fn a_search_takes_one_value_or_several_and_any_charset(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let fleet = a_fleet(&hub, &user).await;
    let path = format!("{DEVICES}/search");
    let search = async |query: &str, filter: Value| {
        briefly(&user.post(&format!("{path}{query}"), &filter).await.expect(200).json())
    };
    let of = |wanted: &str| -> Vec<_> { fleet.iter().filter(|(status, _)| status == wanted).cloned().collect() };

    assert_eq!(search("", json!({})).await, fleet);
    assert_eq!(search("", json!({"status": "pending"})).await, of("pending"));
    assert_eq!(search("", json!({"status": ["noauth", "pending"]})).await, [of("noauth"), of("pending")].concat());
    assert_eq!(search("", json!({"id": fleet[2].1})).await, [fleet[2].clone()]);
    assert_eq!(
        search("", json!({"id": [fleet[2].1, fleet[0].1, UNKNOWN], "status": [fleet[0].0]})).await,
        [fleet[0].clone()]
    );
    assert_eq!(search("", json!({"status": "lost"})).await, []);
    assert_eq!(search("?page=2&per_page=5", json!({})).await, fleet[5..]);
    for bad in [json!({"status": 7}), json!({"id": {}}), json!([]), json!("pending")] {
        user.post(&path, &bad).await.expect(400).error();
    }
    harness::Answer::to(user.request("POST", &path)).await.expect(400).error();
    user.post(&format!("{path}?page=0"), &json!({})).await.expect(400).error();
    for kind in ["application/json; charset=utf-8", "application/json;charset=UTF-8"] {
        let request = user.request("POST", &path).header("Content-Type", kind).body(r#"{"status":"pending"}"#);
        assert_eq!(briefly(&harness::Answer::to(request).await.expect(200).json()), of("pending"));
    }
    // More repetitions than a statement has room for arguments.
    let many: Vec<&str> = vec!["pending"; 60_000];
    assert_eq!(search("", json!({"status": many})).await, of("pending"));
}

async fn a_known_identity_is_a_conflict_without_force(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let before = user.device(&device.id).await;
    for wish in [wish(&device, false), wish(&device.with_key(Key::ed25519()), false)] {
        let refused = user.post(DEVICES, &wish).await.expect(409);
        assert_eq!(refused.json(), before, "the answer is the device, its sets included");
    }
    assert_eq!(user.device(&device.id).await, before, "nothing changed");
    assert!(device.has_access().await);
}

async fn a_wish_to_preauthorize_that_makes_no_sense_is_refused(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let pem = Key::ed25519().public_pem();
    for bad in [
        json!({"identity_data": "{\"mac\":\"a\"}", "pubkey": pem}),
        json!({"identity_data": {}, "pubkey": pem}),
        json!({"identity_data": [], "pubkey": pem}),
        json!({"pubkey": pem}),
        json!({"identity_data": {"mac": "a"}}),
        json!({"identity_data": {"mac": "a"}, "pubkey": "garbage"}),
        json!({"identity_data": {"mac": "a"}, "pubkey": pem, "force": "yes"}),
        json!([]),
    ] {
        let refused = user.post(DEVICES, &bad).await.expect(400);
        assert!(refused.error().starts_with("failed to decode preauth request: "), "{refused}");
    }
    assert_eq!(user.devices().await, [] as [Value; 0]);
}

async fn forced_on_an_accepted_device_the_new_key_waits_for_its_first_request(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let old = hub.accepted_by(&user).await;
    let mut new = old.with_key(Key::ed25519());

    let forced = user.post(DEVICES, &wish(&new, true)).await.expect(201);
    assert_eq!(forced.header("location"), format!("devices/{}", old.id), "the device that has it");
    assert!(forced.body.is_empty());
    let device = user.device(&old.id).await;
    assert_eq!((device["status"].as_str(), device["auth_sets"].as_array().unwrap().len()), (Some("accepted"), 2));
    assert!(old.has_access().await);

    new.take_token().await;

    assert_eq!(new.id, old.id);
    assert!(new.has_access().await && !old.has_access().await);
    let device = user.device(&old.id).await;
    let sets = device["auth_sets"].as_array().unwrap();
    let status = |key: &Key| {
        let pem = key.public_pem();
        sets.iter().find(|set| set["pubkey"] == pem.as_str()).unwrap()["status"].as_str().unwrap()
    };
    assert_eq!((status(&new.key), status(&old.key)), ("accepted", "rejected"));
}

async fn force_never_takes_what_a_key_has(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    user.post(DEVICES, &wish(&device, true)).await.expect(201);
    assert!(device.has_access().await, "an accepted key stays so");
    assert_eq!(user.device(&device.id).await["auth_sets"][0]["status"], "accepted");

    // Several preauthorized keys are a mix as good as any other.
    let (one, mut two) = (device.with_key(Key::ed25519()), device.with_key(Key::ed25519()));
    for key in [&one, &two] {
        user.post(DEVICES, &wish(key, true)).await.expect(201);
    }
    let sets = user.device(&device.id).await["auth_sets"].as_array().unwrap().clone();
    assert_eq!(sets.iter().filter(|set| set["status"] == "preauthorized").count(), 2);
    user.decide(&device.id, &device.set(), "rejected").await.expect(204);
    assert_eq!(user.device(&device.id).await["status"], "preauthorized");
    two.take_token().await;
    assert!(two.has_access().await);

    // A rejected key is let in by force as well.
    user.post(DEVICES, &wish(&device, true)).await.expect(201);
    device.ask().await.expect(200);
}

async fn a_device_that_was_only_preauthorized_goes_with_its_set(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let preauthorize = async |device: &TestDevice, force: bool| {
        user.post(DEVICES, &wish(device, force)).await.expect(201);
        let found = user.device_with(&device.identity).await.unwrap();
        let pem = device.key.public_pem();
        let sets = found["auth_sets"].as_array().unwrap();
        (id_of(&found), id_of(sets.iter().find(|set| set["pubkey"] == pem.as_str()).unwrap()))
    };
    let inventory = |id: &str| format!("/api/management/v1/inventory/devices/{id}");

    let (id, set) = preauthorize(&hub.device(), false).await;
    user.get(&inventory(&id)).await.expect(200);
    user.delete(&format!("{DEVICES}/{id}/auth/{set}")).await.expect(204);
    user.get(&format!("{DEVICES}/{id}")).await.expect(404);
    user.get(&inventory(&id)).await.expect(404);
    assert_eq!(user.get(&format!("{DEVICES}/count")).await.json(), json!({"count": 0}));

    let (first, id, _) = asked(&hub, &user).await;
    let (_, set) = preauthorize(&first.with_key(Key::ed25519()), true).await;
    assert_eq!(user.device(&id).await["status"], "preauthorized");
    user.delete(&format!("{DEVICES}/{id}/auth/{set}")).await.expect(204);
    assert_eq!(user.device(&id).await["status"], "pending");
    user.get(&inventory(&id)).await.expect(200);
}

async fn the_limit_of_devices_is_kept_and_shown(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    assert_eq!(user.get(LIMIT_OF_DEVICES).await.expect(200).json(), json!({"limit": -1}));
    let other = user.get("/api/management/v2/devauth/limits/max_users").await.expect(400);
    assert_eq!(other.error(), "unsupported limit max_users");

    let hub = set.hub_with(|config| config.actors.max_devices = Some(1)).await;
    let user = hub.user().await;
    assert_eq!(user.get(LIMIT_OF_DEVICES).await.expect(200).json(), json!({"limit": 1}));
    let first = hub.accepted_by(&user).await;
    let (_, id, second) = asked(&hub, &user).await;
    let refused = user.decide(&id, &second, "accepted").await.expect(422);
    assert_eq!(refused.error(), "maximum number of accepted devices reached");
    let third = hub.device();
    user.post(DEVICES, &wish(&third, false)).await.expect(201);
    assert_eq!(third.ask().await.expect(401).error(), "unauthorized");
    assert_eq!(user.device_with(&third.identity).await.unwrap()["status"], "preauthorized");
    // The limit counts devices: one that is in may change its key.
    let mut rotated = first.with_key(Key::ed25519());
    rotated.ask().await.expect(401);
    assert_eq!(user.accept(&first.identity).await, first.id);
    rotated.take_token().await;
    assert!(rotated.has_access().await);

    let hub = set.hub_with(|config| config.actors.max_devices = Some(0)).await;
    let user = hub.user().await;
    assert_eq!(user.get(LIMIT_OF_DEVICES).await.expect(200).json(), json!({"limit": 0}));
    let (_, id, auth_set) = asked(&hub, &user).await;
    user.decide(&id, &auth_set, "accepted").await.expect(422).error();
}

async fn parallel_accepts_at_the_limit_let_one_in(set: Set) {
    let hub = set.hub_with(|config| config.actors.max_devices = Some(1)).await;
    let user = hub.user().await;
    let mut waiting = Vec::new();
    for _ in 0..6 {
        waiting.push(asked(&hub, &user).await);
    }
    let accepting = waiting.iter().map(|(_, id, auth_set)| user.decide(id, auth_set, "accepted"));
    let mut statuses: Vec<u16> =
        futures_util::future::join_all(accepting).await.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 422, 422, 422, 422, 422]);
    assert_eq!(user.get(&format!("{DEVICES}/count?status=accepted")).await.json(), json!({"count": 1}));
}

async fn a_decommissioned_device_stays_gone_when_the_hub_is_killed(set: Set) {
    let mut hub = set.process(&[]).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    device.report(&json!([{"name": "a", "value": "1"}])).await.expect(200);
    let (path, inventory) =
        (format!("{DEVICES}/{}", device.id), format!("/api/management/v1/inventory/devices/{}", device.id));
    user.get(&inventory).await.expect(200);

    user.delete(&path).await.expect(204);
    hub.kill();

    let hub = hub.site().clone().process(&[]).await;
    let user = hub.user().await;
    wait_until(LIMIT, "the device to be gone", async || {
        (user.get(&path).await.status == 404 && user.get(&inventory).await.status == 404).then_some(())
    })
    .await;
    assert_eq!(user.get(&format!("{DEVICES}/count")).await.json(), json!({"count": 0}));
    let mut device = device;
    let former = std::mem::take(&mut device.id);
    device.go_to(hub.door());
    assert!(!device.has_access().await);
    device.join(&user).await;
    assert_ne!(device.id, former);
}

async fn the_operator_looks_whether_all_agrees_with_the_devices(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let fleet = a_fleet(&hub, &user).await;
    let mooring = Mooring::in_site(hub.site());
    for arguments in [&["repair", "--dry-run"][..], &["repair"]] {
        let output = mooring.run(arguments, "").await;
        assert!(output.status.success(), "{output:?}");
        let numbers: Vec<&str> = output.stdout.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(numbers, ["8", "0", "0", "0", "no"], "{output:?}");
    }
    assert_eq!(briefly(&user.get(DEVICES).await.expect(200).json()), fleet);
}
