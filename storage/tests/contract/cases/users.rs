//! Users and their sessions.

use storage::{StorageError, Timestamp, TokenId, User, UserId, UserToken};

use crate::backends::TestDatabase;

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
    }
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
    let named = UserToken { name: Some("ci".to_owned()), ..session(&ann, 0) };
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
    let ann = user("ann@example.com");
    users.create(&ann).await.expect("a user");
    let tokens = [session(&ann, 1), session(&ann, 2)];
    for token in &tokens {
        users.start_session(token, 0, Timestamp(1)).await.expect("a session");
    }
    assert!(users.revoke_token(tokens[0].id).await.expect("an answer"));
    assert!(!users.revoke_token(tokens[0].id).await.expect("an answer"));
    assert!(users.remove(&ann.id).await.expect("an answer"));
    assert!(!users.remove(&ann.id).await.expect("an answer"));
    assert_eq!(users.token(tokens[1].id).await.expect("an answer"), None);
}
