//! `mooring login` and `mooring logout`.

use super::operator::{Operator, OperatorArguments, TokenStore};

/// Logs in and keeps the token.
pub async fn log_in(arguments: &OperatorArguments) -> anyhow::Result<()> {
    let operator = Operator::log_in(arguments).await?;
    println!("logged in to {}", operator.base());
    Ok(())
}

/// Makes the kept token worthless and forgets it.
pub async fn log_out(arguments: &OperatorArguments) -> anyhow::Result<()> {
    let Some(operator) = Operator::with_kept_token(arguments)? else {
        println!("not logged in to {}", arguments.server);
        return Ok(());
    };
    operator.log_out().await?;
    TokenStore::of(operator.base())?.forget()?;
    println!("logged out of {}", operator.base());
    Ok(())
}
