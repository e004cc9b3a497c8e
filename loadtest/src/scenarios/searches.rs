//! Operators look for devices: how long until they see them?

use super::Target;
use crate::{Server, operator::Operator, report::Percentiles};
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
    /// The same without the exact number, and that alone, as the hub says; `None` if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<Parts>,
}

/// An answer in two: what people see first, and how many more there are.
#[derive(Debug, Serialize)]
struct Parts {
    page: Percentiles,
    number: Percentiles,
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
        let (devices, _) = ask(&operator, &json!({"per_page": 1})).await?.context("the first search is refused")?;
        let mut kinds = Vec::new();
        let indexed = served(devices).into_iter().map(|asked| (asked, self.rounds, true));
        let others = unserved().into_iter().map(|asked| (asked, self.slow_rounds, false));
        for ((name, question), rounds, is_served) in indexed.chain(others) {
            let kind = measure(&operator, name, rounds, question).await?;
            if is_served && kind.refused > 0 {
                bail!("{name} was refused {} times", kind.refused);
            }
            eprintln!("{name:40} {:>8} found, {} refused: {}", kind.total, kind.refused, kind.answer);
            if let Some(Parts { page, number }) = &kind.parts {
                eprintln!("{:60}  page: {page}", "");
                eprintln!("{:60}number: {number}", "");
            }
            kinds.push(kind);
        }
        self.target.output.finish(&SearchesReport { scenario: "searches", devices, kinds }, Vec::new())
    }
}

/// A question for each round.
type Question = Box<dyn Fn(u64) -> Value + Send>;

/// A kind of search: its name, and the question of each round.
type Asked = (&'static str, Question);

fn predicate(scope: &str, name: &str, operator: &str, value: impl Into<Value>) -> Value {
    let value: Value = value.into();
    json!({"scope": scope, "attribute": name, "type": operator, "value": value})
}

fn accepted() -> Value {
    predicate("identity", "status", "$eq", json!("accepted"))
}

fn equal(name: &str, value: String) -> Value {
    predicate("inventory", name, "$eq", Value::String(value))
}

fn only(filter: impl Into<Value>) -> Value {
    let filter: Value = filter.into();
    json!({"filters": [filter]})
}

fn newest_first() -> Value {
    json!([{"scope": "system", "attribute": "check_in_time", "order": "desc"}])
}

/// Searches that an index serves.
fn served(devices: u64) -> Vec<Asked> {
    let pages = devices.div_ceil(20);
    let accepted_pages = (devices - devices.div_ceil(20)).div_ceil(20);
    let site = |round: u64| equal("site", format!("site {}", round * 37 % 10_000));
    let release = |round: u64| equal("artifact_name", format!("release-{}", round % 100));
    let memory = |round: u64| equal("mem_total_kB", (round % 50 * 1024).to_string());
    let host = move |round: u64| round * 977 % devices.max(1);
    let group =
        |round: u64| predicate("system", "group", "$eq", json!(format!("group-{}", round * 7 % 1000 / 5 * 5 + 1)));
    let beginning = |round: u64| json!(format!("^host-{}", 1000 + round * 31 % 9000));
    vec![
        ("all, first page", Box::new(|_| json!({}))),
        ("status, newest check-in first", Box::new(|_| json!({"filters": [accepted()], "sort": newest_first()}))),
        ("group", Box::new(move |round| only(group(round)))),
        ("group and status", Box::new(move |round| json!({"filters": [group(round), accepted()]}))),
        ("text, beginning of a name", Box::new(move |round| json!({"text": format!("host-{}", host(round))}))),
        (
            "text, part of an identity",
            Box::new(|round| json!({"text": format!("{:06x}", round * 79_190 % 16_777_216)})),
        ),
        ("attribute, one device", Box::new(move |round| only(equal("hostname", format!("host-{}", host(round)))))),
        ("attribute, 1 in 10,000", Box::new(move |round| only(site(round)))),
        ("attribute, 1 in 100", Box::new(move |round| only(release(round)))),
        ("attribute, 1 in 20", Box::new(|round| only(equal("device_type", format!("type-{}", round % 20))))),
        ("status and attribute, 1 in 10,000", Box::new(move |round| json!({"filters": [accepted(), site(round)]}))),
        (
            "attributes, 1 in 100 and 1 in 50",
            Box::new(move |round| json!({"filters": [release(round), memory(round)]})),
        ),
        (
            "attributes, 1 in 10,000 and 1 in 50",
            Box::new(move |round| json!({"filters": [site(round), memory(round)]})),
        ),
        ("last page", Box::new(move |_| json!({"page": pages}))),
        (
            "last page of a status",
            Box::new(move |_| json!({"filters": [accepted()], "page": accepted_pages, "sort": newest_first()})),
        ),
        (
            "expression, a plain beginning",
            Box::new(move |round| only(predicate("inventory", "hostname", "$regex", beginning(round)))),
        ),
    ]
}

/// Searches that have to go through much of the fleet; the hub may refuse them when they take too long.
fn unserved() -> Vec<Asked> {
    let long_ago = || predicate("system", "check_in_time", "$ltne", json!("2020-01-01T00:00:00Z"));
    let expression =
        |name: &'static str, text: &'static str| move |_| only(predicate("inventory", name, "$regex", json!(text)));
    let by_uptime = || json!([{"scope": "inventory", "attribute": "uptime", "order": "desc"}]);
    let not_one = || predicate("inventory", "os", "$ne", json!("distribution 1"));
    vec![
        ("not heard of since", Box::new(move |_| json!({"filters": [long_ago(), accepted()]}))),
        ("expression, 200 values", Box::new(expression("kernel", ".*19$"))),
        ("expression, catastrophic elsewhere", Box::new(expression("artifact_name", "(a+)+$"))),
        ("expression, a million values", Box::new(expression("hostname", ".*99$"))),
        ("range of numbers, 1 in 100", Box::new(|_| only(predicate("inventory", "uptime", "$gt", json!(99_000))))),
        ("order by an attribute", Box::new(move |_| json!({"sort": by_uptime()}))),
        ("everything but a common value", Box::new(move |_| only(not_one()))),
    ]
}

async fn measure(operator: &Operator, name: &'static str, rounds: u32, question: Question) -> anyhow::Result<Kind> {
    let (mut total, mut refused) = (0, 0);
    let mut durations: Vec<Duration> = Vec::new();
    let (mut pages, mut numbers) = (Vec::new(), Vec::new());
    for round in 0..u64::from(rounds.max(1)) {
        let question = question(round);
        let begun = Instant::now();
        match ask(operator, &question).await.with_context(|| format!("cannot ask for {name}"))? {
            Some((found, number)) => {
                total = found;
                if let Some(number) = number {
                    pages.push(begun.elapsed().saturating_sub(number));
                    numbers.push(number);
                }
            }
            None => refused += 1,
        }
        durations.push(begun.elapsed());
    }
    let answer = Percentiles::of(&durations).context("nothing was asked")?;
    let parts = Percentiles::of(&pages).zip(Percentiles::of(&numbers)).map(|(page, number)| Parts { page, number });
    Ok(Kind { name, total, refused, answer, parts })
}

/// How many devices there are on all pages, and how long the hub took to count them, if it says so; `None` if it says that it
/// would take too long.
async fn ask(operator: &Operator, question: &Value) -> anyhow::Result<Option<(u64, Option<Duration>)>> {
    let answer = operator.post(SEARCH, question).await?;
    if answer.status() == reqwest::StatusCode::UNPROCESSABLE_ENTITY {
        return Ok(None);
    }
    let answer = answer.error_for_status()?;
    let total = answer.headers().get("x-total-count").context("the answer has no total")?.to_str()?.parse()?;
    let timing = answer.headers().get("server-timing").and_then(|value| value.to_str().ok());
    let counting = timing.and_then(counting);
    let _: Value = answer.json().await?;
    Ok(Some((total, counting)))
}

/// How long the number took, of the parts of an answer. (W3C Server Timing)
fn counting(timing: &str) -> Option<Duration> {
    let part = timing.split(',').map(str::trim).find_map(|part| part.strip_prefix("total;dur="))?;
    let milliseconds: f64 = part.split(';').next()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(milliseconds / 1e3).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_number_is_read_among_others() {
        assert_eq!(counting("total;dur=1.500"), Some(Duration::from_micros(1500)));
        assert_eq!(counting("cache;dur=3, total;dur=20;desc=all"), Some(Duration::from_millis(20)));
        assert_eq!(counting("cache;dur=3"), None);
        assert_eq!(counting("total;dur=-1"), None);
    }
}
