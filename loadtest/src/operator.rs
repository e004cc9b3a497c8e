//! An operator as the hub sees one: logs in, admits devices, opens terminals.

use crate::{
    Server,
    admission::retry_after,
    event_feed::EventFeed,
    message::{Message, SHELL},
    server::Socket,
};
use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use std::time::Duration;
use tokio_tungstenite::tungstenite::{Message as Frame, protocol::WebSocketConfig};

const ATTEMPTS_WHEN_BUSY: usize = 30;

/// A boundary of forms that nothing of ours has in it.
pub(crate) const BOUNDARY: &str = "loadtest-form-boundary-7f3a91";

/// The longest that a file may take.
const UPLOAD_LIMIT: Duration = Duration::from_mins(10);

/// The longest that a stream of events is listened to.
const STREAM_LIMIT: Duration = Duration::from_hours(7 * 24);

/// A logged-in operator. Cheap to clone.
#[derive(Clone)]
pub struct Operator {
    server: Server,
    http: reqwest::Client,
    token: String,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").field("server", &self.server.address()).finish_non_exhaustive()
    }
}

/// A device as the management API lists it.
#[derive(Debug, Deserialize)]
struct ListedDevice {
    id: String,
    status: String,
    #[serde(default)]
    auth_sets: Vec<ListedSet>,
}

#[derive(Debug, Deserialize)]
struct ListedSet {
    id: String,
    pubkey: String,
}

impl Operator {
    /// Logs in with an e-mail address and a password.
    ///
    /// # Errors
    /// When the hub cannot be reached or refuses the pair.
    pub async fn log_in(server: &Server, email: &str, password: &str) -> anyhow::Result<Self> {
        let http = server.http(None)?;
        let answer = http
            .post(server.url("/api/management/v1/useradm/auth/login"))
            .basic_auth(email, Some(password))
            .header("Content-Type", "application/json")
            .send()
            .await
            .context("cannot log in")?;
        let status = answer.status().as_u16();
        let text = answer.text().await.context("cannot read the operator's token")?;
        if status != 200 {
            bail!("the hub answered {status} to the login of {email}: {text}");
        }
        Ok(Self { server: server.clone(), http, token: text.trim().to_owned() })
    }

    /// The same operator at another hub of the cluster.
    ///
    /// # Errors
    /// When no client can be made for it.
    pub fn at(&self, server: &Server) -> anyhow::Result<Self> {
        Ok(Self { server: server.clone(), http: server.http(None)?, token: self.token.clone() })
    }

    /// Makes sure that the device with this identity and key is let in, and returns its id.
    ///
    /// An unknown device is preauthorized, so that its first request to join is granted; of a known one the key is
    /// accepted.
    ///
    /// # Errors
    /// When the hub cannot be reached or refuses.
    pub async fn admit(&self, identity: &str, public_pem: &str) -> anyhow::Result<String> {
        let identity: serde_json::Value = serde_json::from_str(identity).context("cannot read the identity")?;
        let body = serde_json::json!({ "identity_data": identity, "pubkey": public_pem });
        let request = self.http.post(self.server.url("/api/management/v2/devauth/devices")).json(&body);
        let answer = self.send(request).await?;
        match answer.status().as_u16() {
            201 => {
                let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
                let id = location.and_then(|path| path.rsplit('/').next());
                Ok(id.context("the hub does not say which device it has preauthorized")?.to_owned())
            }
            409 => {
                let device: ListedDevice = answer.json().await.context("cannot read the existing device")?;
                if device.status != "accepted" && device.status != "preauthorized" {
                    self.accept(&device, public_pem).await?;
                }
                Ok(device.id)
            }
            status => bail!("the hub answered {status} to a preauthorization: {}", answer.text().await?),
        }
    }

    async fn accept(&self, device: &ListedDevice, public_pem: &str) -> anyhow::Result<()> {
        let set = device.auth_sets.iter().find(|set| set.pubkey.trim() == public_pem.trim());
        let set = set.with_context(|| format!("device {} is known with another key", device.id))?;
        let path = format!("/api/management/v2/devauth/devices/{}/auth/{}/status", device.id, set.id);
        let answer =
            self.send(self.http.put(self.server.url(&path)).json(&serde_json::json!({ "status": "accepted" }))).await?;
        if answer.status().as_u16() != 204 {
            bail!("the hub answered {} to the acceptance of {}", answer.status(), device.id);
        }
        Ok(())
    }

    /// Whether the hub shows the device as connected.
    ///
    /// # Errors
    /// When the hub cannot be reached or does not know the device.
    pub async fn is_connected(&self, device: &str) -> anyhow::Result<bool> {
        let path = format!("/api/management/v1/deviceconnect/devices/{device}");
        let answer = self.send(self.http.get(self.server.url(&path))).await?;
        if answer.status().as_u16() != 200 {
            bail!("the hub answered {} to the question for {device}", answer.status());
        }
        let shown: serde_json::Value = answer.json().await.context("cannot read a device's state")?;
        Ok(shown["status"] == "connected")
    }

    /// Hears what happens from now on, or from after an event; `query` narrows it, e.g. `kind=alert`.
    ///
    /// # Errors
    /// When the hub cannot be reached or refuses.
    pub async fn events(&self, query: &str, after: Option<i64>) -> anyhow::Result<EventFeed> {
        let path = format!("/api/management/v1/mooring/events?{query}");
        let mut request = self.http.get(self.server.url(&path)).timeout(STREAM_LIMIT).bearer_auth(&self.token);
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after.to_string());
        }
        let answer = request.send().await.context("cannot listen to events")?;
        if answer.status().as_u16() != 200 {
            bail!("the hub answered {} to the event stream: {}", answer.status(), answer.text().await?);
        }
        EventFeed::begin(answer).await
    }

    /// Gets whatever there is.
    ///
    /// # Errors
    /// When the hub cannot be reached.
    pub async fn ask(&self, path: &str) -> anyhow::Result<reqwest::Response> {
        self.send(self.http.get(self.server.url(path))).await
    }

    /// Gets JSON; an error says what was refused.
    ///
    /// # Errors
    /// When the hub cannot be reached, answers with another status than 200, or with something else than JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let answer = self.ask(path).await?;
        if answer.status().as_u16() != 200 {
            bail!("the hub answered {} to GET {path}: {}", answer.status(), answer.text().await?);
        }
        answer.json().await.with_context(|| format!("cannot read the answer to GET {path}"))
    }

    /// How many sessions the hub says are open.
    ///
    /// # Errors
    /// When the hub cannot be reached or does not say.
    pub async fn open_sessions(&self) -> anyhow::Result<u64> {
        let path = "/api/management/v1/mooring/sessions?open=true&per_page=1";
        let answer = self.send(self.http.get(self.server.url(path))).await?.error_for_status()?;
        let total = answer.headers().get("x-total-count").and_then(|value| value.to_str().ok()?.parse().ok());
        total.context("the hub does not say how many sessions are open")
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// When the hub cannot be reached.
    pub async fn post(&self, path: &str, body: &serde_json::Value) -> anyhow::Result<reqwest::Response> {
        self.send(self.http.post(self.server.url(path)).json(body)).await
    }

    /// Puts JSON.
    ///
    /// # Errors
    /// When the hub cannot be reached.
    pub async fn put(&self, path: &str, body: &serde_json::Value) -> anyhow::Result<reqwest::Response> {
        self.send(self.http.put(self.server.url(path)).json(body)).await
    }

    /// Fetches a file from a device, which comes as the answer's body.
    ///
    /// # Errors
    /// When the hub or the device refuses.
    pub async fn download(&self, device: &str, path: &str) -> anyhow::Result<reqwest::Response> {
        let url = self.server.url(&format!("/api/management/v1/deviceconnect/devices/{device}/download"));
        let request = self.http.get(url).query(&[("path", path)]).timeout(UPLOAD_LIMIT);
        let answer = self.send(request).await?;
        match answer.status().as_u16() {
            200 => Ok(answer),
            status => bail!("the hub answered {status} to a download: {}", answer.text().await?),
        }
    }

    /// Sends a file to a device.
    ///
    /// # Errors
    /// When the hub or the device refuses.
    pub async fn send_file(&self, device: &str, path: &str, content: &[u8]) -> anyhow::Result<()> {
        let part = |disposition: &str| format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
        let (path_part, file_part) = (part("name=\"path\""), part("name=\"file\"; filename=\"file\""));
        let mut form = format!("{path_part}{path}\r\n{file_part}").into_bytes();
        form.extend_from_slice(content);
        form.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
        let url = self.server.url(&format!("/api/management/v1/deviceconnect/devices/{device}/upload"));
        let request = self.http.put(url).timeout(UPLOAD_LIMIT).body(form);
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        let answer = self.send(request.header("Content-Type", kind)).await?;
        match answer.status().as_u16() {
            201 => Ok(()),
            status => bail!("the hub answered {status} to an upload: {}", answer.text().await?),
        }
    }

    /// Posts a form that is written already.
    pub(crate) async fn post_form(&self, path: &str, form: Vec<u8>) -> anyhow::Result<reqwest::Response> {
        let request = self.http.post(self.server.url(path)).timeout(UPLOAD_LIMIT).body(form);
        self.send(request.header("Content-Type", format!("multipart/form-data; boundary={BOUNDARY}"))).await
    }

    /// Sends with the token, and again when the hub says that it is busy.
    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        for _attempt in 0..ATTEMPTS_WHEN_BUSY {
            let again = request.try_clone().context("cannot repeat a streaming request")?;
            let answer = again.bearer_auth(&self.token).send().await.context("cannot reach the hub")?;
            if !matches!(answer.status().as_u16(), 429 | 503) {
                return Ok(answer);
            }
            tokio::time::sleep(retry_after(&answer)).await;
        }
        bail!("the hub was busy {ATTEMPTS_WHEN_BUSY} times in a row")
    }

    /// Opens a websocket to a device.
    pub(crate) async fn open_device(&self, device: &str, config: WebSocketConfig) -> anyhow::Result<Socket> {
        let path = format!("/api/management/v1/deviceconnect/devices/{device}/connect");
        Ok(self.server.open_socket(&path, &self.token, None, config).await?)
    }

    /// Opens a terminal on the device and starts its shell.
    ///
    /// # Errors
    /// When the device is not connected, or its shell does not start.
    pub async fn open_terminal(&self, device: &str) -> anyhow::Result<OperatorTerminal> {
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
        let socket = self.open_device(device, config).await?;
        let mut terminal = OperatorTerminal { socket, session: String::new() };
        terminal.send(&Message::new(SHELL, "new").integer("terminal_width", 80).integer("terminal_height", 24)).await?;
        let started = terminal.next().await?;
        if started.kind() != "new" || started.integer_property("status") != Some(1) {
            bail!("the shell did not start: {}", String::from_utf8_lossy(started.body()));
        }
        started.session_id().clone_into(&mut terminal.session);
        Ok(terminal)
    }
}

/// An operator's open terminal.
#[derive(Debug)]
pub struct OperatorTerminal {
    socket: Socket,
    session: String,
}

impl OperatorTerminal {
    /// Types.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn type_in(&mut self, keys: &[u8]) -> anyhow::Result<()> {
        self.send(&Message::new(SHELL, "shell").session(&self.session.clone()).with_body(keys)).await
    }

    /// The next piece of output; pings of the shell are answered on the way.
    ///
    /// # Errors
    /// When the shell or the connection has ended.
    pub async fn output(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            let message = self.next().await?;
            match message.kind() {
                "shell" => return Ok(message.body().to_vec()),
                "ping" => self.send(&Message::new(SHELL, "pong").session(message.session_id())).await?,
                "stop" => bail!("the shell ended: {}", String::from_utf8_lossy(message.body())),
                _ => {}
            }
        }
    }

    /// Ends the shell and the connection.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub async fn close(mut self) -> anyhow::Result<()> {
        let stop = Message::new(SHELL, "stop").session(&self.session);
        self.send(&stop).await?;
        tokio::time::timeout(Duration::from_secs(5), self.socket.close(None)).await.context("cannot close")??;
        Ok(())
    }

    async fn send(&mut self, message: &Message) -> anyhow::Result<()> {
        self.socket.send(Frame::Binary(message.encode())).await.context("cannot send to the terminal")
    }

    async fn next(&mut self) -> anyhow::Result<Message> {
        loop {
            match self.socket.next().await {
                Some(Ok(frame @ (Frame::Binary(_) | Frame::Text(_)))) => {
                    return Message::decode(&frame.into_data()).context("cannot read a message of the hub");
                }
                Some(Ok(Frame::Close(_))) | None => bail!("the hub closed the terminal"),
                // The library answers pings by itself.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("the terminal's connection broke"),
            }
        }
    }
}
