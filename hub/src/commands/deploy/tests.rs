use super::*;
use crate::commands::operator::stand_in::StandIn;
use clap::Parser;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Line::try_parse_from(std::iter::once("deploy").chain(line.split(' '))).map(|line| line.arguments)
}

#[test]
fn a_deployment_is_for_somebody_and_for_one_kind_of_them() {
    for line in ["app-1 --device a --device b", "app-1 --group g", "app-1 --all", "app-1 --filter f --max-devices 3"] {
        assert!(parse(line).is_ok_and(|arguments| arguments.command.is_none()), "{line}");
    }
    for line in [
        "app-1",
        "--all",
        "app-1 --all --group g",
        "app-1 --device a --all",
        "app-1 --all --max-devices 3",
        "app-1 --all --phases rest,10%",
        "app-1 --all --start soon",
        "app-1 --all --retries many",
        "app-1 --all --max-failed 101%",
        "app-1 --all --max-away 1",
        "app-1 --all --away 5m",
    ] {
        assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
    }
}

#[test]
fn what_is_deployed_is_asked_for_by_other_words() {
    for (line, is_it) in [
        ("list --all", matches!(parse("list --all").expect("a command").command, Some(Command::List(_)))),
        ("watch 6b1d", matches!(parse("watch 6b1d").expect("a command").command, Some(Command::Watch(_)))),
        ("log 6b1d 3f8f", matches!(parse("log 6b1d 3f8f").expect("a command").command, Some(Command::Log(_)))),
    ] {
        assert!(is_it, "{line}");
    }
    assert!(parse("abort").is_err());
}

#[test]
fn limits_are_said_as_the_hub_takes_them() {
    let limits = |line: &str| parse(line).expect(line).new.limits.body();
    assert_eq!(limits("a --all"), None);
    assert_eq!(limits("a --all --max-failed 5%"), Some(json!({ "max_failed_percent": 5 })));
    let all = limits("a --all --max-failed 2 --max-alerting 1 --max-away 3 --away 90s");
    // A part of a minute is one.
    assert_eq!(all, Some(json!({ "max_failed": 2, "max_alerting": 1, "max_away": 3, "away_minutes": 2 })));
}

#[tokio::test]
async fn a_group_is_one_segment_whatever_it_is_called() {
    let (_hub, operator) = StandIn::start().await;
    let targets = Targets { device: vec![], group: Some("hall/2 ä?".to_owned()), all: false, filter: None };
    let (path, wish, name) = target(&operator, &targets).await.expect("a target");
    assert_eq!(path, "/api/management/v1/deployments/deployments/group/hall%2F2%20%C3%A4%3F");
    assert_eq!((wish, name.as_str()), (json!({}), "hall/2 ä?"));
}

#[tokio::test]
async fn a_filter_is_found_by_its_name_or_its_id() {
    let (hub, operator) = StandIn::start().await;
    let filters = json!([{ "id": "f1", "name": "old ones", "terms": [] }]).to_string();
    for (wanted, found) in [("old ones", true), ("f1", true), ("new ones", false)] {
        let story = async {
            let asked = hub.request().await;
            assert!(asked.line.starts_with("GET /api/management/v2/inventory/filters?"), "{}", asked.line);
            asked.answer(200, &[], filters.as_bytes()).await;
        };
        let (filter, ()) = tokio::join!(find_filter(&operator, wanted), story);
        assert_eq!(filter.as_ref().is_ok_and(|filter| filter.id == "f1"), found, "{wanted}: {filter:?}");
        if let Err(error) = filter {
            assert_eq!(error.to_string(), "no saved filter \"new ones\": there are old ones");
        }
    }
}
