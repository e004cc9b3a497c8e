//! What e-mails about alerts say: pure. (Mender API: device monitor, e-mail.)
//!
//! Texts come from devices. They are put in as they are, escaped for HTML, and never expanded.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use serde_json::Value;
use storage::DeviceId;

/// An e-mail without its envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mail {
    pub(super) subject: String,
    pub(super) plain: String,
    pub(super) html: String,
}

/// What is said, in an order: each with its label, and lines of a log as they are.
struct Says {
    title: String,
    facts: Vec<(&'static str, String)>,
    lines: Vec<String>,
}

/// About one alert. `checks` is what the device checks, where patterns and paths of logs stand.
pub(super) fn about_alert(alert: &Value, device: DeviceId, group: Option<&str>, checks: &Value) -> Mail {
    let (name, level) = (text(&alert["name"]), text(&alert["level"]));
    let in_group = group.map(|group| format!(" in group: {group}")).unwrap_or_default();
    let subject = format!("{level}: Monitor Alert for {name} on {device}{in_group}");
    let about = &alert["subject"];
    let details = &about["details"];
    let mut facts = vec![
        ("Device", device.to_string()),
        ("Alert", name.to_owned()),
        ("Level", level.to_owned()),
        ("Subject", text(&about["name"]).to_owned()),
        ("Type", text(&about["type"]).to_owned()),
        ("Status", text(&about["status"]).to_owned()),
        ("Time on the device", when(text(&alert["timestamp"]))),
    ];
    if let Some(group) = group {
        facts.insert(1, ("Group", group.to_owned()));
    }
    if let Some(check) = check_of(about, checks) {
        facts.push(("Pattern", text(&check["pattern"]).to_owned()));
        facts.push(("File", text(&check["path"]).to_owned()));
    }
    facts.push(("Description", text(&details["description"]).to_owned()));
    facts.retain(|(_, value)| !value.is_empty());
    Says { title: subject, facts, lines: lines(details) }.mail()
}

/// About the alerts of one device that were too many for an e-mail each; `total` of them, not all of them named.
pub(super) fn about_many(alerts: &[Value], total: u64, device: DeviceId, group: Option<&str>) -> Mail {
    let in_group = group.map(|group| format!(" in group: {group}")).unwrap_or_default();
    let subject = format!("{total} more Monitor Alerts on {device}{in_group}");
    let mut lines: Vec<String> = alerts
        .iter()
        .map(|alert| {
            let about = &alert["subject"];
            let [at, level, name] = ["timestamp", "level", "name"].map(|member| text(&alert[member]));
            format!("{at} {level} {name} ({} {})", text(&about["type"]), text(&about["name"]))
        })
        .collect();
    let named = alerts.len() as u64;
    if total > named {
        lines.push(format!("and {} more", total - named));
    }
    let facts = vec![("Device", device.to_string()), ("Alerts", total.to_string())];
    Says { title: subject, facts, lines }.mail()
}

impl Says {
    fn mail(self) -> Mail {
        let (mut plain, mut rows, mut lines) = (format!("{}\n\n", one_line(&self.title)), String::new(), String::new());
        for (label, value) in &self.facts {
            let _infallible = writeln!(plain, "{label}: {}", one_line(value));
            let _infallible = write!(rows, "<tr><th align=\"left\">{label}</th><td>{}</td></tr>", escaped(value));
        }
        if !self.lines.is_empty() {
            plain.push('\n');
        }
        for line in &self.lines {
            let _infallible = writeln!(plain, "{}", one_line(line));
            let _infallible = writeln!(lines, "{}", escaped(line));
        }
        let lines = if lines.is_empty() { lines } else { format!("<pre>{lines}</pre>") };
        let html = format!(
            "<!DOCTYPE html><html><body><h3>{}</h3><table>{rows}</table>{lines}</body></html>",
            escaped(&self.title)
        );
        Mail { subject: one_line(&self.title), plain, html }
    }
}

/// The lines of a log around the one that matched, each with its number.
fn lines(details: &Value) -> Vec<String> {
    let numbered = |line: &Value, mark: &str| {
        let number = line["line_number"].as_i64().map(|number| number.to_string()).unwrap_or_default();
        format!("{mark}{number:>6}  {}", text(&line["data"]))
    };
    let all = |member: &str| details[member].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<String> = all("lines_before").iter().map(|line| numbered(line, "  ")).collect();
    if details["line_matching"].is_object() {
        lines.push(numbered(&details["line_matching"], "> "));
    }
    lines.extend(all("lines_after").iter().map(|line| numbered(line, "  ")));
    lines
}

/// What a log's check looks for and where, by the name of the alert's subject or of the check's file.
fn check_of<'a>(about: &Value, checks: &'a Value) -> Option<&'a Value> {
    let (kind, name) = (text(&about["type"]), text(&about["name"]));
    checks.as_array()?.iter().find_map(|check| {
        let file = text(&check["name"]);
        let is_it = text(&check["type"]) == kind && (file == name || file.strip_suffix(".sh") == Some(name));
        check.get(kind).filter(|_| is_it && kind == "log")
    })
}

/// As mails tell the time. (RFC 1123.)
fn when(timestamp: &str) -> String {
    match DateTime::parse_from_rfc3339(timestamp) {
        Ok(at) => at.with_timezone(&Utc).format("%a, %d %b %Y %H:%M:%S GMT").to_string(),
        Err(_) => timestamp.to_owned(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Nothing that could begin a line or a header of its own.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn log_alert() -> Value {
        json!({
            "name": "Log file contains <b>${panic}</b>\r\nBcc: all@example.com", "level": "CRITICAL",
            "timestamp": "2031-05-04T10:00:00.123Z",
            "subject": {
                "name": "syslog", "type": "log", "status": "LOGCONTAINS",
                "details": {
                    "description": "{{ description }}",
                    "lines_before": [{"line_number": 41, "data": ""}],
                    "line_matching": {"line_number": 42, "data": "kernel panic & more"},
                    "lines_after": [{"line_number": 43, "data": "halted"}],
                },
            },
        })
    }

    #[test]
    fn an_alert_is_told_whole_and_nothing_in_it_is_taken_for_markup() {
        let device = DeviceId::random();
        let checks = json!([
            {"name": "syslog.sh", "type": "service", "service": {"name": "x"}},
            {"name": "syslog.sh", "type": "log", "log": {"pattern": "pan.c", "path": "/var/log/syslog"}},
        ]);
        let mail = about_alert(&log_alert(), device, Some("kitchen"), &checks);
        let name = "Log file contains <b>${panic}</b>  Bcc: all@example.com";
        assert_eq!(mail.subject, format!("CRITICAL: Monitor Alert for {name} on {device} in group: kitchen"));
        for part in
            [&device.to_string(), "syslog", "pan.c", "/var/log/syslog", "halted", "{{ description }}", "${panic}"]
        {
            assert!(mail.plain.contains(part) && mail.html.contains(part), "{part} in {mail:?}");
        }
        assert!(mail.plain.contains("Sun, 04 May 2031 10:00:00 GMT"));
        assert!(mail.plain.contains(">     42  kernel panic & more\n"));
        assert!(mail.html.contains("kernel panic &amp; more") && mail.html.contains("&lt;b&gt;"));
        assert!(!mail.html.contains("<b>") && !mail.subject.contains('\n'));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let alert = json!({
            "name": "Service sshd not running", "level": "OK", "timestamp": "then",
            "subject": {"name": "sshd", "type": "service", "status": "running"},
        });
        let device = DeviceId::random();
        let mail = about_alert(&alert, device, None, &Value::Null);
        assert_eq!(mail.subject, format!("OK: Monitor Alert for Service sshd not running on {device}"));
        assert!(!mail.plain.contains("Pattern") && !mail.plain.contains("Group") && !mail.html.contains("<pre>"));
    }

    #[test]
    fn a_digest_counts_what_it_does_not_name() {
        let mail = about_many(&[log_alert()], 7, DeviceId::random(), None);
        assert!(mail.subject.starts_with("7 more Monitor Alerts on "));
        assert!(mail.plain.contains("CRITICAL Log file contains") && mail.plain.contains("and 6 more"));
    }
}
