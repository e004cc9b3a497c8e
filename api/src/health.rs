//! Alive and ready: for whoever starts, watches and balances hubs. Not part of the Mender API.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::{HttpResponse, web};
use actors::bus::Bus;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::body::answer_json;
use crate::state::ApiState;

/// How long a backend may take to answer before it counts as down.
const PING_DEADLINE: Duration = Duration::from_secs(2);

/// How long an answer is good for. Nobody has to show a token here, so asking must not cost the backends anything.
const ANSWER_AGE: Duration = Duration::from_secs(1);

/// What the backends said last.
#[derive(Debug, Default)]
pub struct Readiness {
    last: Mutex<Option<(Instant, Arc<Report>)>>,
}

/// Whether this node can serve, and the backends that decide it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    status: State,
    backends: Vec<Backend>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Backend {
    name: &'static str,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Up,
    Down,
}

/// `GET /health/live`: the process runs and answers.
pub async fn live() -> HttpResponse {
    answer_json(&mut HttpResponse::Ok(), &serde_json::json!({ "status": State::Up }))
}

/// `GET /health/ready`: every backend answers; 503 with the same body if one does not.
pub async fn ready(state: web::Data<ApiState>) -> HttpResponse {
    let report = state.readiness.ask(&state).await;
    let mut answer = match report.status {
        State::Up => HttpResponse::Ok(),
        State::Down => HttpResponse::ServiceUnavailable(),
    };
    if report.status == State::Down {
        answer.insert_header(("Retry-After", PING_DEADLINE.as_secs().to_string()));
    }
    answer_json(&mut answer, &*report)
}

impl Readiness {
    /// Whether every backend answers.
    pub(crate) async fn is_up(&self, state: &ApiState) -> bool {
        self.ask(state).await.status == State::Up
    }

    async fn ask(&self, state: &ApiState) -> Arc<Report> {
        // Held while asking: a crowd of questions is one question.
        let mut last = self.last.lock().await;
        if let Some((asked, report)) = &*last
            && asked.elapsed() < ANSWER_AGE
        {
            return Arc::clone(report);
        }
        let report = Arc::new(Report::of(ping_all(state).await));
        *last = Some((Instant::now(), Arc::clone(&report)));
        report
    }
}

impl Report {
    fn of(backends: Vec<Backend>) -> Self {
        let all_up = backends.iter().all(|backend| backend.state == State::Up);
        Self { status: if all_up { State::Up } else { State::Down }, backends }
    }
}

async fn ping_all(state: &ApiState) -> Vec<Backend> {
    let storage = async {
        match tokio::time::timeout(PING_DEADLINE, state.storage.ping()).await {
            Ok(answers) => answers.iter().map(|(name, answer)| backend(name, answer)).collect(),
            Err(_) => vec![Backend { name: "storage", state: State::Down }],
        }
    };
    let bus = async {
        let name = if matches!(state.bus, Bus::Local(_)) { "bus" } else { "nats" };
        match tokio::time::timeout(PING_DEADLINE, state.bus.ping()).await {
            Ok(answer) => backend(name, &answer),
            Err(_) => Backend { name, state: State::Down },
        }
    };
    let (mut backends, bus): (Vec<Backend>, Backend) = futures_util::join!(storage, bus);
    backends.push(bus);
    backends
}

/// The cause is for the log: whoever asks may be anybody.
fn backend<E: std::error::Error + 'static>(name: &'static str, answer: &Result<(), E>) -> Backend {
    if let Err(error) = answer {
        tracing::warn!(backend = name, error = error as &dyn std::error::Error, "backend is down");
    }
    Backend { name, state: if answer.is_ok() { State::Up } else { State::Down } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_backend_down_is_not_ready() {
        let report = |redis| {
            Report::of(vec![Backend { name: "database", state: State::Up }, Backend { name: "redis", state: redis }])
        };
        assert_eq!(report(State::Up).status, State::Up);
        assert_eq!(
            serde_json::to_string(&report(State::Down)).unwrap(),
            r#"{"status":"down","backends":[{"name":"database","state":"up"},{"name":"redis","state":"down"}]}"#
        );
    }
}
