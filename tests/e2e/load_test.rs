//! Scenarios of the load test, small: that they run, and what they say of the hub that is not a matter of speed.

use std::time::Duration;

use harness::{
    Door, Issuer, LIMIT, Set, filled_database, load_test, load_test_floor, temporary_directory, try_load_test,
};

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

#[tokio::test]
async fn a_database_is_filled_with_devices_that_nobody_let_in() {
    // More than one statement holds.
    assert_eq!(filled_database("filled", 20_100).await, "20100|20100");
}

#[tokio::test]
async fn alerts_are_heard_each_once() {
    let _turn = harness::turn_of_the_heavy().await;
    let hub = Set::Embedded.process(UNLIMITED).await;
    let scenario = ["alerts", "--devices", "20", "--rate", "100", "--seconds", "2"];
    let report = load_test(hub.door(), &scenario, LIMIT * 2).await;
    assert_eq!((&report["acknowledged"], &report["errors"]), (&200.into(), &serde_json::json!({})), "{report}");
    assert_eq!((&report["lost"], &report["doubled"], &report["gaps"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!(report["arrival"]["samples"], 200);
    assert!(report["achieved_rate"].as_f64().is_some_and(|rate| rate <= 100.0), "{report}");
}

#[tokio::test]
async fn a_run_ends_with_a_code_that_says_how_it_went_and_leaves_a_page() {
    let _turn = harness::turn_of_the_heavy().await;
    let hub = Set::Embedded.process(UNLIMITED).await;
    let folder = temporary_directory();
    let page = folder.join("report.html").display().to_string();
    let scenario = |condition: &'static str| {
        let fixed =
            ["alerts", "--devices", "2", "--rate", "20", "--seconds", "1", "--html", &page, "--fail-if", condition];
        fixed.map(str::to_owned)
    };
    for (condition, code) in [("lost>0", 0), ("arrival.p50>=0s", 1), ("no_such_number>1", 3), ("nonsense", 2)] {
        let scenario = scenario(condition);
        let scenario: Vec<&str> = scenario.iter().map(String::as_str).collect();
        let output = try_load_test(hub.door(), &scenario, LIMIT * 2).await;
        assert_eq!(output.status.code(), Some(code), "{condition}: {output:?}");
        if code < 2 {
            let page = std::fs::read_to_string(&page).expect("a page");
            assert!(page.contains("<svg") && page.contains(if code == 0 { ">passed<" } else { ">failed<" }), "{page}");
        }
    }
}

#[tokio::test]
async fn changes_of_attributes_are_counted_at_a_rate_and_beside_another_hub() {
    let _turn = harness::turn_of_the_heavy().await;
    let hub = Set::Embedded.process(UNLIMITED).await;
    let small = ["inventory", "--devices", "10", "--connections", "4", "--seconds", "1"];
    let report = load_test(hub.door(), &[&small[..], &["--rate", "50"]].concat(), LIMIT * 2).await;
    assert_eq!((&report["answer"]["samples"], &report["errors"]), (&50.into(), &serde_json::json!({})), "{report}");

    // The hub beside itself: how fast it is to itself is not for a test to say.
    let url = hub.door().url();
    let scenario = [&small[..], &["--against-single", &url, "--rounds", "2"]].concat();
    let report = load_test(hub.door(), &scenario, LIMIT * 2).await;
    assert!(report["rate_ratio"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{report}");
    assert_eq!(report["floor"].as_array().map(Vec::len), Some(2), "{report}");
}

#[tokio::test]
async fn polls_are_counted_beside_a_floor_that_checks_the_same_tokens() {
    let _turn = harness::turn_of_the_heavy().await;
    let issuer = Issuer::new();
    let key: &'static str = issuer.file().display().to_string().leak();
    let settings = [UNLIMITED, &[("MOORING_ACTORS__DEVICE_KEY_FILE", key)]].concat();
    let hub = Set::Embedded.process(&settings).await;
    let (_floor, address) = load_test_floor(&["http", "--key", key]).await;
    let scenario = ["poll", "--devices", "10", "--connections", "4", "--seconds", "1", "--rounds", "2", "--floor"];
    let report = load_test(hub.door(), &[&scenario[..], &[&format!("http://{address}")]].concat(), LIMIT * 2).await;
    assert!(report["rate_ratio"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{report}");

    // A floor that lets anybody in would be no floor.
    Door::plain(address.parse().expect("an address")).get("/").await.expect(401);
}

#[tokio::test]
async fn devices_find_work_among_many_deployments() {
    let _turn = harness::turn_of_the_heavy().await;
    let hub = Set::Embedded.process(UNLIMITED).await;
    let scenario =
        ["poll", "--devices", "10", "--seconds", "1", "--rate", "50", "--deployments", "5", "--targets", "50"];
    let report = load_test(hub.door(), &scenario, LIMIT * 2).await;
    assert_eq!((&report["with_work"], &report["without_work"]), (&25.into(), &25.into()), "{report}");
}

#[tokio::test]
async fn the_figures_of_a_rollout_are_true_all_the_while() {
    let _turn = harness::turn_of_the_heavy().await;
    let hub = Set::Embedded.process(UNLIMITED).await;
    let scenario = ["rollout", "--devices", "40", "--failures", "10", "--poll-every", "0.5", "--step", "0.05"];
    let report = load_test(hub.door(), &scenario, LIMIT * 4).await;
    assert_eq!((&report["status"], &report["wrong_looks"]), (&"finished".into(), &0.into()), "{report}");
    assert_eq!(
        (&report["statistics"]["success"], &report["statistics"]["failure"]),
        (&36.into(), &4.into()),
        "{report}"
    );
    assert_eq!((&report["downloads"], &report["wrong_devices"]), (&40.into(), &0.into()), "{report}");
}

#[tokio::test]
async fn a_rollout_that_pauses_by_itself_says_why() {
    let _turn = harness::turn_of_the_heavy().await;
    let hub = Set::Embedded.process(UNLIMITED).await;
    let scenario = ["rollout", "--devices", "40", "--failures", "50", "--poll-every", "0.5", "--step", "0.05"];
    let phased = ["--phases", "50,50", "--phase-every", "5", "--expect-pause"];
    let safety = ["--create", r#"{"safety":{"max_failed_percent":10}}"#];
    let report = load_test(hub.door(), &[&scenario[..], &phased, &safety].concat(), LIMIT * 4).await;
    assert_eq!((&report["status"], &report["wrong_looks"]), (&"inprogress".into(), &0.into()), "{report}");
    assert!(report["paused"].is_string() && report["statistics"]["pending"].as_u64() > Some(0), "{report}");
}

#[tokio::test]
async fn devices_in_several_processes_stay_and_are_typed_to() {
    let _turn = harness::turn_of_the_heavy().await;
    let mut hub = Set::Embedded.process(UNLIMITED).await;
    let pid = hub.child().pid().to_string();
    let scenario = ["connect", "--devices", "30", "--processes", "3", "--hold", "2", "--terminals", "3"];
    let scenario = [&scenario[..], &["--key-every", "50", "--pid", &pid]].concat();
    let report = load_test(hub.door(), &scenario, LIMIT * 2).await;
    assert_eq!((&report["unexpected_disconnects"], &report["processes"]), (&0.into(), &3.into()), "{report}");
    assert!(report["echo"]["samples"].as_u64().is_some_and(|keys| keys >= 30), "{report}");
    assert!(report["hub"]["connected_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{report}");
}

#[tokio::test]
async fn terminals_that_are_not_cut_off_go_on_through_a_storm() {
    let _turn = harness::turn_of_the_heavy().await;
    let hub = Set::Embedded.process(UNLIMITED).await;
    let scenario = ["storm", "--devices", "100", "--processes", "2", "--away-min", "0", "--away-max", "1"];
    let ((_one, first), (_other, second)) = (load_test_floor(&["relay"]).await, load_test_floor(&["relay"]).await);
    let scenario = [&scenario[..], &["--terminals", "2", "--floor", &first, "--floor", &second]].concat();
    let report = load_test(hub.door(), &scenario, LIMIT * 4).await;
    assert_eq!(report["wrong_states"], 0, "{report}");
    assert!(report["to_floor"].as_f64().is_some_and(|ratio| ratio > 0.0), "{report}");
    for echo in ["echo_calm", "echo_storm"] {
        assert!(report[echo]["samples"].as_u64().is_some_and(|keys| keys > 0), "{report}");
    }
}

#[tokio::test]
async fn forwarded_ports_are_measured_both_ways_over_a_slow_line() {
    let _turn = harness::turn_of_the_heavy().await;
    let hub = Set::Embedded.process(UNLIMITED).await;
    for way in ["from-device", "to-device"] {
        let scenario = ["forward", "--streams", "2", "--seconds", "1", "--round-trip", "20", "--way", way];
        let report = load_test(hub.door(), &scenario, LIMIT * 2).await;
        assert!(report["total_bytes"].as_u64().is_some_and(|bytes| bytes > 2 * 4096), "{report}");
        assert!(report["least_share"].as_f64().is_some_and(|share| share > 0.0), "{report}");
    }
}

#[tokio::test]
async fn files_are_transferred_both_ways_and_arrive_as_they_were() {
    let _turn = harness::turn_of_the_heavy().await;
    let hub = Set::Embedded.process(UNLIMITED).await;
    for way in ["download", "upload"] {
        let scenario = ["transfer", "--devices", "2", "--size", "100000", "--seconds", "1", "--way", way];
        let report = load_test(hub.door(), &scenario, LIMIT * 2).await;
        assert!(report["files"].as_u64().is_some_and(|files| files >= 2), "{report}");
    }
}

#[tokio::test]
async fn after_a_fleet_has_lived_for_a_while_nothing_is_left_over() {
    let _turn = harness::turn_of_the_heavy().await;
    let mut hub = Set::Embedded.process(UNLIMITED).await;
    let pid = hub.child().pid().to_string();
    let scenario = ["mixed", "--devices", "30", "--speed", "5000", "--seconds", "4", "--terminals", "2"];
    let report = load_test(hub.door(), &[&scenario[..], &["--pid", &pid]].concat(), LIMIT * 8).await;
    assert_eq!((&report["alerts_lost"], &report["terminals_failed"]), (&0.into(), &0.into()), "{report}");
    assert!(report["cut"].as_u64().is_some_and(|cut| cut > 0), "{report}");
    assert!(report["poll"]["samples"].as_u64().is_some_and(|polls| polls > 100), "{report}");
    assert!(report["files_after"].as_u64().is_some_and(|files| files > 0), "{report}");
}

#[tokio::test]
#[ignore = "takes a minute or two; run it by its name"]
async fn every_budget_has_a_row() {
    let _turn = harness::turn_of_the_heavy().await;
    let issuer = Issuer::new();
    let key: &'static str = issuer.file().display().to_string().leak();
    let settings = [UNLIMITED, &[("MOORING_ACTORS__DEVICE_KEY_FILE", key)]].concat();
    let mut hub = Set::Embedded.process(&settings).await;
    let (http, http_address) = load_test_floor(&["http", "--key", key]).await;
    let (relay, relay_address) = load_test_floor(&["relay"]).await;
    let (websocket, websocket_address) = load_test_floor(&["websocket"]).await;
    let [hub_pid, http, relay, websocket] =
        [hub.child().pid(), http.pid(), relay.pid(), websocket.pid()].map(|p| p.to_string());
    let [http_address, websocket_address] =
        [http_address, websocket_address].map(|address| format!("http://{address}"));
    let scenario = [
        &["bench", "--rounds", "1", "--seconds", "1", "--idle", "20", "--idle-seconds", "3", "--connects", "20"][..],
        &["--pid", &hub_pid, "--floor-http", &http_address, "--floor-http-pid", &http],
        &["--floor-relay", &relay_address, "--floor-relay-pid", &relay],
        &["--floor-websocket", &websocket_address, "--floor-websocket-pid", &websocket],
    ]
    .concat();
    let output = try_load_test(hub.door(), &scenario, LIMIT * 20).await;
    // Without optimisation no budget is met; that all are there is what this is about.
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let rows = report["rows"].as_array().map(Vec::len);
    assert!(rows.is_some_and(|rows| rows >= 14), "{report}");
}
