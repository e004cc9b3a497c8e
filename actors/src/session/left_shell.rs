//! Shells whose session ended while their device was away, or that were told to stop when its connection was about to end.
//!
//! Agents let a user have one shell at a time, and end one that nobody wants only when a minute has passed in which nobody
//! answered it. Until then whoever wanted another would be refused. So the agent is told as soon as its device is back.

use std::time::Duration;

use storage::{DeviceId, SessionId, UserId};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::host::Parts;
use super::{Binding, HostEnd, HostSays, Open, Resume};

/// Shells of one node that wait for their devices; of more than that, agents find out by themselves.
pub(crate) const WAITING_LIMIT: usize = 4096;

/// How long a device is waited for. Later the agent speaks first, and is told to stop then.
const LIMIT: Duration = Duration::from_mins(2);

/// How often the device is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells the device's agent to stop the shell, once the device is back. `binding` is the session's last.
pub(super) fn stop_when_back(parts: &Parts, device: DeviceId, session: SessionId, user: UserId, binding: Binding) {
    // A thread that ends takes its devices along; nobody is there to wait for them.
    let Ok(runtime) = Handle::try_current() else { return };
    let Some(place) = parts.registry.place_for_left_shell() else {
        debug!(session.id = %session, "too many shells wait for their devices");
        return;
    };
    let (reach, bus) = (parts.reach.clone(), parts.bus.clone());
    runtime.spawn(async move {
        let _place = place;
        let until = Instant::now() + LIMIT;
        while Instant::now() < until {
            sleep(LOOK_EVERY).await;
            let Ok(found) = reach.find(device).await else { continue };
            let end = found.into_end(device);
            // The session goes on with the device, only to be over: a session that ends stops its shell.
            let resume = Some(Resume { shell: true, output: 0, input: 0, received: None });
            let open = Open { user: user.clone(), kept: false, resume, host: HostEnd::There(bus.node()) };
            let told = [HostSays::Open(open), HostSays::HangUp]
                .into_iter()
                .all(|says| end.send(&bus, session, binding.next(), says).is_ok());
            if told {
                debug!(session.id = %session, device.id = %device, "a shell that was left behind is stopped");
                return;
            }
        }
    });
}
