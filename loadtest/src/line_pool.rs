//! A few connections that many devices share, each for one request at a time.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::{
    Server,
    line::{Answer, Body, Failure, Line},
    server::source_of,
};

/// The connections. Whoever finds none free waits.
#[derive(Debug)]
pub struct LinePool {
    server: Server,
    free: Semaphore,
    /// Those that nobody uses now.
    idle: Mutex<Vec<Line>>,
}

impl LinePool {
    /// So many connections to a hub, none of them open yet.
    pub fn new(server: &Server, connections: usize) -> Self {
        Self { server: server.clone(), free: Semaphore::new(connections.max(1)), idle: Mutex::default() }
    }

    /// As [`Line::exchange`], on whichever is free.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn exchange(&self, request: &[u8], body: Body) -> Result<Answer, Failure> {
        let _free = self.free.acquire().await.map_err(|_| Failure::Unreachable)?;
        // Whoever gives up in between takes the connection along, with an answer that nobody would wait for.
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut line = idle.unwrap_or_else(|| Line::new(&self.server, source_of(0, self.server.address())));
        let outcome = line.exchange(request, body).await;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        outcome
    }
}
