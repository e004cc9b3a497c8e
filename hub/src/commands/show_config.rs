//! `mooring config show`: what is in force, and why.

use super::ServeArguments;
use crate::config;

/// Prints the effective settings in the form of a settings file.
pub fn run(arguments: &ServeArguments) -> anyhow::Result<()> {
    print!("{}", config::show(&arguments.sources())?);
    Ok(())
}
