//! An operator: a real HTTP client, and websockets.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::door::Door;
use crate::socket::Socket;
use crate::wait::{LIMIT, wait_until};

/// A user who is logged in.
#[derive(Clone)]
pub struct TestUser {
    door: Door,
    /// The token of the login.
    pub token: String,
    /// The user's id.
    pub id: String,
}

impl TestUser {
    /// Logs in.
    ///
    /// # Panics
    /// When refused.
    pub async fn log_in(door: &Door, email: &str, password: &str) -> Self {
        let answer = Self::try_log_in(door, email, password).await.expect(200);
        Self::with_token(door, &answer.text())
    }

    /// Asks for a token.
    pub async fn try_log_in(door: &Door, email: &str, password: &str) -> Answer {
        let login = door.request("POST", "/api/management/v1/useradm/auth/login");
        Answer::to(login.basic_auth(email, Some(password))).await
    }

    /// The user of a token.
    pub fn with_token(door: &Door, token: &str) -> Self {
        let id = claims(token)["sub"].as_str().unwrap_or_default().to_owned();
        Self { door: door.clone(), token: token.to_owned(), id }
    }

    /// The same user at another address.
    #[must_use]
    pub fn at(&self, door: &Door) -> Self {
        Self { door: door.clone(), ..self.clone() }
    }

    /// Where it knocks.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// A request with the token.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.door.request(method, path).bearer_auth(&self.token)
    }

    /// A GET.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::to(self.request("GET", path)).await
    }

    /// A DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        Answer::to(self.request("DELETE", path)).await
    }

    /// A POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::to(self.request("POST", path).json(body)).await
    }

    /// A PUT of JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        Answer::to(self.request("PUT", path).json(body)).await
    }

    /// Makes another user; the id.
    pub async fn add_user(&self, email: &str, password: &str) -> String {
        let body = json!({"email": email, "password": password});
        let answer = self.post("/api/management/v1/useradm/users", &body).await.expect(201);
        answer.header("location").rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// All devices.
    pub async fn devices(&self) -> Vec<Value> {
        let answer = self.get("/api/management/v2/devauth/devices?per_page=500").await.expect(200);
        answer.json().as_array().expect("a list").clone()
    }

    /// The device with these identity data, if it has asked.
    pub async fn device_with(&self, identity: &Value) -> Option<Value> {
        self.devices().await.into_iter().find(|device| device["identity_data"] == *identity)
    }

    /// A device by id.
    pub async fn device(&self, id: &str) -> Value {
        self.get(&format!("/api/management/v2/devauth/devices/{id}")).await.expect(200).json()
    }

    /// Decides on an auth set.
    pub async fn decide(&self, device: &str, set: &str, status: &str) -> Answer {
        let path = format!("/api/management/v2/devauth/devices/{device}/auth/{set}/status");
        self.put(&path, &json!({"status": status})).await
    }

    /// Accepts a device that has one pending set; its id.
    ///
    /// # Panics
    /// When it has not asked.
    pub async fn accept(&self, identity: &Value) -> String {
        let device = self.device_with(identity).await.expect("the device has asked");
        let set = device["auth_sets"].as_array().and_then(|sets| sets.iter().find(|set| set["status"] == "pending"));
        let (device, set) = (text(&device["id"]), text(&set.expect("a pending set")["id"]));
        self.decide(&device, &set, "accepted").await.expect(204);
        device
    }

    /// The answer to the question whether a device is connected.
    pub async fn connection(&self, device: &str) -> Answer {
        self.get(&format!("/api/management/v1/deviceconnect/devices/{device}")).await
    }

    /// `connected` or `disconnected`.
    pub async fn status(&self, device: &str) -> String {
        text(&self.connection(device).await.expect(200).json()["status"])
    }

    /// Waits for the status.
    pub async fn sees(&self, device: &str, status: &str, limit: Duration) {
        wait_until(limit, &format!("device {device} to be {status}"), async || {
            let answer = self.connection(device).await;
            (answer.status == 200 && answer.json()["status"] == status).then_some(())
        })
        .await;
    }

    /// Opens a session on a device that has connected: a second after its 101 at the latest, the hub knows of it.
    ///
    /// # Panics
    /// When refused.
    pub async fn open(&self, device: &str) -> Socket {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match self.try_open(device).await {
                Ok(session) => return session,
                Err(refusal) if refusal.status == 404 && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(refusal) => panic!("{refusal}"),
            }
        }
    }

    /// Asks for a session.
    ///
    /// # Errors
    /// The refusal.
    pub async fn try_open(&self, device: &str) -> Result<Socket, Answer> {
        let bearer = format!("Bearer {}", self.token);
        Socket::connect(&self.door, &Self::session_path(device), &[("Authorization", &bearer)]).await
    }

    /// Opens a session on a device that may have connected to another node a moment ago.
    pub async fn open_soon(&self, device: &str) -> Socket {
        wait_until(LIMIT, "a session", async || self.try_open(device).await.ok()).await
    }

    /// The path of sessions on a device.
    pub fn session_path(device: &str) -> String {
        format!("/api/management/v1/deviceconnect/devices/{device}/connect")
    }

    /// The value of a Basic header.
    pub fn basic(email: &str, password: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{email}:{password}")))
    }
}

/// A JSON string's text.
fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// The claims of a token, unverified.
pub fn claims(token: &str) -> Value {
    part(token, 1)
}

/// One decoded part of a token.
pub fn part(token: &str, number: usize) -> Value {
    let encoded = token.split('.').nth(number).expect("a token has three parts");
    let decoded = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(encoded).expect("base64");
    serde_json::from_slice(&decoded).expect("JSON")
}
