//! The fleet at a glance: which attributes there are, and how many devices by status and tier.

use super::Inventory;
use crate::StorageError;
use crate::database::on_reader;

/// An attribute that some devices have.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct KnownAttribute {
    /// Its scope.
    pub scope: String,
    /// Its name.
    pub name: String,
    /// How many devices have it.
    #[sqlx(try_from = "i64")]
    pub devices: u64,
}

/// Devices by tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TierCounts {
    /// Those that say nothing else.
    pub standard: u64,
    /// Micro-controllers.
    pub micro: u64,
    /// Gateways with the devices behind them.
    pub system: u64,
}

/// Devices by status and tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Accepted ones.
    pub accepted: TierCounts,
    /// Ones that wait for a decision.
    pub pending: TierCounts,
}

impl Inventory {
    /// The attributes that the most devices have, those first; then by scope and name.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn known_attributes(&self, limit: u32) -> Result<Vec<KnownAttribute>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT scope, name, devices FROM inventory_attributes WHERE devices > 0 \
                 ORDER BY devices DESC, scope, name LIMIT $1",
            )
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
        })
    }

    /// How many devices there are.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn statistics(&self) -> Result<Statistics, StorageError> {
        let rows: Vec<(String, String, i64)> = on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT status, tier, CAST(SUM(devices) AS BIGINT) FROM inventory_counts \
                 WHERE status IN ('accepted', 'pending') GROUP BY status, tier",
            )
            .fetch_all(pool)
            .await
        })?;
        let mut statistics = Statistics::default();
        for (status, tier, devices) in rows {
            let by_tier = if status == "accepted" { &mut statistics.accepted } else { &mut statistics.pending };
            let count = match tier.as_str() {
                "micro" => &mut by_tier.micro,
                "system" => &mut by_tier.system,
                _ => &mut by_tier.standard,
            };
            *count += u64::try_from(devices).unwrap_or(0);
        }
        Ok(statistics)
    }
}
