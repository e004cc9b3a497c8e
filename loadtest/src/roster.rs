//! Devices that only speak HTTP: they have a token each, and no connection of their own.

use std::sync::Arc;

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    Server,
    admission::{Joined, ask_to_join},
    fleet::Fleet,
    operator::Operator,
    server::source_of,
};

/// Devices that join at the same time.
const JOINING_AT_ONCE: usize = 32;

/// How often a device asks that is told to come again.
const ATTEMPTS: usize = 20;

/// A device with a token.
#[derive(Clone)]
pub struct Member {
    /// Its id in the hub.
    pub id: String,
    /// Its token.
    pub token: String,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Has the first `count` devices of a fleet let in, and gives each a token.
///
/// # Errors
/// When the hub refuses one.
pub async fn enlist(
    fleet: &Fleet,
    server: &Server,
    operator: &Operator,
    count: usize,
) -> anyhow::Result<Arc<[Member]>> {
    let members = stream::iter(0..count).map(async |index| {
        let device = fleet.device(index);
        let id = operator.admit(device.identity(), &device.public_pem()).await;
        let id = id.with_context(|| format!("cannot admit device {index} of the fleet"))?;
        let source = source_of(index, server.address());
        for _attempt in 0..ATTEMPTS {
            match ask_to_join(server, source, device.identity(), device.key()).await? {
                Joined::Token(token) => return Ok(Member { id, token }),
                Joined::Later(wait) => tokio::time::sleep(wait).await,
                Joined::NotYet => bail!("device {index} is not let in although it was admitted"),
            }
        }
        bail!("device {index} was asked to come again {ATTEMPTS} times")
    });
    let members: Vec<Member> = members.buffered(JOINING_AT_ONCE).try_collect().await?;
    Ok(members.into())
}
