//! Presence shared by several nodes, in Redis.
//!
//! Keys, all with one hash tag, so that a script may touch several of them in a Redis cluster too:
//!
//! | key | kind | holds |
//! |---|---|---|
//! | `{mooring}:routes` | hash | device id (16 bytes) → node id (16 bytes) and epoch (decimal) |
//! | `{mooring}:epoch` | text | the largest epoch given out |
//! | `{mooring}:node:<id>` | text, expiring | a node's lease |
//! | `{mooring}:count:<key>:<window>` | text, expiring | a counter |
//!
//! Epochs are compared as Lua numbers (doubles), which are exact up to 2^53: microseconds until the year 2255.
//!
//! The connection is one, multiplexed. When Redis goes away, calls fail within the time-outs, and each starts an
//! attempt to connect again, so they succeed as soon as it is back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo, RedisError, Script, ScriptInvocation};

use super::{Claim, Route};
use crate::{DeviceId, Epoch, NodeId, SecretUrl, StorageError, Timestamp};

const ROUTES: &str = "{mooring}:routes";
const HIGHEST_EPOCH: &str = "{mooring}:epoch";
const LEASE_PREFIX: &str = "{mooring}:node:";
const COUNTER_PREFIX: &str = "{mooring}:count:";

/// Devices announced or released in one script call: large enough to be quick, small enough not to hold Redis up.
const DEVICES_PER_CALL: usize = 1_000;

/// Bytes of an id in front of a route's epoch.
const ID_BYTES: usize = 16;

/// Makes a node the holder; returns the new epoch and the route before, if its node is alive.
const CLAIM: &str = r"
local highest = tonumber(redis.call('GET', KEYS[2]) or '0')
local before = redis.call('HGET', KEYS[1], ARGV[1])
local known = before and tonumber(string.sub(before, 17)) or 0
local epoch = string.format('%.0f', math.max(highest + 1, known + 1, tonumber(ARGV[3])))
redis.call('SET', KEYS[2], epoch)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. epoch)
if before and redis.call('EXISTS', ARGV[4] .. string.sub(before, 1, 16)) == 1 then
  return {epoch, before}
end
return {epoch}
";

/// Puts routes of one node, except where a larger epoch is known.
const ANNOUNCE: &str = r"
local highest = tonumber(redis.call('GET', KEYS[2]) or '0')
for i = 2, #ARGV, 2 do
  local epoch = tonumber(ARGV[i + 1])
  local before = redis.call('HGET', KEYS[1], ARGV[i])
  if not before or tonumber(string.sub(before, 17)) < epoch then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[1] .. ARGV[i + 1])
  end
  highest = math.max(highest, epoch)
end
redis.call('SET', KEYS[2], string.format('%.0f', highest))
return redis.status_reply('OK')
";

/// Removes routes that still have these epochs.
const RELEASE: &str = r"
for i = 1, #ARGV, 2 do
  local before = redis.call('HGET', KEYS[1], ARGV[i])
  if before and string.sub(before, 17) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return redis.status_reply('OK')
";

/// Returns a route whose node is alive.
const FIND: &str = r"
local route = redis.call('HGET', KEYS[1], ARGV[1])
if route and redis.call('EXISTS', ARGV[2] .. string.sub(route, 1, 16)) == 1 then
  return route
end
return false
";

/// Counts, and sets the end of the count with the first.
const INCREMENT: &str = r"
local count = redis.call('INCR', KEYS[1])
if count == 1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return count
";

/// Who is connected where, in Redis. Cloning gives another handle to the same connection.
#[derive(Clone)]
pub struct RedisPresence {
    connection: ConnectionManager,
    /// No call takes longer: connecting and answering have this much time each.
    patience: Duration,
    scripts: Arc<Scripts>,
}

struct Scripts {
    claim: Script,
    announce: Script,
    release: Script,
    find: Script,
    increment: Script,
}

impl fmt::Debug for RedisPresence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RedisPresence").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl RedisPresence {
    /// Connects, so that a wrong URL is noticed at once.
    pub(super) async fn open(url: &SecretUrl, timeout: Duration) -> Result<Self, StorageError> {
        let attempt = || format!("cannot open redis {url}");
        let server = url
            .expose()
            .into_connection_info()
            .map_err(|error| StorageError::other(attempt(), error))?
            // A server that vanished without a word is noticed by the kernel, or every call would wait for its answer.
            .set_tcp_settings(TcpSettings::default().set_nodelay(true).set_user_timeout(timeout * 2));
        let client = Client::open(server).map_err(|error| StorageError::other(attempt(), error))?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout))
            // The next call is the next attempt: calls that wait for retries would pile up.
            .set_number_of_retries(0);
        let connection = ConnectionManager::new_lazy_with_config(client, config)
            .map_err(|error| StorageError::other(attempt(), error))?;
        let scripts = Scripts {
            claim: Script::new(CLAIM),
            announce: Script::new(ANNOUNCE),
            release: Script::new(RELEASE),
            find: Script::new(FIND),
            increment: Script::new(INCREMENT),
        };
        let presence = Self { connection, patience: timeout * 2, scripts: Arc::new(scripts) };
        presence.ping().await.map_err(|error| match error {
            StorageError::Unavailable(cause) => StorageError::unavailable(attempt(), cause),
            other => StorageError::other(attempt(), other),
        })?;
        Ok(presence)
    }

    /// Whether Redis answers.
    pub(crate) async fn ping(&self) -> Result<(), StorageError> {
        self.run(&redis::cmd("PING")).await
    }

    pub(super) async fn renew(&self, node: NodeId, lease: Duration) -> Result<(), StorageError> {
        self.run(redis::cmd("SET").arg(lease_key(node)).arg("1").arg("PX").arg(milliseconds(lease))).await
    }

    pub(super) async fn leave(&self, node: NodeId) -> Result<(), StorageError> {
        self.run(redis::cmd("DEL").arg(lease_key(node))).await
    }

    pub(super) async fn is_alive(&self, node: NodeId) -> Result<bool, StorageError> {
        self.run(redis::cmd("EXISTS").arg(lease_key(node))).await
    }

    pub(super) async fn claim(&self, device: DeviceId, node: NodeId, now: Timestamp) -> Result<Claim, StorageError> {
        let mut call = self.scripts.claim.key(ROUTES);
        call.key(HIGHEST_EPOCH).arg(bytes(device.uuid())).arg(bytes(node.uuid())).arg(now.0).arg(LEASE_PREFIX);
        let (epoch, before): (String, Option<Vec<u8>>) = match self.invoke::<Vec<Vec<u8>>>(&call).await?.as_slice() {
            [epoch] => (text(epoch), None),
            [epoch, before] => (text(epoch), Some(before.clone())),
            _ => return Err(unexpected()),
        };
        Ok(Claim {
            epoch: Epoch(epoch.parse().map_err(|_| unexpected())?),
            displaced: before.as_deref().map(route).transpose()?,
        })
    }

    pub(super) async fn announce(&self, node: NodeId, held: &[(DeviceId, Epoch)]) -> Result<(), StorageError> {
        for part in held.chunks(DEVICES_PER_CALL) {
            let mut call = self.scripts.announce.key(ROUTES);
            call.key(HIGHEST_EPOCH).arg(bytes(node.uuid()));
            for (device, epoch) in part {
                call.arg(bytes(device.uuid())).arg(epoch.0);
            }
            self.invoke::<()>(&call).await?;
        }
        Ok(())
    }

    pub(super) async fn release(&self, ended: &[(DeviceId, Epoch)]) -> Result<(), StorageError> {
        for part in ended.chunks(DEVICES_PER_CALL) {
            let mut call = self.scripts.release.key(ROUTES);
            for (device, epoch) in part {
                call.arg(bytes(device.uuid())).arg(epoch.0);
            }
            self.invoke::<()>(&call).await?;
        }
        Ok(())
    }

    pub(super) async fn find(&self, device: DeviceId) -> Result<Option<Route>, StorageError> {
        let mut call = self.scripts.find.key(ROUTES);
        call.arg(bytes(device.uuid())).arg(LEASE_PREFIX);
        let found: Option<Vec<u8>> = self.invoke(&call).await?;
        found.as_deref().map(route).transpose()
    }

    pub(super) async fn increment(&self, key: &str, window: u64, expires_in: Duration) -> Result<u64, StorageError> {
        let mut call = self.scripts.increment.key(format!("{COUNTER_PREFIX}{key}:{window}"));
        call.arg(milliseconds(expires_in));
        self.invoke(&call).await
    }

    async fn run<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, StorageError> {
        let mut connection = self.connection.clone();
        self.patiently(command.query_async(&mut connection)).await
    }

    async fn invoke<T: redis::FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, StorageError> {
        let mut connection = self.connection.clone();
        self.patiently(call.invoke_async(&mut connection)).await
    }

    /// Bounds a call as a whole: connecting, the script's loading and its answer each have their own time-out.
    async fn patiently<T>(&self, call: impl Future<Output = Result<T, RedisError>>) -> Result<T, StorageError> {
        match tokio::time::timeout(self.patience, call).await {
            Ok(answer) => answer.map_err(failed),
            Err(late) => Err(StorageError::unavailable("redis did not answer in time", late)),
        }
    }
}

/// A Redis that refuses a command (loading its data, out of memory, a replica that takes no writes) is as unavailable
/// as one that is gone; one that does not understand us is our mistake.
fn failed(error: RedisError) -> StorageError {
    use redis::{ErrorKind, ServerErrorKind};
    match error.kind() {
        ErrorKind::Parse
        | ErrorKind::UnexpectedReturnType
        | ErrorKind::InvalidClientConfig
        | ErrorKind::AuthenticationFailed
        | ErrorKind::Server(ServerErrorKind::ResponseError) => StorageError::Other(Box::new(error)),
        _ => StorageError::Unavailable(Box::new(error)),
    }
}

fn unexpected() -> StorageError {
    StorageError::Corrupt("a route in redis".to_owned())
}

fn lease_key(node: NodeId) -> Vec<u8> {
    [LEASE_PREFIX.as_bytes(), node.uuid().as_bytes()].concat()
}

fn bytes(id: uuid::Uuid) -> Vec<u8> {
    id.into_bytes().to_vec()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Redis refuses an expiry of nothing.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::from(u32::MAX)).max(1)
}

fn route(stored: &[u8]) -> Result<Route, StorageError> {
    let (node, epoch) = stored.split_at_checked(ID_BYTES).ok_or_else(unexpected)?;
    let node = uuid::Uuid::from_slice(node).map_err(|_| unexpected())?;
    Ok(Route { node: NodeId::from_uuid(node), epoch: Epoch(text(epoch).parse().map_err(|_| unexpected())?) })
}
