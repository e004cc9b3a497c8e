use super::*;
use std::{future::poll_fn, time::Duration};

fn new(session: &str, user: &str) -> Message {
    Message::new(SHELL, "new").session(session).text("user_id", user)
}

fn status(message: &Message) -> Option<i64> {
    message.integer_property("status")
}

fn say(kind: &str, session: &str) -> Message {
    Message::new(SHELL, kind).session(session)
}

#[test]
fn an_echo_shell_returns_keys_in_pieces_of_255_bytes() {
    let mut terminals = Terminals::new(Shell::Echo, 1);
    let now = Instant::now();
    assert_eq!(status(&terminals.hear(&new("s", "u"), now)[0]), Some(STATUS_NORMAL));

    let said = terminals.hear(&say("shell", "s").with_body([b'x'; 600]), now);

    let lengths: Vec<usize> = said.iter().map(|message| message.body().len()).collect();
    assert_eq!(lengths, [255, 255, 90]);
}

#[test]
fn a_user_has_one_shell_and_a_device_sixteen() {
    let mut terminals = Terminals::new(Shell::Echo, 1);
    let now = Instant::now();
    terminals.hear(&new("s0", "u0"), now);
    assert_eq!(terminals.hear(&new("again", "u0"), now)[0].body(), b"user has too many open sessions");

    for index in 1..SHELLS_PER_DEVICE {
        assert_eq!(status(&terminals.hear(&new(&format!("s{index}"), &format!("u{index}")), now)[0]), Some(1));
    }
    assert_eq!(terminals.hear(&new("more", "another"), now)[0].body(), b"too many shells spawned");
    assert_eq!(terminals.len(), SHELLS_PER_DEVICE);
}

#[test]
fn an_ended_shell_keeps_its_slot_until_it_is_stopped() {
    let mut terminals = Terminals::new(Shell::Echo, 1);
    let now = Instant::now();
    terminals.hear(&new("s", "u"), now);

    let said = terminals.hear(&say("shell", "s").with_body([4]), now);
    assert_eq!((said[1].kind(), status(&said[1])), ("stop", Some(STATUS_ERROR)));
    assert_eq!(status(&terminals.hear(&new("t", "u"), now)[0]), Some(STATUS_ERROR));

    assert_eq!(status(&terminals.hear(&say("stop", "s"), now)[0]), Some(STATUS_NORMAL));
    assert_eq!(status(&terminals.hear(&new("t", "u"), now)[0]), Some(STATUS_NORMAL));
}

#[test]
fn a_shell_is_pinged_each_minute_and_ends_without_pongs() {
    let mut terminals = Terminals::new(Shell::Echo, 1);
    let start = Instant::now();
    terminals.hear(&new("s", "u"), start);
    assert!(terminals.tick(start).is_empty());

    let ping = &terminals.tick(start + Duration::from_mins(1))[0];
    assert_eq!((ping.kind(), status(ping), ping.integer_property("timeout")), ("ping", Some(3), Some(65)));

    assert!(terminals.tick(start + Duration::from_secs(66)).is_empty());
    assert_eq!(terminals.hear(&say("shell", "s").with_body("x"), start)[0].body(), b"session not found");
}

#[test]
fn unknown_types_and_sessions_are_answered_with_an_error() {
    let mut terminals = Terminals::new(Shell::Echo, 1);
    let now = Instant::now();
    let answer = &terminals.hear(&say("dance", "s"), now)[0];
    assert_eq!((answer.kind(), answer.body()), ("dance", &b"unknown message protocol and type: 1/dance"[..]));
    assert_eq!(terminals.hear(&say("stop", "s"), now)[0].body(), b"session not found");
}

fn sh() -> Terminals {
    let command = PtyCommand { program: "/bin/sh".into(), arguments: vec![], directory: None };
    Terminals::new(Shell::Pty(command), 1)
}

async fn next(terminals: &mut Terminals) -> Message {
    let said = poll_fn(|context| terminals.poll_output(context));
    tokio::time::timeout(Duration::from_secs(10), said).await.expect("the shell says something")
}

#[tokio::test]
async fn a_real_shell_runs_commands_and_tells_of_its_exit() {
    let mut terminals = sh();
    let now = Instant::now();
    let size = new("s", "u").integer("terminal_width", 91).integer("terminal_height", 17);
    assert_eq!(status(&terminals.hear(&size, now)[0]), Some(STATUS_NORMAL));

    terminals.hear(&say("shell", "s").with_body("stty size; echo hel\"\"lo; exit\n"), now);

    let mut screen = Vec::new();
    let last = loop {
        let message = next(&mut terminals).await;
        assert!(message.body().len() <= OUTPUT_PIECE);
        if message.kind() == "stop" {
            break message;
        }
        screen.extend_from_slice(message.body());
    };
    let screen = String::from_utf8_lossy(&screen);
    assert!(screen.contains("17 91") && screen.contains("hello"), "{screen}");
    assert_eq!(status(&last), Some(STATUS_ERROR));
}

#[tokio::test]
async fn stop_ends_the_program() {
    let mut terminals = sh();
    let now = Instant::now();
    terminals.hear(&new("s", "u"), now);
    terminals.hear(&say("shell", "s").with_body("echo pid=$$\n"), now);
    let mut screen = String::new();
    let pid = loop {
        screen.push_str(&String::from_utf8_lossy(next(&mut terminals).await.body()));
        let digits = screen.rsplit("pid=").next().and_then(|rest| rest.split_once('\r')).map(|(digits, _)| digits);
        if let Some(pid) = digits.and_then(|digits| digits.parse::<u32>().ok()) {
            break pid;
        }
    };

    terminals.hear(&say("stop", "s"), now);

    assert!(terminals.is_empty());
    let gone = async {
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the shell's process ends");
}
