//! Requests with a token, and where tokens are kept between commands.

use super::{ListedDevice, OperatorArguments, ask, message::printable, password_from_terminal_or_stdin};
use crate::commands::private_file;
use anyhow::{Context, bail};
use futures_util::{StreamExt, stream};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use std::{collections::HashMap, path::PathBuf, time::Duration};
use tokio_tungstenite::tungstenite::{client::IntoClientRequest, handshake::client::Request};
use url::Url;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest page the API gives.
const PAGE_SIZE: usize = 500;
/// Connection states that are asked for at the same time.
const STATES_AT_ONCE: usize = 16;

/// A logged-in operator of one hub.
#[derive(Clone)]
pub struct Operator {
    base: Url,
    http: reqwest::Client,
    token: String,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// Where the token of a hub is kept: `~/.cache/mooring/token-HOST`, readable for its owner only.
#[derive(Debug)]
pub struct TokenStore {
    path: PathBuf,
}

impl TokenStore {
    /// The place for this hub's token.
    pub fn of(base: &Url) -> anyhow::Result<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .context("there is no place to keep a token: expected HOME or XDG_CACHE_HOME in the environment")?;
        Ok(Self { path: cache.join("mooring").join(token_file_name(base)) })
    }

    /// The kept token, if any.
    pub fn read(&self) -> anyhow::Result<Option<String>> {
        Ok(private_file::read(&self.path)?.filter(|token| !token.is_empty()))
    }

    /// Keeps a token.
    pub fn write(&self, token: &str) -> anyhow::Result<()> {
        private_file::write(&self.path, token)
    }

    /// Forgets it; says whether there was one.
    pub fn forget(&self) -> anyhow::Result<bool> {
        match std::fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot remove {}", self.path.display())),
        }
    }
}

/// One file per hub. The scheme is part of it: a token for https must never leave over http.
fn token_file_name(base: &Url) -> String {
    let host = base
        .host_str()
        .unwrap_or("unknown")
        .replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.', "_");
    let port = base.port_or_known_default().unwrap_or(0);
    let tls = if base.scheme() == "https" { "-tls" } else { "" };
    format!("token-{host}-{port}{tls}")
}

/// The hub's URL, if it is one.
pub(super) fn parse_server(server: &str) -> anyhow::Result<Url> {
    let with_scheme = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let url = Url::parse(&with_scheme).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.with_context(|| format!("--server is {server:?}: expected a URL such as \"https://hub.example.com\""))
}

impl Operator {
    /// With the kept token, whether or not the hub still takes it; `None` if there is none.
    pub fn with_kept_token(arguments: &OperatorArguments) -> anyhow::Result<Option<Self>> {
        let base = parse_server(&arguments.server)?;
        let Some(token) = TokenStore::of(&base)?.read()? else { return Ok(None) };
        Ok(Some(Self { base, http: http_client()?, token }))
    }

    /// With the kept token if the hub still takes it, otherwise after a login.
    pub async fn arrive(arguments: &OperatorArguments) -> anyhow::Result<Self> {
        if let Some(operator) = Self::with_kept_token(arguments)? {
            // Any cheap question does: only whether the token is taken matters.
            let path = "/api/management/v2/devauth/devices?per_page=1";
            match operator.ask(Method::GET, path, None).await?.status() {
                StatusCode::UNAUTHORIZED => {}
                _ => return Ok(operator),
            }
        }
        Self::log_in(arguments).await
    }

    /// Logs in, asking for what was not given, and keeps the token.
    pub async fn log_in(arguments: &OperatorArguments) -> anyhow::Result<Self> {
        let base = parse_server(&arguments.server)?;
        let email = match &arguments.user {
            Some(email) => email.clone(),
            None => ask(&format!("E-mail address for {base}: "))?,
        };
        let password = password_from_terminal_or_stdin(&format!("Password of {email}: "), arguments.password_stdin)?;
        let operator = Self::log_in_with(base, &email, &password).await?;
        TokenStore::of(&operator.base)?.write(&operator.token)?;
        Ok(operator)
    }

    /// Logs in with this pair; the token is not kept.
    pub async fn log_in_with(base: Url, email: &str, password: &str) -> anyhow::Result<Self> {
        let http = http_client()?;
        let answer = http
            .post(address(&base, "/api/management/v1/useradm/auth/login"))
            .basic_auth(email, Some(password))
            .header("Content-Type", "application/json")
            .send()
            .await
            .with_context(|| format!("cannot reach the hub at {base}"))?;
        match answer.status() {
            StatusCode::OK => {
                let token = answer.text().await.context("cannot read the hub's answer")?;
                Ok(Self { base, http, token: token.trim().to_owned() })
            }
            StatusCode::UNAUTHORIZED => bail!("wrong e-mail address or password"),
            _ => Err(refusal(answer).await),
        }
    }

    /// With any token.
    #[cfg(test)]
    pub fn of_a_test(base: Url) -> Self {
        crate::commands::install_tls_provider();
        Self { base, http: http_client().expect("a client"), token: "token".to_owned() }
    }

    /// The hub's URL.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The request that opens a websocket at this path of the hub.
    pub fn upgrade_request(&self, path: &str) -> anyhow::Result<Request> {
        // `http` becomes `ws` and `https` becomes `wss`.
        let url = address(&self.base, path).replacen("http", "ws", 1);
        let mut request = url.into_client_request().context("cannot make a request of the hub's URL")?;
        let bearer = format!("Bearer {}", self.token).parse().context("the kept token is no token")?;
        request.headers_mut().insert("Authorization", bearer);
        Ok(request)
    }

    /// Makes the token worthless.
    pub async fn log_out(&self) -> anyhow::Result<()> {
        let answer = self.ask(Method::POST, "/api/management/v1/useradm/auth/logout", None).await?;
        match answer.status() {
            // Worthless already is as good.
            StatusCode::ACCEPTED | StatusCode::UNAUTHORIZED => Ok(()),
            _ => Err(refusal(answer).await),
        }
    }

    /// All devices the hub knows, with the state of their connections.
    pub async fn devices(&self) -> anyhow::Result<Vec<ListedDevice>> {
        let mut devices: Vec<ListedDevice> = Vec::new();
        for page in 1.. {
            let path = format!("/api/management/v2/devauth/devices?page={page}&per_page={PAGE_SIZE}");
            let listed: Vec<ListedDevice> = self.get(&path).await?;
            let is_last = listed.len() < PAGE_SIZE;
            devices.extend(listed);
            if is_last {
                break;
            }
        }
        Ok(devices)
    }

    /// The same devices, each with the state of its connection.
    pub async fn with_connections(&self, devices: Vec<ListedDevice>) -> anyhow::Result<Vec<ListedDevice>> {
        let asked = stream::iter(devices).map(|mut device| async {
            device.connection = self.connection(&device.id).await?;
            Ok(device)
        });
        asked.buffered(STATES_AT_ONCE).collect::<Vec<anyhow::Result<_>>>().await.into_iter().collect()
    }

    /// The state of a device's connection; `None` if it never had one.
    async fn connection(&self, device: &str) -> anyhow::Result<Option<ConnectionState>> {
        let path = format!("/api/management/v1/deviceconnect/devices/{device}");
        let answer = self.ask(Method::GET, &path, None).await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(answer.json().await.context("cannot read the state of a connection")?)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(refusal(answer).await),
        }
    }

    /// The one device that is meant by an id, the beginning of an id, or a value of its identity.
    pub async fn find(&self, wanted: &str) -> anyhow::Result<ListedDevice> {
        if let Ok(id) = wanted.parse::<uuid::Uuid>() {
            // A whole id needs no list of a large fleet.
            let answer = self.ask(Method::GET, &format!("/api/management/v2/devauth/devices/{id}"), None).await?;
            match answer.status() {
                StatusCode::OK => return answer.json().await.context("cannot read the hub's answer"),
                StatusCode::NOT_FOUND => {}
                _ => return Err(refusal(answer).await),
            }
        }
        super::device::choose(&self.devices().await?, wanted)
    }

    /// The same for several, in this order.
    pub async fn find_all(&self, wanted: &[String]) -> anyhow::Result<Vec<ListedDevice>> {
        let mut devices = Vec::with_capacity(wanted.len());
        // One list is enough for all that are not whole ids.
        let mut list: Option<Vec<ListedDevice>> = None;
        for wanted in wanted {
            if wanted.parse::<uuid::Uuid>().is_ok() {
                devices.push(self.find(wanted).await?);
                continue;
            }
            let list = match &mut list {
                Some(list) => list,
                empty => empty.insert(self.devices().await?),
            };
            devices.push(super::device::choose(list, wanted)?);
        }
        Ok(devices)
    }

    /// Accepts an authentication set of a device.
    pub async fn accept(&self, device: &str, set: &str) -> anyhow::Result<()> {
        let path = format!("/api/management/v2/devauth/devices/{device}/auth/{set}/status");
        self.put(&path, &serde_json::json!({ "status": "accepted" })).await
    }

    /// Whether the hub knows the device with this id.
    pub async fn knows(&self, device: &str) -> anyhow::Result<bool> {
        let answer = self.ask(Method::GET, &format!("/api/management/v2/devauth/devices/{device}"), None).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(refusal(answer).await),
        }
    }

    /// The e-mail addresses of all users by their ids; none if the hub does not tell.
    pub async fn user_names(&self) -> HashMap<String, String> {
        #[derive(Deserialize)]
        struct ListedUser {
            id: String,
            email: String,
        }
        let listed: Vec<ListedUser> = self.get("/api/management/v1/useradm/users").await.unwrap_or_default();
        listed.into_iter().map(|user| (user.id, user.email)).collect()
    }

    /// A request whose body or answer may take any time: without the limit that other requests have.
    pub fn transfer(&self, method: Method, path: &str) -> anyhow::Result<reqwest::RequestBuilder> {
        let http = reqwest::Client::builder()
            .connect_timeout(REQUEST_TIMEOUT)
            .tcp_keepalive(REQUEST_TIMEOUT)
            .build()
            .context("cannot make an HTTP client")?;
        Ok(http.request(method, address(&self.base, path)).bearer_auth(&self.token))
    }

    /// Reads the JSON at this path of the hub.
    pub async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self.ask(Method::GET, path, None).await?;
        match answer.status() {
            StatusCode::OK => answer.json().await.context("cannot read the hub's answer"),
            _ => Err(refusal(answer).await),
        }
    }

    /// The same; `None` if there is nothing.
    pub async fn find_at<T: for<'de> Deserialize<'de>>(&self, path: &str) -> anyhow::Result<Option<T>> {
        let answer = self.ask(Method::GET, path, None).await?;
        match answer.status() {
            StatusCode::OK => answer.json().await.map(Some).context("cannot read the hub's answer"),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(refusal(answer).await),
        }
    }

    /// Reads the text at this path of the hub; `None` if there is nothing.
    pub async fn text(&self, path: &str) -> anyhow::Result<Option<String>> {
        let answer = self.ask(Method::GET, path, None).await?;
        match answer.status() {
            StatusCode::OK => answer.text().await.map(Some).context("cannot read the hub's answer"),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(refusal(answer).await),
        }
    }

    /// Has something made of this JSON; its id, or `None` if the hub has not what it is to be made of.
    pub async fn create(&self, path: &str, body: &serde_json::Value) -> anyhow::Result<Option<String>> {
        let answer = self.ask(Method::POST, path, Some(body)).await?;
        match answer.status() {
            StatusCode::CREATED => {
                let location = answer.headers().get(reqwest::header::LOCATION).and_then(|place| place.to_str().ok());
                let id =
                    location.and_then(|place| place.rsplit('/').next()).context("the hub does not say what it made")?;
                Ok(Some(id.to_owned()))
            }
            StatusCode::UNPROCESSABLE_ENTITY => Ok(None),
            _ => Err(refusal(answer).await),
        }
    }

    /// Writes this JSON to this path of the hub.
    pub async fn put(&self, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
        let answer = self.ask(Method::PUT, path, Some(body)).await?;
        match answer.status() {
            StatusCode::NO_CONTENT => Ok(()),
            _ => Err(refusal(answer).await),
        }
    }

    /// Sends this JSON to this path of the hub, and reads what it answers.
    pub async fn post<T: for<'de> Deserialize<'de>>(&self, path: &str, body: &serde_json::Value) -> anyhow::Result<T> {
        let answer = self.ask(Method::POST, path, Some(body)).await?;
        match answer.status() {
            StatusCode::OK => answer.json().await.context("cannot read the hub's answer"),
            _ => Err(refusal(answer).await),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> anyhow::Result<reqwest::Response> {
        let mut request = self.http.request(method, address(&self.base, path)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.with_context(|| format!("cannot reach the hub at {}", self.base))
    }
}

/// The state of a device's connection.
#[derive(Debug, Clone, Deserialize)]
pub struct ConnectionState {
    /// `connected` or `disconnected`.
    pub status: String,
    /// When that became so, RFC 3339.
    #[serde(rename = "updated_ts")]
    pub changed: String,
}

/// The URL of a path of the hub, whether or not its own URL ends with a slash.
pub(super) fn address(base: &Url, path: &str) -> String {
    format!("{}{path}", base.as_str().trim_end_matches('/'))
}

fn http_client() -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build().context("cannot make an HTTP client")
}

/// What the hub said when it did not do what was asked.
pub async fn refusal(answer: reqwest::Response) -> anyhow::Error {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    let status = answer.status().as_u16();
    if status == 401 {
        return super::Refused::NotLoggedIn.into();
    }
    match answer.json::<Refusal>().await {
        Ok(Refusal { error }) => anyhow::anyhow!("the hub refused: {} (status {status})", printable(&error)),
        Err(_) => anyhow::anyhow!("the hub answered with status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(url: &str) -> String {
        token_file_name(&parse_server(url).expect("a URL"))
    }

    #[test]
    fn every_hub_has_a_token_of_its_own() {
        assert_eq!(name("http://127.0.0.1:8080"), "token-127.0.0.1-8080");
        assert_eq!(name("https://hub.example.com/"), "token-hub.example.com-443-tls");
        assert_ne!(name("http://hub.example.com:443"), name("https://hub.example.com:443"));
        assert_eq!(name("http://[::1]:8080"), "token-___1_-8080");
    }

    #[test]
    fn a_server_without_a_scheme_is_http_and_nonsense_is_refused() {
        assert_eq!(parse_server("localhost:8080").expect("a URL").as_str(), "http://localhost:8080/");
        for wrong in ["ftp://hub", "http://", ""] {
            assert!(parse_server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_are_joined_with_one_slash() {
        for base in ["http://hub", "http://hub/"] {
            assert_eq!(address(&parse_server(base).expect("a URL"), "/api"), "http://hub/api");
        }
    }
}
