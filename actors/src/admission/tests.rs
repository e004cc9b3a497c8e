use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use parking_lot::Mutex;
use serde_json::json;
use storage::{Device, DeviceFilter, DeviceStatus, Storage};

use super::*;
use crate::credentials::public_key::fixtures;
use crate::gate::Refusal;

/// A hub's admission on a storage of its own.
struct House {
    storage: Storage,
    gate: Gate,
    admission: Admission,
    said: Arc<Mutex<Vec<Event>>>,
}

/// A device with a key.
struct TestDevice {
    pair: Ed25519KeyPair,
    identity: String,
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
        let admission = Admission::new(storage.devices.clone(), gate.clone(), keyring, announce, config);
        Self { storage, gate, admission, said }
    }

    async fn open() -> Self {
        Self::new(&Config::default()).await
    }

    async fn devices(&self) -> Vec<Device> {
        self.storage.devices.list(&DeviceFilter::default(), 0, 100).await.unwrap()
    }

    async fn only_device(&self) -> Device {
        let mut devices = self.devices().await;
        assert_eq!(devices.len(), 1);
        devices.remove(0)
    }

    async fn join(&self, device: &TestDevice) -> Result<String, AdmissionError> {
        let body = device.body();
        self.admission.ask_to_join(body.as_bytes(), Some(&device.sign(body.as_bytes()))).await
    }

    async fn accept(&self, device: &Device, set: usize) {
        let set = device.auth_sets[set].id;
        self.admission.set_status(device.id, set, SetStatus::Accepted).await.unwrap();
    }

    /// A device that was accepted, and its token.
    async fn accepted(&self, device: &TestDevice) -> (DeviceId, AuthSetId, String) {
        assert!(matches!(self.join(device).await, Err(AdmissionError::Unauthorized)));
        let stored = self.only_device().await;
        self.accept(&stored, 0).await;
        (stored.id, stored.auth_sets[0].id, self.join(device).await.unwrap())
    }

    async fn is_let_in(&self, token: &str) -> bool {
        match self.gate.device(token).await {
            Ok(_) => true,
            Err(Refusal::Refused(_) | Refusal::OutOfScope) => false,
            Err(Refusal::Unavailable(error)) => panic!("{error}"),
        }
    }

    fn announced(&self) -> Vec<Event> {
        std::mem::take(&mut *self.said.lock())
    }
}

impl TestDevice {
    fn new(identity: &str) -> Self {
        Self { pair: Ed25519KeyPair::generate().unwrap(), identity: identity.to_owned() }
    }

    fn pem(&self) -> String {
        let mut der = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00".to_vec();
        der.extend_from_slice(self.pair.public_key().as_ref());
        pem::encode(&pem::Pem::new("PUBLIC KEY", der))
    }

    fn body(&self) -> String {
        json!({ "id_data": self.identity, "pubkey": self.pem(), "tenant_token": "" }).to_string() + "\n"
    }

    fn sign(&self, body: &[u8]) -> String {
        BASE64_STANDARD.encode(self.pair.sign(body))
    }
}

fn refused(device: DeviceId, why: DisconnectReason) -> Vec<Event> {
    vec![Event::DeviceRefused { device, why }]
}

#[tokio::test]
async fn a_device_waits_is_accepted_and_gets_a_token() {
    let house = House::open().await;
    let device = TestDevice::new(r#"{"mac":"a"}"#);
    for _ in 0..2 {
        assert_eq!(house.join(&device).await.unwrap_err().to_string(), "dev auth: unauthorized");
    }
    let stored = house.only_device().await;
    assert_eq!((stored.status(), stored.auth_sets.len()), (DeviceStatus::Pending, 1));
    assert_eq!(stored.identity, device.identity);
    house.accept(&stored, 0).await;
    let token = house.join(&device).await.unwrap();
    let identity = house.gate.device(&token).await.unwrap();
    assert_eq!((identity.device, identity.auth_set), (stored.id, stored.auth_sets[0].id));
    assert_eq!(house.announced(), []);
}

#[tokio::test]
async fn the_checks_come_in_their_order_and_nothing_is_stored() {
    let house = House::open().await;
    let device = TestDevice::new(r#"{"mac":"a"}"#);
    let key = device.pem();
    let body = |members: Value| members.to_string();
    let cases = [
        (String::new(), "failed to decode auth request: "),
        ("null".into(), "failed to decode auth request: "),
        ("[]".into(), "failed to decode auth request: "),
        ("{".into(), "failed to decode auth request: "),
        (body(json!({ "id_data": {}, "pubkey": key })), "failed to decode auth request: "),
        (body(json!({ "id_data": "{}", "pubkey": key, "tenant_token": 7 })), "failed to decode auth request: "),
        (body(json!({})), "invalid auth request: id_data must be provided"),
        (body(json!({ "id_data": "", "pubkey": "" })), "invalid auth request: id_data must be provided"),
        (body(json!({ "id_data": "x" })), "invalid auth request: pubkey must be provided"),
        (body(json!({ "id_data": "x", "pubkey": "garbage" })), "invalid auth request: cannot decode public key"),
        (
            body(json!({ "id_data": "x", "pubkey": fixtures::REFUSED[0].1 })),
            "invalid auth request: unrecognized public key type",
        ),
        (body(json!({ "id_data": "x", "pubkey": key })), "invalid auth request: id_data is not valid"),
        (body(json!({ "id_data": "[]", "pubkey": key })), "invalid auth request: id_data must be a JSON object"),
        (body(json!({ "id_data": "null", "pubkey": key })), "invalid auth request: id_data must be a JSON object"),
        (body(json!({ "id_data": "{}", "pubkey": key })), "missing request signature header"),
    ];
    for (body, text) in cases {
        let error = house.admission.ask_to_join(body.as_bytes(), None).await.unwrap_err().to_string();
        assert!(error.starts_with(text), "{body}: {error}");
    }
    let body = device.body();
    let right = device.sign(body.as_bytes());
    let cut = device.sign(body.trim_end().as_bytes());
    let other = TestDevice::new("{}").sign(body.as_bytes());
    for signature in ["not base64!", "AAAA", &cut, &other, right.trim_end_matches('=')] {
        let error = house.admission.ask_to_join(body.as_bytes(), Some(signature)).await.unwrap_err();
        assert!(matches!(error, AdmissionError::SignatureWrong), "{signature}");
    }
    assert_eq!(house.devices().await, []);
}

#[tokio::test]
async fn what_else_a_request_says_does_not_matter() {
    let house = House::open().await;
    let device = TestDevice::new(r#"{"mac":"a"}"#);
    for extra in [json!({}), json!({ "tenant_token": "x", "tier": 7 }), json!({ "tenant_token": null, "new": [] })] {
        let mut body = json!({ "id_data": device.identity, "pubkey": format!("text\n{}", device.pem()) });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let body = format!(" {body}");
        let outcome = house.admission.ask_to_join(body.as_bytes(), Some(&device.sign(body.as_bytes()))).await;
        assert!(matches!(outcome, Err(AdmissionError::Unauthorized)));
    }
    assert_eq!(house.only_device().await.auth_sets.len(), 1);
}

#[tokio::test]
async fn broken_characters_in_an_identity_are_replaced_one_by_one() {
    assert_eq!(repaired(b"a\xff\xfe\xc3(\xe2\x82b"), "a\u{fffd}\u{fffd}\u{fffd}(\u{fffd}\u{fffd}b");
    let house = House::open().await;
    let device = TestDevice::new(r#"{"sn":"?"}"#);
    let body: Vec<u8> = device.body().bytes().map(|byte| if byte == b'?' { 0xff } else { byte }).collect();
    let outcome = house.admission.ask_to_join(&body, Some(&device.sign(&body))).await;
    assert!(matches!(outcome, Err(AdmissionError::Unauthorized)));
    assert_eq!(house.only_device().await.identity, "{\"sn\":\"\u{fffd}\"}");
}

#[tokio::test]
async fn rejecting_a_device_takes_effect_before_it_is_answered() {
    let house = House::open().await;
    let device = TestDevice::new(r#"{"mac":"a"}"#);
    let (id, set, token) = house.accepted(&device).await;
    assert!(house.is_let_in(&token).await);
    house.admission.set_status(id, set, SetStatus::Rejected).await.unwrap();
    assert_eq!(house.gate.device_cached(&token), None);
    assert!(!house.is_let_in(&token).await);
    assert_eq!(house.announced(), refused(id, DisconnectReason::AccessWithdrawn));
    assert!(matches!(house.join(&device).await, Err(AdmissionError::Unauthorized)));
    house.admission.set_status(id, set, SetStatus::Accepted).await.unwrap();
    let identity = house.gate.device(&house.join(&device).await.unwrap()).await.unwrap();
    assert_eq!(identity.device, id);
}

#[tokio::test]
async fn a_new_key_replaces_the_old_one_when_it_is_accepted() {
    let house = House::open().await;
    let old = TestDevice::new(r#"{"mac":"a","sn":"1"}"#);
    let (id, _, token) = house.accepted(&old).await;
    let new = TestDevice::new(r#"{ "sn":"1", "mac":"a" }"#);
    assert!(matches!(house.join(&new).await, Err(AdmissionError::Unauthorized)));
    assert!(house.is_let_in(&token).await, "until the new key is accepted");
    let stored = house.only_device().await;
    let pending = stored.auth_sets.iter().position(|set| set.status == SetStatus::Pending).unwrap();
    house.accept(&stored, pending).await;
    assert!(!house.is_let_in(&token).await);
    assert_eq!(house.announced(), refused(id, DisconnectReason::AccessWithdrawn));
    let token = house.join(&new).await.unwrap();
    assert!(house.is_let_in(&token).await);
    assert!(matches!(house.join(&old).await, Err(AdmissionError::Unauthorized)));
}

#[tokio::test]
async fn a_preauthorized_key_replaces_the_accepted_one_when_it_asks() {
    let house = House::open().await;
    let old = TestDevice::new(r#"{"mac":"a"}"#);
    let (id, _, token) = house.accepted(&old).await;
    let new = TestDevice::new(r#"{"mac":"a"}"#);
    let identity = json!({ "mac": "a" });
    let known = house.admission.preauthorize(&identity, &new.pem(), false).await.unwrap();
    assert!(matches!(known, Preauthorized::Exists(device) if device.id == id && device.auth_sets.len() == 1));
    let forced = house.admission.preauthorize(&identity, &new.pem(), true).await.unwrap();
    assert_eq!(forced, Preauthorized::Created(id));
    assert!(house.is_let_in(&token).await);
    let after = house.join(&new).await.unwrap();
    assert!(house.is_let_in(&after).await && !house.is_let_in(&token).await);
    assert_eq!(house.announced(), refused(id, DisconnectReason::AccessWithdrawn));
    let accepted = house.only_device().await.auth_sets.into_iter().filter(|set| set.status == SetStatus::Accepted);
    assert_eq!(accepted.map(|set| set.pubkey).collect::<Vec<_>>(), [new.pem().replace('\r', "")]);
}

#[tokio::test]
async fn preauthorizing_an_unknown_device_lets_it_in_at_once() {
    let house = House::open().await;
    let device = TestDevice::new(r#"{"mac":"a"}"#);
    let created = house.admission.preauthorize(&json!({ "mac": "a" }), &device.pem(), false).await.unwrap();
    assert_eq!(created, Preauthorized::Created(house.only_device().await.id));
    assert!(house.is_let_in(&house.join(&device).await.unwrap()).await);
    for (identity, key) in
        [(json!({}), device.pem()), (json!("text"), device.pem()), (json!({ "mac": "b" }), "garbage".to_owned())]
    {
        let error = house.admission.preauthorize(&identity, &key, false).await.unwrap_err().to_string();
        assert!(error.starts_with("failed to decode preauth request: "), "{error}");
    }
}

#[tokio::test]
async fn deleting_the_accepted_key_takes_effect_before_it_is_answered() {
    let house = House::open().await;
    let device = TestDevice::new(r#"{"mac":"a"}"#);
    let (id, set, token) = house.accepted(&device).await;
    assert!(house.is_let_in(&token).await);
    let elsewhere = house.admission.delete_set(DeviceId::random(), set).await;
    assert!(matches!(elsewhere, Err(AdmissionError::SetNotFound)));
    assert!(house.is_let_in(&token).await);
    house.admission.delete_set(id, set).await.unwrap();
    assert!(!house.is_let_in(&token).await);
    assert_eq!(house.announced(), refused(id, DisconnectReason::AccessWithdrawn));
    assert_eq!(house.only_device().await.status(), DeviceStatus::NoAuth);
    assert!(matches!(house.join(&device).await, Err(AdmissionError::Unauthorized)));
    let back = house.only_device().await;
    assert_eq!((back.id, back.status()), (id, DeviceStatus::Pending));
}

#[tokio::test]
async fn a_revoked_token_is_dead_and_the_device_may_ask_for_another() {
    let house = House::open().await;
    let device = TestDevice::new(r#"{"mac":"a"}"#);
    let (id, set, token) = house.accepted(&device).await;
    assert!(house.is_let_in(&token).await);
    house.admission.revoke_token(set).await.unwrap();
    assert!(!house.is_let_in(&token).await);
    assert_eq!(house.announced(), refused(id, DisconnectReason::AccessWithdrawn));
    assert!(matches!(house.admission.revoke_token(set).await, Err(AdmissionError::SetNotFound)));
    assert!(house.is_let_in(&house.join(&device).await.unwrap()).await);
    assert!(!house.is_let_in(&token).await, "the next token of the same set does not bring it back");
}

#[tokio::test]
async fn a_token_from_before_a_rejection_stays_dead_when_its_key_is_accepted_again() {
    let house = House::open().await;
    let device = TestDevice::new(r#"{"mac":"a"}"#);
    let (id, set, token) = house.accepted(&device).await;
    let second = house.join(&device).await.unwrap();
    assert!(house.is_let_in(&token).await && house.is_let_in(&second).await, "both count until then");
    house.admission.set_status(id, set, SetStatus::Rejected).await.unwrap();
    house.admission.set_status(id, set, SetStatus::Accepted).await.unwrap();
    assert!(house.is_let_in(&house.join(&device).await.unwrap()).await);
    assert!(!house.is_let_in(&token).await && !house.is_let_in(&second).await);
}

#[tokio::test]
async fn the_set_of_another_device_is_told_from_an_unknown_one() {
    let house = House::open().await;
    for identity in [r#"{"mac":"a"}"#, r#"{"mac":"b"}"#] {
        house.join(&TestDevice::new(identity)).await.unwrap_err();
    }
    let devices = house.devices().await;
    let accept = |set| house.admission.set_status(devices[0].id, set, SetStatus::Accepted);
    assert!(matches!(accept(devices[1].auth_sets[0].id).await, Err(AdmissionError::Mismatch)));
    assert!(matches!(accept(AuthSetId::random()).await, Err(AdmissionError::SetNotFound)));
}

#[tokio::test]
async fn a_decommissioned_device_is_gone_and_returns_as_a_new_one() {
    let house = House::open().await;
    let device = TestDevice::new(r#"{"mac":"a"}"#);
    let (id, _, token) = house.accepted(&device).await;
    assert!(house.is_let_in(&token).await);
    house.admission.decommission(id).await.unwrap();
    assert!(!house.is_let_in(&token).await);
    assert_eq!(house.announced(), refused(id, DisconnectReason::Decommissioned));
    assert!(matches!(house.admission.decommission(id).await, Err(AdmissionError::DeviceNotFound)));
    assert!(matches!(house.join(&device).await, Err(AdmissionError::Unauthorized)));
    assert_ne!(house.only_device().await.id, id);
}

#[tokio::test]
async fn an_interrupted_removal_is_finished() {
    let house = House::open().await;
    let device = TestDevice::new(r#"{"mac":"a"}"#);
    let (id, _, token) = house.accepted(&device).await;
    let mark = |stored: Option<&Device>, _: &storage::Fleet| {
        let after = Some(Device { decommissioning: true, ..stored.unwrap().clone() });
        storage::Decision::Write(storage::DeviceChange { after, revoked: vec![], issued: None }, ())
    };
    house.storage.devices.change(DeviceKey::Id(id), mark).await.unwrap();
    assert!(!house.is_let_in(&token).await);
    assert!(matches!(house.join(&device).await, Err(AdmissionError::Unauthorized)));
    house.admission.resume().await.unwrap();
    assert_eq!(house.devices().await, []);
}

#[tokio::test]
async fn parallel_first_requests_make_one_device() {
    let house = Arc::new(House::open().await);
    let device = Arc::new(TestDevice::new(r#"{"mac":"a"}"#));
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let (house, device) = (house.clone(), device.clone());
            tokio::spawn(async move { house.join(&device).await.unwrap_err() })
        })
        .collect();
    for asked in asked {
        assert!(matches!(asked.await.unwrap(), AdmissionError::Unauthorized));
    }
    assert_eq!(house.only_device().await.auth_sets.len(), 1);
}

#[tokio::test]
async fn of_two_devices_accepted_at_once_the_limit_lets_one_in() {
    let house = House::open().await;
    for identity in [r#"{"mac":"a"}"#, r#"{"mac":"b"}"#] {
        house.join(&TestDevice::new(identity)).await.unwrap_err();
    }
    house.storage.devices.set_limit(Some(1)).await.unwrap();
    let devices = house.devices().await;
    let accept = |device: &Device| {
        let (admission, id, set) = (house.admission.clone(), device.id, device.auth_sets[0].id);
        async move { admission.set_status(id, set, SetStatus::Accepted).await }
    };
    let (one, other) = tokio::join!(accept(&devices[0]), accept(&devices[1]));
    let refused = [one, other].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(matches!(refused[..], [AdmissionError::LimitReached]), "{refused:?}");
}

#[tokio::test]
async fn a_withdrawal_is_carried_out_though_whoever_asked_has_left() {
    let house = House::open().await;
    let device = TestDevice::new(r#"{"mac":"a"}"#);
    let (id, set, token) = house.accepted(&device).await;
    assert!(house.is_let_in(&token).await);
    let mut asked = Box::pin(house.admission.set_status(id, set, SetStatus::Rejected));
    assert!(futures_util::poll!(&mut asked).is_pending());
    drop(asked);
    while house.said.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!house.is_let_in(&token).await);
}

#[tokio::test]
async fn a_token_lives_as_long_as_the_settings_say() {
    let config = Config { device_token_lifetime: Duration::from_secs(1), ..Config::default() };
    let house = House::new(&config).await;
    let (.., token) = house.accepted(&TestDevice::new(r#"{"mac":"a"}"#)).await;
    let expires = house.gate.device(&token).await.map(|identity| identity.expires);
    if let Ok(expires) = expires {
        tokio::time::sleep(expires.since(clock::now()) + Duration::from_millis(10)).await;
    }
    assert!(!house.is_let_in(&token).await);
}
