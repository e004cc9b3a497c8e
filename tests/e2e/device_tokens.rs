//! The token of a device: what it says, how long it is good for, and what is not one.

use harness::{Issuer, LIMIT, Set, TestDevice, both_sets, claims, part, wait_until};
use serde_json::json;
use std::time::Duration;

both_sets!([
    an_accepted_device_gets_a_bare_token,
    a_token_says_whose_it_is,
    several_tokens_of_a_device_are_good_at_once,
    a_revoked_token_is_dead_and_the_device_asks_for_another,
    an_expired_token_is_refused_as_any_other,
    tokens_that_this_hub_did_not_issue_are_refused,
    a_withdrawn_device_loses_its_socket,
]);

fn number(value: &serde_json::Value) -> i64 {
    value.as_i64().unwrap()
}

async fn an_accepted_device_gets_a_bare_token(set: Set) {
    let hub = set.hub().await;
    let device = hub.accepted_device().await;
    let answer = device.ask().await.expect(200);
    assert_eq!(answer.header("content-type"), "application/jwt");
    let token = answer.text();
    assert_eq!(token.split('.').count(), 3);
    assert!(!token.contains(char::is_whitespace), "{token:?}");
}

async fn a_token_says_whose_it_is(set: Set) {
    let lifetime = Duration::from_secs(12_345);
    let hub = set.hub_with(|config| config.actors.device_token_lifetime = lifetime).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;

    let found = user.device_with(&device.identity).await.unwrap();
    let (header, claims) = (part(&device.token, 0), claims(&device.token));
    assert_eq!(header["typ"], "JWT");
    assert!(["EdDSA", "RS256"].contains(&header["alg"].as_str().unwrap()));
    assert_eq!(header.get("kid"), None);
    assert_eq!(claims["sub"], found["id"]);
    assert_eq!(claims["jti"], found["auth_sets"][0]["id"]);
    assert_eq!(claims["iss"], "Mender");
    assert_eq!(number(&claims["exp"]) - number(&claims["iat"]), 12_345);
    assert_eq!(claims["mender.device"], true);
    assert_eq!(claims["mender.plan"], "enterprise");
    assert_eq!(claims["mender.trial"], false);
    let addons: Vec<_> = claims["mender.addons"].as_array().unwrap().iter().map(|addon| &addon["name"]).collect();
    assert_eq!(addons, ["configure", "troubleshoot", "monitor"]);
    assert!(claims.get("mender.tenant").is_none_or(|tenant| tenant == ""));
}

async fn several_tokens_of_a_device_are_good_at_once(set: Set) {
    let hub = set.hub().await;
    let mut device = hub.accepted_device().await;
    let first = device.token.clone();
    device.take_token().await;
    assert!(device.has_access().await);
    device.token = first;
    assert!(device.has_access().await);
}

async fn a_revoked_token_is_dead_and_the_device_asks_for_another(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut device = hub.accepted_by(&user).await;
    let path = format!("/api/management/v2/devauth/tokens/{}", device.set());
    assert!(device.has_access().await);

    user.delete(&path).await.expect(204);

    assert!(!device.has_access().await, "at once");
    assert!(user.delete(&path).await.expect(404).body.is_empty());
    assert_eq!(user.device(&device.id).await["status"], "accepted");
    let revoked = device.token.clone();
    device.take_token().await;
    assert!(device.has_access().await);
    device.token = revoked;
    assert!(!device.has_access().await, "the next token does not bring the revoked one back");
}

async fn an_expired_token_is_refused_as_any_other(set: Set) {
    let hub = set.hub_with(|config| config.actors.device_token_lifetime = Duration::from_secs(2)).await;
    let mut device = hub.accepted_device().await;
    device.take_token().await;
    assert!(device.has_access().await);

    wait_until(LIMIT, "the token to expire", async || (!device.has_access().await).then_some(())).await;

    // A real client asks again on 401 and on nothing else.
    let refused = harness::Answer::to(device.request("PUT", TestDevice::ATTRIBUTES).json(&json!([]))).await;
    refused.refuses_token();
    device.try_connect(&[]).await.err().unwrap().refuses_token();
    device.take_token().await;
    assert!(device.has_access().await);
}

async fn tokens_that_this_hub_did_not_issue_are_refused(set: Set) {
    let (ours, foreign) = (Issuer::new(), Issuer::new());
    let hub = set
        .hub_with(|config| {
            config.actors.device_key_file = Some(ours.file());
            config.actors.user_key_file = Some(ours.file());
        })
        .await;
    let user = hub.user().await;
    let mut device = hub.accepted_by(&user).await;
    let good = device.token.clone();
    // What follows is refused for what was changed in it and for nothing else.
    device.token = ours.reissue(&good, |_, _| ());
    assert!(device.has_access().await);

    let (signed, signature) = good.rsplit_once('.').unwrap();
    let flip = |text: &str, at: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let middle = signed.find('.').unwrap() + 10;
    let unsigned = ours.reissue(&good, |header, _| header["alg"] = json!("none"));
    let unsigned = unsigned.rsplit_once('.').unwrap().0.to_owned();
    for (what, token) in [
        ("a changed signature", format!("{signed}.{}", flip(signature, 5))),
        ("changed claims", format!("{}.{signature}", flip(signed, middle))),
        ("a cut token", good[..good.len() - 6].to_owned()),
        ("no signature", format!("{signed}.")),
        ("two parts", signed.to_owned()),
        ("nonsense", "nonsense".to_owned()),
        ("somebody else's key", foreign.reissue(&good, |_, _| ())),
        ("alg none, signed", ours.reissue(&good, |header, _| header["alg"] = json!("none"))),
        ("alg none, no signature", format!("{unsigned}.")),
        ("alg HS256", ours.reissue(&good, |header, _| header["alg"] = json!("HS256"))),
        ("another issuer", ours.reissue(&good, |_, claims| claims["iss"] = json!("Somebody"))),
        ("no issuer", ours.reissue(&good, |_, claims| claims["iss"] = json!(""))),
        ("an expiry in the past", ours.reissue(&good, |_, claims| claims["exp"] = json!(number(&claims["iat"]) - 10))),
        ("a tenant", ours.reissue(&good, |_, claims| claims["mender.tenant"] = json!("5f0e2f7a"))),
        (
            "another device",
            ours.reissue(&good, |_, claims| claims["sub"] = json!("3f8f5c8e-0000-4000-8000-000000000000")),
        ),
        ("another set", ours.reissue(&good, |_, claims| claims["jti"] = json!("3f8f5c8e-0000-4000-8000-000000000000"))),
        ("not a device's", ours.reissue(&good, |_, claims| claims["mender.device"] = json!(false))),
        ("a user's", user.token.clone()),
    ] {
        device.token = token;
        let refused = harness::Answer::to(device.request("PATCH", TestDevice::ATTRIBUTES).json(&json!([]))).await;
        assert_eq!(refused.status, 401, "{what}: {refused}");
        refused.refuses_token();
        let refused = device.try_connect(&[]).await.err();
        assert_eq!(refused.map(|answer| answer.status), Some(401), "{what}");
    }
    device.token = good;
    assert!(device.has_access().await);
}

async fn a_withdrawn_device_loses_its_socket(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;

    user.decide(&device.id, &device.set(), "rejected").await.expect(204);

    let end = socket.end(Duration::from_secs(5)).await;
    assert!(end.code().is_some(), "a Close frame says why: {end:?}");
    user.sees(&device.id, "disconnected", LIMIT).await;
}
