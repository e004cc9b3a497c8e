//! Rules by which the hub raises alerts itself: a device that is away for too long, a number beyond its bound.
//!
//! What a rule has found is remembered as its subject being open at the device, like any other alert, so nothing is lost
//! when this service dies or another node goes on: a rule that is due is taken by whichever node asks first. A rule that is
//! switched off or removed closes what it had opened. A node looks at one rule at a time and keeps it from others page by
//! page, by which it hears when the rule is not any more as it was.

use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use futures_util::future::join_all;
use serde_json::json;
use storage::alert_rules::SUBJECT_TYPE;
use storage::{
    AlertLevel, AlertRule, AlertRules, Alerts, Comparison, Condition, DeviceId, NewAlert, RuleState, Storage,
    StorageError, Timestamp, clock,
};
use tracing::{debug, warn};

use crate::monitor::{Monitor, ReportError};
use crate::supervisor::{Alive, Crash};

/// Devices looked at together.
const PAGE: u32 = 500;

/// What was reported this long before a rule looked last is looked at again: its transaction may have taken so long, and
/// the clocks of nodes differ.
const OVERLAP: Duration = Duration::from_mins(1);

/// The service that looks at rules.
pub struct RuleWatcher {
    parts: Parts,
    is_looking: bool,
    _alive: Alive,
}

#[derive(Clone)]
struct Parts {
    rules: AlertRules,
    alerts: Alerts,
    monitor: Monitor,
    /// How often a rule is looked at.
    period: Duration,
}

impl RuleWatcher {
    /// Looks at the rules in `storage` and has `monitor` raise their alerts.
    pub fn new(storage: &Storage, monitor: Monitor, period: Duration, alive: Alive) -> Self {
        Self { parts: Parts::new(storage, monitor, period), is_looking: false, _alive: alive }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_looking, true) {
            return;
        }
        let parts = self.parts.clone();
        ctx.spawn(async move { parts.look().await }.into_actor(self).map(|looked, this, _| {
            this.is_looking = false;
            if let Err(error) = looked {
                warn!(%error, "rules of alerts cannot be looked at and will be later");
            }
        }));
    }
}

impl Parts {
    fn new(storage: &Storage, monitor: Monitor, period: Duration) -> Self {
        Self { rules: storage.alert_rules.clone(), alerts: storage.alerts.clone(), monitor, period }
    }

    /// Looks at every rule that is due now. One that cannot be looked at, or read, does not keep the others waiting.
    async fn look(&self) -> Result<(), StorageError> {
        let due = clock::now();
        loop {
            let now = clock::now();
            let rule = match self.rules.take_due(due, now.plus(self.period)).await {
                Ok(Some(rule)) => rule,
                Ok(None) => return Ok(()),
                Err(error @ StorageError::Corrupt(_)) => {
                    warn!(%error, "a rule of alerts cannot be read");
                    continue;
                }
                Err(error) => return Err(error),
            };
            match self.apply(&rule, now).await {
                Ok(0) => {}
                Ok(raised) => debug!(rule = %rule.id, raised, "a rule has raised or closed alerts"),
                Err(error) => warn!(%error, rule = %rule.id, "a rule was not wholly looked at and will be next time"),
            }
        }
    }

    /// Raises and closes what a rule calls for; says how many.
    async fn apply(&self, rule: &AlertRule, now: Timestamp) -> Result<usize, ReportError> {
        if rule.state != RuleState::Active {
            let closed = self.close_all(rule).await?;
            self.rules.settle(rule).await?;
            return Ok(closed);
        }
        match &rule.condition {
            Condition::Offline { lasting, clear_after } => self.apply_offline(rule, *lasting, *clear_after, now).await,
            Condition::Attribute { attribute, .. } => self.apply_attribute(rule, attribute, now).await,
        }
    }

    async fn apply_offline(
        &self,
        rule: &AlertRule,
        lasting: Duration,
        clear_after: Duration,
        now: Timestamp,
    ) -> Result<usize, ReportError> {
        let (away_since, back_since) = (now.minus(lasting), now.minus(clear_after));
        let (mut count, mut after) = (0, None);
        loop {
            let devices = self.rules.offline_since(rule, away_since, after, PAGE).await?;
            self.report(devices.iter().map(|device| (*device, alert(rule, true, None)))).await?;
            count += devices.len();
            if !self.holds(rule, &devices, &devices).await? {
                return Ok(count);
            }
            after = devices.last().copied();
            if devices.len() < PAGE as usize {
                break;
            }
        }
        after = None;
        loop {
            let devices = self.rules.back_since(rule, back_since, away_since, after, PAGE).await?;
            self.report(devices.iter().map(|device| (*device, alert(rule, false, None)))).await?;
            count += devices.len();
            after = devices.last().copied();
            if !self.holds(rule, &devices, &[]).await? || devices.len() < PAGE as usize {
                return Ok(count);
            }
        }
    }

    async fn apply_attribute(&self, rule: &AlertRule, attribute: &str, now: Timestamp) -> Result<usize, ReportError> {
        let since = rule.evaluated.map(|at| at.minus(OVERLAP));
        let (mut count, mut after) = (0, None);
        loop {
            let numbers = self.rules.numbers(attribute, since, after, PAGE).await?;
            let devices: Vec<DeviceId> = numbers.iter().map(|(device, _)| *device).collect();
            let broken = self.rules.broken_by(rule, &devices).await?;
            let (mut changes, mut raised) = (Vec::new(), Vec::new());
            for (device, number) in numbers {
                let was_broken = broken.contains(&device);
                let is_broken = match number {
                    Some(number) => rule.condition.judge(number, was_broken),
                    // What is not said any more cannot be wrong.
                    None => was_broken.then_some(false),
                };
                let Some(is_broken) = is_broken else { continue };
                changes.push((device, alert(rule, is_broken, number)));
                if is_broken {
                    raised.push(device);
                }
            }
            count += changes.len();
            self.report(changes.into_iter()).await?;
            if !self.holds(rule, &devices, &raised).await? {
                return Ok(count);
            }
            after = devices.last().copied();
            if devices.len() < PAGE as usize {
                break;
            }
        }
        self.rules.note_evaluated(rule, now).await?;
        Ok(count)
    }

    async fn close_all(&self, rule: &AlertRule) -> Result<usize, ReportError> {
        let (mut count, mut after) = (0, None);
        loop {
            let devices = self.alerts.devices_with_open(SUBJECT_TYPE, &rule.name, after, PAGE).await?;
            self.report(devices.iter().map(|device| (*device, alert(rule, false, None)))).await?;
            count += devices.len();
            after = devices.last().copied();
            if !self.holds(rule, &devices, &[]).await? || devices.len() < PAGE as usize {
                return Ok(count);
            }
        }
    }

    /// Keeps a rule from others, after a page of devices; `false` if it is not any more as it was taken. If nobody looks
    /// at it now, its alerts of the devices in `raised` are closed: whoever switched it off may have come before them.
    async fn holds(&self, rule: &AlertRule, page: &[DeviceId], raised: &[DeviceId]) -> Result<bool, ReportError> {
        if page.is_empty() || self.rules.hold(rule, clock::now().plus(self.period)).await? {
            return Ok(true);
        }
        let is_active = self.rules.find(rule.id).await?.is_some_and(|rule| rule.state == RuleState::Active);
        if !is_active {
            self.report(raised.iter().map(|device| (*device, alert(rule, false, None)))).await?;
        }
        Ok(false)
    }

    /// Has alerts stored, all together. A device that has gone meanwhile needs none.
    async fn report(&self, alerts: impl Iterator<Item = (DeviceId, NewAlert)>) -> Result<(), ReportError> {
        let reports = alerts.map(|(device, alert)| self.monitor.report(device, vec![alert]));
        for outcome in join_all(reports).await {
            match outcome {
                Ok(()) | Err(ReportError::NoDevice) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The alert of a rule that is broken from now on, or kept again.
fn alert(rule: &AlertRule, is_broken: bool, number: Option<f64>) -> NewAlert {
    let (status, description) = match (&rule.condition, is_broken) {
        (_, false) => ("ok", "the rule is kept".to_owned()),
        (Condition::Offline { lasting, .. }, true) => {
            ("offline", format!("not heard of for {}", storage::units::format_duration(*lasting)))
        }
        (Condition::Attribute { attribute, comparison, threshold, .. }, true) => {
            let word = match comparison {
                Comparison::Above => "above",
                Comparison::Below => "below",
            };
            let number = number.map(|number| number.to_string()).unwrap_or_default();
            (word, format!("{attribute} is {number}, {word} {threshold}"))
        }
    };
    NewAlert {
        name: rule.name.clone(),
        level: if is_broken { rule.level } else { AlertLevel::Ok },
        subject_type: SUBJECT_TYPE.to_owned(),
        subject_name: rule.name.clone(),
        status: status.to_owned(),
        details: Some(json!({ "description": description }).into()),
        at: clock::now(),
    }
}

impl Actor for RuleWatcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Rules have their own times; this only has to be often enough, also for one that was just made.
        let often = self.parts.period.clamp(Duration::from_millis(100), Duration::from_secs(2));
        ctx.run_interval(often, Self::look);
    }
}

impl Handler<Crash> for RuleWatcher {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}

#[cfg(test)]
mod tests;
