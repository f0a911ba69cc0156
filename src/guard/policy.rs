//! What a guard accepts, read from JSON. What is misspelt is refused: a metric that nobody feeds would always pass.

use serde_json::{Map, Value};

use super::error::PolicyError;
use super::ladder::Ladder;
use super::metric::Metric;
use super::record::RollbackMode;
use crate::clock::{Micros, SECOND, micros};

/// Confidence of the bound that follows the older side.
pub(super) const CONFIDENCE: f64 = 0.99;

/// How one metric is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // four switches that are independent of each other, by the names of the document
pub struct MetricPolicy {
    /// Whether it is watched at all.
    pub enabled: bool,
    /// The part that may be bad, 0 to 1.
    pub bound: f64,
    /// Only told, never acted upon.
    pub dry_run: bool,
    /// Whether the rollout waits for data of it.
    pub needs_data: bool,
    /// Whether the bound rises to that of the older side.
    pub follows_baseline: bool,
}

impl MetricPolicy {
    fn of(metric: Metric) -> Self {
        Self {
            enabled: true,
            bound: metric.bound(),
            dry_run: false,
            needs_data: !metric.is_absolute(),
            follows_baseline: metric.follows_baseline(),
        }
    }
}

/// What a guard accepts, and how fast it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How likely a metric that holds its bound may end the rollout at one step.
    pub alpha: f64,
    /// The steps.
    pub ladder: Ladder,
    /// Observations of each metric that a step needs before the next one.
    pub min_samples: u64,
    /// How long a step lasts at least.
    pub min_dwell: Micros,
    /// A run is slow after this time.
    pub slow_run: Micros,
    /// An event is slow after this time.
    pub slow_event: Micros,
    /// What becomes of runs that are under way at a rollback; after a violation of isolation they are always cancelled.
    pub mode: RollbackMode,
    /// By the number of the metric.
    pub metrics: [MetricPolicy; Metric::ALL.len()],
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            alpha: 1e-3,
            ladder: Ladder::default(),
            min_samples: 500,
            min_dwell: 600 * SECOND,
            slow_run: 2 * SECOND,
            slow_event: SECOND / 10,
            mode: RollbackMode::Drain,
            metrics: Metric::ALL.map(MetricPolicy::of),
        }
    }
}

/// A place in a document, and what is wrong there.
#[derive(Clone)]
struct Place(String);

impl Place {
    fn at(&self, name: &str) -> Self {
        Self(format!("{}/{}", self.0, name.replace('~', "~0").replace('/', "~1")))
    }

    fn error(&self, problem: impl Into<String>, fix: impl Into<String>) -> PolicyError {
        PolicyError {
            path: self.0.clone(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    fn object<'a>(&self, value: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>, PolicyError> {
        let Some(object) = value.as_object() else {
            return Err(self.error(
                "this is no object",
                format!("write an object with {}", known.join(", ")),
            ));
        };
        match object.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(self.at(key).error(
                format!("{key:?} is not known here"),
                format!("known are {}", known.join(", ")),
            )),
            None => Ok(object),
        }
    }

    fn number(&self, value: &Value, low: f64, high: f64, what: &str) -> Result<f64, PolicyError> {
        let number = value.as_f64().filter(|number| *number >= low && *number <= high);
        number.ok_or_else(|| {
            self.error(
                format!("{value} is no {what}"),
                format!("write a number from {low} to {high}"),
            )
        })
    }

    fn flag(&self, value: &Value) -> Result<bool, PolicyError> {
        value
            .as_bool()
            .ok_or_else(|| self.error(format!("{value} is neither true nor false"), "write true or false"))
    }
}

impl Policy {
    /// The policy in a JSON text; what is not there is as by default. `path` is where it stands, as a JSON pointer.
    pub fn parse(text: &str, path: &str) -> Result<Self, PolicyError> {
        let place = Place(path.to_owned());
        let value: Value = serde_json::from_str(text)
            .map_err(|error| place.error(format!("this is no JSON: {error}"), "write a JSON object"))?;
        Self::read(&value, &place)
    }

    fn read(value: &Value, place: &Place) -> Result<Self, PolicyError> {
        const KNOWN: [&str; 8] = [
            "alpha",
            "ladder",
            "min_samples",
            "min_dwell_seconds",
            "slow_run_seconds",
            "slow_event_seconds",
            "mode",
            "metrics",
        ];
        const YEAR: f64 = 366.0 * 86_400.0;
        let mut policy = Self::default();
        for (key, value) in place.object(value, &KNOWN)? {
            let here = place.at(key);
            match key.as_str() {
                "alpha" => policy.alpha = here.number(value, 1e-12, 0.1, "probability")?,
                "ladder" => policy.ladder = ladder(value, &here)?,
                "min_samples" => {
                    let many = value.as_u64().filter(|many| *many > 0);
                    policy.min_samples = many.ok_or_else(|| {
                        here.error(
                            format!("{value} is no number of samples"),
                            "write a whole number from 1 on",
                        )
                    })?;
                }
                "min_dwell_seconds" => policy.min_dwell = micros(here.number(value, 0.0, YEAR, "duration")?),
                "slow_run_seconds" => policy.slow_run = micros(here.number(value, 0.0, YEAR, "duration")?),
                "slow_event_seconds" => policy.slow_event = micros(here.number(value, 0.0, YEAR, "duration")?),
                "mode" => {
                    policy.mode = match value.as_str() {
                        Some("drain") => RollbackMode::Drain,
                        Some("abort") => RollbackMode::Abort,
                        _ => return Err(here.error(format!("{value} is no mode"), "write \"drain\" or \"abort\"")),
                    }
                }
                _ => read_metrics(value, &here, &mut policy.metrics)?,
            }
        }
        Ok(policy)
    }
}

fn ladder(value: &Value, here: &Place) -> Result<Ladder, PolicyError> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let steps: Option<Vec<u32>> = list
        .iter()
        .map(|step| step.as_u64().and_then(|step| u32::try_from(step).ok()))
        .collect();
    let steps = steps.filter(|steps| !steps.is_empty()).ok_or_else(|| {
        here.error(
            "this is no list of steps",
            "write whole numbers, parts of 100 000 as rollouts have them",
        )
    })?;
    Ladder::new(steps, &here.0)
}

fn read_metrics(
    value: &Value,
    place: &Place,
    metrics: &mut [MetricPolicy; Metric::ALL.len()],
) -> Result<(), PolicyError> {
    let names = Metric::ALL.map(Metric::name);
    for (name, value) in place.object(value, &names)? {
        let Some(metric) = Metric::named(name) else { continue };
        let here = place.at(name);
        let own = &mut metrics[metric as usize];
        for (key, value) in here.object(value, &["enabled", "bound", "dry_run", "needs_data", "baseline"])? {
            let here = here.at(key);
            if metric.is_absolute() {
                return Err(here.error(
                    "one violation of isolation ends a rollout, and nothing about that can be set",
                    "leave it out",
                ));
            }
            match key.as_str() {
                "enabled" => own.enabled = here.flag(value)?,
                // From one in a million on: a bound of 0 would make the first bad one endless evidence.
                "bound" => own.bound = here.number(value, 1e-6, 0.9, "part that may be bad")?,
                "dry_run" => own.dry_run = here.flag(value)?,
                "needs_data" => own.needs_data = here.flag(value)?,
                _ => own.follows_baseline = here.flag(value)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> PolicyError {
        Policy::parse(text, "/flags/x/guard").expect_err(text)
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(Policy::parse("{}", "").expect("a policy"), Policy::default());
    }

    #[test]
    fn what_is_said_is_read() {
        let text = r#"{"alpha":0.01,"ladder":[500,100000],"min_samples":7,"min_dwell_seconds":1.5,"mode":"abort",
            "slow_run_seconds":3,"slow_event_seconds":0.2,
            "metrics":{"run_error":{"bound":0.02,"dry_run":true},"slow_event":{"enabled":false},
                       "slow_run":{"baseline":false,"needs_data":false}}}"#;
        let policy = Policy::parse(text, "").expect("a policy");
        assert_eq!(policy.ladder.steps(), [500, 100_000]);
        assert_eq!((policy.min_samples, policy.min_dwell), (7, 1_500_000));
        assert_eq!((policy.slow_run, policy.slow_event), (3_000_000, 200_000));
        assert_eq!(policy.mode, RollbackMode::Abort);
        let of = |metric: Metric| policy.metrics[metric as usize];
        assert!(of(Metric::RunError).dry_run && (of(Metric::RunError).bound - 0.02).abs() < 1e-12);
        assert!(!of(Metric::SlowEvent).enabled);
        assert!(!of(Metric::SlowRun).follows_baseline && !of(Metric::SlowRun).needs_data);
        assert!(of(Metric::DroppedEvent).enabled);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, path) in [
            (r#"{"metrics":{"run_eror":{}}}"#, "/flags/x/guard/metrics/run_eror"),
            (r#"{"min_sample":1}"#, "/flags/x/guard/min_sample"),
            (r#"{"a/b~c":1}"#, "/flags/x/guard/a~1b~0c"),
            (
                r#"{"metrics":{"run_error":{"bound":0}}}"#,
                "/flags/x/guard/metrics/run_error/bound",
            ),
            (
                r#"{"metrics":{"isolation_violation":{"dry_run":true}}}"#,
                "/flags/x/guard/metrics/isolation_violation/dry_run",
            ),
            (r#"{"ladder":[100,50,100000]}"#, "/flags/x/guard/ladder"),
            (r#"{"ladder":[]}"#, "/flags/x/guard/ladder"),
            (r#"{"ladder":[100]}"#, "/flags/x/guard/ladder"),
            (r#"{"ladder":[0.1,100000]}"#, "/flags/x/guard/ladder"),
            (r#"{"min_samples":0}"#, "/flags/x/guard/min_samples"),
            (r#"{"min_dwell_seconds":-1}"#, "/flags/x/guard/min_dwell_seconds"),
            (r#"{"mode":"stop"}"#, "/flags/x/guard/mode"),
            (r#"{"alpha":1}"#, "/flags/x/guard/alpha"),
            ("[]", "/flags/x/guard"),
            ("nonsense", "/flags/x/guard"),
        ] {
            let error = refused(text);
            assert_eq!(error.path, path, "{text}");
            assert!(!error.fix.is_empty() && !error.problem.is_empty());
        }
    }
}
