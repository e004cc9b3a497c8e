//! Users and their sessions.

use storage::{
    Removal, SettingsDocument, SettingsOwner, StorageError, Timestamp, TokenId, User, UserChange, UserId, UserToken,
    Users,
};

use crate::backends::TestDatabase;
use crate::random::Random;

fn user(email: &str) -> User {
    User {
        id: UserId::random(),
        email: email.to_owned(),
        password_hash: "hash".to_owned(),
        created: Timestamp(1),
        updated: Timestamp(1),
        logged_in: None,
    }
}

fn session(user: &User, created: i64) -> UserToken {
    UserToken {
        id: TokenId::random(),
        user: user.id.clone(),
        created: Timestamp(created),
        expires: Some(Timestamp(created + 100)),
        name: None,
        last_used: None,
    }
}

fn named(user: &User, name: &str, created: i64) -> UserToken {
    UserToken { name: Some(name.to_owned()), ..session(user, created) }
}

/// A session of this user by which they may ask for tokens.
async fn logged_in(users: &Users, user: &User) -> TokenId {
    let session = session(user, 1);
    users.start_session(&session, 0, Timestamp(1)).await.expect("a session");
    session.id
}

pub async fn users_are_found_by_id_and_address(database: &TestDatabase) {
    let users = &database.storage.users;
    assert_eq!(users.count().await.expect("a count"), 0);
    let (ann, mut bob) = (user("ann@example.com"), user("bob@example.com"));
    bob.created = Timestamp(2);
    bob.id = UserId::new("bob from the command line");
    users.create(&bob).await.expect("a user");
    users.create(&ann).await.expect("a user");
    assert_eq!(users.find(&bob.id).await.expect("an answer"), Some(bob.clone()));
    assert_eq!(users.find_by_email("ann@example.com").await.expect("an answer"), Some(ann.clone()));
    assert_eq!(users.find_by_email("eve@example.com").await.expect("an answer"), None);
    assert_eq!(users.list().await.expect("a list"), vec![ann, bob]);
    assert_eq!(users.count().await.expect("a count"), 2);
}

pub async fn nobody_is_found_by_a_text_with_nul(database: &TestDatabase) {
    let users = &database.storage.users;
    users.create(&user("ann@example.com")).await.expect("a user");
    let id = UserId::new("\0");
    assert_eq!(users.find(&id).await.expect("an answer"), None);
    assert_eq!(users.find_by_email("ann\0@example.com").await.expect("an answer"), None);
    assert_eq!(users.remove(&id).await.expect("an answer"), Removal::Unknown);
}

pub async fn an_address_or_id_is_taken_once(database: &TestDatabase) {
    let users = &database.storage.users;
    let ann = user("ann@example.com");
    users.create(&ann).await.expect("a user");
    let same_address = users.create(&user("ann@example.com")).await;
    assert!(matches!(same_address, Err(StorageError::Conflict("email"))), "{same_address:?}");
    let same_id = users.create(&User { id: ann.id.clone(), ..user("other@example.com") }).await;
    assert!(matches!(same_id, Err(StorageError::Conflict("id"))), "{same_id:?}");
    assert!(!format!("{ann:?}").contains("hash"));
}

pub async fn only_the_newest_sessions_survive(database: &TestDatabase) {
    let users = &database.storage.users;
    let ann = user("ann@example.com");
    users.create(&ann).await.expect("a user");
    let named = named(&ann, "ci", 0);
    users.start_session(&named, 0, Timestamp(1)).await.expect("a token");

    let sessions: Vec<UserToken> = (1..=4).map(|created| session(&ann, created)).collect();
    for token in &sessions[..3] {
        assert!(users.start_session(token, 3, token.created).await.expect("a session").is_empty());
    }
    let dropped = users.start_session(&sessions[3], 3, Timestamp(77)).await.expect("a session");
    assert_eq!(dropped, vec![sessions[0].id]);
    assert_eq!(users.token(sessions[0].id).await.expect("an answer"), None);
    assert_eq!(users.token(sessions[3].id).await.expect("an answer"), Some(sessions[3].clone()));
    assert_eq!(users.token(named.id).await.expect("an answer"), Some(named.clone()));
    assert_eq!(users.find(&ann.id).await.expect("an answer").expect("ann").logged_in, Some(Timestamp(77)));

    // The new one survives even if the clock of its node is behind.
    let late = session(&ann, -50);
    let dropped = users.start_session(&late, 1, Timestamp(78)).await.expect("a session");
    assert_eq!(dropped.len(), 3);
    assert_eq!(users.tokens_of(&ann.id).await.expect("a list"), vec![late.id, named.id]);
    assert_eq!(users.remove_expired_tokens(Timestamp(99)).await.expect("a count"), 1);
    assert_eq!(users.tokens_of(&ann.id).await.expect("a list"), vec![named.id]);

    let nobody = users.start_session(&session(&user("eve@example.com"), 1), 3, Timestamp(1)).await;
    assert!(matches!(nobody, Err(StorageError::Conflict("user"))), "{nobody:?}");
}

pub async fn parallel_logins_keep_to_the_limit(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    let ann = user("ann@example.com");
    database.storage.users.create(&ann).await.expect("a user");
    let mut logins = tokio::task::JoinSet::new();
    for number in 0..20_i64 {
        let (storage, token) = (nodes[usize::from(number % 2 == 0)].clone(), session(&ann, number));
        logins.spawn(
            async move { storage.users.start_session(&token, 5, token.created).await.expect("a session").len() },
        );
    }
    let dropped: usize = logins.join_all().await.into_iter().sum();
    assert_eq!(dropped, 15);
    assert_eq!(database.storage.users.tokens_of(&ann.id).await.expect("a list").len(), 5);
}

pub async fn another_password_ends_every_token(database: &TestDatabase) {
    let users = &database.storage.users;
    let (ann, bob) = (user("ann@example.com"), user("bob@example.com"));
    for user in [&ann, &bob] {
        users.create(user).await.expect("a user");
        users.start_session(&session(user, 1), 0, Timestamp(1)).await.expect("a session");
    }
    let tokens = users.tokens_of(&ann.id).await.expect("a list");
    assert_eq!(users.set_password(&ann.id, "other", Timestamp(9)).await.expect("a change"), tokens);
    let changed = users.find(&ann.id).await.expect("an answer").expect("ann");
    assert_eq!((changed.password_hash.as_str(), changed.updated), ("other", Timestamp(9)));
    assert!(users.tokens_of(&ann.id).await.expect("a list").is_empty());
    assert_eq!(users.tokens_of(&bob.id).await.expect("a list").len(), 1);
    assert!(users.set_password(&UserId::new("nobody"), "x", Timestamp(9)).await.expect("a change").is_empty());

    // A better hash of the same password ends nothing, and does not undo a change made meanwhile.
    users.rehash(&bob.id, "hash", "better").await.expect("a change");
    users.rehash(&bob.id, "hash", "late").await.expect("a change");
    assert_eq!(users.find(&bob.id).await.expect("an answer").expect("bob").password_hash, "better");
    assert_eq!(users.tokens_of(&bob.id).await.expect("a list").len(), 1);
}

pub async fn a_removed_user_leaves_no_token(database: &TestDatabase) {
    let users = &database.storage.users;
    let (ann, bob) = (user("ann@example.com"), user("bob@example.com"));
    users.create(&ann).await.expect("a user");
    users.create(&bob).await.expect("a user");
    let tokens = [session(&ann, 1), session(&ann, 2)];
    for token in &tokens {
        users.start_session(token, 0, Timestamp(1)).await.expect("a session");
    }
    assert!(users.revoke_token(tokens[0].id).await.expect("an answer"));
    assert!(!users.revoke_token(tokens[0].id).await.expect("an answer"));
    let own = SettingsOwner::User(&ann.id);
    assert!(users.replace_settings(own, &document("{}"), None).await.expect("an answer"));
    assert_eq!(users.remove(&ann.id).await.expect("an answer"), Removal::Removed);
    assert_eq!(users.remove(&ann.id).await.expect("an answer"), Removal::Unknown);
    assert_eq!(users.token(tokens[1].id).await.expect("an answer"), None);
    assert_eq!(users.settings(own).await.expect("an answer"), None);
}

pub async fn the_last_user_stays(database: &TestDatabase) {
    let (users, other_node) = (&database.storage.users, database.another_node().await.users);
    let (ann, bob) = (user("ann@example.com"), user("bob@example.com"));
    assert_eq!(users.remove(&ann.id).await.expect("an answer"), Removal::Unknown);
    users.create(&ann).await.expect("a user");
    users.create(&bob).await.expect("a user");
    let (one, two) = tokio::join!(users.remove(&ann.id), other_node.remove(&bob.id));
    let mut removals = [one.expect("an answer"), two.expect("an answer")];
    removals.sort_by_key(|removal| *removal == Removal::LastUser);
    assert_eq!(removals, [Removal::Removed, Removal::LastUser]);
    assert_eq!(users.count().await.expect("a count"), 1);
}

pub async fn a_changed_user_keeps_one_token(database: &TestDatabase) {
    let users = &database.storage.users;
    let (ann, bob) = (user("ann@example.com"), user("bob@example.com"));
    for user in [&ann, &bob] {
        users.create(user).await.expect("a user");
    }
    let (kept, ended, of_bob) = (session(&ann, 1), session(&ann, 2), session(&bob, 1));
    for token in [&kept, &ended, &of_bob] {
        users.start_session(token, 0, Timestamp(1)).await.expect("a session");
    }
    let change = UserChange {
        before: &ann,
        email: Some("anna@example.com"),
        password_hash: None,
        keep: Some(kept.id),
        now: Timestamp(9),
    };
    assert_eq!(users.update(change).await.expect("a change"), [ended.id]);
    let changed = users.find(&ann.id).await.expect("an answer").expect("ann");
    let expected = User {
        email: "anna@example.com".to_owned(),
        updated: Timestamp(9),
        logged_in: Some(Timestamp(1)),
        ..ann.clone()
    };
    assert_eq!(changed, expected);

    // The one who decided this had seen the user as they were before.
    let late = users.update(UserChange { password_hash: Some("other"), ..change }).await;
    assert!(matches!(late, Err(StorageError::Conflict("user"))), "{late:?}");
    let taken = users.update(UserChange { before: &changed, email: Some("bob@example.com"), ..change }).await;
    assert!(matches!(taken, Err(StorageError::Conflict("email"))), "{taken:?}");
    assert_eq!(users.find(&ann.id).await.expect("an answer"), Some(changed.clone()));

    let change = UserChange { before: &changed, email: None, password_hash: Some("other"), keep: None, ..change };
    assert_eq!(users.update(change).await.expect("a change"), [kept.id]);
    assert_eq!(users.tokens_of(&bob.id).await.expect("a list"), [of_bob.id]);
}

pub async fn named_tokens_have_a_name_and_a_number(database: &TestDatabase) {
    let users = &database.storage.users;
    let (ann, bob) = (user("ann@example.com"), user("bob@example.com"));
    for user in [&ann, &bob] {
        users.create(user).await.expect("a user");
    }
    let (one, two) = (named(&ann, "one", 1), named(&ann, "two", 2));
    let for_ever = UserToken { expires: None, ..two };
    let (by_ann, by_bob) = (logged_in(users, &ann).await, logged_in(users, &bob).await);
    for (token, caller) in [(&one, by_ann), (&for_ever, by_ann), (&named(&bob, "one", 1), by_bob)] {
        users.add_named_token(token, 2, caller).await.expect("a token");
    }
    let refused = users.add_named_token(&named(&ann, "three", 3), 2, by_ann).await;
    assert!(matches!(refused, Err(StorageError::Conflict("count"))), "{refused:?}");
    let refused = users.add_named_token(&named(&ann, "two", 3), 0, by_ann).await;
    assert!(matches!(refused, Err(StorageError::Conflict("name"))), "{refused:?}");
    let refused = users.add_named_token(&named(&user("eve@example.com"), "one", 3), 0, by_ann).await;
    assert!(matches!(refused, Err(StorageError::Conflict("user"))), "{refused:?}");
    for caller in [TokenId::random(), by_bob] {
        let refused = users.add_named_token(&named(&ann, "three", 3), 0, caller).await;
        assert!(matches!(refused, Err(StorageError::Conflict("caller"))), "{refused:?}");
    }
    let list = users.named_tokens(&ann.id, Timestamp(50)).await.expect("a list");
    assert_eq!(list, [one.clone(), for_ever.clone()]);

    users.note_use(one.id, Timestamp(60), Timestamp(0)).await.expect("noted");
    users.note_use(one.id, Timestamp(70), Timestamp(59)).await.expect("noted");
    let noted = users.token(one.id).await.expect("an answer").expect("a token").last_used;
    assert_eq!(noted, Some(Timestamp(60)), "that was too soon to be noted again");
    users.note_use(one.id, Timestamp(80), Timestamp(60)).await.expect("noted");
    assert_eq!(users.token(one.id).await.expect("an answer").expect("a token").last_used, Some(Timestamp(80)));

    // Expired, its name and its place are free.
    assert_eq!(users.named_tokens(&ann.id, Timestamp(101)).await.expect("a list"), std::slice::from_ref(&for_ever));
    let again = named(&ann, "one", 101);
    users.add_named_token(&again, 2, by_ann).await.expect("a token");
    assert!(!users.revoke_token_of(&bob.id, again.id).await.expect("an answer"), "it is not bob's");
    assert!(users.revoke_token_of(&ann.id, again.id).await.expect("an answer"));
    assert_eq!(users.named_tokens(&ann.id, Timestamp(101)).await.expect("a list"), [for_ever]);
}

pub async fn a_token_has_a_long_name_that_no_compression_shortens(database: &TestDatabase) {
    let users = &database.storage.users;
    let ann = user("ann@example.com");
    users.create(&ann).await.expect("a user");
    let by_ann = logged_in(users, &ann).await;
    let mut random = Random::seeded();
    let ideograms = (0..4096).map(|_| u32::try_from(0x4e00 + random.below(0x5000)).expect("it fits"));
    let name: String = ideograms.filter_map(char::from_u32).collect();
    users.add_named_token(&named(&ann, &name, 1), 0, by_ann).await.expect("a token");
    users.add_named_token(&named(&ann, &(name.clone() + "x"), 1), 0, by_ann).await.expect("another name");
    let refused = users.add_named_token(&named(&ann, &name, 2), 0, by_ann).await;
    assert!(matches!(refused, Err(StorageError::Conflict("name"))), "{refused:?}");
}

pub async fn parallel_named_tokens_keep_to_the_limit(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    let ann = user("ann@example.com");
    database.storage.users.create(&ann).await.expect("a user");
    let by_ann = logged_in(&database.storage.users, &ann).await;
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..20_i64 {
        let (storage, token) = (nodes[usize::from(number % 2 == 0)].clone(), named(&ann, &number.to_string(), 1));
        asking.spawn(async move { storage.users.add_named_token(&token, 5, by_ann).await.is_ok() });
    }
    assert_eq!(asking.join_all().await.into_iter().filter(|added| *added).count(), 5);
}

fn document(text: &str) -> SettingsDocument {
    SettingsDocument { document: text.to_owned(), etag: TokenId::random().to_string() }
}

pub async fn settings_are_replaced_by_who_has_seen_them(database: &TestDatabase) {
    let users = &database.storage.users;
    let ann = user("ann@example.com");
    users.create(&ann).await.expect("a user");
    for owner in [SettingsOwner::Everybody, SettingsOwner::User(&ann.id)] {
        assert_eq!(users.settings(owner).await.expect("an answer"), None);
        let (first, second, third) = (document(r#"{ "_id": 1 }"#), document("{}"), document(r#"{"a":"ü"}"#));
        assert!(users.replace_settings(owner, &first, Some("whatever")).await.expect("an answer"));
        assert_eq!(users.settings(owner).await.expect("an answer"), Some(first.clone()));
        assert!(!users.replace_settings(owner, &second, Some("stale")).await.expect("an answer"));
        assert_eq!(users.settings(owner).await.expect("an answer"), Some(first.clone()));
        assert!(users.replace_settings(owner, &second, Some(&first.etag)).await.expect("an answer"));
        assert!(users.replace_settings(owner, &third, None).await.expect("an answer"));
        assert_eq!(users.settings(owner).await.expect("an answer"), Some(third));
    }
}
