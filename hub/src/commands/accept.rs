//! `mooring accept`: lets a device in.

use super::operator::{self, Operator};
use anyhow::bail;

/// Which device.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Its id, the beginning of its id, or a value of its identity such as its name or MAC address
    device: String,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

/// Accepts the key the device waits with.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let operator = Operator::arrive(&arguments.operator).await?;
    let device = operator.find(&arguments.device).await?;
    let with_status = |status: &str| device.auth_sets.iter().filter(|set| set.status == status).collect::<Vec<_>>();
    let waiting = match with_status("pending") {
        none if none.is_empty() => with_status("rejected"),
        pending => pending,
    };
    match waiting.as_slice() {
        [set] => operator.accept(&device.id, &set.id).await?,
        [] if device.status == "accepted" => {
            println!("{} is accepted already", device.id);
            return Ok(());
        }
        [] => bail!("{} shows no key that could be accepted (status {})", device.id, device.status),
        several => bail!(
            "{} waits with {} different keys; somebody may be posing as it, so choose one in the web UI or over the API",
            device.id,
            several.len()
        ),
    }
    println!("{} accepted ({})", device.id, device.identity_line());
    Ok(())
}
