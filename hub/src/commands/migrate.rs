//! `mooring migrate`: the database's schema, for those who want it changed before the first new hub starts.

use super::SettingsArguments;
use storage::Storage;

/// Brings the database to this version's schema.
pub async fn run(settings: &SettingsArguments) -> anyhow::Result<()> {
    let config = settings.load()?;
    Storage::migrate(&config.storage).await?;
    println!("{} is up to date", storage::config::without_password(&config.storage.database_url));
    Ok(())
}
