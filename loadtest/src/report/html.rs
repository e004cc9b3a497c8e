//! A report as a page of its own: figures, percentiles, what happened over time. It needs nothing beside itself and follows
//! the reader's choice of light or dark.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::{
    plot::{Axis, Line, SMALL, Scale, WIDE, chart, escape},
    time,
};

const STYLE: &str = include_str!("page.css");

/// Figures that stand on the page as they are; more would be no overview.
const CARDS: usize = 24;

/// The page of a report. `wrong` is what the run failed for, and `made_by` the command.
pub fn page(report: &Value, wrong: &[String], made_by: &str) -> String {
    let scenario = report["scenario"].as_str().unwrap_or("run");
    let now = chrono::Local::now().format("%-d %B %Y, %H:%M");
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>loadtest {scenario}</title><style>{STYLE}</style></head><body><main>",
        scenario = escape(scenario)
    );
    let (class, verdict) = if wrong.is_empty() { ("good", "passed") } else { ("bad", "failed") };
    let _infallible = write!(
        page,
        "<header><h1>{}</h1><span class=\"verdict {class}\">{verdict}</span><p>{now} · <code>{}</code></p></header>",
        escape(scenario),
        escape(made_by)
    );
    if !wrong.is_empty() {
        let items = joined(wrong.iter().map(|what| format!("<li>{}</li>", escape(what))));
        let _infallible = write!(page, "<ul class=\"wrong\">{items}</ul>");
    }
    cards(&mut page, report);
    latencies(&mut page, report);
    over_time(&mut page, report);
    tables(&mut page, report);
    let raw = serde_json::to_string_pretty(&without_plots(report)).unwrap_or_default();
    let _infallible = writeln!(
        page,
        "<details><summary>All numbers</summary><pre>{}</pre></details></main></body></html>",
        escape(&raw)
    );
    page
}

/// Plain figures, large.
fn cards(page: &mut String, report: &Value) {
    let Some(members) = report.as_object() else { return };
    let mut cards = String::new();
    let plain = members.iter().filter(|(name, value)| *name != "scenario" && (value.is_number() || value.is_string()));
    for (name, value) in plain.take(CARDS) {
        let (label, figure) = figure(name, value);
        let _infallible =
            write!(cards, "<div class=\"card\"><b>{}</b><span>{}</span></div>", escape(&figure), escape(&label));
    }
    for (name, range) in members.iter().filter(|(_, value)| value["median"].is_number()) {
        let (median, min, max) = (&range["median"], &range["min"], &range["max"]);
        let _infallible = write!(
            cards,
            "<div class=\"card\"><b>{}</b><span>{}, median of rounds from {} to {}</span></div>",
            number(median),
            escape(&words(name)),
            number(min),
            number(max)
        );
    }
    if !cards.is_empty() {
        let _infallible = write!(page, "<section class=\"cards\">{cards}</section>");
    }
}

/// All percentiles in one table and one chart.
fn latencies(page: &mut String, report: &Value) {
    let mut found = Vec::new();
    find_latencies(report, "", &mut found);
    if found.is_empty() {
        return;
    }
    let columns = ["p50_us", "p90_us", "p99_us", "p99_9_us", "p99_99_us", "max_us"];
    let (mut rows, mut lines) = (String::new(), Vec::new());
    for (number, (name, latency)) in found.iter().enumerate() {
        let cells = columns.iter().map(|column| latency[*column].as_u64().map_or_else(String::new, time));
        let cells = joined(cells.map(|cell| format!("<td>{cell}</td>")));
        let samples = latency["samples"].as_u64().unwrap_or_default();
        let _infallible = write!(
            rows,
            "<tr><th><i class=\"c{}\"></i>{}</th>{cells}<td>{}</td></tr>",
            number % 6,
            escape(name),
            grouped(samples)
        );
        let curve = latency["curve"].as_array().into_iter().flatten();
        let points = curve.filter_map(|point| Some((point[0].as_f64()?, point[1].as_f64()?)));
        lines.push(Line { name: name.clone(), points: points.collect() });
    }
    let percent = |number: f64| if number >= 100.0 { "max".to_owned() } else { format!("{number} %") };
    // Decades are round.
    let duration = |number: f64| time(whole(number)).replace(".00 ", " ").replace(".0 ", " ");
    let x = Axis { scale: Scale::Nines, label: &percent };
    let y = Axis { scale: Scale::Logarithmic, label: &duration };
    let _infallible = write!(
        page,
        "<section><h2>How long</h2><figure>{}</figure><div class=\"wide\"><table><thead><tr><th></th><th>p50</th><th>p90</th>\
         <th>p99</th><th>p99.9</th><th>p99.99</th><th>longest</th><th>samples</th></tr></thead><tbody>{rows}</tbody></table>\
         </div></section>",
        chart(WIDE, &lines, &x, &y)
    );
}

fn find_latencies(value: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    if value["p50_us"].is_number() && value["curve"].is_array() {
        found.push((if path.is_empty() { "time".to_owned() } else { path.to_owned() }, value.clone()));
        return;
    }
    // Those of single rounds are in the numbers below; here they would be too many.
    for (name, member) in value.as_object().into_iter().flatten().filter(|(_, member)| member.is_object()) {
        let name = words(name);
        find_latencies(member, &if path.is_empty() { name } else { format!("{path}, {name}") }, found);
    }
}

/// A chart for each number over time.
fn over_time(page: &mut String, report: &Value) {
    let mut charts = String::new();
    for series in report["series"].as_array().into_iter().flatten() {
        let (name, unit) = (series["name"].as_str().unwrap_or_default(), series["unit"].as_str().unwrap_or_default());
        let points = series["points"].as_array().into_iter().flatten();
        let points = points.filter_map(|point| Some((point[0].as_f64()?, point[1].as_f64()?)));
        let line = Line { name: name.to_owned(), points: points.collect() };
        let seconds = |number: f64| format!("{number:.0} s");
        let value = |number: f64| short(number);
        let (x, y) = (Axis { scale: Scale::Linear, label: &seconds }, Axis { scale: Scale::Linear, label: &value });
        let title =
            if unit.is_empty() { escape(name) } else { format!("{} <small>{}</small>", escape(name), escape(unit)) };
        let _infallible =
            write!(charts, "<figure><figcaption>{title}</figcaption>{}</figure>", chart(SMALL, &[line], &x, &y));
    }
    if !charts.is_empty() {
        let _infallible = write!(page, "<section><h2>Over time</h2><div class=\"charts\">{charts}</div></section>");
    }
}

/// Counts by name, and rows of rounds or kinds.
fn tables(page: &mut String, report: &Value) {
    for (name, value) in report.as_object().into_iter().flatten() {
        match value {
            Value::Object(counts) if !counts.is_empty() && counts.values().all(Value::is_u64) => {
                let rows = counts
                    .iter()
                    .map(|(name, count)| format!("<tr><th>{}</th><td>{}</td></tr>", escape(name), number(count)));
                let rows = joined(rows);
                let _infallible =
                    write!(page, "<section><h2>{}</h2><table>{rows}</table></section>", escape(&words(name)));
            }
            Value::Array(rows) if name != "series" && rows.iter().any(Value::is_object) => {
                let _infallible =
                    write!(page, "<section><h2>{}</h2>{}</section>", escape(&words(name)), rows_table(rows));
            }
            _ => {}
        }
    }
}

fn rows_table(rows: &[Value]) -> String {
    let mut columns: Vec<&String> = Vec::new();
    for name in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    columns.retain(|column| rows.iter().any(|row| cell(column, &row[*column]).is_some()));
    // What a row is about comes first.
    columns.sort_by_key(|column| *column != "name");
    let head = joined(columns.iter().map(|column| format!("<th>{}</th>", escape(&words(column)))));
    let body = rows.iter().map(|row| {
        let cells = columns.iter().map(|column| {
            let text = cell(column, &row[*column]).unwrap_or_default();
            let class = match row[*column] {
                Value::Bool(true) => " class=\"good\"",
                Value::Bool(false) => " class=\"bad\"",
                _ => "",
            };
            format!("<td{class}>{}</td>", escape(&text))
        });
        format!("<tr>{}</tr>", joined(cells))
    });
    let body = joined(body);
    format!("<div class=\"wide\"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")
}

/// What stands in a table for a value: rounds are their median with the least and the most of them.
fn cell(column: &str, value: &Value) -> Option<String> {
    match value {
        Value::Number(_) | Value::String(_) => Some(figure(column, value).1),
        Value::Bool(is_so) => Some(if *is_so { "yes" } else { "no" }.to_owned()),
        Value::Object(range) if range.contains_key("median") => {
            let (median, min, max) = (number(&range["median"]), number(&value["min"]), number(&value["max"]));
            Some(if min == max { median } else { format!("{median} [{min}–{max}]") })
        }
        _ => None,
    }
}

/// A figure's label and how it is written: its unit stands at the end of its name.
fn figure(name: &str, value: &Value) -> (String, String) {
    if let Some(text) = value.as_str() {
        return (words(name), text.to_owned());
    }
    if let (Some(name), Some(microseconds)) = (name.strip_suffix("_us"), value.as_f64()) {
        return (
            words(name),
            if microseconds < 100.0 { format!("{microseconds:.2} µs") } else { time(whole(microseconds)) },
        );
    }
    if let Some(name) = name.strip_suffix("_seconds") {
        return (words(name), format!("{} s", number(value)));
    }
    if let (Some(name), Some(bytes)) = (name.strip_suffix("_bytes"), value.as_f64()) {
        return (words(name), format!("{}B", short(bytes)));
    }
    (words(name), number(value))
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().concat()
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn number(value: &Value) -> String {
    match (value.as_u64(), value.as_f64()) {
        (Some(whole), _) => grouped(whole),
        (None, Some(number)) if number.abs() >= 1000.0 => grouped(whole(number)),
        (None, Some(number)) if number.abs() >= 100.0 => format!("{number:.0}"),
        (None, Some(number)) => format!("{number:.2}"),
        _ => String::new(),
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A number for an axis.
fn short(number: f64) -> String {
    for (size, letter) in [(1e9, "G"), (1e6, "M"), (1e4, "k")] {
        if number.abs() >= size {
            let size = if letter == "k" { 1e3 } else { size };
            let text = format!("{:.1}", number / size);
            return format!("{} {letter}", text.trim_end_matches(".0"));
        }
    }
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(number: f64) -> u64 {
    number.round().max(0.0) as u64
}

/// The report without what only plots are made of.
fn without_plots(report: &Value) -> Value {
    match report {
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| *name != "series" && *name != "curve");
            Value::Object(kept.map(|(name, value)| (name.clone(), without_plots(value))).collect())
        }
        Value::Array(elements) => Value::Array(elements.iter().map(without_plots).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn latency(p50: u64) -> Value {
        json!({
            "samples": 1234, "p50_us": p50, "p90_us": p50, "p99_us": p50, "p99_9_us": p50, "p99_99_us": p50, "max_us": p50,
            "curve": [[50.0, p50], [100.0, p50]],
        })
    }

    #[test]
    fn a_page_shows_every_kind_of_number_and_needs_nothing_else() {
        let report = json!({
            "scenario": "alerts", "devices": 1000, "achieved_rate": 999.456, "took_seconds": 61.5,
            "errors": {"429": 3}, "arrival": latency(12_345), "answer": latency(700),
            "rate_ratio": {"median": 0.75, "min": 0.7, "max": 0.8},
            "kinds": [{"name": "all", "total": 7, "p50_us": 1500}],
            "rows": [
                {"hub": {"median": 2.5, "min": 2.0, "max": 3.0}, "name": "keys", "met": false},
                {"hub": {"median": 4.25, "min": 4.25, "max": 4.25}, "name": "idle", "met": true},
            ],
            "series": [{"name": "sent", "unit": "/s", "points": [[1.0, 990.0], [2.0, 1010.0]]}],
        });
        let page = page(&report, &[], "loadtest alerts");
        for wanted in [
            "<h1>alerts</h1>",
            "passed",
            "1\u{202f}000",
            "61.50 s",
            "12.3 ms",
            "700 µs",
            "1\u{202f}234",
            "from 0.70 to 0.80",
            "429",
            "1.50 ms",
            "<svg",
            "<tr><th>name</th><th>hub</th><th>met</th></tr>",
            "<tr><td>keys</td><td>2.50 [2.00–3.00]</td><td class=\"bad\">no</td></tr>",
            "<tr><td>idle</td><td>4.25</td><td class=\"good\">yes</td></tr>",
            "sent <small>/s</small>",
            "prefers-color-scheme: dark",
        ] {
            assert!(page.contains(wanted), "no {wanted} in {page}");
        }
        for elsewhere in ["http://", "https://", "<script", "<link", "url("] {
            assert!(!page.contains(elsewhere), "{elsewhere} in {page}");
        }
    }

    #[test]
    fn a_run_that_failed_says_why_and_nothing_of_it_is_markup() {
        let page = page(&json!({"scenario": "x<y"}), &["p99 > 5 & <b>".to_owned()], "loadtest '\"");
        assert!(page.contains("failed") && page.contains("p99 &gt; 5 &amp; &lt;b&gt;"), "{page}");
        assert!(page.contains("x&lt;y") && page.contains("&#39;&quot;"), "{page}");
    }

    #[test]
    fn numbers_are_short_where_they_are_many() {
        assert_eq!([0.0, 0.25, 950.0, 12_000.0, 3.4e6].map(short), ["0", "0.25", "950", "12 k", "3.4 M"]);
        assert_eq!([7, 1234, 1_234_567].map(grouped), ["7", "1\u{202f}234", "1\u{202f}234\u{202f}567"]);
    }
}
