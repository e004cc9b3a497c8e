//! Whether the program at the other end of a local connection is still there.
//!
//! A program that has closed its connection and one that has only finished talking look alike on the connection itself.
//! The kernel's table tells them apart for programs on this machine: a closed connection belongs to no open file.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

/// Whether `peer`, connected to `here`, is still open; `None` if that cannot be found out.
pub fn is_open(peer: SocketAddr, here: SocketAddr) -> Option<bool> {
    if !peer.ip().is_loopback() {
        // It may be on another machine.
        return None;
    }
    let table = if peer.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    is_listed_as_open(&fs::read_to_string(table).ok()?, peer, here)
}

/// Whether the connection belongs to an open file in this table; `None` if the table is none.
fn is_listed_as_open(table: &str, peer: SocketAddr, here: SocketAddr) -> Option<bool> {
    let (peer, here) = (as_listed(peer), as_listed(here));
    let mut lines = table.lines();
    lines.next().filter(|header| header.contains("inode"))?;
    for line in lines {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if fields.next() == Some(&peer) && fields.next() == Some(&here) {
            // After state, queues, timer, retransmissions, user and timeout.
            return Some(fields.nth(6)?.parse::<u64>().ok()? != 0);
        }
    }
    Some(false)
}

/// The kernel's spelling: words of 32 bits in the machine's byte order.
fn as_listed(address: SocketAddr) -> String {
    let word = |bytes: &[u8]| format!("{:08X}", u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let ip: String = match address.ip() {
        IpAddr::V4(ip) => word(&ip.octets()),
        IpAddr::V6(ip) => ip.octets().chunks(4).map(word).collect(),
    };
    format!("{ip}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Read,
        net::{Shutdown, TcpListener, TcpStream},
        time::{Duration, Instant},
    };

    fn holds_within_a_second(condition: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(1);
        while !condition() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    #[test]
    fn a_program_that_only_listens_is_told_from_one_that_is_gone() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let program = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
            let (mut here, peer) = listener.accept().expect("accepted");
            let open = || is_open(peer, here.local_addr().expect("an address"));
            assert_eq!(open(), Some(true));

            program.shutdown(Shutdown::Write).expect("shut down");
            let local = here.local_addr().expect("an address");
            assert_eq!(here.read(&mut [0; 1]).expect("the end"), 0);
            assert_eq!(is_open(peer, local), Some(true), "it still listens");

            drop(program);
            assert!(holds_within_a_second(|| is_open(peer, local) == Some(false)));
        }
    }

    #[test]
    fn what_cannot_be_found_out_is_not_guessed() {
        let [local, far] = ["127.0.0.1:1", "192.0.2.1:1"].map(|address| address.parse().expect("an address"));
        assert_eq!(is_open(far, local), None);
        assert_eq!(is_listed_as_open("", local, local), None);
        assert_eq!(is_listed_as_open("sl local rem inode\n", local, local), Some(false));
    }
}
