//! Users are added, changed and removed by users, and what becomes of their tokens.

use harness::{
    ADMIN_EMAIL, ADMIN_PASSWORD, Answer, Issuer, Mooring, Set, TestHub, TestUser, both_sets, claims, wait_until,
};
use serde_json::{Value, json};
use std::time::Duration;

both_sets!([
    a_user_is_added_by_the_rules,
    lists_of_users_can_be_filtered,
    a_user_changes_by_the_rules,
    a_changed_user_keeps_the_calling_token_alone,
    version_two_changes_the_own_password_alone,
    a_removed_user_is_out_and_the_last_one_stays,
    the_eleventh_login_ends_the_oldest_session,
    another_password_by_the_command_ends_the_former_one,
    an_imported_bcrypt_hash_is_good_and_is_replaced,
    a_token_for_something_else_is_forbidden,
    what_other_editions_have_is_a_404,
    the_plan_is_the_open_one,
]);

const USERS: &str = "/api/management/v1/useradm/users";
const ME: &str = "/api/management/v1/useradm/users/me";
const ME_V2: &str = "/api/management/v2/useradm/users/me";
const TOKENS: &str = "/api/management/v1/useradm/settings/tokens";
const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";

fn of(user: &str) -> String {
    format!("{USERS}/{user}")
}

async fn logs_in(hub: &TestHub, email: &str, password: &str) -> bool {
    TestUser::try_log_in(hub, email, password).await.status == 200
}

async fn emails(user: &TestUser, query: &str) -> Vec<String> {
    let found = user.get(&format!("{USERS}{query}")).await.expect(200).json();
    let mut emails: Vec<String> =
        found.as_array().unwrap().iter().map(|user| user["email"].as_str().unwrap().to_owned()).collect();
    emails.sort();
    emails
}

async fn a_user_is_added_by_the_rules(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let long = "p".repeat(200);
    let too_long = "p".repeat(257);
    let long_address = format!("{}@example.com", "a".repeat(250));
    for (body, status, text) in [
        (json!({"email": "b@example.com", "password": long}), 201, ""),
        (json!({"password": "a long password"}), 400, ""),
        (json!({"email": "c@example.com"}), 400, ""),
        (json!({"email": "", "password": "a long password"}), 400, ""),
        (json!({"email": "c@example.com", "password": ""}), 400, ""),
        (json!({"email": "no address", "password": "a long password"}), 400, ""),
        (json!({"email": "ü@example.com", "password": "a long password"}), 400, ""),
        (json!({"email": long_address, "password": "a long password"}), 400, ""),
        (json!({"email": "c@example.com", "password": "pässwörter"}), 400, ""),
        (json!({"email": "c@example.com", "password": too_long}), 400, ""),
        (json!({"email": "c@example.com", "password": 12_345_678}), 400, ""),
        (json!({"email": "c@example.com", "password": "1234567"}), 422, "password: must be minimum 8 characters long"),
        (json!({"email": "c@example.com", "password": "Example.Com"}), 422, "password is too similar to the email"),
        (
            json!({"email": "B@Example.com", "password": "a long password"}),
            422,
            "user with a given email already exists",
        ),
    ] {
        let answer = user.post(USERS, &body).await;
        assert_eq!(answer.status, status, "{body}: {answer}");
        if status == 201 {
            assert!(answer.body.is_empty(), "{answer}");
            let path = answer.header("location").to_owned();
            assert!(path.starts_with("/api/management/v1/useradm/users/"), "{path}");
            let made = user.get(&path).await.expect(200).json();
            assert_eq!(made["email"], body["email"]);
            assert_eq!(made.get("login_ts"), None, "nobody has logged in yet: {made}");
        } else {
            let error = answer.error();
            assert!(text.is_empty() || error == text, "{body}: {error}");
        }
    }
    assert_eq!(emails(&user, "").await, [ADMIN_EMAIL, "b@example.com"]);
    assert!(logs_in(&hub, "b@example.com", &long).await, "200 characters are a password");
    assert!(!logs_in(&hub, "b@example.com", &"p".repeat(199)).await, "and every one of them counts");
}

async fn lists_of_users_can_be_filtered(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (bob, _) = (
        user.add_user("bob@example.com", "a long password").await,
        user.add_user("eve@example.com", "a long password").await,
    );
    assert_eq!(emails(&user, "").await.len(), 3);
    assert_eq!(emails(&user, &format!("?id={bob}&id={UNKNOWN}")).await, ["bob@example.com"]);
    assert_eq!(
        emails(&user, "?email=EVE@example.com&email=bob@example.com").await,
        ["bob@example.com", "eve@example.com"]
    );
    assert_eq!(emails(&user, &format!("?id={bob}&email=eve@example.com")).await, [""; 0]);
    assert_eq!(emails(&user, "?created_after=4000000000").await, [""; 0]);
    assert_eq!(emails(&user, "?created_before=4000000000&updated_after=0").await.len(), 3);
    for name in ["created_after", "created_before", "updated_after", "updated_before"] {
        user.get(&format!("{USERS}?{name}=yesterday")).await.expect(400).error();
    }
    assert_eq!(user.get(&of(UNKNOWN)).await.expect(404).error(), "user not found");
}

async fn a_user_changes_by_the_rules(set: Set) {
    let hub = set.hub().await;
    let admin = hub.user().await;
    let bob = hub.another_user("bob@example.com").await;
    let change = |path: String, body: Value| {
        let bob = bob.clone();
        async move { bob.put(&path, &body).await }
    };
    let refused = async |path: &str, body: Value, status: u16, text: &str| {
        let answer = change(path.to_owned(), body.clone()).await;
        assert_eq!(answer.status, status, "{body} to {path}: {answer}");
        let error = answer.error();
        assert!(text.is_empty() || error == text, "{body} to {path}: {error}");
    };
    let own = of(&bob.id);
    let mismatch = "current password mismatch";

    for path in [ME, own.as_str()] {
        refused(path, json!({}), 400, "no update information provided").await;
        refused(path, json!({"current_password": ADMIN_PASSWORD}), 400, "no update information provided").await;
        refused(path, json!([]), 400, "").await;
        refused(path, json!({"email": "no address", "current_password": ADMIN_PASSWORD}), 400, "").await;
        refused(path, json!({"password": "pässwörter", "current_password": ADMIN_PASSWORD}), 400, "").await;
        refused(path, json!({"password": "another password"}), 422, mismatch).await;
        refused(path, json!({"password": "another password", "current_password": "guess"}), 422, mismatch).await;
        refused(path, json!({"email": "bobby@example.com"}), 422, mismatch).await;
        refused(path, json!({"email": "bobby@example.com", "current_password": "guess"}), 422, mismatch).await;
    }
    let with = |name: &str, value: &str| json!({name: value, "current_password": ADMIN_PASSWORD});
    let similar = "password is too similar to the email";
    refused(ME, with("password", "1234567"), 422, "password: must be minimum 8 characters long").await;
    refused(ME, with("password", "bob@example"), 422, similar).await;
    refused(ME, with("email", ADMIN_EMAIL), 422, "user with a given email already exists").await;
    refused(&of(&admin.id), with("password", "another password"), 422, "password cannot be modified").await;
    refused(&of(&admin.id), json!({"email": "bob@example.com"}), 422, "user with a given email already exists").await;
    refused(&of(UNKNOWN), json!({"email": "new@example.com"}), 404, "user not found").await;
    assert_eq!(emails(&admin, "").await, [ADMIN_EMAIL, "bob@example.com"], "nothing of it has changed anything");

    admin.add_user("cat@example.com", "cat-likes-cats").await;
    let cat = TestUser::log_in(&hub, "cat@example.com", "cat-likes-cats").await;
    let body = json!({"email": "cat-likes-cats@example.com", "current_password": "cat-likes-cats"});
    assert_eq!(cat.put(ME, &body).await.expect(422).error(), similar);

    // The same address again is no change that has to be proved.
    change(own.clone(), json!({"email": "Bob@example.com"})).await.expect(204);
    change(ME.to_owned(), with("email", "bobby@example.com")).await.expect(204);
    change(own.clone(), with("password", "another password")).await.expect(204);
    assert!(logs_in(&hub, "bobby@example.com", "another password").await);
    assert!(!logs_in(&hub, "bobby@example.com", ADMIN_PASSWORD).await);
    assert!(!logs_in(&hub, "bob@example.com", "another password").await);

    // Somebody else's address needs no password.
    let answer = change(of(&admin.id), json!({"email": "root@example.com"})).await.expect(204);
    assert!(answer.body.is_empty());
    assert!(logs_in(&hub, "root@example.com", ADMIN_PASSWORD).await);
    let me = bob.get(ME).await.expect(200).json();
    assert!(me["updated_ts"].as_str() > me["created_ts"].as_str(), "{me}");
}

async fn personal_token(hub: &TestHub, user: &TestUser, name: &str) -> TestUser {
    let token = user.post(TOKENS, &json!({"name": name})).await.expect(200).text();
    let user = TestUser::with_token(hub, &token);
    user.get(ME).await.expect(200);
    user
}

async fn a_changed_user_keeps_the_calling_token_alone(set: Set) {
    let hub = set.hub().await;
    let admin = hub.user().await;
    let bob = hub.another_user("bob@example.com").await;
    let elsewhere = TestUser::log_in(&hub, "bob@example.com", ADMIN_PASSWORD).await;
    let program = personal_token(&hub, &bob, "ci").await;
    let of_admin = personal_token(&hub, &admin, "ci").await;
    for user in [&bob, &elsewhere, &program] {
        user.get(ME).await.expect(200);
    }

    let body = json!({"password": "another password", "current_password": ADMIN_PASSWORD});
    program.put(ME, &body).await.expect(204);

    program.get(ME).await.expect(200);
    bob.get(ME).await.refuses_token();
    elsewhere.get(ME).await.refuses_token();

    let bob = TestUser::log_in(&hub, "bob@example.com", "another password").await;
    bob.get(ME).await.expect(200);
    admin.put(&of(&bob.id), &json!({"email": "bobby@example.com"})).await.expect(204);
    bob.get(ME).await.refuses_token();
    program.get(ME).await.refuses_token();
    admin.get(ME).await.expect(200);
    of_admin.get(ME).await.expect(200);
}

async fn version_two_changes_the_own_password_alone(set: Set) {
    let hub = set.hub().await;
    let bob = hub.another_user("bob@example.com").await;
    let elsewhere = TestUser::log_in(&hub, "bob@example.com", ADMIN_PASSWORD).await;
    let guess = bob.put(ME_V2, &json!({"password": "another password", "current_password": "guess"})).await.expect(422);
    assert_eq!(guess.error(), "current password mismatch");
    elsewhere.get(ME).await.expect(200);

    let body =
        json!({"email": "bobby@example.com", "password": "another password", "current_password": ADMIN_PASSWORD});
    bob.put(ME_V2, &body).await.expect(204);
    elsewhere.get(ME).await.refuses_token();
    assert!(logs_in(&hub, "bob@example.com", "another password").await, "the address is not this call's");

    let elsewhere = TestUser::log_in(&hub, "bob@example.com", "another password").await;
    elsewhere.get(ME).await.expect(200);
    bob.put(ME_V2, &json!({})).await.expect(204);
    elsewhere.get(ME).await.refuses_token();
    bob.get(ME).await.expect(200);
}

async fn a_removed_user_is_out_and_the_last_one_stays(set: Set) {
    let hub = set.hub().await;
    let admin = hub.user().await;
    let bob = hub.another_user("bob@example.com").await;
    let eve = hub.another_user("eve@example.com").await;
    bob.get(ME).await.expect(200);

    for _ in 0..2 {
        assert!(admin.delete(&of(&bob.id)).await.expect(204).body.is_empty());
    }
    bob.get(ME).await.refuses_token();
    assert!(!logs_in(&hub, "bob@example.com", ADMIN_PASSWORD).await);
    admin.delete(&of(UNKNOWN)).await.expect(204);
    eve.delete(ME).await.expect(204);
    eve.get(ME).await.refuses_token();

    let admin = hub.user().await;
    for path in [of(&admin.id), ME.to_owned()] {
        assert_eq!(admin.delete(&path).await.expect(422).error(), "the last user cannot be removed");
    }
    admin.get(ME).await.expect(200);
    // The address is free again, for somebody else.
    assert_ne!(admin.add_user("bob@example.com", "a long password").await, bob.id);
}

async fn the_eleventh_login_ends_the_oldest_session(set: Set) {
    let hub = set.hub().await;
    let first = hub.user().await;
    let program = personal_token(&hub, &first, "ci").await;
    let mut sessions = Vec::new();
    for _ in 0..9 {
        sessions.push(hub.user().await);
    }
    first.get(ME).await.expect(200);

    sessions.push(hub.user().await);

    first.get(ME).await.refuses_token();
    for session in &sessions {
        session.get(ME).await.expect(200);
    }
    program.get(ME).await.expect(200);
}

async fn another_password_by_the_command_ends_the_former_one(set: Set) {
    let hub = set.hub().await;
    let mooring = Mooring::in_site(hub.site());
    let output =
        mooring.run(&["user", "add", "bob@example.com", "--id", "bob-1", "--password-stdin"], "bob-likes-this\n").await;
    assert_eq!((output.status.success(), output.stdout.as_str()), (true, "bob-1\n"), "{output:?}");
    let bob = TestUser::log_in(&hub, "bob@example.com", "bob-likes-this").await;
    bob.get(ME).await.expect(200);

    let set_password = async |email: &str, password: &str| {
        let arguments = ["user", "set-password", email, "--password-stdin"];
        mooring.run(&arguments, &format!("{password}\n")).await
    };
    for (email, password) in
        [("bob@example.com", "short"), ("bob@example.com", "bob@example"), ("nobody@example.com", "a long password")]
    {
        let output = set_password(email, password).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    let output = set_password("Bob@example.com", "another password").await;
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");

    if matches!(set, Set::Production) {
        // Told over NATS, well before it would ask the database again.
        wait_until(Duration::from_secs(10), "the former token to end", async || {
            (bob.get(ME).await.status == 401).then_some(())
        })
        .await;
    }
    assert!(!logs_in(&hub, "bob@example.com", "bob-likes-this").await);
    assert!(logs_in(&hub, "bob@example.com", "another password").await);
}

async fn an_imported_bcrypt_hash_is_good_and_is_replaced(set: Set) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let door = hub.internal_door();
    // Of "correct horse battery staple", with a small cost.
    let hash = "$2a$04$wxCPLQ6bXbVfmv7gxKOXv.3d45h52dL7mAQJYCPIu3oKUMlea9qyW";
    let body = json!({"id": "imported-1", "email": "old@example.com", "password_hash": hash});
    let imported = door.request("POST", "/api/internal/v1/useradm/tenants//users").json(&body);
    Answer::to(imported).await.expect(201);

    assert!(!logs_in(&hub, "old@example.com", "correct horse").await);
    for _ in 0..2 {
        assert!(logs_in(&hub, "old@example.com", "correct horse battery staple").await);
        assert!(hub.password_hash("old@example.com").await.starts_with("$argon2id$"));
    }
}

async fn a_token_for_something_else_is_forbidden(set: Set) {
    let issuer = Issuer::new();
    let hub = set.hub_with(|config| config.actors.user_key_file = Some(issuer.file())).await;
    let user = hub.user().await;
    let narrow = issuer.reissue(&user.token, |_, claims| claims["scp"] = json!("mender.users.initial.create"));
    // A 401 would make the web UI log its user out.
    let refused = TestUser::with_token(&hub, &narrow).get(ME).await.expect(403);
    assert_eq!(refused.error(), "unauthorized");
    let without = issuer.reissue(&user.token, |_, claims| claims["scp"] = json!(""));
    TestUser::with_token(&hub, &without).get(ME).await.refuses_token();
    assert_eq!(claims(&user.token)["scp"], "mender.*");
}

async fn what_other_editions_have_is_a_404(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let base = "/api/management/v1/useradm";
    for path in [
        "/2faqr",
        "/roles",
        "/permission_sets",
        "/users/tenants/x",
        "/sso/x",
        "/users/3f8f5c8e-0000-4000-8000-000000000000/2fa/enable",
    ] {
        assert_eq!(user.get(&format!("{base}{path}")).await.expect(404).error(), "not found", "{path}");
        Answer::to(hub.request("GET", &format!("{base}{path}"))).await.refuses_token();
    }
    for path in ["/api/management/v2/useradm/roles", "/api/management/v2/useradm/permission_sets"] {
        assert_eq!(user.get(path).await.expect(404).error(), "not found", "{path}");
    }
    for path in ["/auth/password-reset/start", "/auth/verify-email/start", "/auth/sso/x", "/oauth2/github"] {
        let answer = Answer::to(hub.request("POST", &format!("{base}{path}"))).await.expect(404);
        assert_eq!(answer.error(), "not found", "{path}");
    }
}

async fn the_plan_is_the_open_one(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let answer = user.get("/api/management/v1/useradm/plans?page=1&per_page=20").await.expect(200);
    let plans = answer.json();
    assert_eq!(plans.as_array().unwrap().len(), 1);
    assert_eq!((&plans[0]["name"], &plans[0]["display_name"]), (&json!("Mender_Open_Source"), &json!("Mender")));
    assert_eq!(plans[0]["features"]["configuration"], true);
    assert_eq!(plans[0]["features"]["rbac"], false);
    assert!(answer.header("link").contains("rel=\"first\""), "{}", answer.header("link"));
    assert_eq!(user.get("/api/management/v1/useradm/plans?page=2").await.expect(200).json(), json!([]));
    user.get("/api/management/v1/useradm/plans?page=0").await.expect(400).error();
    let bound = user.get("/api/management/v1/useradm/plan_binding").await.expect(200).json();
    assert_eq!(bound, json!({"plan": plans[0]}));
}
