use std::net::Ipv4Addr;

use parking_lot::Mutex;
use storage::Storage;

use super::*;
use crate::gate::Refusal;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const EMAIL: &str = "admin@example.com";
const PASSWORD: &str = "correct horse";

struct House {
    storage: Storage,
    gate: Gate,
    keyring: Arc<Keyring>,
    accounts: Accounts,
    said: Arc<Mutex<Vec<Event>>>,
}

impl House {
    async fn new(config: &Config) -> Self {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let keyring = Arc::new(Keyring::fresh(config));
        let gate = Gate::new(storage.devices.clone(), storage.users.clone(), keyring.clone(), config);
        let said = Arc::new(Mutex::new(Vec::new()));
        let announce: Announcer = {
            let said = said.clone();
            Arc::new(move |event| said.lock().push(event))
        };
        let accounts = Accounts::new(storage.users.clone(), gate.clone(), keyring.clone(), announce, config);
        Self { storage, gate, keyring, accounts, said }
    }

    async fn with_user() -> Self {
        let house = Self::new(&Config::default()).await;
        house.accounts.add_user(EMAIL, PASSWORD, None).await.unwrap();
        house
    }

    async fn login(&self, email: &str, password: &str) -> Result<String, AccountError> {
        self.accounts.login(Some(&basic(email, password)), HOME, LoginRequest::default()).await
    }
}

fn basic(email: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{email}:{password}")))
}

#[tokio::test]
async fn a_user_logs_in_and_out() {
    let house = House::with_user().await;
    let token = house.login("Admin@Example.COM", PASSWORD).await.unwrap();
    let user = house.gate.user(&token).await.unwrap();
    let stored = house.storage.users.find_by_email(EMAIL).await.unwrap().unwrap();
    assert_eq!(user.user, stored.id);
    assert!(stored.logged_in.is_some());
    let lifetime = user.expires.unwrap().since(clock::now()).as_secs();
    assert!((604_790..=604_800).contains(&lifetime), "{lifetime}");
    house.accounts.logout(&user).await.unwrap();
    assert!(matches!(house.gate.user(&token).await, Err(Refusal::Refused("unauthorized"))));
    assert_eq!(*house.said.lock(), [Event::TokensRevoked { tokens: vec![user.token.uuid()] }]);
}

#[tokio::test]
async fn a_login_may_be_for_ever() {
    let house = House::with_user().await;
    let header = basic(EMAIL, PASSWORD);
    let token = house.accounts.login(Some(&header), HOME, LoginRequest { no_expiry: true }).await.unwrap();
    let claims = house.keyring.open_user(&token, clock::now()).unwrap();
    assert_eq!(claims.expires, None);
    assert_eq!(house.gate.user(&token).await.unwrap().expires, None);
}

#[tokio::test]
async fn the_wrong_password_and_the_wrong_user_are_told_the_same() {
    let house = House::with_user().await;
    for (email, password) in [(EMAIL, "wrong horse"), (EMAIL, ""), ("nobody@example.com", PASSWORD), ("", "")] {
        assert!(matches!(house.login(email, password).await, Err(AccountError::Unauthorized)), "{email}");
    }
    let long = "x".repeat(LENGTH_LIMIT + 1);
    assert!(matches!(house.login(EMAIL, &long).await, Err(AccountError::Unauthorized)));
}

#[tokio::test]
async fn a_header_that_is_not_basic_is_invalid() {
    let house = House::with_user().await;
    let no_colon = format!("Basic {}", BASE64_STANDARD.encode("admin"));
    for header in [None, Some(""), Some("Basic"), Some("Basic !"), Some("Bearer x"), Some(no_colon.as_str())] {
        let outcome = house.accounts.login(header, HOME, LoginRequest::default()).await;
        assert!(matches!(outcome, Err(AccountError::HeaderInvalid)), "{header:?}");
    }
}

#[test]
fn a_password_may_contain_colons() {
    let encoded = BASE64_STANDARD.encode("A@b.c:x:y");
    assert_eq!(credentials(&format!("bAsIc {encoded}")), Some(("a@b.c".into(), "x:y".into())));
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let house = House::new(&Config::default()).await;
    let refused = async || house.login("nobody@example.com", "guess guess").await.unwrap_err();
    let mut guesses = 0;
    while matches!(refused().await, AccountError::Unauthorized) {
        guesses += 1;
        assert!(guesses < 100);
    }
    assert!(matches!(refused().await, AccountError::Throttled(wait) if wait <= Duration::from_secs(1)));
}

#[tokio::test]
async fn the_eleventh_login_ends_the_oldest_session() {
    let house = House::with_user().await;
    let mut tokens = Vec::new();
    for _ in 0..11 {
        tokens.push(house.login(EMAIL, PASSWORD).await.unwrap());
        house.gate.user(tokens.last().unwrap()).await.unwrap();
    }
    let first = house.keyring.open_user(&tokens[0], clock::now()).unwrap();
    assert!(house.gate.user(&tokens[0]).await.is_err());
    for token in &tokens[1..] {
        house.gate.user(token).await.unwrap();
    }
    assert_eq!(*house.said.lock(), [Event::TokensRevoked { tokens: vec![first.token.uuid()] }]);
}

#[tokio::test]
async fn a_personal_token_has_a_name_that_can_be_kept() {
    let house = House::with_user().await;
    let user = house.gate.user(&house.login(EMAIL, PASSWORD).await.unwrap()).await.unwrap();
    for name in ["", "\0", "c\0i"] {
        let refused = house.accounts.issue_personal_token(&user, name, None).await;
        assert!(matches!(refused, Err(AccountError::Invalid(_))), "{name:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_token_that_has_ended_makes_no_other() {
    let house = House::with_user().await;
    let user = house.gate.user(&house.login(EMAIL, PASSWORD).await.unwrap()).await.unwrap();
    house.accounts.issue_personal_token(&user, "before", None).await.unwrap();
    house.accounts.set_password(EMAIL, "another horse").await.unwrap();
    let refused = house.accounts.issue_personal_token(&user, "after", None).await;
    assert!(matches!(refused, Err(AccountError::Unauthorized)), "{refused:?}");
    assert_eq!(house.accounts.personal_tokens(&user.user).await.unwrap(), []);
}

#[tokio::test]
async fn an_imported_hash_is_replaced_at_the_next_login() {
    let house = House::with_user().await;
    let user = house.storage.users.find_by_email(EMAIL).await.unwrap().unwrap();
    let imported = bcrypt::hash(PASSWORD, 4).unwrap();
    house.storage.users.set_password(&user.id, &imported, clock::now()).await.unwrap();
    for _ in 0..2 {
        house.login(EMAIL, PASSWORD).await.unwrap();
        let stored = house.storage.users.find_by_email(EMAIL).await.unwrap().unwrap().password_hash;
        assert!(stored.starts_with("$argon2id$"));
    }
}

#[tokio::test]
async fn a_new_password_ends_all_tokens() {
    let house = House::with_user().await;
    let token = house.login(EMAIL, PASSWORD).await.unwrap();
    let user = house.gate.user(&token).await.unwrap().user;
    house.accounts.set_password(EMAIL, "another horse").await.unwrap();
    assert!(house.gate.user(&token).await.is_err());
    assert_eq!(*house.said.lock(), [Event::UserRefused { user }]);
    assert!(matches!(house.login(EMAIL, PASSWORD).await, Err(AccountError::Unauthorized)));
    house.login(EMAIL, "another horse").await.unwrap();
    let unknown = house.accounts.set_password("nobody@example.com", PASSWORD).await;
    assert!(matches!(unknown, Err(AccountError::Invalid(text)) if text == "user not found"));
}

#[tokio::test]
async fn a_user_is_added_once() {
    let house = House::with_user().await;
    let again = house.accounts.add_user("ADMIN@example.com", PASSWORD, None).await.unwrap_err();
    assert!(matches!(again, AccountError::Unprocessable("user with a given email already exists")));
    let id = house.accounts.add_user("b@example.com", PASSWORD, Some("chosen".into())).await.unwrap();
    assert_eq!(id.as_str(), "chosen");
    let again = house.accounts.add_user("c@example.com", PASSWORD, Some("chosen".into())).await.unwrap_err();
    assert!(matches!(again, AccountError::Unprocessable("user with a given id already exists")));
    let long = "p".repeat(200);
    house.accounts.add_user("d@example.com", &long, None).await.unwrap();
    house.login("d@example.com", &long).await.unwrap();
}

#[tokio::test]
async fn what_is_no_address_or_password_is_refused() {
    let house = House::new(&Config::default()).await;
    let too_long = format!("a@{}.com", "b".repeat(LONGEST_EMAIL));
    for email in ["", "admin", "admin@", "@example.com", "a b@example.com", "a@b", "ä@example.com", "a@b..c", &too_long]
    {
        let error = house.accounts.add_user(email, PASSWORD, None).await.unwrap_err();
        assert!(matches!(error, AccountError::Invalid(_)), "{email}: {error}");
    }
    let long = "x".repeat(LENGTH_LIMIT + 1);
    for password in ["", "pässwörter", long.as_str()] {
        let error = house.accounts.add_user(EMAIL, password, None).await.unwrap_err();
        assert!(matches!(error, AccountError::Invalid(_)), "{password}: {error}");
    }
    let error = house.accounts.add_user(EMAIL, "1234567", None).await.unwrap_err().to_string();
    assert_eq!(error, "password: must be minimum 8 characters long");
    let error = house.accounts.add_user(EMAIL, "Example.Com", None).await.unwrap_err().to_string();
    assert_eq!(error, "password is too similar to the email");
    assert_eq!(house.storage.users.count().await.unwrap(), 0);
    house.accounts.add_user_by_operator(EMAIL, "example.com", None).await.unwrap();
}

#[test]
fn an_id_can_stand_in_a_path_and_is_nobody_elses() {
    for id in ["a", "bob-1", "3f8f5c8e-0000-4000-8000-000000000000", "bob@example.com", "a_b.c"] {
        assert!(is_id(id), "{id}");
    }
    for id in ["", "me", ".", "..", "a/b", "a b", "a?b", "a%2fb", "ü", &"x".repeat(LONGEST_ID + 1)] {
        assert!(!is_id(id), "{id}");
    }
}

#[tokio::test]
async fn guessing_the_current_password_is_slowed_down() {
    let house = House::with_user().await;
    let token = house.login(EMAIL, PASSWORD).await.unwrap();
    let user = house.gate.user(&token).await.unwrap();
    let guess = UserUpdate {
        password: Some("another horse".into()),
        current_password: Some("wrong horse".into()),
        ..UserUpdate::default()
    };
    let guess = async || house.accounts.update_user(&user, &user.user, guess.clone(), HOME).await.unwrap_err();
    let mut guesses = 0;
    while matches!(guess().await, AccountError::Unprocessable("current password mismatch")) {
        guesses += 1;
        assert!(guesses < 100);
    }
    assert!(matches!(guess().await, AccountError::Throttled(_)));
}

#[tokio::test]
async fn a_change_is_felt_before_it_is_answered_and_told_to_everybody() {
    let house = House::with_user().await;
    let (caller, other) = (house.login(EMAIL, PASSWORD).await.unwrap(), house.login(EMAIL, PASSWORD).await.unwrap());
    let (by, ended) = (house.gate.user(&caller).await.unwrap(), house.gate.user(&other).await.unwrap());
    let update =
        UserUpdate { email: Some("new@example.com".into()), current_password: Some(PASSWORD.into()), password: None };
    house.accounts.update_user(&by, &by.user, update, HOME).await.unwrap();
    assert!(house.gate.user(&other).await.is_err());
    house.gate.user(&caller).await.unwrap();
    assert_eq!(*house.said.lock(), [Event::TokensRevoked { tokens: vec![ended.token.uuid()] }]);

    house.accounts.add_user("b@example.com", PASSWORD, None).await.unwrap();
    house.accounts.remove_user(&by.user).await.unwrap();
    assert!(house.gate.user(&caller).await.is_err());
    assert_eq!(house.said.lock().last(), Some(&Event::UserRefused { user: by.user }));
}

#[test]
fn addresses_of_many_kinds_are_addresses() {
    for email in ["a@example.com", "first.last+tag@mail.example-host.org", "x_1@10.example"] {
        assert!(is_email(email), "{email}");
    }
    for email in [".a@example.com", "a.@example.com", "a..b@example.com", "a@-b.com", "a@b.com-", "a@b@c"] {
        assert!(!is_email(email), "{email}");
    }
}
