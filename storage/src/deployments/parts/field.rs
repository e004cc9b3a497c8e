//! What can be asked about a device's part in a deployment, and how conditions on it become SQL.

use crate::deployments::{DeploymentKind, DeviceState};
use crate::inventory::filter::{BadFilter, Comparison, Condition, Test};
use crate::inventory::statement::Statement;

/// What is known about a device's part in a deployment, by its name on the wire. (Mender API: reporting.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartField {
    name: &'static str,
    column: Column,
}

/// Where the tables keep it: `r` is the part, `d` its deployment, `a` the artifact, `p` the phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Text {
        table: &'static str,
        column: &'static str,
    },
    /// A list of texts: the document, and the name of its member that is the list.
    Texts {
        table: &'static str,
        document: &'static str,
        member: Option<&'static str>,
    },
    Id(&'static str),
    Number(&'static str),
    Boolean(&'static str),
    /// Microseconds since the Unix epoch; asked about in whole milliseconds, as it is shown.
    Time(&'static str),
    /// Where the device stands, kept as a number and asked about by its word.
    Status,
}

const fn text(name: &'static str, table: &'static str, column: &'static str) -> PartField {
    PartField { name, column: Column::Text { table, column } }
}

const fn field(name: &'static str, column: Column) -> PartField {
    PartField { name, column }
}

const FIELDS: &[PartField] = &[
    field("id", Column::Id("r.id")),
    field("deployment_id", Column::Id("r.deployment")),
    field("deployment_phase_id", Column::Id("p.id")),
    field("image_id", Column::Id("a.id")),
    text("device_id", "device_deployments r", "r.device"),
    text("deployment_name", "deployments d", "d.name"),
    text("deployment_artifact_name", "deployments d", "d.artifact_name"),
    text("deployment_type", "deployments d", "d.kind"),
    text("image_description", "deployed_artifacts a", "a.description"),
    text("image_artifact_name", "deployed_artifacts a", "a.name"),
    field("deployment_groups", Column::Texts { table: "deployments d", document: "d.target_groups", member: None }),
    field(
        "image_device_types",
        Column::Texts { table: "deployed_artifacts a", document: "a.document", member: Some("device_types") },
    ),
    field("device_status", Column::Status),
    field("deployment_force_installation", Column::Boolean("d.forced")),
    field("deployment_phased", Column::Boolean(super::IS_PHASED)),
    field("device_is_log_available", Column::Boolean("r.has_log")),
    field("deployment_created", Column::Time("d.created")),
    field("device_created", Column::Time("r.created")),
    field("device_finished", Column::Time("r.finished")),
    field("device_deleted", Column::Time("r.deleted")),
    field("device_elapsed_seconds", Column::Number("((r.finished - r.created) / 1000000)")),
    field("deployment_retries", Column::Number("d.retries")),
    field("device_retries", Column::Number("d.retries")),
    field("device_attempts", Column::Number("r.attempts")),
    field("deployment_max_devices", Column::Number("d.max_devices")),
    field("image_size", Column::Number("a.size")),
];

impl PartField {
    /// The field of this name.
    ///
    /// # Errors
    /// If there is none, or it is only shown.
    pub fn named(name: &str) -> Result<Self, BadFilter> {
        let refused = || BadFilter(format!("attribute: {name:?} cannot be asked about"));
        if name.is_empty() {
            return Err(BadFilter("attribute: cannot be blank.".to_owned()));
        }
        FIELDS.iter().find(|field| field.name == name).copied().ok_or_else(refused)
    }

    /// One condition on a field as the wire has it.
    ///
    /// # Errors
    /// What is wrong with it, in words for whoever sent it.
    pub fn condition(name: &str, operator: &str, value: &serde_json::Value) -> Result<Condition, BadFilter> {
        let field = Self::named(name)?;
        let condition = Condition::of_field(name, matches!(field.column, Column::Time(_)), operator, value)?;
        match (field.column, &condition.test) {
            (Column::Id(_) | Column::Boolean(_), Test::Compares(..)) => {
                Err(BadFilter(format!("type: {name} is equal to another or not, and neither more nor less")))
            }
            _ => Ok(condition),
        }
    }

    /// Whether parts have an order by it.
    pub(super) const fn is_sortable(self) -> bool {
        !matches!(self.column, Column::Texts { .. })
    }

    pub(super) const fn column(self) -> Column {
        self.column
    }

    /// A key of an `ORDER BY`. Parts without it come first in ascending order.
    pub(super) fn write_order(self, is_descending: bool, statement: &mut Statement) {
        let by_bytes = statement.dialect.by_bytes();
        match self.column {
            Column::Text { column, .. } => {
                statement.push(column).push(by_bytes);
            }
            Column::Status => {
                statement.push("CASE r.status");
                let mut states = DeviceState::ALL;
                states.sort_by_key(|state| state.as_str());
                for (place, state) in states.into_iter().enumerate() {
                    statement.push(&format!(" WHEN {} THEN {place}", state.number()));
                }
                statement.push(" END");
            }
            Column::Id(column) | Column::Number(column) | Column::Boolean(column) | Column::Time(column) => {
                statement.push(column);
            }
            Column::Texts { document, .. } => {
                statement.push(document);
            }
        }
        statement.push(if is_descending { " DESC NULLS LAST" } else { " ASC NULLS FIRST" });
    }
}

/// A condition, and for an expression the texts that it matches.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) column: Column,
    pub(super) test: &'a Test,
    pub(super) matching: Vec<String>,
}

impl Asked<'_> {
    /// Adds the condition; it is never unknown.
    pub(super) fn write(&self, statement: &mut Statement) {
        match self.test {
            Test::OneOf(values) => self.one_of(values, statement),
            Test::NoneOf(values) => {
                statement.push("NOT ");
                self.one_of(values, statement);
            }
            Test::Matches(_) => {
                let texts: Vec<_> = self.matching.iter().cloned().map(serde_json::Value::String).collect();
                self.one_of(&texts, statement);
            }
            Test::Compares(comparison, value) => self.compares(*comparison, value, statement),
            Test::LessOrMissing(value) => {
                statement.push("(");
                self.exists(false, statement);
                statement.push(" OR ");
                self.compares(Comparison::Less, value, statement);
                statement.push(")");
            }
            Test::Exists(exists) => self.exists(*exists, statement),
        }
    }

    fn one_of(&self, values: &[serde_json::Value], statement: &mut Statement) {
        let texts = || values.iter().filter_map(|value| value.as_str().map(str::to_owned));
        let mark = statement.text.len();
        statement.push("COALESCE(");
        let bound = statement.arguments.len();
        match self.column {
            Column::Text { column, .. } => {
                statement.push(column).push(" IN (").bind_all(texts());
            }
            Column::Texts { .. } => {
                self.begin_elements(statement);
                statement.push("e.value IN (").bind_all(texts()).push(")");
            }
            Column::Id(column) => {
                let ids = texts().filter_map(|text| text.parse::<crate::DeviceId>().ok());
                statement.push(column).push(" IN (").bind_all(ids);
            }
            Column::Number(column) => {
                statement.push(column).push(" IN (").bind_all(values.iter().filter_map(serde_json::Value::as_f64));
            }
            Column::Time(column) => {
                write_millis(column, statement);
                statement.push(" IN (").bind_all(values.iter().filter_map(serde_json::Value::as_i64));
            }
            Column::Status => {
                let states = texts().filter_map(|text| text.parse::<DeviceState>().ok());
                statement.push("r.status IN (").bind_all(states.map(DeviceState::number));
            }
            Column::Boolean(column) => {
                let wanted = |wanted: bool| values.contains(&serde_json::Value::Bool(wanted));
                let condition = match (wanted(true), wanted(false)) {
                    (true, true) => "TRUE".to_owned(),
                    (true, false) => format!("{column} = TRUE"),
                    (false, true) => format!("{column} = FALSE"),
                    (false, false) => "FALSE".to_owned(),
                };
                statement.push(&condition).push(", FALSE)");
                return;
            }
        }
        // A list of nothing is not SQL.
        if statement.arguments.len() == bound {
            statement.text.truncate(mark);
            statement.push("FALSE");
        } else {
            statement.push("), FALSE)");
        }
    }

    fn compares(&self, comparison: Comparison, value: &serde_json::Value, statement: &mut Statement) {
        let bytes = statement.dialect.by_bytes();
        match (self.column, value) {
            (Column::Text { column, .. }, serde_json::Value::String(text)) => {
                statement.push("COALESCE(").push(column).push(bytes).push(comparison.symbol());
                statement.bind(text.clone()).push(", FALSE)");
            }
            (Column::Texts { .. }, serde_json::Value::String(text)) => {
                self.begin_elements(statement);
                statement.push("e.value").push(bytes).push(comparison.symbol()).bind(text.clone()).push(")");
            }
            (Column::Number(column), serde_json::Value::Number(number)) => {
                statement.push("COALESCE(").push(column).push(comparison.symbol());
                statement.bind(number.as_f64().unwrap_or_default()).push(", FALSE)");
            }
            (Column::Time(column), serde_json::Value::Number(at)) => {
                statement.push("COALESCE(");
                write_millis(column, statement);
                statement.push(comparison.symbol()).bind(at.as_i64().unwrap_or_default()).push(", FALSE)");
            }
            (Column::Status, serde_json::Value::String(word)) => {
                let compare = |state: &DeviceState| comparison.wanted().contains(&state.as_str().cmp(word.as_str()));
                let words: Vec<_> = DeviceState::ALL.into_iter().filter(compare).collect();
                let words: Vec<_> = words.into_iter().map(|state| serde_json::Value::from(state.as_str())).collect();
                self.one_of(&words, statement);
            }
            _ => {
                statement.push("FALSE");
            }
        }
    }

    fn exists(&self, exists: bool, statement: &mut Statement) {
        match self.column {
            Column::Texts { .. } => {
                statement.push(if exists { "" } else { "NOT " });
                self.begin_elements(statement);
                statement.push("TRUE)");
            }
            Column::Status => {
                statement.push(if exists { "TRUE" } else { "FALSE" });
            }
            Column::Text { column, .. }
            | Column::Id(column)
            | Column::Number(column)
            | Column::Boolean(column)
            | Column::Time(column) => {
                statement.push(column).push(if exists { " IS NOT NULL" } else { " IS NULL" });
            }
        }
    }

    /// Begins a question about the elements of a list, each of which is `e.value`; a parenthesis ends it.
    fn begin_elements(&self, statement: &mut Statement) {
        let Column::Texts { document, member, .. } = self.column else { return };
        let elements = statement.dialect.elements("e", document, member);
        statement.push("EXISTS (SELECT 1 FROM ").push(&elements).push(" WHERE ");
    }
}

fn write_millis(column: &str, statement: &mut Statement) {
    statement.push("(").push(column).push(" - ").push(column).push(" % 1000)");
}

/// Words that a text may be and that no table has to be asked for.
pub(super) fn known_words(column: Column) -> Option<Vec<&'static str>> {
    match column {
        Column::Status => Some(DeviceState::ALL.map(DeviceState::as_str).to_vec()),
        Column::Text { column: "d.kind", .. } => {
            Some([DeploymentKind::Software, DeploymentKind::Configuration].map(DeploymentKind::as_str).to_vec())
        }
        _ => None,
    }
}
