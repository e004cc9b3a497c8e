//! `mooring forward`: ports of a device, or of what is near it, as ports of this machine.
//!
//! ```text
//! local program ─▶ local ─▶ tcp, udp ─▶ stream ─▶ tunnel ─▶ hub ─▶ device ─▶ its port
//! ```
//!
//! The local ports stay open when the way to the device is lost; the tunnel is built anew until that makes no sense any
//! more. Connections that were open then are lost, since the far end of each is.

mod local;
mod mapping;
mod openings;
mod peer;
mod status;
mod stream;
mod tcp;
mod tunnel;
mod udp;
mod wire;

use super::operator::{self, Backoff, Interrupts, Operator, Refused};
use anyhow::bail;
use local::Local;
use mapping::Mapping;
use status::Status;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use stream::Carried;
use tunnel::{NoTunnel, Tunnel};

/// A tunnel that lasted this long was a success: the next loss starts counting anew.
const LASTED: Duration = Duration::from_secs(20);

/// Shown under the options of `mooring forward --help`.
pub const EXAMPLES: &str = "Examples:
  mooring forward demo 8022:22                     ssh -p 8022 localhost reaches the device's sshd
  mooring forward demo 8080                        The device's port 8080 as the same port here
  mooring forward demo 0:5432                      Any free port here; its number is printed
  mooring forward demo 8080:camera.lan:80 8022:22  A host near the device, and a second port
  mooring forward demo udp/5353:53                 Datagrams
  mooring forward demo 0.0.0.0:8080:80             For other machines too

Without BIND only programs on this machine can connect; without HOST the device itself is meant. IPv6 addresses stand in
brackets.

When the connection to the hub or the device is lost, open connections break and new ones wait until it is back. The
protocol cannot pass on that a program has finished sending (`shutdown`, `nc -N`): such a program still gets everything
the device sends, until the far end closes. A datagram over 4,096 bytes is dropped.

Ctrl-C ends it with status 0. Status 1: the device is not connected, is unknown or does not forward ports; a local port is
taken; the hub no longer takes the token. Status 2: wrong usage.";

/// What to forward.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Its id, the beginning of its id, or a value of its identity such as its name or MAC address
    device: String,
    /// A local port and where it leads: [tcp|udp/][BIND:]LOCAL:[HOST:]REMOTE, or LOCAL for the same port
    #[arg(value_name = "MAPPING", required = true)]
    mappings: Vec<Mapping>,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

/// Forwards until it is interrupted, or until it makes no sense any more.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let operator = Operator::arrive(&arguments.operator).await?;
    let device = operator.find(&arguments.device).await?;
    let name = &arguments.device;
    let mut interrupts = Interrupts::catch()?;
    let carried = Arc::new(Carried::default());
    let opening = async {
        let tunnel = Tunnel::open(&operator, &device.id, &carried).await;
        anyhow::Ok((tunnel, Local::open(&arguments.mappings).await?))
    };
    let (opened, mut local) = tokio::select! {
        opened = opening => opened?,
        _ = interrupts.next() => return Ok(()),
    };
    let mut tunnel = match opened {
        Ok(tunnel) => tunnel,
        Err(NoTunnel::Refused(Refused::NotThere(_))) => bail!("{name} is not connected"),
        Err(NoTunnel::Refused(refused)) => return Err(refused.into()),
        Err(NoTunnel::Disabled(why) | NoTunnel::Lost(why)) => bail!("{name}: {why}"),
    };
    for port in &local.ports {
        let (target, protocol) = (port.mapping.target(name), port.mapping.protocol.name());
        println!("Forwarding {} → {target} ({protocol})", port.address);
    }
    let status = Status::new();
    let mut backoff = Backoff::default();
    loop {
        let opened = Instant::now();
        let why = tokio::select! {
            why = tunnel.serve(&mut local, &status) => why,
            _ = interrupts.next() => {
                tunnel.close().await;
                return Ok(());
            }
        };
        if opened.elapsed() > LASTED {
            backoff.worked();
        }
        let broken = match tunnel.break_connections().await {
            0 => String::new(),
            1 => ", and with it 1 connection".to_owned(),
            several => format!(", and with it {several} connections"),
        };
        status.say(&format!("the way to {name} is lost{broken}: {why}; connecting again"));
        tunnel = tokio::select! {
            tunnel = reconnect(&operator, &device.id, name, &mut backoff, &carried) => tunnel?,
            _ = interrupts.next() => return Ok(()),
        };
        status.say(&format!("connected to {name} again"));
    }
}

/// Tries until it works, or until it never will.
async fn reconnect(
    operator: &Operator,
    device: &str,
    name: &str,
    backoff: &mut Backoff,
    carried: &Arc<Carried>,
) -> anyhow::Result<Tunnel> {
    loop {
        tokio::time::sleep(backoff.next_wait()).await;
        match Tunnel::open(operator, device, carried).await {
            Ok(tunnel) => return Ok(tunnel),
            Err(NoTunnel::Refused(refused @ (Refused::NotLoggedIn | Refused::Pointless(_)))) => {
                return Err(refused.into());
            }
            Err(NoTunnel::Refused(Refused::NotThere(_))) => {
                // Away and unknown look alike here. A hub that cannot say has to be asked again.
                if let Ok(false) = operator.knows(device).await {
                    bail!("the hub no longer knows {name}");
                }
            }
            Err(NoTunnel::Disabled(why)) => bail!("{name}: {why}"),
            Err(NoTunnel::Refused(_) | NoTunnel::Lost(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests;
