//! The script that tells the web UI where it is and what this server can do. (Mender API: `env.js` of the UI.)

use serde_json::json;

/// Versions the UI compares features against; it reads their first character and fails to start without one.
const SERVED_UI_GENERATION: &str = "4.1.0";

/// The script. `unlimited` is how "no device limit" is reported: at 0 a UI up to 4.1 is being served.
pub fn script(host: &str, unlimited: i64) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let generation = if unlimited == 0 { SERVED_UI_GENERATION } else { version };
    let environment = json!({
        "version": generation,
        "integrationVersion": generation,
        "menderVersion": generation,
        "menderArtifactVersion": generation,
        "metaMenderVersion": generation,
        "services": {},
        "hostAddress": host,
        "commit": "",
        "demoArtifactPort": 85,
        "disableOnboarding": true,
        "hostedAnnouncement": "",
        "recaptchaSiteKey": "",
        "sentry": {},
        "stripeAPIKey": "",
        "trackerCode": "",
        "features": {
            "hasAddons": "0",
            "hasAiEnabled": "0",
            "hasAuditlogs": "0",
            "hasDeltaProgress": "0",
            "hasDeviceConfig": "1",
            "hasDeviceConnect": "1",
            "hasFeedbackEnabled": "0",
            "hasMonitor": "0",
            "hasMultitenancy": "0",
            "hasReleaseTags": "0",
            "hasReporting": "0",
            "isEnterprise": "0",
            "isHosted": "0",
        },
    });
    format!("var mender_environment = {};\n", as_script(&environment.to_string()))
}

/// JSON is JavaScript but for what would end a script element it is pasted into, and two line separators.
fn as_script(json: &str) -> String {
    json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_never_empty() {
        for unlimited in [-1, 0] {
            let script = script("hub.example.com:8443", unlimited);
            let json = script.strip_prefix("var mender_environment = ").unwrap().trim_end().trim_end_matches(';');
            let environment: serde_json::Value = serde_json::from_str(json).unwrap();
            for name in ["version", "integrationVersion", "menderVersion"] {
                assert!(environment[name].as_str().is_some_and(|version| !version.is_empty()), "{name}");
            }
            assert_eq!(environment["features"]["hasDeviceConnect"], "1");
            assert_eq!(environment["features"]["hasMultitenancy"], "0");
        }
    }

    #[test]
    fn a_host_cannot_end_the_script() {
        assert!(!script("</script><script>alert(1)", -1).contains("</script>"));
    }
}
