//! `mooring sessions`: who is, and was, connected to which device, and why not any more.

use super::operator::{self, Operator, message::printable};
use anyhow::bail;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Deserialize;
use serde_json::Value;

/// Sessions asked for at once.
const PAGE_SIZE: usize = 100;
/// Pages read at most; a longer history is for the API.
const MOST_PAGES: usize = 20;

/// Shown under the options of `mooring sessions --help`.
pub const EXAMPLES: &str = "Examples:
  mooring sessions                    What runs now
  mooring sessions --all demo         Also what has ended, of one device
  mooring terminal --watch 6b1d       Look on in one of them, by the beginning of its id
  mooring play 6b1d                   See a recorded one again";

/// Which sessions.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only those of this device
    device: Option<String>,
    /// Also those that have ended
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

/// A session as the hub lists it. Hubs may leave things out.
#[derive(Debug, Clone, Deserialize)]
struct ListedSession {
    id: String,
    #[serde(default, alias = "device_id")]
    device: Option<String>,
    #[serde(default, alias = "user_id")]
    user: Option<String>,
    #[serde(default)]
    user_email: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    opened: Option<String>,
    #[serde(default)]
    ended: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default, alias = "participants")]
    people: Option<Value>,
}

/// Prints the table.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let operator = Operator::arrive(&arguments.operator).await?;
    let device = match &arguments.device {
        Some(device) => Some(operator.find(device).await?.id),
        None => None,
    };
    let sessions = list(&operator, device.as_deref(), arguments.all).await?;
    if sessions.is_empty() {
        println!("no sessions");
        return Ok(());
    }
    println!("{}", table(&sessions, arguments.all));
    if sessions.len() == PAGE_SIZE * MOST_PAGES {
        eprintln!("mooring: there are more; these are the newest");
    }
    Ok(())
}

/// The id of the one session that is meant by it or by its beginning.
pub async fn find(operator: &Operator, wanted: &str) -> anyhow::Result<String> {
    if let Ok(id) = wanted.parse::<uuid::Uuid>() {
        return Ok(id.to_string());
    }
    choose(&list(operator, None, true).await?, wanted)
}

fn choose(sessions: &[ListedSession], wanted: &str) -> anyhow::Result<String> {
    let beginning = wanted.to_ascii_lowercase();
    let found: Vec<_> = sessions.iter().filter(|session| session.id.starts_with(&beginning)).collect();
    match found.as_slice() {
        [only] if !wanted.is_empty() => Ok(only.id.clone()),
        [_, _, ..] if !wanted.is_empty() => bail!("{wanted:?} fits {} sessions: give more of the id", found.len()),
        _ => bail!("no session {wanted:?}: `mooring sessions --all` lists those there are"),
    }
}

async fn list(operator: &Operator, device: Option<&str>, all: bool) -> anyhow::Result<Vec<ListedSession>> {
    let mut sessions: Vec<ListedSession> = Vec::new();
    for page in 1..=MOST_PAGES {
        let device = device.map(|device| format!("&device={device}")).unwrap_or_default();
        let open = if all { "" } else { "&open=true" };
        let path = format!("/api/management/v1/mooring/sessions?page={page}&per_page={PAGE_SIZE}{device}{open}");
        let listed: Vec<ListedSession> = operator.get(&path).await?;
        let is_last = listed.len() < PAGE_SIZE;
        sessions.extend(listed);
        if is_last {
            break;
        }
    }
    // A hub that does not know these conditions gives everything.
    sessions.retain(|session| {
        (all || session.ended.is_none()) && device.is_none_or(|device| session.device.as_deref() == Some(device))
    });
    Ok(sessions)
}

fn table(sessions: &[ListedSession], all: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let mut header = vec!["ID", "DEVICE", "USER", "KIND", "OPENED", "PEOPLE"];
    if all {
        header.extend(["ENDED", "REASON"]);
    }
    table.set_header(header);
    for session in sessions {
        let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), printable);
        let time = |time: &Option<String>| time.as_deref().map_or_else(|| "-".to_owned(), super::devices::to_seconds);
        let user = session.user_email.as_ref().or(session.user.as_ref()).cloned();
        let people = session.people.as_ref().and_then(Value::as_array).map(Vec::len);
        let mut row = vec![
            printable(&session.id),
            text(&session.device),
            text(&user),
            text(&session.kind),
            time(&session.opened),
            people.map_or_else(|| "-".to_owned(), |people| people.to_string()),
        ];
        if all {
            row.extend([time(&session.ended), text(&session.reason)]);
        }
        table.add_row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Vec<ListedSession> {
        serde_json::from_value(serde_json::json!([
            {
                "id": "6b1d", "device_id": "3f8f", "user_id": "u", "user_email": "anna@example.com", "kind": "terminal",
                "opened": "2026-08-01T10:00:00.123Z", "participants": [{}, {}], "something": "new",
            },
            { "id": "6b2e", "ended": "2026-08-01T11:00:00Z", "reason": "user disconnected\u{1b}[2J", "people": null },
        ]))
        .expect("sessions")
    }

    #[test]
    fn the_table_shows_what_the_hub_says_and_a_dash_for_what_it_leaves_out() {
        let text = table(&sessions(), true).to_string();
        for part in
            ["6b1d", "3f8f", "anna@example.com", "terminal", "2026-08-01 10:00:00Z", " 2 ", "user disconnected[2J"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!table(&sessions(), false).to_string().contains("REASON"));
    }

    #[test]
    fn a_session_is_found_by_the_beginning_of_its_id() {
        assert_eq!(choose(&sessions(), "6B1").expect("a session"), "6b1d");
        assert!(choose(&sessions(), "6b").expect_err("refused").to_string().contains("fits 2 sessions"));
        for nothing in ["7", ""] {
            assert!(choose(&sessions(), nothing).expect_err("refused").to_string().contains("no session"));
        }
    }
}
