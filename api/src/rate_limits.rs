//! Quotas for callers who have shown a valid token: so many calls per window, counted on all nodes together.
//!
//! Only verified callers are counted; otherwise anybody who knows a device's id could use up its quota.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage::{Presence, Timestamp};

use crate::error::ApiError;

/// The groups and which calls belong to which. (Mender API: `rate_limits` of device and user authentication.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimits {
    /// Whether anything is counted.
    pub enable: bool,
    /// Whether a call that belongs to no group is refused rather than unlimited.
    pub reject_unmatched: bool,
    /// The quotas by name.
    pub groups: Vec<Group>,
    /// Which calls use which quota; the longest pattern that fits decides.
    #[serde(rename = "match")]
    pub matches: Vec<Match>,
}

/// One quota. Each device and each user has its own count in every group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What [`Match::group`] calls it.
    pub name: String,
    /// Calls in one interval.
    pub quota: u64,
    /// Length of an interval, at least a second. Windows start at whole multiples of it since the Unix epoch.
    #[serde(with = "storage::units::duration")]
    pub interval: Duration,
}

/// Puts calls into a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// `[METHOD ]/path`: a path that ends in `/` fits everything below it, `{name}` fits any one segment.
    pub api_pattern: String,
    /// Name of the group.
    pub group: String,
}

impl Default for RateLimits {
    fn default() -> Self {
        let group = |name: &str, quota| Group { name: name.into(), quota, interval: Duration::from_mins(1) };
        let calls = |pattern: &str, group: &str| Match { api_pattern: pattern.into(), group: group.into() };
        Self {
            enable: false,
            reject_unmatched: false,
            groups: vec![group("devices", 30), group("users", 300)],
            matches: vec![calls("/api/devices/", "devices"), calls("/api/management/", "users")],
        }
    }
}

/// What counting one call needs to know about it.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The verified device or user.
    pub subject: &'a dyn std::fmt::Display,
    /// The request's method.
    pub method: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
}

impl RateLimits {
    /// Counts one call of a verified caller.
    ///
    /// # Errors
    /// [`ApiError::TooManyRequests`] when the quota is used up.
    pub async fn count(&self, presence: &Presence, call: Call<'_>, now: Timestamp) -> Result<(), ApiError> {
        if !self.enable {
            return Ok(());
        }
        let Some(group) = self.group(call.method, call.path) else {
            // Waiting does not help, so the time is only there because the answer has one.
            return if self.reject_unmatched { Err(ApiError::too_many_requests(UNMATCHED_WAIT)) } else { Ok(()) };
        };
        let window = Window::of(now, group.interval);
        let key = format!("rate:{}:{}", group.name, call.subject);
        match presence.increment(&key, window.number, window.rest).await {
            Ok(used) if used > group.quota => Err(ApiError::too_many_requests(window.rest)),
            Ok(_) => Ok(()),
            // Losing the count must not mean losing the hub.
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "call not counted");
                metrics::counter!(crate::metrics::UNCOUNTED_CALLS).increment(1);
                Ok(())
            }
        }
    }

    /// What is wrong with these settings, in a sentence; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        for rule in &self.matches {
            if !self.groups.iter().any(|group| group.name == rule.group) {
                return Some(format!("rate_limits.match names group {:?}, which rate_limits.groups lacks", rule.group));
            }
            if !split_pattern(&rule.api_pattern).1.starts_with('/') {
                return Some(format!(
                    "rate_limits.match has api_pattern {:?}: expected \"/path\" or \"METHOD /path\"",
                    rule.api_pattern
                ));
            }
        }
        let short = self.groups.iter().find(|group| group.interval < Duration::from_secs(1))?;
        Some(format!("rate_limits.groups {:?} has an interval below one second", short.name))
    }

    fn group(&self, method: &str, path: &str) -> Option<&Group> {
        let rule = self
            .matches
            .iter()
            .filter(|rule| fits(&rule.api_pattern, method, path))
            .max_by_key(|rule| rule.api_pattern.len())?;
        self.groups.iter().find(|group| group.name == rule.group)
    }
}

/// `Retry-After` of a call that is refused for belonging to no group.
const UNMATCHED_WAIT: Duration = Duration::from_mins(1);

/// Where a point in time falls.
struct Window {
    number: u64,
    rest: Duration,
}

impl Window {
    fn of(now: Timestamp, interval: Duration) -> Self {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let interval = micros(interval.max(Duration::from_secs(1)));
        let now = u64::try_from(now.0).unwrap_or(0);
        Self { number: now / interval, rest: Duration::from_micros(interval - now % interval) }
    }
}

fn split_pattern(pattern: &str) -> (Option<&str>, &str) {
    match pattern.split_once(' ') {
        Some((method, path)) => (Some(method), path.trim_start()),
        None => (None, pattern),
    }
}

fn fits(pattern: &str, method: &str, path: &str) -> bool {
    let (wanted_method, wanted_path) = split_pattern(pattern);
    if wanted_method.is_some_and(|wanted| wanted != method) {
        return false;
    }
    let mut segments = path.split('/');
    let mut wanted = wanted_path.split('/').peekable();
    while let Some(segment) = wanted.next() {
        if segment.is_empty() && wanted.peek().is_none() {
            // The pattern ends in a slash: the rest may be anything.
            return segments.next().is_some();
        }
        let is_name = segment.starts_with('{') && segment.ends_with('}');
        match segments.next() {
            Some(found) if found == segment || (is_name && !found.is_empty()) => {}
            _ => return false,
        }
    }
    segments.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_segments() {
        let path = "/api/devices/v2/deployments/device/deployments/next";
        assert!(fits("/", "GET", path));
        assert!(fits("/api/devices/", "GET", path));
        assert!(fits("POST /api/devices/v2/deployments/device/deployments/next", "POST", path));
        assert!(!fits("POST /api/devices/v2/deployments/device/deployments/next", "GET", path));
        assert!(fits("/api/devices/{version}/deployments/device/deployments/next", "POST", path));
        assert!(!fits("/api/dev", "GET", path));
        assert!(!fits("/api/devices", "GET", path));
        assert!(!fits("/api/management/", "GET", path));
    }

    #[test]
    fn the_longest_pattern_decides() {
        let mut limits = RateLimits::default();
        limits.groups.push(Group { name: "polls".into(), quota: 5, interval: Duration::from_secs(10) });
        limits.matches.push(Match { api_pattern: "/api/devices/v2/".into(), group: "polls".into() });
        assert_eq!(limits.group("GET", "/api/devices/v2/x").map(|group| group.quota), Some(5));
        assert_eq!(limits.group("GET", "/api/devices/v1/x").map(|group| group.quota), Some(30));
        assert_eq!(limits.group("GET", "/elsewhere"), None);
    }

    #[test]
    fn windows_are_aligned_to_the_epoch() {
        let window = Window::of(Timestamp(125_500_000), Duration::from_mins(1));
        assert_eq!(window.number, 2);
        assert_eq!(window.rest, Duration::from_millis(54_500));
    }

    #[test]
    fn a_match_without_its_group_is_a_fault() {
        let mut limits = RateLimits::default();
        assert_eq!(limits.fault(), None);
        limits.matches.push(Match { api_pattern: "/".into(), group: "nobody".into() });
        assert!(limits.fault().is_some_and(|fault| fault.contains("nobody")));
    }
}
