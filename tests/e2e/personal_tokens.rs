//! Tokens that people make for their programs, and settings that the web UI keeps for people.

use harness::{ADMIN_PASSWORD, Answer, Set, TestHub, TestUser, both_sets, claims};
use serde_json::{Value, json};

both_sets!([
    a_personal_token_is_made_used_listed_and_revoked,
    personal_tokens_have_a_name_and_an_end_within_bounds,
    a_user_has_so_many_personal_tokens_and_each_name_once,
    settings_are_replaced_by_who_has_seen_them,
    settings_that_are_no_object_or_too_large_are_refused,
]);

const TOKENS: &str = "/api/management/v1/useradm/settings/tokens";
const SETTINGS: &str = "/api/management/v1/useradm/settings";
const ME: &str = "/api/management/v1/useradm/users/me";
const YEAR: i64 = 31_536_000;

async fn listed(user: &TestUser) -> Vec<Value> {
    user.get(TOKENS).await.expect(200).json().as_array().unwrap().clone()
}

async fn issue(hub: &TestHub, user: &TestUser, body: Value) -> TestUser {
    let answer = user.post(TOKENS, &body).await.expect(200);
    assert_eq!(answer.header("content-type"), "application/jwt");
    TestUser::with_token(hub, &answer.text())
}

async fn a_personal_token_is_made_used_listed_and_revoked(set: Set) {
    let hub = set.hub().await;
    let (user, other) = (hub.user().await, hub.another_user("bob@example.com").await);
    assert_eq!(listed(&user).await, [] as [Value; 0]);

    let program = issue(&hub, &user, json!({"name": "ci", "expires_in": 28800})).await;
    let said = claims(&program.token);
    assert_eq!((said["sub"].as_str(), &said["scp"]), (Some(user.id.as_str()), &json!("mender.*")));
    assert_eq!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(), 28800);
    let [entry] = listed(&user).await.try_into().unwrap();
    assert_eq!((&entry["id"], &entry["name"]), (&said["jti"], &json!("ci")));
    assert_eq!(entry.get("last_used"), None, "{entry}");
    assert!(entry["expiration_date"].is_string() && entry["created_ts"].is_string(), "{entry}");
    assert!(!entry.to_string().contains(&program.token));

    program.get(ME).await.expect(200);
    let [noted] = listed(&user).await.try_into().unwrap();
    let first_use = noted["last_used"].as_str().unwrap_or_else(|| panic!("it was used: {noted}")).to_owned();
    program.get(ME).await.expect(200);
    assert_eq!(listed(&user).await[0]["last_used"], first_use.as_str(), "noted at most every few minutes");

    // Nobody sees or ends another's.
    assert_eq!(listed(&other).await, [] as [Value; 0]);
    let path = format!("{TOKENS}/{}", said["jti"].as_str().unwrap());
    other.delete(&path).await.expect(204);
    program.get(ME).await.expect(200);

    for _ in 0..2 {
        assert!(user.delete(&path).await.expect(204).body.is_empty());
    }
    user.delete(&format!("{TOKENS}/malformed")).await.expect(204);
    program.get(ME).await.refuses_token();
    assert_eq!(listed(&user).await, [] as [Value; 0]);

    // The id of a login does as well.
    let elsewhere = hub.user().await;
    let session = claims(&elsewhere.token)["jti"].as_str().unwrap().to_owned();
    user.delete(&format!("{TOKENS}/{session}")).await.expect(204);
    elsewhere.get(ME).await.refuses_token();
}

async fn personal_tokens_have_a_name_and_an_end_within_bounds(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for body in [
        json!({}),
        json!({"name": ""}),
        json!({"name": 7}),
        json!({"name": "x".repeat(4097)}),
        json!({"name": "x", "expires_in": YEAR + 1}),
        json!({"name": "x", "expires_in": -1}),
        json!({"name": "x", "expires_in": "soon"}),
        json!([]),
        json!("x"),
    ] {
        user.post(TOKENS, &body).await.expect(400).error();
    }
    assert_eq!(listed(&user).await, [] as [Value; 0]);
    let refused = user.post(TOKENS, &json!({"name": "x", "expires_in": YEAR + 1})).await;
    assert_eq!(refused.error(), "expires_in: must be no greater than 31536000.");

    // What the web UI calls a year.
    let year = issue(&hub, &user, json!({"name": "x".repeat(4096), "expires_in": YEAR})).await;
    let said = claims(&year.token);
    assert_eq!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(), YEAR);
    for body in [json!({"name": "zero", "expires_in": 0}), json!({"name": "absent"})] {
        let program = issue(&hub, &user, body).await;
        assert_eq!(claims(&program.token).get("exp"), None);
        program.get(ME).await.expect(200);
    }
    for entry in listed(&user).await {
        let has_end = entry.get("expiration_date").is_some();
        assert_eq!(has_end, entry["name"].as_str().unwrap().len() == 4096, "{entry}");
    }
}

async fn a_user_has_so_many_personal_tokens_and_each_name_once(set: Set) {
    let hub = set.hub().await;
    let (user, other) = (hub.user().await, hub.another_user("bob@example.com").await);
    for number in 0..9 {
        issue(&hub, &user, json!({"name": format!("token {number}")})).await;
    }
    user.post(TOKENS, &json!({"name": "token 3"})).await.expect(409).error();
    issue(&hub, &other, json!({"name": "token 3"})).await;
    let tenth = issue(&hub, &user, json!({"name": "token 9"})).await;
    user.post(TOKENS, &json!({"name": "token 10"})).await.expect(422).error();
    assert_eq!(listed(&user).await.len(), 10);

    let path = format!("{TOKENS}/{}", claims(&tenth.token)["jti"].as_str().unwrap());
    user.delete(&path).await.expect(204);
    issue(&hub, &user, json!({"name": "token 10"})).await;
}

async fn store(user: &TestUser, path: &str, body: &Value, if_match: Option<&str>) -> Answer {
    let mut request = user.request("POST", path).json(body);
    if let Some(tag) = if_match {
        request = request.header("If-Match", tag);
    }
    Answer::to(request).await
}

async fn settings_are_replaced_by_who_has_seen_them(set: Set) {
    let hub = set.hub().await;
    let (user, other) = (hub.user().await, hub.another_user("bob@example.com").await);
    let own = format!("{SETTINGS}/me");
    for path in [SETTINGS, own.as_str()] {
        let nothing = user.get(path).await.expect(200);
        assert_eq!((nothing.json(), nothing.header("etag")), (json!({}), ""));

        let first = json!({
            "_id": "x", "tenant_id": 7, "etag": null, "user_id": ["a"], "columns": [{"title": "ü", "key": 1.5}],
            "exact": 18_446_744_073_709_551_615_u64,
        });
        // There is nothing yet that anybody could have seen.
        let stored = store(&user, path, &first, Some("3f8f5c8e-0000-4000-8000-000000000000")).await.expect(201);
        assert!(stored.body.is_empty() && stored.header("etag").is_empty());
        let seen = user.get(path).await.expect(200);
        assert_eq!(seen.json(), first);
        assert_eq!(seen.header("content-type"), "application/json; charset=utf-8");
        let tag = seen.header("etag").to_owned();
        assert!(tag.len() == 36 && !tag.contains('"'), "{tag}");

        let stale =
            store(&user, path, &json!({"a": 1}), Some("3f8f5c8e-0000-4000-8000-000000000000")).await.expect(412);
        assert_eq!(stale.error(), "ETag doesn't match");
        assert_eq!(user.get(path).await.json(), first);

        let mut tag = tag;
        for quoted in [|tag: &str| tag.to_owned(), |tag: &str| format!("\"{tag}\""), |tag: &str| format!("W/\"{tag}\"")]
        {
            store(&user, path, &json!({"then": tag}), Some(&quoted(&tag))).await.expect(201);
            let seen = user.get(path).await;
            assert_eq!(seen.json(), json!({"then": tag}));
            assert_ne!(seen.header("etag"), tag);
            seen.header("etag").clone_into(&mut tag);
        }
        store(&user, path, &json!({"unconditional": path}), None).await.expect(201);
    }
    assert_eq!(user.get(SETTINGS).await.json(), json!({"unconditional": SETTINGS}));
    assert_eq!(user.get(&own).await.json(), json!({"unconditional": own}));
    assert_eq!(other.get(SETTINGS).await.json(), json!({"unconditional": SETTINGS}), "one for all");
    assert_eq!(other.get(&own).await.json(), json!({}), "one for each");

    // They go with their user: whoever comes next under that id starts anew.
    store(&other, &own, &json!({"a": 1}), None).await.expect(201);
    user.delete(&format!("/api/management/v1/useradm/users/{}", other.id)).await.expect(204);
    let output = harness::Mooring::in_site(hub.site())
        .run(&["user", "add", "bob@example.com", "--id", &other.id, "--password-stdin"], &format!("{ADMIN_PASSWORD}\n"))
        .await;
    assert!(output.status.success(), "{output:?}");
    let other = TestUser::log_in(&hub, "bob@example.com", ADMIN_PASSWORD).await;
    assert_eq!(other.get(&own).await.json(), json!({}));
}

async fn settings_that_are_no_object_or_too_large_are_refused(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let members = |count: usize| -> Value {
        (0..count).map(|number| (number.to_string(), json!(number))).collect::<serde_json::Map<_, _>>().into()
    };
    for path in [SETTINGS.to_owned(), format!("{SETTINGS}/me")] {
        for bad in [
            json!([]),
            json!("text"),
            json!(null),
            json!({"text": "x".repeat(4097)}),
            json!({"x".repeat(129): 1}),
            members(1025),
        ] {
            store(&user, &path, &bad, None).await.expect(400).error();
        }
        Answer::to(user.request("POST", &path)).await.expect(400).error();
        let not_json = user.request("POST", &path).header("Content-Type", "application/json").body("{");
        assert_eq!(Answer::to(not_json).await.expect(400).error(), "cannot parse request body as json");
        assert_eq!(user.get(&path).await.json(), json!({}));
        for good in [json!({}), json!({"text": "x".repeat(4096)}), json!({"x".repeat(128): 1}), members(1024)] {
            store(&user, &path, &good, None).await.expect(201);
            assert_eq!(user.get(&path).await.json(), good);
        }
    }
}
