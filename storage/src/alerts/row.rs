//! Alerts as rows.

use super::{Alert, AlertLevel, Details, NewAlert};
use crate::{AlertId, DeviceId, StorageError, Timestamp};

/// The columns of an [`AlertRow`], of a table that is called `a`.
macro_rules! alert_columns {
    () => {
        "a.id, a.device, a.name, a.level, a.subject_type, a.subject_name, a.status, a.details, a.at, a.received"
    };
}

pub(super) use alert_columns;

/// An alert as the database returns it.
#[derive(sqlx::FromRow)]
pub(super) struct AlertRow {
    id: AlertId,
    device: DeviceId,
    name: String,
    level: String,
    subject_type: String,
    subject_name: String,
    status: String,
    details: Option<String>,
    at: Timestamp,
    received: Timestamp,
}

impl TryFrom<AlertRow> for Alert {
    type Error = StorageError;

    fn try_from(row: AlertRow) -> Result<Self, StorageError> {
        let id = row.id;
        let corrupt = |what| StorageError::Corrupt(format!("{what} of alert {id}"));
        let details = row.details.map(|text| Details::read(text).ok_or_else(|| corrupt("details"))).transpose()?;
        Ok(Self {
            said: NewAlert {
                level: AlertLevel::named(&row.level).ok_or_else(|| corrupt("level"))?,
                name: row.name,
                subject_type: row.subject_type,
                subject_name: row.subject_name,
                status: row.status,
                details,
                at: row.at,
            },
            id,
            device: row.device,
            received: row.received,
        })
    }
}

pub(super) fn alerts(rows: Vec<AlertRow>) -> Result<Vec<Alert>, StorageError> {
    rows.into_iter().map(TryInto::try_into).collect()
}
