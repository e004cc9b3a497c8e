//! A long text is pasted into a terminal: all of it arrives, and the device never notices anything unusual.

use harness::traffic::{Pattern, digest};
use harness::{KeptTerminal, LIMIT, Packet, RealDevice, Set, Shell, within};
use std::fmt::Write;

const MIB: usize = 1024 * 1024;

/// Text as somebody would paste it: letters in lines.
fn text(length: usize) -> Vec<u8> {
    let mut bytes = Pattern::new(15).take(length);
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = if at % 80 == 79 { b'\n' } else { b'a' + *byte % 26 };
    }
    bytes
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Types a command that hashes as many bytes as will be typed next. The terminal is raw meanwhile: a line discipline would
/// change bytes and has a longest line.
fn hashing(length: usize) -> String {
    format!("stty raw -echo; echo rea''dy; head -c {length} | sha256sum; stty sane\n")
}

#[tokio::test]
async fn a_mebibyte_pasted_into_a_real_shell_arrives_and_the_device_stays() {
    let hub = Set::Embedded.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let mut shell = Shell::start_real(&user, &id).await;
    let connections = device.connections();

    // 20 000 bytes, and then a mebibyte, each as the single message that the web UI makes of a paste.
    for length in [20_000, MIB] {
        let text = text(length);
        shell.type_in(hashing(length)).await;
        within(LIMIT, "the terminal to be raw", shell.prints("ready")).await;
        shell.socket.say(&Packet::shell("shell").body(&text)).await;
        within(LIMIT * 4, "the digest", shell.prints(&hexadecimal(&digest(&text).sha256))).await;
    }

    shell.type_in("echo sum-$((40+3))\n").await;
    within(LIMIT, "what is typed then", shell.prints("sum-43")).await;
    assert_eq!(device.connections(), connections, "the agent left its connection");
    assert_eq!(user.status(&id).await, "connected");
}

/// The same where the operator's keystrokes are counted and kept until they are handed on.
#[tokio::test]
async fn a_mebibyte_pasted_into_a_kept_terminal_arrives() {
    let hub = Set::Embedded.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let mut terminal = KeptTerminal::open_real(&user, &id).await;
    let connections = device.connections();
    let text = text(MIB);
    terminal.type_in(hashing(MIB)).await;
    terminal.shows("ready", LIMIT).await;
    terminal.type_in(&text).await;
    terminal.shows(&hexadecimal(&digest(&text).sha256), LIMIT * 4).await;
    terminal.told("every key to be taken", LIMIT, |terminal| terminal.untaken() == 0).await;
    assert_eq!(device.connections(), connections, "the agent left its connection");
}
