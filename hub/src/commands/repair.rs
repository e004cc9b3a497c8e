//! `mooring repair`: makes what is derived from devices agree with them again.

use super::SettingsArguments;
use actors::{admission::Admission, credentials::Keyring, gate::Gate};
use anyhow::Context;
use std::sync::Arc;
use storage::Storage;

/// What to do about what is found.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only say what would be changed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    settings: SettingsArguments,
}

/// Looks at every device. A hub may run meanwhile.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = arguments.settings.load()?;
    let storage = Storage::open(&config.storage).await.context("cannot open the storage")?;
    let leaving = storage.devices.decommissioning().await?.len();
    if !arguments.dry_run && leaving > 0 {
        let keyring = Arc::new(Keyring::load(&storage.keys, &config.actors).await?);
        let gate = Gate::new(storage.devices.clone(), storage.users.clone(), keyring.clone(), &config.actors);
        // A device that is being removed has lost its access already.
        let admission = Admission::new(storage.devices.clone(), gate, keyring, Arc::new(|_event| ()), &config.actors);
        admission.resume().await.context("cannot finish removals that were interrupted")?;
    }
    let found = storage.devices.repair(arguments.dry_run).await;
    storage.close().await;
    let found = found.context("cannot repair the devices")?;
    let done = if arguments.dry_run { "to put right" } else { "put right" };
    println!("{} devices looked at", found.looked_at);
    println!("{leaving} removals that were interrupted {done}");
    println!("{} statuses {done}", found.statuses);
    println!("{} inventories {done}", found.inventories);
    println!("{} counts {done}", if found.counts { "wrong" } else { "no" });
    Ok(())
}
