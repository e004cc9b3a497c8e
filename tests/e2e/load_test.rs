//! Scenarios of the load test, small: that they run, and what they say of the hub that is not a matter of speed.

use std::time::Duration;

use harness::{LIMIT, Set, load_test};

/// All calls come from one address here, and at once.
const UNLIMITED: &[(&str, &str)] = &[("MOORING_API__AUTH_REQUEST_LIMIT__QUOTA", "0")];

/// Row 48, for so many: the hub refuses nobody, or says when to come again, and shows all of them as they are.
async fn are_all_back(devices: u32, arguments: &[&str], limit: Duration) {
    let hub = Set::Embedded.process(UNLIMITED).await;
    let devices = devices.to_string();
    let scenario = [&["storm", "--devices", &devices], arguments].concat();
    let report = load_test(hub.door(), &scenario, limit).await;
    assert_eq!(report["wrong_states"], 0, "{report}");
    let refused = report["refused"].as_object().expect("what was refused");
    assert!(refused.keys().all(|status| status == "429" || status == "503"), "{report}");
}

#[tokio::test]
async fn devices_that_were_cut_off_at_once_are_all_back() {
    let _turn = harness::turn_of_the_heavy().await;
    are_all_back(300, &["--away-min", "0", "--away-max", "1"], LIMIT * 4).await;
}

#[tokio::test]
#[ignore = "takes minutes; run it by its name"]
async fn ten_thousand_devices_that_were_cut_off_at_once_are_back_within_a_minute() {
    are_all_back(10_000, &["--within", "60"], Duration::from_mins(20)).await;
}
