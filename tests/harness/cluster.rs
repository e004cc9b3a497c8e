//! Several hubs that are one, each a child process: they are killed and restarted while people work.

use crate::backends::Set;
use crate::balancer::Balancer;
use crate::door::Door;
use crate::hub::TestHub;
use crate::ports::free_port;
use crate::site::{Settings, Site};

/// Nodes of one cluster. A node that ends comes back at the address it had.
pub struct Cluster {
    site: Site,
    settings: &'static Settings,
    nodes: Vec<(u16, Option<TestHub>)>,
}

impl Cluster {
    /// Starts this many nodes on Postgres, Redis and NATS.
    pub async fn start(count: usize, settings: &'static Settings) -> Self {
        Self::start_in(Set::Production.site().await, count, settings).await
    }

    /// The same in a place that is there already.
    pub async fn start_in(site: Site, count: usize, settings: &'static Settings) -> Self {
        let mut this = Self { site, settings, nodes: vec![] };
        for number in 0..count {
            this.nodes.push((free_port(), None));
            this.begin(number).await;
        }
        this
    }

    /// A node.
    ///
    /// # Panics
    /// When it does not run.
    pub fn node(&self, number: usize) -> &TestHub {
        self.nodes[number].1.as_ref().expect("the node runs")
    }

    /// A balancer that prefers the nodes in this order.
    pub async fn balancer(&self, order: &[usize]) -> Balancer {
        let doors: Vec<&Door> = order.iter().map(|number| self.node(*number).door()).collect();
        Balancer::in_front_of(&doors).await
    }

    /// `kill -9`.
    pub fn kill(&mut self, number: usize) {
        let mut hub = self.nodes[number].1.take().expect("the node runs");
        hub.kill();
    }

    /// Starts a node that has ended.
    pub async fn begin(&mut self, number: usize) {
        let port = self.nodes[number].0;
        self.nodes[number].1 = Some(self.site.process_at(port, self.settings).await);
    }

    /// Stops a node in good order and starts it again, as an upgrade would.
    ///
    /// # Panics
    /// When it does not run, does not stop or does not start.
    pub async fn restart(&mut self, number: usize) {
        self.nodes[number].1.take().expect("the node runs").stop().await;
        self.begin(number).await;
    }

    /// Restarts all nodes, one after the other.
    pub async fn rolling_restart(&mut self) {
        for number in 0..self.nodes.len() {
            self.restart(number).await;
        }
    }
}
