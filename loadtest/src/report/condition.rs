//! `p99>50ms`: what a number of a report must not be.

use std::str::FromStr;

use anyhow::{Context, bail};
use serde_json::Value;

/// A condition under which a run has failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// As it was given.
    text: String,
    name: String,
    comparison: Comparison,
    limit: Limit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// Longer ones first, since they begin with the shorter ones.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
    ("=", Comparison::Equal),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    /// In the number's own unit.
    Plain(f64),
    Seconds(f64),
}

/// Units of time: how a condition writes them, how the names of numbers end that have them, and their seconds.
const UNITS: [(&str, &str, f64); 4] =
    [("us", "_us", 1e-6), ("µs", "_us", 1e-6), ("ms", "_ms", 1e-3), ("s", "_seconds", 1.0)];

impl FromStr for Condition {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let expected = || format!("expected a condition like p99>50ms in place of {text:?}");
        let at = text.find(['<', '>', '=', '!']).with_context(expected)?;
        let (name, rest) = text.split_at(at);
        let found = COMPARISONS.iter().find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?)));
        let (comparison, limit) = found.with_context(expected)?;
        let (name, limit) = (name.trim(), limit.trim());
        if name.is_empty() {
            bail!(expected());
        }
        let number_ends = limit.find(|c: char| c.is_alphabetic()).unwrap_or(limit.len());
        let (number, unit) = limit.split_at(number_ends);
        let number: f64 = number.trim().parse().ok().with_context(expected)?;
        let limit = match unit {
            "" => Limit::Plain(number),
            unit => {
                let seconds = UNITS.iter().find(|(written, ..)| *written == unit).with_context(expected)?.2;
                Limit::Seconds(number * seconds)
            }
        };
        Ok(Self { text: text.to_owned(), name: name.to_owned(), comparison, limit })
    }
}

impl Condition {
    /// Where it holds in this report, each as a sentence.
    ///
    /// # Errors
    /// When the report has no such number: a condition that can never hold guards nothing.
    pub fn violations(&self, report: &Value) -> anyhow::Result<Vec<String>> {
        let mut numbers = Vec::new();
        collect(report, "", &mut numbers);
        numbers.retain(|(path, _)| self.is_meant(path));
        if numbers.is_empty() {
            bail!("--fail-if {}: the report has no number {}", self.text, self.name);
        }
        let mut violations = Vec::new();
        for (path, number) in numbers {
            if self.holds(&path, number)? {
                violations.push(format!("{path} is {number} ({})", self.text));
            }
        }
        Ok(violations)
    }

    /// Whether this path ends in the name, at a dot, with or without the unit.
    fn is_meant(&self, path: &str) -> bool {
        let ends_in_name = |path: &str| {
            path.strip_suffix(self.name.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        ends_in_name(path) || ends_in_name(without_unit(path))
    }

    fn holds(&self, path: &str, number: f64) -> anyhow::Result<bool> {
        let (number, limit) = match self.limit {
            Limit::Plain(limit) => (number, limit),
            Limit::Seconds(limit) => {
                let unit = UNITS.iter().find(|(_, suffix, _)| path.ends_with(suffix));
                let unit = unit.with_context(|| format!("--fail-if {}: {path} is no time", self.text))?;
                (number * unit.2, limit)
            }
        };
        // Products of decimal fractions are a hair off what was written.
        let is_equal = (number - limit).abs() <= f64::EPSILON * number.abs().max(limit.abs());
        Ok(match self.comparison {
            Comparison::Less => number < limit && !is_equal,
            Comparison::LessOrEqual => number < limit || is_equal,
            Comparison::Greater => number > limit && !is_equal,
            Comparison::GreaterOrEqual => number > limit || is_equal,
            Comparison::Equal => is_equal,
            Comparison::NotEqual => !is_equal,
        })
    }
}

fn without_unit(path: &str) -> &str {
    UNITS.iter().find_map(|(_, suffix, _)| path.strip_suffix(suffix)).unwrap_or(path)
}

/// All numbers of a report under their paths; what is over time (`series`) and curves are for plots.
fn collect(value: &Value, path: &str, numbers: &mut Vec<(String, f64)>) {
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Number(number) => numbers.extend(number.as_f64().map(|number| (path.to_owned(), number))),
        Value::Object(members) => {
            for (name, member) in members.iter().filter(|(name, _)| *name != "series" && *name != "curve") {
                collect(member, &join(name), numbers);
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                collect(element, &join(&index.to_string()), numbers);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn violations(condition: &str) -> Vec<String> {
        let report = json!({
            "rate": 999.5, "connect_seconds": 12.5, "errors": {"429": 3},
            "answer": {"p99_us": 50_000, "p99_9_us": 60_000, "curve": [[99.0, 7]]}, "arrival": {"p99_us": 70_000},
            "rounds": [{"ratio": 2.5}, {"ratio": 3.5}], "series": [{"rate": 1}],
        });
        condition.parse::<Condition>().expect("a condition").violations(&report).expect("a number")
    }

    #[test]
    fn a_name_is_the_end_of_a_path_with_or_without_its_unit() {
        assert_eq!(violations("p99>60ms"), ["arrival.p99_us is 70000 (p99>60ms)"]);
        assert_eq!(violations("answer.p99>60ms"), [""; 0]);
        assert_eq!(violations("p99_us>1").len(), 2);
        assert_eq!(violations("p99_9 >= 60 ms"), ["answer.p99_9_us is 60000 (p99_9 >= 60 ms)"]);
        assert_eq!(violations("connect<13s"), ["connect_seconds is 12.5 (connect<13s)"]);
        assert_eq!(violations("errors.429>0"), ["errors.429 is 3 (errors.429>0)"]);
        assert_eq!(violations("ratio<3"), ["rounds.0.ratio is 2.5 (ratio<3)"]);
        assert_eq!(violations("rate<1000"), ["rate is 999.5 (rate<1000)"]);
    }

    #[test]
    fn every_comparison_means_what_it_says() {
        let holds = |comparison: &str| !violations(&format!("answer.p99{comparison}50ms")).is_empty();
        assert_eq!(["<", "<=", "=", ">=", ">", "!="].map(holds), [false, true, true, true, false, false]);
    }

    #[test]
    fn what_guards_nothing_is_an_error() {
        let report = json!({"rate": 1, "name": "x"});
        for wrong in ["name>1", "rat>1", "ate>1", "rate>1ms"] {
            assert!(wrong.parse::<Condition>().expect("a condition").violations(&report).is_err(), "{wrong}");
        }
        for wrong in ["", "p99", ">1", "p99>", "p99>x", "p99>1h", "p99!1"] {
            assert!(wrong.parse::<Condition>().is_err(), "{wrong}");
        }
    }
}
