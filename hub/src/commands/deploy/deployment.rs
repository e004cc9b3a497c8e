//! Deployments as the hub tells of them, and which one a person means.

use crate::commands::artifact::printable;
use crate::commands::operator::Operator;
use anyhow::bail;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Where deployments are.
pub const DEPLOYMENTS: &str = "/api/management/v1/deployments/deployments";
/// Where more is told of them, and they are steered.
pub const STEERED: &str = "/api/management/v1/mooring/deployments";
/// Deployments asked for at once.
pub const PAGE: usize = 100;
/// Pages read at most to find one by the beginning of its id.
const MOST_PAGES: usize = 50;

/// The statuses of devices in the order in which they are shown: of what is over first, then what goes on.
const STATUSES: [&str; 13] = [
    "success",
    "already-installed",
    "failure",
    "aborted",
    "noartifact",
    "decommissioned",
    "pause_before_committing",
    "pause_before_rebooting",
    "pause_before_installing",
    "rebooting",
    "installing",
    "downloading",
    "pending",
];
/// As many of them are of devices that are over with it.
const OVER: usize = 6;
/// And as many of these are of devices that have what they are to have.
const GOOD: usize = 2;

/// A deployment. Hubs may leave things out.
#[derive(Debug, Clone, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it installs.
    pub artifact_name: String,
    /// `pending`, `inprogress` or `finished`.
    pub status: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it ended.
    #[serde(default)]
    pub finished: Option<String>,
    /// For how many devices it is, or how many have to succeed; 0: nobody knows.
    #[serde(default)]
    pub max_devices: u64,
    /// How often a device that has failed is told again.
    #[serde(default)]
    pub retries: u64,
    #[serde(default)]
    statistics: Statistics,
    /// Why it tells no device anything new.
    #[serde(default)]
    pub paused: Option<Pause>,
    /// In which portions it goes about its devices.
    #[serde(default)]
    pub phases: Vec<Phase>,
}

/// How many devices stand where: within the Mender API one level deeper.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Statistics {
    Deep { status: BTreeMap<String, u64> },
    Flat(BTreeMap<String, u64>),
}

impl Default for Statistics {
    fn default() -> Self {
        Self::Flat(BTreeMap::new())
    }
}

/// Why and since when a deployment tells no device anything new.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Pause {
    /// Why.
    pub reason: String,
    /// Since when, RFC 3339.
    pub since: String,
}

/// A portion of the devices.
#[derive(Debug, Clone, Deserialize)]
pub struct Phase {
    /// For how many devices it is; `None`: for whoever is left.
    #[serde(default)]
    pub devices: Option<u64>,
    /// When it is to open, RFC 3339; `None`: after the one before it.
    #[serde(default, rename = "start_ts")]
    pub starts: Option<String>,
    /// When it was opened.
    #[serde(default)]
    pub opened: Option<String>,
    #[serde(default)]
    statistics: Statistics,
}

/// How many devices stand where, in the order in which they are shown; none that are zero.
pub type Counts = Vec<(&'static str, u64)>;

impl Statistics {
    fn counts(&self) -> Counts {
        let (Self::Deep { status: counts } | Self::Flat(counts)) = self;
        let count = |status: &str| counts.get(status).copied().unwrap_or(0);
        STATUSES.into_iter().map(|status| (status, count(status))).filter(|(_, count)| *count > 0).collect()
    }
}

fn sum(counts: &Counts, statuses: &[&str]) -> u64 {
    counts.iter().filter(|(status, _)| statuses.contains(status)).map(|(_, count)| count).sum()
}

impl Deployment {
    /// Reads one.
    pub async fn read(operator: &Operator, id: &str) -> anyhow::Result<Self> {
        // A hub that cannot steer deployments tells less of them.
        for place in [STEERED, DEPLOYMENTS] {
            if let Some(deployment) = operator.find_at(&format!("{place}/{id}")).await? {
                return Ok(deployment);
            }
        }
        bail!("no deployment {id:?}: `mooring deploy list` lists those there are");
    }

    /// How many devices stand where.
    pub fn counts(&self) -> Counts {
        self.statistics.counts()
    }

    /// For how many devices it is, as far as is known.
    pub fn devices(&self) -> u64 {
        self.max_devices.max(sum(&self.counts(), &STATUSES))
    }

    /// How many devices are over with it.
    pub fn over(&self) -> u64 {
        sum(&self.counts(), &STATUSES[..OVER])
    }

    /// How many devices are over with it that do not have what they were to have.
    pub fn failed(&self) -> u64 {
        sum(&self.counts(), &STATUSES[GOOD..OVER])
    }

    /// Whether nothing more happens.
    pub fn is_finished(&self) -> bool {
        self.status == "finished"
    }

    /// Whether every device has what it was to have. One that was aborted may not have come to some of them, which are in
    /// none of its counts then.
    pub fn has_succeeded(&self) -> bool {
        let good = sum(&self.counts(), &STATUSES[..GOOD]);
        self.is_finished() && good > 0 && good >= self.max_devices && self.max_devices > 0 && self.failed() == 0
    }

    /// Where it stands, in words.
    pub fn state(&self) -> String {
        let state = match self.status.as_str() {
            "inprogress" => "in progress".to_owned(),
            other => printable(other),
        };
        if self.is_finished() || self.phases.is_empty() {
            return state;
        }
        let open = self.phases.iter().filter(|phase| phase.opened.is_some()).count();
        format!("{state}, phase {open} of {}", self.phases.len())
    }
}

impl Phase {
    /// How many devices stand where.
    pub fn counts(&self) -> Counts {
        self.statistics.counts()
    }

    /// How many devices are over with it.
    pub fn over(&self) -> u64 {
        sum(&self.counts(), &STATUSES[..OVER])
    }
}

/// `12 success, 1 failure`
pub fn in_words(counts: &Counts) -> String {
    if counts.is_empty() {
        return "no devices".to_owned();
    }
    counts.iter().map(|(status, count)| format!("{count} {status}")).collect::<Vec<_>>().join(", ")
}

/// A page of the newest deployments, from 1 on, of one status if that is given.
pub async fn page(
    operator: &Operator,
    number: usize,
    size: usize,
    status: Option<&str>,
) -> anyhow::Result<Vec<Deployment>> {
    let status = status.map(|status| format!("&status={status}")).unwrap_or_default();
    operator.get(&format!("{DEPLOYMENTS}?page={number}&per_page={size}{status}")).await
}

/// The id of the one deployment that is meant by it or by its beginning.
pub async fn find(operator: &Operator, wanted: &str) -> anyhow::Result<String> {
    if let Ok(id) = wanted.parse::<uuid::Uuid>() {
        return Ok(id.to_string());
    }
    let mut deployments = Vec::new();
    for number in 1..=MOST_PAGES {
        let some = page(operator, number, PAGE, None).await?;
        let is_last = some.len() < PAGE;
        deployments.extend(some);
        if is_last {
            break;
        }
    }
    choose(&deployments, wanted)
}

fn choose(deployments: &[Deployment], wanted: &str) -> anyhow::Result<String> {
    let beginning = wanted.to_ascii_lowercase();
    let found: Vec<_> = deployments.iter().filter(|deployment| deployment.id.starts_with(&beginning)).collect();
    match found.as_slice() {
        [only] if !wanted.is_empty() => Ok(only.id.clone()),
        [_, _, ..] if !wanted.is_empty() => bail!("{wanted:?} fits {} deployments: give more of the id", found.len()),
        _ => bail!("no deployment {wanted:?}: `mooring deploy list` lists those there are"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// A deployment with these devices.
    pub fn deployment(status: &str, max_devices: u64, counts: &serde_json::Value) -> Deployment {
        serde_json::from_value(json!({
            "id": "6b1d", "name": "hall", "artifact_name": "app-2.1", "status": status, "max_devices": max_devices,
            "created": "2026-08-01T10:00:00.123Z", "statistics": counts, "something": "new",
        }))
        .expect("a deployment")
    }

    #[test]
    fn both_ways_to_tell_of_devices_are_understood() {
        let counts = json!({"success": 2, "failure": 1, "pending": 0});
        let flat = deployment("inprogress", 3, &counts);
        let deep = deployment("inprogress", 3, &json!({"status": counts, "total_size": 7}));
        assert_eq!(flat.counts(), [("success", 2), ("failure", 1)]);
        assert_eq!(deep.counts(), flat.counts());
        assert_eq!(in_words(&flat.counts()), "2 success, 1 failure");
        assert_eq!(in_words(&Counts::new()), "no devices");
        assert_eq!((flat.over(), flat.failed(), flat.devices()), (3, 1, 3));
    }

    #[test]
    fn success_is_that_of_every_device() {
        for (status, devices, counts, succeeded) in [
            ("finished", 3, json!({"success": 2, "already-installed": 1}), true),
            ("inprogress", 3, json!({"success": 2, "pending": 1}), false),
            ("finished", 3, json!({"success": 2, "failure": 1}), false),
            ("finished", 1, json!({"noartifact": 1}), false),
            // Aborted before two of them were told.
            ("finished", 3, json!({"success": 1}), false),
            // By a filter: so many as were wanted, but not without harm; and aborted without an end.
            ("finished", 2, json!({"success": 2, "failure": 1}), false),
            ("finished", 0, json!({"success": 2}), false),
            ("finished", 0, json!({}), false),
        ] {
            assert_eq!(deployment(status, devices, &counts).has_succeeded(), succeeded, "{status} {devices} {counts}");
        }
    }

    #[test]
    fn a_deployment_is_found_by_the_beginning_of_its_id() {
        let mut others = vec![deployment("finished", 1, &json!({})); 2];
        others[1].id = "6b2e".to_owned();
        assert_eq!(choose(&others, "6B1").expect("a deployment"), "6b1d");
        assert!(choose(&others, "6b").expect_err("refused").to_string().contains("fits 2 deployments"));
        for nothing in ["7", ""] {
            assert!(choose(&others, nothing).expect_err("refused").to_string().contains("no deployment"));
        }
    }
}
