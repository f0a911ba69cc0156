//! The ids of a context, validated once.

use super::placeholder::{PlaceholderHit, PlaceholderPolicy};
use crate::ids::{self, Checked, IdFault, RequestId, RunId, ThreadId, UserId};

/// Why a context could not be made or changed. Says the field, the value (shortened), the rule and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}. {fix}")]
pub struct ContextError {
    /// The field that was wrong.
    pub field: &'static str,
    /// The value, shortened for logs.
    pub value: String,
    /// The rule in one word: `required`, `length`, `control`, `placeholder`, `prefix`, `type`, `reserved`, `depth`, `copy`.
    pub rule: &'static str,
    /// What was wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

/// A value as an error shows it: at most 40 characters of it.
pub fn shown(value: &str) -> String {
    let short = ids::cut(value, 40);
    let dots = if short.len() < value.len() { "…" } else { "" };
    format!("{short:?}{dots}")
}

impl ContextError {
    /// A required field that is missing, blank or of the wrong type.
    pub fn required(field: &'static str, got: &str) -> Self {
        Self {
            field,
            value: ids::cut(got, 40).to_owned(),
            rule: "required",
            message: format!(
                "Required field '{field}' must be a non-empty string, got: {}",
                ids::cut(got, 80)
            ),
            fix: format!("Pass the real {field} of the request"),
        }
    }

    fn structural(field: &'static str, value: &str, fault: IdFault) -> Self {
        match fault {
            IdFault::Blank => Self::required(field, &shown(value)),
            IdFault::TooLong => Self {
                field,
                value: shown(value),
                rule: "length",
                message: format!(
                    "Field '{field}' {fault}, got {} of them: {}",
                    value.chars().count(),
                    shown(value)
                ),
                fix: "Pass an id, not the data it stands for".to_owned(),
            },
            IdFault::Control => Self {
                field,
                value: shown(value),
                rule: "control",
                message: format!("Field '{field}' {fault}: {}", shown(value)),
                fix: "Remove line breaks and other control characters where the id is read".to_owned(),
            },
        }
    }

    fn placeholder(field: &'static str, value: &str, hit: PlaceholderHit) -> Self {
        let fix = format!(
            "Pass the real {field}; if this is one, add it to PlaceholderPolicy(allow={{{}}})",
            shown(value.trim())
        );
        match hit {
            PlaceholderHit::Exact => Self {
                field,
                value: shown(value),
                rule: "placeholder",
                message: format!(
                    "Field '{field}' contains forbidden placeholder value: {}. This prevents proper request isolation",
                    shown(value)
                ),
                fix,
            },
            PlaceholderHit::Prefix(prefix) => Self {
                field,
                value: shown(value),
                rule: "prefix",
                message: format!(
                    "Field '{field}' appears to contain placeholder pattern: {} begins with '{prefix}'. This indicates \
                     improper context initialization",
                    shown(value)
                ),
                fix,
            },
        }
    }
}

fn checked<'a>(field: &'static str, value: &'a str, policy: &PlaceholderPolicy) -> Result<Checked<'a>, ContextError> {
    let checked = Checked::new(value).map_err(|fault| ContextError::structural(field, value, fault))?;
    policy
        .check(value)
        .map_or(Ok(checked), |hit| Err(ContextError::placeholder(field, value, hit)))
}

/// The ids a context is made from, not yet checked.
#[derive(Debug, Clone, Copy)]
pub struct Ids<'a> {
    /// Whose it is.
    pub user: &'a str,
    /// The conversation.
    pub thread: &'a str,
    /// The run.
    pub run: &'a str,
    /// The span; generated when absent.
    pub request: Option<&'a str>,
}

/// Ids that were checked, and of which only the user's lane is to be found before they are an [`Identity`].
#[derive(Debug, Clone, Copy)]
pub struct CheckedIds<'a> {
    user: Checked<'a>,
    thread: Checked<'a>,
    run: Checked<'a>,
    request: Option<Checked<'a>>,
}

impl<'a> CheckedIds<'a> {
    /// Checks the ids in their order; the first fault is reported.
    pub fn new(ids: Ids<'a>, policy: &PlaceholderPolicy) -> Result<Self, ContextError> {
        Ok(Self {
            user: checked("user_id", ids.user, policy)?,
            thread: checked("thread_id", ids.thread, policy)?,
            run: checked("run_id", ids.run, policy)?,
            request: ids
                .request
                .map(|request| checked("request_id", request, policy))
                .transpose()?,
        })
    }

    /// Whose they are.
    pub fn user(&self) -> Checked<'a> {
        self.user
    }

    /// The conversation.
    pub fn thread(&self) -> Checked<'a> {
        self.thread
    }

    /// The run.
    pub fn run(&self) -> Checked<'a> {
        self.run
    }

    /// The thread that a structured run id names, when it is not this one: counted and reported, an error in strict mode.
    pub fn mismatched_thread(&self) -> Option<&'a str> {
        ids::thread_of_run(self.run.as_str()).filter(|thread| *thread != self.thread.as_str())
    }

    /// The identity. `user` shares its text with the user's lane; `millis` since the Unix epoch goes into a new request id.
    pub fn identity(self, user: UserId, millis: u64) -> Identity {
        debug_assert_eq!(self.user.as_str(), user.as_str());
        Identity {
            user,
            thread: self.thread.into(),
            run: self.run.into(),
            request: self.request.map_or_else(|| RequestId::fresh(millis), RequestId::from),
        }
    }
}

/// Validated ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Whose it is.
    pub user: UserId,
    /// The conversation.
    pub thread: ThreadId,
    /// The run.
    pub run: RunId,
    /// The span.
    pub request: RequestId,
}

impl Identity {
    /// Checks the ids in their order; the first fault is reported. For ids of a user whose lane is not at hand.
    pub fn new(ids: Ids<'_>, policy: &PlaceholderPolicy) -> Result<Self, ContextError> {
        let checked = CheckedIds::new(ids, policy)?;
        Ok(checked.identity(checked.user.into(), crate::clock::unix_millis_of_system()))
    }

    /// A user id alone, for lanes that are opened before there is a context.
    pub fn user(user: &str, policy: &PlaceholderPolicy) -> Result<UserId, ContextError> {
        checked("user_id", user, policy).map(UserId::from)
    }

    /// Only the form of an id: not blank, not too long, no control characters.
    pub fn check_form(field: &'static str, value: &str) -> Result<(), ContextError> {
        ids::check(value).map_err(|fault| ContextError::structural(field, value, fault))
    }

    /// Any other id by the same rules.
    pub fn check<'a>(
        field: &'static str,
        value: &'a str,
        policy: &PlaceholderPolicy,
    ) -> Result<Checked<'a>, ContextError> {
        checked(field, value, policy)
    }

    /// `user:thread:run:request`, eight characters of each.
    pub fn correlation(&self) -> String {
        format!(
            "{}:{}:{}:{}",
            ids::shorten(self.user.as_str()),
            ids::shorten(self.thread.as_str()),
            ids::shorten(self.run.as_str()),
            ids::shorten(self.request.as_str())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids<'a>(user: &'a str, run: &'a str) -> Ids<'a> {
        Ids {
            user,
            thread: "thread-7",
            run,
            request: None,
        }
    }

    #[test]
    fn messages_carry_the_phrases_that_callers_match_on() {
        let policy = PlaceholderPolicy::default();
        let text = |user| {
            Identity::new(ids(user, "run-7"), &policy)
                .expect_err("refused")
                .to_string()
        };
        assert!(text("  ").contains("Required field 'user_id' must be a non-empty string"));
        assert!(text("None").contains("forbidden placeholder value"));
        assert!(text("temp_7").contains("placeholder pattern"));
        assert!(text(&"x".repeat(300)).len() < 300, "the value is shortened");
    }

    #[test]
    fn a_run_of_another_thread_is_noticed() {
        let policy = PlaceholderPolicy::default();
        let check = |run: String| {
            let checked = CheckedIds::new(ids("ann", &run), &policy).expect("valid");
            checked.mismatched_thread().map(str::to_owned)
        };
        assert_eq!(check(ids::fresh_run("thread-8")).as_deref(), Some("thread-8"));
        assert_eq!(check(ids::fresh_run("thread-7")), None);
    }
}
