//! The command against something that answers like a hub.

use super::*;
use crate::commands::operator::{
    message::{HUB, Outgoing, Prop, SHELL},
    stand_in::{LIMIT, Opened, StandIn},
};
use clap::Parser;
use tokio::{
    io::{AsyncReadExt, DuplexStream},
    sync::mpsc,
};

const SESSION: &str = "6b1d6d04-0000-4000-8000-000000000001";

/// A person, with a keyboard to type on and a screen to look at.
fn person() -> (Desk, mpsc::Sender<Vec<u8>>, DuplexStream) {
    let (keys, typed) = mpsc::channel(16);
    let (output, screen) = tokio::io::duplex(1 << 20);
    let signals = TerminalSignals::catch().expect("signals");
    (Desk::new(Keyboard::of(typed), Screen::on(Box::new(output)), signals), keys, screen)
}

fn subject(operator: Operator) -> Subject {
    Subject { operator, name: "demo".to_owned(), device: Some("d".to_owned()) }
}

async fn attach(socket: &mut Opened, attachment: &str, role: &str, (output, input): (u64, u64), shell: u64) {
    let props = [
        ("session", Prop::from(SESSION)),
        ("attachment", Prop::from(attachment)),
        ("role", Prop::from(role)),
        ("output", Prop::Number(output)),
        ("input", Prop::Number(input)),
        ("shell", Prop::Number(shell)),
    ];
    socket.say(Outgoing::new(HUB, "attached").with(&props)).await;
}

async fn start_shell(socket: &mut Opened) {
    socket.hears("new").await;
    socket.say(Outgoing::new(SHELL, "new").of(SESSION).with(&[("status", Prop::Number(1))])).await;
}

async fn end_shell(socket: &mut Opened) {
    socket.say(Outgoing::new(SHELL, "stop").of(SESSION).with(&[("status", Prop::Number(2))])).await;
}

async fn print(socket: &mut Opened, text: &str) {
    socket.say(Outgoing::new(SHELL, "shell").of(SESSION).carrying(text.as_bytes())).await;
}

async fn read(screen: &mut DuplexStream) -> String {
    let mut text = String::new();
    tokio::time::timeout(LIMIT, screen.read_to_string(&mut text)).await.expect("in time").expect("text");
    text
}

#[tokio::test]
async fn a_lost_websocket_goes_on_exactly_where_it_was() {
    let (hub, operator) = StandIn::start().await;
    let (mut desk, keys, mut screen) = person();
    let story = async {
        let mut first = hub.websocket().await;
        assert_eq!(first.path, "/api/management/v1/mooring/devices/d/terminal?keep=true");
        attach(&mut first, "a 1", "writer", (0, 0), 0).await;
        start_shell(&mut first).await;
        print(&mut first, "hello ").await;
        keys.send(b"ls".to_vec()).await.expect("typed");
        assert_eq!(first.hears("shell").await.body, b"ls");
        assert_eq!(first.hears("output").await.number("bytes"), Some(6));
        drop(first);

        let mut second = hub.websocket().await;
        let path = format!("/api/management/v1/mooring/sessions/{SESSION}/attach?mode=write&from=6&replaces=a+1");
        assert_eq!(second.path, path);
        // Of the two keystrokes one was taken.
        attach(&mut second, "a2", "writer", (6, 1), 1).await;
        assert_eq!(second.hears("shell").await.body, b"s");
        keys.send(b"\r".to_vec()).await.expect("typed");
        assert_eq!(second.hears("shell").await.body, b"\r");
        second.say(Outgoing::new(HUB, "input").with(&[("bytes", Prop::Number(3))])).await;
        print(&mut second, "world").await;
        assert_eq!(second.hears("output").await.number("bytes"), Some(11));
        end_shell(&mut second).await;
        assert_eq!(second.hears("stop").await.proto, SHELL);
    };
    let subject = subject(operator);
    let command = async {
        let session = subject.open_new().await.expect("a session");
        stay(&subject, session, &mut desk).await
    };
    let (ended, ()) = tokio::join!(command, story);
    assert!(!ended.expect("no error"), "the shell is not left running");
    drop(desk);
    assert_eq!(read(&mut screen).await, "hello world");
}

#[tokio::test]
async fn a_hub_that_keeps_no_sessions_gets_a_plain_terminal_and_then_a_new_one() {
    let (hub, operator) = StandIn::start().await;
    let (mut desk, keys, mut screen) = person();
    let story = async {
        assert!(hub.refuse(404, "not found").await.contains("/mooring/devices/d/terminal"));
        let mut first = hub.websocket().await;
        assert_eq!(first.path, "/api/management/v1/deviceconnect/devices/d/connect");
        start_shell(&mut first).await;
        print(&mut first, "one ").await;
        keys.send(b"ls".to_vec()).await.expect("typed");
        assert_eq!(first.hears("shell").await.body, b"ls");
        drop(first);

        hub.refuse(404, "not found").await;
        let mut second = hub.websocket().await;
        start_shell(&mut second).await;
        keys.send(b"pwd".to_vec()).await.expect("typed");
        assert_eq!(second.hears("shell").await.body, b"pwd", "what was typed for the first shell is not typed again");
        print(&mut second, "two").await;
        end_shell(&mut second).await;
        while second.hear().await.is_some() {}
    };
    let subject = subject(operator);
    let command = async {
        let session = subject.open_new().await.expect("a session");
        stay(&subject, session, &mut desk).await
    };
    let (ended, ()) = tokio::join!(command, story);
    assert!(!ended.expect("no error"));
    drop(desk);
    assert_eq!(read(&mut screen).await, "one two");
}

#[tokio::test]
async fn a_device_that_is_away_is_told_without_asking_twice() {
    let (hub, operator) = StandIn::start().await;
    let subject = subject(operator);
    let story = async {
        hub.refuse(404, "failed to connect to device: device disconnected").await;
        // Its words may come after the headers, and then the other address is asked as well.
        let asked_again = hub.refuse(404, "failed to connect to device: device disconnected");
        let _not_needed = tokio::time::timeout(Duration::from_millis(500), asked_again).await;
    };
    let (opened, ()) = tokio::join!(subject.open_new(), story);
    assert!(matches!(opened, Err(Refused::NotThere(_))), "{opened:?}");
}

#[tokio::test]
async fn whoever_was_replaced_while_away_comes_back_as_a_watcher() {
    let (hub, operator) = StandIn::start().await;
    let (mut desk, _keys, mut screen) = person();
    let story = async {
        let mut first = hub.websocket().await;
        attach(&mut first, "a1", "writer", (0, 0), 0).await;
        start_shell(&mut first).await;
        print(&mut first, "one ").await;
        first.hears("output").await;
        drop(first);
        assert!(hub.refuse(409, "the session is in use").await.contains("mode=write"));
        let mut second = hub.websocket().await;
        assert!(second.path.contains("mode=watch&from=4"), "{}", second.path);
        attach(&mut second, "a2", "watcher", (4, 100), 1).await;
        print(&mut second, "two").await;
        assert_eq!(second.hears("output").await.number("bytes"), Some(7));
        end_shell(&mut second).await;
        // A watcher does not end the shell of others.
        while let Some(message) = second.hear().await {
            assert_ne!(message.proto, SHELL, "{message:?}");
        }
    };
    let subject = subject(operator);
    let command = async {
        let session = subject.open_new().await.expect("a session");
        stay(&subject, session, &mut desk).await
    };
    let (ended, ()) = tokio::join!(command, story);
    assert!(!ended.expect("no error"));
    drop(desk);
    assert_eq!(read(&mut screen).await, "one two");
}

#[tokio::test]
async fn a_session_that_has_ended_meanwhile_is_not_typed_into_anew_from_a_pipe() {
    let (hub, operator) = StandIn::start().await;
    let (mut desk, keys, _screen) = person();
    let story = async {
        let mut first = hub.websocket().await;
        attach(&mut first, "a1", "writer", (0, 0), 0).await;
        start_shell(&mut first).await;
        keys.send(b"make\n".to_vec()).await.expect("typed");
        drop(keys);
        first.hears("shell").await;
        // The end of the input is noticed, and only then the loss.
        print(&mut first, "x").await;
        first.hears("output").await;
        drop(first);
        hub.refuse(404, "no such session").await;
    };
    let subject = subject(operator);
    let command = async {
        let session = subject.open_new().await.expect("a session");
        stay(&subject, session, &mut desk).await
    };
    let (ended, ()) = tokio::join!(command, story);
    assert!(ended.expect_err("refused").to_string().contains("the session has ended meanwhile"));
}

#[tokio::test]
async fn a_token_that_is_refused_ends_the_command() {
    let (hub, operator) = StandIn::start().await;
    let (mut desk, _keys, _screen) = person();
    let story = async {
        let mut first = hub.websocket().await;
        attach(&mut first, "a1", "writer", (0, 0), 0).await;
        start_shell(&mut first).await;
        drop(first);
        hub.refuse(401, "revoked").await;
    };
    let subject = subject(operator);
    let command = async {
        let session = subject.open_new().await.expect("a session");
        stay(&subject, session, &mut desk).await
    };
    let (ended, ()) = tokio::join!(command, story);
    assert!(ended.expect_err("refused").to_string().contains("mooring login"));
}

#[test]
fn either_a_device_or_a_session_is_given() {
    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }
    let parse = |words: &[&str]| Line::try_parse_from([&["terminal"], words].concat()).map(|line| line.arguments);
    assert_eq!(chosen(&parse(&["demo"]).expect("understood")), None);
    for (flag, mode) in [("--attach", Mode::Write), ("--watch", Mode::Watch), ("--take-over", Mode::TakeOver)] {
        assert_eq!(chosen(&parse(&[flag, "6b"]).expect("understood")), Some(("6b", mode)));
        assert!(parse(&["demo", flag, "6b"]).is_err());
    }
    assert!(parse(&[]).is_err() && parse(&["--attach", "a", "--watch", "b"]).is_err());
}
