//! Operators look for devices: how long until they see them?

use super::Target;
use crate::{
    Server,
    operator::Operator,
    report::{self, Percentiles},
};
use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Search a fleet that `loadtest fill` has made, and print how long each kind of search takes
#[derive(Debug, clap::Args)]
pub struct Searches {
    #[command(flatten)]
    target: Target,
    /// How often each search is asked, with other values each time
    #[arg(long, value_name = "N", default_value_t = 200)]
    rounds: u32,
    /// How often those are asked that no index serves
    #[arg(long, value_name = "N", default_value_t = 3)]
    slow_rounds: u32,
}

/// What [`Searches`] found out about one kind.
#[derive(Debug, Serialize)]
struct Kind {
    name: &'static str,
    total: u64,
    refused: u32,
    #[serde(flatten)]
    answer: Percentiles,
}

/// What [`Searches`] found out.
#[derive(Debug, Serialize)]
pub struct SearchesReport {
    scenario: &'static str,
    devices: u64,
    kinds: Vec<Kind>,
}

const SEARCH: &str = "/api/management/v2/inventory/filters/search";

impl Searches {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When no operator was named, or the hub refuses a search that an index serves.
    pub async fn run(self) -> anyhow::Result<()> {
        let server = Server::at(&self.target.server).await?;
        let operator = self.target.operator(&server).await?;
        let operator = operator.context("searching takes an operator: give --user and --password-stdin")?;
        let (_, devices) = ask(&operator, &json!({"per_page": 1})).await?.context("the first search is refused")?;
        let mut kinds = Vec::new();
        for (name, is_slow, question) in questions(devices) {
            let rounds = if is_slow { self.slow_rounds } else { self.rounds };
            let kind = measure(&operator, name, rounds, question).await?;
            if !is_slow && kind.refused > 0 {
                bail!("{name} was refused {} times", kind.refused);
            }
            eprintln!("{name:40} {:>8} found, {} refused: {}", kind.total, kind.refused, kind.answer);
            kinds.push(kind);
        }
        report::write_json(&SearchesReport { scenario: "searches", devices, kinds }, &self.target.json)
    }
}

/// A question for each round.
type Question = Box<dyn Fn(u64) -> Value + Send>;

/// The kinds of searches: name, whether no index serves it, and the question.
fn questions(devices: u64) -> Vec<(&'static str, bool, Question)> {
    let predicate = |scope: &str, name: &str, operator: &str, value: Value| json!({"scope": scope, "attribute": name, "type": operator, "value": value});
    let accepted = move || predicate("identity", "status", "$eq", json!("accepted"));
    let equal = move |name: &str, value: String| predicate("inventory", name, "$eq", json!(value));
    let recent = || json!([{"scope": "system", "attribute": "check_in_time", "order": "desc"}]);
    vec![
        ("all, first page", false, Box::new(move |_| json!({}))),
        ("status, newest check-in first", false, Box::new(move |_| json!({"filters": [accepted()], "sort": recent()}))),
        (
            "group",
            false,
            Box::new(
                move |round| json!({"filters": [predicate("system", "group", "$eq", json!(format!("group-{}", round * 7 % 1000)))]}),
            ),
        ),
        (
            "text, beginning of a name",
            false,
            Box::new(move |round| json!({"text": format!("host {}", round * 977 % devices)})),
        ),
        (
            "text, a part of an identity",
            false,
            Box::new(|round| json!({"text": format!("{:05x}", round * 7919 % 1_048_576)})),
        ),
        (
            "one attribute, one device",
            false,
            Box::new(move |round| json!({"filters": [equal("hostname", format!("host-{}", round * 977 % devices))]})),
        ),
        (
            "one attribute, 1 in 10,000",
            false,
            Box::new(move |round| json!({"filters": [equal("site", format!("site {}", round * 37 % 10_000))]})),
        ),
        (
            "one attribute, 1 in 100",
            false,
            Box::new(move |round| json!({"filters": [equal("artifact_name", format!("release-{}", round % 100))]})),
        ),
        (
            "one attribute, 1 in 20",
            false,
            Box::new(move |round| json!({"filters": [equal("device_type", format!("type-{}", round % 20))]})),
        ),
        (
            "status and an attribute, 1 in 10,000",
            false,
            Box::new(
                move |round| json!({"filters": [accepted(), equal("site", format!("site {}", round * 37 % 10_000))]}),
            ),
        ),
        (
            "two attributes, 1 in 100 and 1 in 50",
            false,
            Box::new(
                move |round| json!({"filters": [equal("artifact_name", format!("release-{}", round % 100)), equal("mem_total_kB", (round % 50 * 1024).to_string())]}),
            ),
        ),
        ("last page", false, Box::new(move |_| json!({"page": devices.div_ceil(20), "per_page": 20}))),
        (
            "last page of a status",
            false,
            Box::new(
                move |_| json!({"filters": [accepted()], "page": devices * 19 / 20 / 20, "per_page": 20, "sort": recent()}),
            ),
        ),
        (
            "expression, a plain beginning",
            false,
            Box::new(
                move |round| json!({"filters": [predicate("inventory", "hostname", "$regex", json!(format!("^host-{}", 1000 + round * 31 % 9000)))]}),
            ),
        ),
        (
            "not heard of for a day",
            true,
            Box::new(
                move |_| json!({"filters": [predicate("system", "check_in_time", "$ltne", json!("2020-01-01T00:00:00Z")), accepted()], "per_page": 1}),
            ),
        ),
        (
            "expression, anything in it",
            true,
            Box::new(move |_| json!({"filters": [predicate("inventory", "kernel", "$regex", json!(".*19$"))]})),
        ),
        (
            "expression, catastrophic elsewhere",
            true,
            Box::new(move |_| json!({"filters": [predicate("inventory", "artifact_name", "$regex", json!("(a+)+$"))]})),
        ),
        (
            "a range of numbers",
            true,
            Box::new(move |_| json!({"filters": [predicate("inventory", "uptime", "$gt", json!(99_000))]})),
        ),
        (
            "order by an attribute",
            true,
            Box::new(move |_| json!({"sort": [{"scope": "inventory", "attribute": "uptime", "order": "desc"}]})),
        ),
        (
            "everything but a common value",
            true,
            Box::new(move |_| json!({"filters": [predicate("inventory", "os", "$ne", json!("distribution 1"))]})),
        ),
    ]
}

async fn measure(operator: &Operator, name: &'static str, rounds: u32, question: Question) -> anyhow::Result<Kind> {
    let (mut total, mut refused) = (0, 0);
    let mut durations: Vec<Duration> = Vec::new();
    for round in 0..u64::from(rounds.max(1)) {
        let question = question(round);
        let begun = Instant::now();
        match ask(operator, &question).await.with_context(|| format!("cannot ask for {name}"))? {
            Some((_, found)) => total = found,
            None => refused += 1,
        }
        durations.push(begun.elapsed());
    }
    let answer = Percentiles::of(&durations).context("nothing was asked")?;
    Ok(Kind { name, total, refused, answer })
}

/// The devices on the page and how many there are on all; `None` if the hub says that it would take too long.
async fn ask(operator: &Operator, question: &Value) -> anyhow::Result<Option<(Value, u64)>> {
    let answer = operator.post(SEARCH, question).await?;
    if answer.status() == reqwest::StatusCode::UNPROCESSABLE_ENTITY {
        return Ok(None);
    }
    let answer = answer.error_for_status()?;
    let total = answer.headers().get("x-total-count").context("the answer has no total")?.to_str()?.parse()?;
    Ok(Some((answer.json().await?, total)))
}
