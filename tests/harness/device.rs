//! A device of the tests' own: its key, its requests, its websocket.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::door::Door;
use crate::key::Key;
use crate::socket::Socket;
use crate::user::{TestUser, claims};
use crate::wait::{LIMIT, wait_until};

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(20);

/// A device. It says nothing that it was not told to say.
pub struct TestDevice {
    door: Door,
    /// What it signs with.
    pub key: Key,
    /// Who it is.
    pub identity: Value,
    /// Its token, once it has one.
    pub token: String,
    /// Its id, once it has a token.
    pub id: String,
}

/// A request to join, which a story may spoil before it is sent.
pub struct AuthRequest {
    door: Door,
    /// The body, as bytes.
    pub body: Vec<u8>,
    /// The signature header, if any.
    pub signature: Option<String>,
    /// More headers.
    pub headers: Vec<(&'static str, String)>,
    /// The content type, if any.
    pub content_type: Option<&'static str>,
}

impl TestDevice {
    /// A device with an identity and an Ed25519 key of its own.
    pub fn new(door: &Door) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [a, b, c, d] = number.to_be_bytes();
        let identity = json!({"mac": format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")});
        Self { door: door.clone(), key: Key::ed25519(), identity, token: String::new(), id: String::new() }
    }

    /// The same device with another key.
    #[must_use]
    pub fn with_key(&self, key: Key) -> Self {
        Self { door: self.door.clone(), key, identity: self.identity.clone(), token: String::new(), id: String::new() }
    }

    /// From now on it talks to another address.
    pub fn go_to(&mut self, door: &Door) {
        self.door = door.clone();
    }

    /// A request to join, well made and signed.
    pub fn auth_request(&self) -> AuthRequest {
        self.sign(
            json!({"id_data": self.identity.to_string(), "pubkey": self.key.public_pem()}).to_string().into_bytes(),
        )
    }

    /// A request to join with this body, signed.
    pub fn sign(&self, body: Vec<u8>) -> AuthRequest {
        AuthRequest {
            door: self.door.clone(),
            signature: Some(self.key.sign(&body)),
            body,
            headers: vec![],
            content_type: Some("application/json"),
        }
    }

    /// Asks to join.
    pub async fn ask(&self) -> Answer {
        self.auth_request().send().await
    }

    /// Asks, is accepted by `user`, and takes its token.
    ///
    /// # Panics
    /// When any of it fails.
    pub async fn join(&mut self, user: &TestUser) {
        self.ask().await.expect(401);
        user.accept(&self.identity).await;
        self.take_token().await;
    }

    /// Asks for a token that it will get.
    pub async fn take_token(&mut self) {
        let answer = self.ask().await.expect(200);
        self.token = answer.text();
        claims(&self.token)["sub"].as_str().expect("a token names its device").clone_into(&mut self.id);
    }

    /// The set that the token was given for.
    pub fn set(&self) -> String {
        claims(&self.token)["jti"].as_str().expect("a token names its set").to_owned()
    }

    /// A request with the token.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.door.request(method, path).bearer_auth(&self.token)
    }

    /// The path of inventory reports.
    pub const ATTRIBUTES: &'static str = "/api/devices/v1/inventory/device/attributes";

    /// Sends its inventory.
    pub async fn report(&self, attributes: &Value) -> Answer {
        Answer::to(self.request("PUT", Self::ATTRIBUTES).json(attributes)).await
    }

    /// Whether its token is good for anything.
    pub async fn has_access(&self) -> bool {
        match Answer::to(self.request("PATCH", Self::ATTRIBUTES).json(&json!([]))).await.status {
            200 => true,
            401 => false,
            other => panic!("an inventory report was answered {other}"),
        }
    }

    /// The path of devices' websockets.
    pub const SOCKET: &'static str = "/api/devices/v1/deviceconnect/connect";

    /// Connects.
    ///
    /// # Panics
    /// When refused.
    pub async fn connect(&self) -> Socket {
        self.try_connect(&[]).await.unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// Tries to connect, with more headers.
    ///
    /// # Errors
    /// The refusal.
    pub async fn try_connect(&self, headers: &[(&str, &str)]) -> Result<Socket, Answer> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [&[("Authorization", bearer.as_str())], headers].concat();
        Socket::connect(&self.door, Self::SOCKET, &headers).await
    }

    /// Connects once the hub lets it, for tasks of their own.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn connect_again(&self) -> Socket {
        let bearer = format!("Bearer {}", self.token);
        let deadline = Instant::now() + LIMIT;
        loop {
            let headers = [("Authorization", bearer.as_str())];
            if let Some(Ok(socket)) = Socket::try_connect(&self.door, Self::SOCKET, &headers).await {
                return socket;
            }
            assert!(Instant::now() < deadline, "a device cannot connect again");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Connects once the hub lets it.
    pub async fn connect_soon(&self) -> Socket {
        wait_until(LIMIT, "a device to connect", async || {
            if self.door.is_open().await { self.try_connect(&[]).await.ok() } else { None }
        })
        .await
    }
}

impl AuthRequest {
    /// A body that is not JSON's idea of the request, signed or not.
    pub async fn send(self) -> Answer {
        let mut request = self.door.request("POST", "/api/devices/v1/authentication/auth_requests").body(self.body);
        if let Some(kind) = self.content_type {
            request = request.header("Content-Type", kind);
        }
        if let Some(signature) = self.signature {
            request = request.header("X-MEN-Signature", signature);
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        Answer::to(request).await
    }

    /// Another body under the same signature.
    #[must_use]
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Another signature, or none.
    #[must_use]
    pub fn signature(mut self, signature: Option<&[u8]>) -> Self {
        self.signature = signature.map(|bytes| base64::prelude::BASE64_STANDARD.encode(bytes));
        self
    }
}
