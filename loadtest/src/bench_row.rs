//! A row of the table of budgets: what a hub takes for something, against what nobody can save.

use serde::Serialize;

use crate::comparison::Range;

/// What a ratio, or a figure of the hub alone, must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// No more than this.
    AtMost(f64),
    /// No less.
    AtLeast(f64),
    /// Printed to be looked at; on a shared machine it says too little to be judged.
    Shown,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What is measured.
    pub name: String,
    /// Of the figures of hub and floor.
    pub unit: &'static str,
    /// What the ratio (without a floor: the hub's figure) should be.
    pub budget: String,
    /// The hub's figure.
    pub hub: Range,
    /// The floor's.
    pub floor: Option<Range>,
    /// Hub to floor, round by round.
    pub ratio: Option<Range>,
    /// Whether the median is within the budget; nothing where there is none.
    pub met: Option<bool>,
    /// Every round: hub, and floor.
    pub rounds: Vec<(f64, Option<f64>)>,
}

impl Row {
    /// Of rounds of hub and floor, side by side; `None` if there were none.
    pub fn compared(name: &str, unit: &'static str, budget: Budget, rounds: &[(f64, f64)]) -> Option<Self> {
        let column = |of: fn(&(f64, f64)) -> f64| Range::of(&rounds.iter().map(of).collect::<Vec<_>>());
        let ratio = column(|(hub, floor)| hub / floor.max(f64::MIN_POSITIVE))?;
        Some(Self {
            name: name.to_owned(),
            unit,
            budget: budget.text("×"),
            hub: column(|round| round.0)?,
            floor: column(|round| round.1),
            ratio: Some(ratio),
            met: budget.is_met(ratio.median),
            rounds: rounds.iter().map(|(hub, floor)| (*hub, Some(*floor))).collect(),
        })
    }

    /// Of rounds of the hub alone.
    pub fn alone(name: &str, unit: &'static str, budget: Budget, rounds: &[f64]) -> Option<Self> {
        let hub = Range::of(rounds)?;
        Some(Self {
            name: name.to_owned(),
            unit,
            budget: budget.text(&format!(" {unit}")),
            hub,
            floor: None,
            ratio: None,
            met: budget.is_met(hub.median),
            rounds: rounds.iter().map(|round| (*round, None)).collect(),
        })
    }

    /// For people.
    pub fn print(&self) {
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "NOT met",
            None => "shown",
        };
        let judged = self.ratio.unwrap_or(self.hub);
        let what = if self.ratio.is_some() { "ratio " } else { "" };
        let floor = self.floor.map_or_else(String::new, |floor| format!(", floor {floor}"));
        eprintln!("{}", self.name);
        eprintln!("  {what}{judged}, budget {} — {met}; hub {}{floor} {}", self.budget, self.hub, self.unit);
    }
}

impl Budget {
    fn is_met(self, number: f64) -> Option<bool> {
        match self {
            Self::AtMost(limit) => Some(number <= limit),
            Self::AtLeast(limit) => Some(number >= limit),
            Self::Shown => None,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {limit}{unit}"),
            Self::AtLeast(limit) => format!("≥ {limit}{unit}"),
            Self::Shown => "none".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_judged_by_its_median_ratio() {
        let rounds = [(30.0, 10.0), (20.0, 10.0), (10.0, 10.0)];
        let row = |budget| Row::compared("x", "µs", budget, &rounds).expect("a row");
        assert_eq!(row(Budget::AtMost(2.0)).ratio, Some(Range { median: 2.0, min: 1.0, max: 3.0 }));
        let met = [Budget::AtMost(2.0), Budget::AtMost(1.9), Budget::AtLeast(2.0), Budget::AtLeast(2.1), Budget::Shown];
        assert_eq!(met.map(|budget| row(budget).met), [Some(true), Some(false), Some(true), Some(false), None]);
    }

    #[test]
    fn a_row_without_a_floor_is_judged_by_the_hub_s_figure() {
        let row = Row::alone("x", "kB", Budget::AtMost(4.0), &[3.0, 5.0, 3.5]).expect("a row");
        assert_eq!((row.met, row.budget.as_str(), row.ratio), (Some(true), "≤ 4 kB", None));
        assert_eq!(Row::alone("x", "kB", Budget::Shown, &[]), None);
    }
}
