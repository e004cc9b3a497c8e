use std::cell::Cell;

use storage::{AuthSet, Decision, Device, DeviceChange, DeviceKey, IssuedToken, Storage, User, UserToken};

use super::*;

struct House {
    storage: Storage,
    keyring: Arc<Keyring>,
    gate: Gate,
}

impl House {
    async fn open() -> Self {
        let config = Config::default();
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let keyring = Arc::new(Keyring::fresh(&config));
        let gate = Gate::new(storage.devices.clone(), storage.users.clone(), keyring.clone(), &config);
        Self { storage, keyring, gate }
    }

    /// A stored device with one accepted set and a token.
    async fn device(&self) -> (DeviceClaims, String) {
        let now = clock::now();
        let claims = DeviceClaims {
            auth_set: AuthSetId::random(),
            device: DeviceId::random(),
            issuer: self.keyring.device_issuer().to_owned(),
            issued: now.seconds(),
            expires: now.seconds() + 3600,
        };
        let hash: [u8; 32] = std::array::from_fn(|index| claims.device.uuid().as_bytes()[index % 16]);
        let device = Device {
            id: claims.device,
            identity: "{}".into(),
            identity_hash: hash,
            decommissioning: false,
            created: now,
            updated: now,
            checked_in: None,
            revision: 1,
            auth_sets: vec![AuthSet {
                id: claims.auth_set,
                pubkey: "key".into(),
                status: SetStatus::Accepted,
                created: now,
            }],
        };
        let issued = Some(IssuedToken { auth_set: claims.auth_set, expires: Timestamp::from_seconds(claims.expires) });
        let write = |_: Option<&Device>, _: &storage::Fleet| {
            Decision::Write(DeviceChange { after: Some(device.clone()), revoked: vec![], issued }, ())
        };
        self.storage.devices.change(DeviceKey::Identity(&hash), write).await.unwrap();
        let token = self.keyring.sign_device(&claims);
        (claims, token)
    }

    /// A stored user with a token.
    async fn user(&self) -> (UserClaims, String) {
        let now = clock::now();
        let claims = UserClaims {
            token: TokenId::random(),
            user: UserId::random(),
            issuer: self.keyring.user_issuer().to_owned(),
            issued: now.seconds(),
            expires: None,
        };
        let user = User {
            id: claims.user.clone(),
            email: format!("{}@example.com", claims.user),
            password_hash: "hash".into(),
            created: now,
            updated: now,
            logged_in: None,
        };
        self.storage.users.create(&user).await.unwrap();
        let row = UserToken {
            id: claims.token,
            user: claims.user.clone(),
            created: now,
            expires: None,
            name: None,
            last_used: None,
        };
        self.storage.users.start_session(&row, 0, now).await.unwrap();
        let token = self.keyring.sign_user(&claims);
        (claims, token)
    }
}

fn is_refused<T: std::fmt::Debug>(answer: &Result<T, Refusal>, with: &str) -> bool {
    matches!(answer, Err(Refusal::Refused(text)) if *text == with)
}

#[tokio::test]
async fn a_device_is_known_by_its_token() {
    let house = House::open().await;
    let (claims, token) = house.device().await;
    assert_eq!(house.gate.device_cached(&token), None);
    for _ in 0..2 {
        let identity = house.gate.device(&token).await.unwrap();
        assert_eq!((identity.device, identity.auth_set), (claims.device, claims.auth_set));
        assert_eq!(identity.expires.seconds(), claims.expires);
    }
    assert!(house.gate.device_cached(&token).is_some());
    let seen = house.gate.take_check_ins(10);
    assert_eq!(seen.iter().map(|(device, _)| *device).collect::<Vec<_>>(), [claims.device]);
}

#[tokio::test]
async fn a_user_is_known_by_their_token() {
    let house = House::open().await;
    let (claims, token) = house.user().await;
    for _ in 0..2 {
        let identity = house.gate.user(&token).await.unwrap();
        assert_eq!(identity, UserIdentity { user: claims.user.clone(), token: claims.token, expires: None });
    }
    assert!(house.gate.user_cached(&token).is_some());
    house.storage.users.revoke_token(claims.token).await.unwrap();
    assert!(house.gate.user(&token).await.is_ok(), "from memory, until it is told");
    house.gate.void(&[claims.token.uuid()]);
    assert!(is_refused(&house.gate.user(&token).await, "unauthorized"));
}

#[tokio::test]
async fn tokens_of_the_wrong_kind_and_damaged_ones_are_refused() {
    let house = House::open().await;
    let (claims, device) = house.device().await;
    let (_, user) = house.user().await;
    assert!(is_refused(&house.gate.device(&user).await, "unauthorized"));
    assert!(is_refused(&house.gate.user(&device).await, "invalid jwt"));
    for token in ["", "x", "a.b.c"] {
        assert!(is_refused(&house.gate.device(token).await, "identity: incorrect token format"));
        assert!(is_refused(&house.gate.user(token).await, "identity: incorrect token format"));
    }
    let expired = house.keyring.sign_device(&DeviceClaims { expires: claims.issued - 1, ..claims.clone() });
    let foreign = house.keyring.sign_device(&DeviceClaims { issuer: "Other".into(), ..claims.clone() });
    let stolen = house.keyring.sign_device(&DeviceClaims { device: DeviceId::random(), ..claims.clone() });
    let unknown = house.keyring.sign_device(&DeviceClaims { auth_set: AuthSetId::random(), ..claims });
    for token in [expired, foreign, stolen, unknown] {
        assert!(is_refused(&house.gate.device(&token).await, "unauthorized"), "{token}");
    }
    assert_eq!(house.gate.take_check_ins(10), [], "nobody was here");
}

#[tokio::test]
async fn void_users_and_devices_are_asked_about_again() {
    let house = House::open().await;
    let (claims, token) = house.device().await;
    house.gate.device(&token).await.unwrap();
    house.gate.void_device(claims.device);
    assert_eq!(house.gate.device_cached(&token), None);
    house.gate.device(&token).await.unwrap();
    house.gate.void(&[claims.auth_set.uuid()]);
    assert_eq!(house.gate.device_cached(&token), None);

    let (claims, token) = house.user().await;
    house.gate.user(&token).await.unwrap();
    house.gate.void_user(&claims.user);
    assert_eq!(house.gate.user_cached(&token), None);
}

#[tokio::test]
async fn what_storage_cannot_say_is_not_a_refusal() {
    let house = House::open().await;
    let (_, token) = house.device().await;
    let (_, user) = house.user().await;
    house.storage.close().await;
    assert!(matches!(house.gate.device(&token).await, Err(Refusal::Unavailable(_))));
    assert!(matches!(house.gate.user(&user).await, Err(Refusal::Unavailable(_))));
}

#[tokio::test]
async fn a_verification_that_read_storage_before_a_revocation_leaves_nothing_behind() {
    let house = House::open().await;
    let (claims, token) = house.device().await;
    let (memory, hash, now) = (&house.gate.0.device_memory, TokenHash::of(&token), clock::now());
    let reads = Cell::new(0);
    let verified = settle(
        || memory.before_reading(claims.device),
        async || {
            let answer = house.gate.read_device(Verified::from(&claims), now).await;
            if reads.replace(reads.get() + 1) == 0 {
                // While the answer is on its way, somebody takes the device's access, and is told that it is done.
                assert!(house.storage.devices.revoke_token(claims.auth_set, now).await.unwrap());
                house.gate.void_device(claims.device);
            }
            answer
        },
        |found, before| memory.remember(hash, found, now, before),
    );
    assert!(is_refused(&verified.await, "unauthorized"));
    assert_eq!((reads.get(), house.gate.device_cached(&token)), (2, None));
}

#[tokio::test]
async fn answers_that_are_never_the_latest_are_given_but_not_remembered() {
    let house = House::open().await;
    let (claims, token) = house.device().await;
    let (memory, now) = (&house.gate.0.device_memory, clock::now());
    let verified = settle(
        || memory.before_reading(claims.device),
        async || {
            house.gate.void_device(claims.device);
            house.gate.read_device(Verified::from(&claims), now).await
        },
        |found, before| memory.remember(TokenHash::of(&token), found, now, before),
    );
    assert_eq!(verified.await.unwrap().identity.device, claims.device);
    assert_eq!(house.gate.device_cached(&token), None);
}

#[tokio::test]
async fn the_use_of_a_personal_token_is_noted_now_and_then() {
    let house = House::open().await;
    let (claims, _) = house.user().await;
    let row = UserToken {
        id: TokenId::random(),
        user: claims.user.clone(),
        created: clock::now(),
        expires: None,
        name: Some("ci".into()),
        last_used: None,
    };
    house.storage.users.add_named_token(&row, 0, claims.token).await.unwrap();
    let token = house.keyring.sign_user(&UserClaims { token: row.id, ..claims.clone() });
    let noted = async |id| house.storage.users.token(id).await.unwrap().unwrap().last_used;

    house.gate.user(&token).await.unwrap();
    let first = noted(row.id).await;
    assert!(first.is_some());
    // Asked again, storage says that it was noted a moment ago.
    house.gate.void_user(&claims.user);
    house.gate.user(&token).await.unwrap();
    assert_eq!(noted(row.id).await, first);
    assert_eq!(noted(claims.token).await, None, "a login has no use for that");
}

#[tokio::test]
async fn devices_that_come_together_are_each_known_by_their_own_token() {
    let house = House::open().await;
    let mut tokens = Vec::new();
    for _ in 0..20 {
        tokens.push(house.device().await);
    }
    let unknown = DeviceClaims { auth_set: AuthSetId::random(), ..tokens[0].0.clone() };
    let unknown = house.keyring.sign_device(&unknown);
    let (found, refused) = futures_util::join!(
        futures_util::future::join_all(tokens.iter().map(|(_, token)| house.gate.device(token))),
        house.gate.device(&unknown),
    );
    for (found, (claims, _)) in found.into_iter().zip(&tokens) {
        assert_eq!(found.unwrap().device, claims.device);
    }
    assert!(matches!(refused, Err(Refusal::Refused(_))));
}
