//! A TCP balancer in front of several hubs, as a fleet would have: clients know one address.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::door::Door;

/// Passes each connection to the first hub that takes it.
pub struct Balancer {
    door: Door,
    task: JoinHandle<()>,
}

impl Balancer {
    /// In front of these, in this order of preference.
    ///
    /// # Panics
    /// When the loopback address cannot be used.
    pub async fn in_front_of(hubs: &[&Door]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let door = Door::plain(listener.local_addr().expect("it is bound"));
        let addresses: Vec<SocketAddr> = hubs.iter().map(|hub| hub.address()).collect();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, addresses.clone()));
            }
        });
        Self { door, task }
    }

    /// Where clients knock.
    pub fn door(&self) -> &Door {
        &self.door
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(mut client: TcpStream, addresses: Vec<SocketAddr>) {
    for address in addresses {
        if let Ok(mut hub) = TcpStream::connect(address).await {
            // Ends with either side; a dead hub's connections are reset, and so is the client's.
            let _ = copy_bidirectional(&mut client, &mut hub).await;
            return;
        }
    }
}
