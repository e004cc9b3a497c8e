//! People log in and out.

use harness::{ADMIN_EMAIL, ADMIN_PASSWORD, Answer, Mooring, Set, TestUser, both_sets, claims, part};
use serde_json::json;

both_sets!([
    a_login_gives_a_token_that_says_whose_it_is,
    a_wrong_login_is_refused_without_saying_why,
    the_case_of_an_address_does_not_matter,
    a_token_without_end_has_no_expiry,
    a_login_may_have_a_body_or_none,
    a_logout_ends_the_token_at_once,
    users_are_made_by_the_command_and_by_users,
]);

const LOGIN: &str = "/api/management/v1/useradm/auth/login";
const ME: &str = "/api/management/v1/useradm/users/me";

async fn a_login_gives_a_token_that_says_whose_it_is(set: Set) {
    let hub = set.hub().await;
    let answer = TestUser::try_log_in(&hub, ADMIN_EMAIL, ADMIN_PASSWORD).await.expect(200);
    assert_eq!(answer.header("content-type"), "application/jwt");
    assert_eq!(answer.header("set-cookie"), "");
    let token = answer.text();
    assert!(!token.contains(char::is_whitespace));

    let me = TestUser::with_token(&hub, &token).get(ME).await.expect(200).json();
    let (header, claims) = (part(&token, 0), claims(&token));
    assert_eq!(header["typ"], "JWT");
    assert!(header["kid"].is_i64(), "{header}");
    assert_eq!(claims["sub"], me["id"]);
    assert_eq!(claims["mender.user"], true);
    assert_eq!(claims["scp"], "mender.*");
    assert_eq!(claims["iss"], "mender.useradm");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 604_800);
    assert_eq!(claims["jti"].as_str().unwrap().len(), 36);
    assert_eq!(me["email"], ADMIN_EMAIL);
    assert!(me["login_ts"].is_string(), "{me}");
    assert!(!me.to_string().contains("password"), "{me}");
}

async fn a_wrong_login_is_refused_without_saying_why(set: Set) {
    let hub = set.hub().await;
    for (email, password) in
        [(ADMIN_EMAIL, "wrong password"), ("nobody@example.com", ADMIN_PASSWORD), (ADMIN_EMAIL, ""), ("", "")]
    {
        let refused = TestUser::try_log_in(&hub, email, password).await.expect(401);
        assert_eq!(refused.error(), "unauthorized", "{email}");
        assert_eq!(refused.header("www-authenticate"), "", "browsers would ask for a password");
    }
    for header in ["Basic !!!", "Bearer x", "Basic bm9jb2xvbg=="] {
        let refused = Answer::to(hub.request("POST", LOGIN).header("Authorization", header)).await.expect(401);
        assert_eq!(refused.error(), "invalid or missing auth header", "{header}");
    }
}

async fn the_case_of_an_address_does_not_matter(set: Set) {
    let hub = set.hub().await;
    TestUser::log_in(&hub, "Admin@Example.COM", ADMIN_PASSWORD).await;
}

async fn a_token_without_end_has_no_expiry(set: Set) {
    let hub = set.hub().await;
    let request = hub.request("POST", LOGIN).basic_auth(ADMIN_EMAIL, Some(ADMIN_PASSWORD));
    let token = Answer::to(request.json(&json!({"no_expiry": true}))).await.expect(200).text();
    assert_eq!(claims(&token).get("exp"), None);
    TestUser::with_token(&hub, &token).get(ME).await.expect(200);
}

async fn a_login_may_have_a_body_or_none(set: Set) {
    let hub = set.hub().await;
    let login = || hub.request("POST", LOGIN).basic_auth(ADMIN_EMAIL, Some(ADMIN_PASSWORD));
    // curl sends neither type nor body, mender-cli the type alone.
    Answer::to(login()).await.expect(200);
    Answer::to(login().header("Content-Type", "application/json")).await.expect(200);
    Answer::to(login().json(&json!({}))).await.expect(200);
    Answer::to(login().json(&json!({"token2fa": "1"}))).await.expect(200);
    for body in [json!("text"), json!([]), json!({"no_expiry": "yes"})] {
        Answer::to(login().json(&body)).await.expect(400).error();
    }
}

async fn a_logout_ends_the_token_at_once(set: Set) {
    let hub = set.hub().await;
    let (user, elsewhere) = (hub.user().await, hub.user().await);
    user.get(ME).await.expect(200);

    let answer = Answer::to(user.request("POST", "/api/management/v1/useradm/auth/logout")).await.expect(202);
    assert!(answer.body.is_empty());

    user.get(ME).await.refuses_token();
    Answer::to(user.request("POST", "/api/management/v1/useradm/auth/logout")).await.refuses_token();
    elsewhere.get(ME).await.expect(200);
}

async fn users_are_made_by_the_command_and_by_users(set: Set) {
    let hub = set.hub().await;
    let mooring = Mooring::in_site(hub.site());

    let id = mooring.add_user("first@example.com", "a long password").await;
    let first = TestUser::log_in(&hub, "first@example.com", "a long password").await;
    assert_eq!(first.id, id, "the id is all that is printed");
    for (email, password) in
        [("first@example.com", "a long password"), ("no address", "a long password"), ("b@example.com", "short")]
    {
        let output = mooring.run(&["user", "add", email, "--password-stdin"], &format!("{password}\n")).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    }

    let id = first.add_user("second@example.com", "another long password").await;
    let second = TestUser::log_in(&hub, "second@example.com", "another long password").await;
    assert_eq!(second.id, id);
    let users = first.get("/api/management/v1/useradm/users").await.expect(200).json();
    assert_eq!(users.as_array().unwrap().len(), 3);
    for (email, password, status) in [
        ("second@example.com", "a long password", 422),
        ("third@example.com", "short", 422),
        ("no address", "a long password", 400),
    ] {
        let body = json!({"email": email, "password": password});
        first.post("/api/management/v1/useradm/users", &body).await.expect(status).error();
    }
}
