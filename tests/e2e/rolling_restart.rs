//! All nodes of a cluster are replaced, one after the other, while somebody types.

use harness::{Cluster, Heard, KeptTerminal, LIMIT, Packet, TestDevice, within};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A device whose shell counts the lines it is given; like the agent it keeps its shells over a lost connection, and comes
/// back by itself.
struct CountingDevice {
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl CountingDevice {
    fn start(device: TestDevice) -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut shells: HashMap<String, (usize, Vec<u8>)> = HashMap::new();
            loop {
                let mut socket = device.connect_again().await;
                counted.fetch_add(1, Ordering::SeqCst);
                socket.serve(|heard| answer(&mut shells, heard)).await;
            }
        });
        Self { connections, task }
    }
}

impl Drop for CountingDevice {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `count N LINE` for each line.
fn answer(shells: &mut HashMap<String, (usize, Vec<u8>)>, heard: &Heard) -> Vec<Packet> {
    let reply = |typ: &str| Packet::shell(typ).sid(heard.sid()).prop("status", 1);
    match (heard.proto(), heard.typ()) {
        (1, "new") => {
            shells.insert(heard.sid().to_owned(), (0, vec![]));
            vec![reply("new").body("Shell started")]
        }
        (1, "shell") => {
            let Some((count, line)) = shells.get_mut(heard.sid()) else {
                return vec![Packet::shell("shell").sid(heard.sid()).prop("status", 2).body("session not found")];
            };
            let mut said = vec![];
            for byte in heard.body() {
                if *byte != b'\n' {
                    line.push(*byte);
                    continue;
                }
                *count += 1;
                said.push(reply("shell").body(format!("count {count} {}\n", String::from_utf8_lossy(line))));
                line.clear();
            }
            said
        }
        (1, "stop") => {
            shells.remove(heard.sid());
            vec![reply("stop")]
        }
        _ => vec![],
    }
}

/// What the shell says to this many lines.
fn counted(lines: usize) -> String {
    let lines: Vec<String> = (1..=lines).map(|number| format!("count {number} line-{number}\n")).collect();
    lines.concat()
}

#[tokio::test]
async fn a_counter_is_typed_through_a_rolling_restart_without_a_lost_or_doubled_byte() {
    let mut cluster = Cluster::start(3, &[("MOORING_ACTORS__LEASE", "3s")]).await;
    // The device and the operator prefer different nodes, so that both roles move.
    let (for_devices, for_operators) = (cluster.balancer(&[0, 1, 2]).await, cluster.balancer(&[1, 2, 0]).await);
    let admin = cluster.node(0).user().await;
    let mut device = cluster.node(0).accepted_by(&admin).await;
    device.go_to(for_devices.door());
    let id = device.id.clone();
    let device = CountingDevice::start(device);
    admin.sees(&id, "connected", LIMIT).await;
    let user = admin.at(for_operators.door());
    let mut terminal = KeptTerminal::open(&user, &id).await;

    let mut typed = 0;
    {
        let restarting = cluster.rolling_restart();
        tokio::pin!(restarting);
        let mut keys = tokio::time::interval(Duration::from_millis(20));
        let mut is_restarted = false;
        within(LIMIT * 4, "three restarts", async {
            // Ends with a hundred lines after the last restart.
            let mut left = 100;
            while left > 0 {
                tokio::select! {
                    () = &mut restarting, if !is_restarted => is_restarted = true,
                    _ = keys.tick() => {
                        typed += 1;
                        terminal.type_in(format!("line-{typed}\n")).await;
                        left -= usize::from(is_restarted);
                    }
                    heard = terminal.hear() => {
                        if heard.is_err() {
                            assert_eq!(terminal.stopped, None, "the shell was ended");
                            terminal.again(&user).await;
                        }
                    }
                }
            }
        })
        .await;
    }
    terminal.shows(&format!("count {typed} line-{typed}\n"), LIMIT).await;

    assert_eq!(terminal.text(), counted(typed));
    assert_eq!(terminal.stopped, None);
    // It was no still life: both have moved.
    assert!(terminal.returns >= 1, "the operator was never moved");
    assert!(device.connections.load(Ordering::SeqCst) >= 2, "the device was never moved");
}

/// The same with nodes that are killed: nobody says goodbye, and the keys in hand are sent again.
#[tokio::test]
async fn a_counter_is_typed_through_the_death_of_the_operator_s_nodes() {
    let mut cluster = Cluster::start(3, &[("MOORING_ACTORS__LEASE", "3s")]).await;
    let for_operators = cluster.balancer(&[1, 2, 0]).await;
    let admin = cluster.node(0).user().await;
    let device = cluster.node(0).accepted_by(&admin).await;
    let id = device.id.clone();
    let _device = CountingDevice::start(device);
    admin.sees(&id, "connected", LIMIT).await;
    let user = admin.at(for_operators.door());
    let mut terminal = KeptTerminal::open(&user, &id).await;

    let mut typed = 0;
    for victim in [1, 2] {
        for _ in 0..100 {
            typed += 1;
            terminal.type_in(format!("line-{typed}\n")).await;
        }
        cluster.kill(victim);
        for _ in 0..100 {
            typed += 1;
            terminal.type_in(format!("line-{typed}\n")).await;
        }
        terminal.shows(&format!("count {typed} line-{typed}\n"), LIMIT).await;
    }

    assert_eq!(terminal.text(), counted(typed));
    assert_eq!(terminal.returns, 2);
}
