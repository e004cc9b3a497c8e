//! Somebody who takes webhooks: checks their signature, and answers as it is told.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::ports::free_port;
use crate::wait::{LIMIT, wait_until};

/// A receiver. Stopped and started again it has the same address.
pub struct Receiver {
    port: u16,
    shared: Arc<Mutex<Shared>>,
    running: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    deliveries: Vec<Delivery>,
    /// Whole answers to the next requests; after them everything is fine.
    answers: VecDeque<String>,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Headers by their names in lower case.
    pub headers: HashMap<String, String>,
    /// The body, as it came.
    pub body: String,
}

impl Receiver {
    /// One that runs.
    pub async fn start() -> Self {
        let mut this = Self::stopped();
        this.begin().await;
        this
    }

    /// One that does not run yet.
    pub fn stopped() -> Self {
        Self { port: free_port(), shared: Arc::default(), running: None }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// Starts it.
    ///
    /// # Panics
    /// When its port is taken.
    pub async fn begin(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("its port is free");
        let shared = Arc::clone(&self.shared);
        self.running = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                // A request that breaks off was not delivered.
                tokio::spawn(async move { serve(stream, &shared).await.ok() });
            }
        }));
    }

    /// Stops it: nobody listens at its port any more.
    pub async fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            // Over by being aborted, which is what was wanted.
            let _ = running.await;
        }
    }

    /// Answers the next request with this status line and these headers.
    pub fn answer(&self, head: &str) {
        let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        self.shared.lock().expect("nobody panics with the lock").answers.push_back(answer);
    }

    /// Every request so far, whatever it was answered.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.lock().expect("nobody panics with the lock").deliveries.clone()
    }

    /// Waits until there are this many different deliveries, and gives all requests.
    pub async fn receives(&self, count: usize) -> Vec<Delivery> {
        wait_until(LIMIT, &format!("{count} deliveries"), async || {
            let deliveries = self.deliveries();
            let mut ids: Vec<&str> = deliveries.iter().map(Delivery::id).collect();
            ids.sort_unstable();
            ids.dedup();
            (ids.len() >= count).then(|| deliveries.clone())
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

impl Delivery {
    /// What marks it when it comes twice.
    pub fn id(&self) -> &str {
        self.headers.get("webhook-id").map_or("", String::as_str)
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is something else.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a webhook is JSON")
    }

    /// Whether it is signed with this secret, and was just now.
    ///
    /// # Panics
    /// When the secret is none.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret")).expect("base64");
        let at = self.headers["webhook-timestamp"].as_str();
        let signed = format!("{}.{at}.{}", self.id(), self.body);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let Some(tag) = self.headers["webhook-signature"].strip_prefix("v1,") else { return false };
        let tag = BASE64_STANDARD.decode(tag).expect("base64");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let is_fresh = at.parse::<u64>().is_ok_and(|at| now.abs_diff(at) < 300);
        is_fresh && hmac::verify(&key, signed.as_bytes(), &tag).is_ok()
    }
}

async fn serve(stream: TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut headers = HashMap::new();
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let answer = {
        let mut shared = shared.lock().expect("nobody panics with the lock");
        shared.deliveries.push(Delivery { headers, body: String::from_utf8_lossy(&body).into_owned() });
        shared.answers.pop_front()
    };
    let fine = || "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_owned();
    stream.get_mut().write_all(answer.unwrap_or_else(fine).as_bytes()).await?;
    stream.get_mut().shutdown().await
}
