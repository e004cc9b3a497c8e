//! What the README promises to somebody who has just built it: one command, and a shell prompt.

use harness::{LIMIT, Mooring, TerminalScreen};
use std::time::Duration;

#[tokio::test]
async fn the_demo_gives_a_shell_in_two_commands() {
    let mooring = Mooring::alone();
    let demo = TerminalScreen::run(&mooring.command(&["demo"])).await;
    demo.shows("Try this now", LIMIT).await;
    // The demo takes the next port when the usual one is taken, and says so.
    let screen = demo.text();
    let server = screen.split("a hub at ").nth(1).and_then(|rest| rest.split([',', ' ', '\n']).next()).unwrap();
    let server = server.trim_end_matches('/');

    let listed = mooring.run(&["devices", "--server", server], "").await;
    assert!(listed.status.success(), "{listed:?}");
    assert!(listed.stdout.lines().any(|line| line.contains("demo") && line.contains("yes")), "{listed:?}");

    let terminal = TerminalScreen::run(&mooring.command(&["terminal", "demo", "--server", server])).await;
    terminal.type_line("echo sum-$((40+2))");
    terminal.shows("sum-42", LIMIT).await;
    // The shell knows how large the window is, and hears of changes.
    terminal.resize(90, 25);
    harness::wait_until(LIMIT, "the shell to know its size", async || {
        terminal.type_line("stty size");
        terminal.text().contains("25 90").then_some(())
    })
    .await;
    terminal.type_line("exit");
    assert_eq!(terminal.ended(LIMIT).await, 0, "{}", terminal.text());

    let again = TerminalScreen::run(&mooring.command(&["terminal", "demo", "--server", server])).await;
    again.type_line("echo again-$((40+2))");
    again.shows("again-42", LIMIT).await;
    again.press("C-]");
    again.shows("q end the shell", LIMIT).await;
    again.press("q");
    assert_eq!(again.ended(LIMIT).await, 0, "{}", again.text());

    demo.press("C-c");
    demo.ended(Duration::from_secs(20)).await;
}

#[tokio::test]
async fn the_settings_in_force_are_shown_without_secrets() {
    let mooring = Mooring::alone();
    let mut command = mooring.command(&["config", "show"]);
    command.env("MOORING_DATABASE_URL", "postgres://hub:hunter2@db.example.com/mooring");
    command.env("MOORING_METRICS_TOKEN", "hunter3");
    let directory = harness::temporary_directory();
    let mut process = harness::Process::start(&command, &directory.join("log"));
    assert!(process.end(LIMIT).await.success(), "{}", process.log());
    let shown = process.log();
    assert!(shown.contains("db.example.com") && shown.contains("***"), "{shown}");
    assert!(!shown.contains("hunter"), "{shown}");
}
