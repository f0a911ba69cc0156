//! `OwnershipWall`: the wall, and the check of a request behind it.

use std::borrow::Cow;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyTuple;

use super::super::context::PyContext;
use super::super::process::{CLOCK, Stamp, registry};
use super::grants::GrantBook;
use super::policy::RolePolicy;
use super::resources::{Held, Understood, held};
use super::verdict::PyVerdict;
use crate::clock::Clock;
use crate::ids::{self, UserId};
use crate::tools::{
    Ask, Asker, KnownOwners, MAX_RESOURCES, Named, Passage, RoleSet, UnknownOwner, Verdict, ViolationKind, Wall,
    encode_owner, evaluate, parse,
};

/// Longest name of an action, in bytes. It has no white space.
const MAX_ACTION: usize = 128;

/// Whose runs are by the logs of this process.
struct OwnersOfProcess;

impl KnownOwners for OwnersOfProcess {
    fn of_run(&self, run: &str) -> Option<UserId> {
        registry().shared().run_owner(run)
    }
}

/// Compares owners before any role is asked.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct OwnershipWall {
    wall: Wall,
    stamp: Stamp,
}

/// Why nothing may be done with a context any more.
fn out_of_order(context: &PyContext) -> Option<&'static str> {
    if !context.stamp().is_current() {
        return Some("context_of_another_process");
    }
    if context.core().state().is_over() {
        return Some("context_ended");
    }
    context.core().pass().err().map(|_| "context_fenced")
}

/// A request as Python makes it.
pub(super) struct Request<'a> {
    pub(super) action: &'a str,
    pub(super) resources: Understood,
    pub(super) mentioned: Understood,
    /// Without one no roles are asked.
    pub(super) policy: Option<Arc<RoleSet>>,
    /// Those of the context, unless others are given.
    pub(super) roles: Option<Vec<Box<str>>>,
}

impl OwnershipWall {
    /// Raises `ForkedProcessError` in a child of the process that made it.
    pub(super) fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        self.stamp.check(py)
    }

    /// Checks a request and notes what it finds. Runs no Python code.
    pub(super) fn judge(&self, context: &PyContext, request: &Request<'_>, verdict: &mut Verdict) {
        if let Some(code) = out_of_order(context) {
            verdict.violate(ViolationKind::ContextIntegrityFailure, code, None);
            return;
        }
        let action = request.action;
        if !(ids::is_graphic(action.as_bytes()) && action.len() <= MAX_ACTION) {
            verdict.violate(ViolationKind::ValidationError, "action_invalid", None);
            return;
        }
        if request.resources.count + request.mentioned.count > MAX_RESOURCES {
            verdict.violate(ViolationKind::LimitExceeded, "too_many_resources", None);
            return;
        }
        let targets: Vec<_> = request.resources.held.iter().map(Held::target).collect();
        let mentioned: Vec<_> = request.mentioned.held.iter().map(Held::target).collect();
        let ask = Ask {
            asker: context.core().identity().into(),
            roles: request.roles.as_deref().unwrap_or_else(|| context.roles()),
            action,
            targets: &targets,
            mentioned: &mentioned,
        };
        for shown in request.resources.odd.iter().chain(&request.mentioned.odd) {
            verdict.violate(ViolationKind::ValidationError, "resource_not_understood", Some(shown));
        }
        let now = CLOCK.monotonic();
        evaluate(
            &self.wall,
            request.policy.as_deref(),
            &ask,
            &OwnersOfProcess,
            now,
            verdict,
        );
    }
}

#[pymethods]
impl OwnershipWall {
    #[new]
    #[pyo3(signature = (grants, unknown_owner = "deny", shared_kinds = Vec::new()))]
    fn new(grants: &Bound<'_, GrantBook>, unknown_owner: &str, shared_kinds: Vec<String>) -> PyResult<Self> {
        let unknown = match unknown_owner {
            "deny" => UnknownOwner::Deny,
            "roles" => UnknownOwner::Roles,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "unknown_owner must be 'deny' or 'roles', got {unknown_owner:?}"
                )));
            }
        };
        for kind in &shared_kinds {
            if !matches!(parse(&format!("{kind}:/")), Ok(Named::Unowned { .. })) {
                let why = "a kind has up to 64 characters of a-z, 0-9, '_', '.' and '-' and begins with a letter";
                return Err(PyValueError::new_err(format!("shared_kinds: {kind:?}: {why}")));
            }
        }
        let shared = shared_kinds.into_iter().map(String::into_boxed_str);
        Ok(Self {
            wall: Wall::new(unknown, shared, grants.get().core()),
            stamp: Stamp::now(),
        })
    }

    /// Checks a request: the context, the wall, the action, each resource. Notes what it finds in the verdict. With
    /// `policy=None` no roles are asked. `roles` are those of the user; by default `context.permissions`. What is `mentioned`
    /// needs no rule that permits it.
    #[pyo3(signature = (
        context, action, resources: "tuple[typing.Any, ...]", mentioned: "tuple[typing.Any, ...]", policy, verdict,
        roles = None,
    ))]
    fn evaluate(
        &self,
        py: Python<'_>,
        context: &Bound<'_, PyContext>,
        action: &str,
        resources: &Bound<'_, PyTuple>,
        mentioned: &Bound<'_, PyTuple>,
        policy: Option<&Bound<'_, RolePolicy>>,
        verdict: &Bound<'_, PyVerdict>,
        roles: Option<Vec<String>>,
    ) -> PyResult<bool> {
        self.stamp.check(py)?;
        let request = Request {
            action,
            resources: held(resources, "resources"),
            mentioned: held(mentioned, "mentioned"),
            policy: policy.map(|policy| policy.get().current()),
            roles: roles.map(|roles| roles.into_iter().map(String::into_boxed_str).collect()),
        };
        let mut verdict = verdict.get().core();
        self.judge(context.get(), &request, &mut verdict);
        Ok(verdict.violations().is_empty())
    }

    /// What it does about a resource whose owner nobody knows: `deny` or `roles`.
    #[getter]
    fn unknown_owner(&self) -> &'static str {
        match self.wall.unknown() {
            UnknownOwner::Deny => "deny",
            UnknownOwner::Roles => "roles",
        }
    }

    /// What the wall says of one resource to a context, or to a user who is known by the id alone: `own`, `granted`, `shared`,
    /// `unknown`, `foreign` or `malformed`.
    #[pyo3(signature = (asker: "UserExecutionContext | str", resource, action))]
    fn passage(
        &self,
        py: Python<'_>,
        asker: &Bound<'_, PyAny>,
        resource: &Bound<'_, PyAny>,
        action: &str,
    ) -> PyResult<&'static str> {
        self.stamp.check(py)?;
        let Some(held) = Held::of(resource) else {
            return Ok("malformed");
        };
        let user: PyBackedStr;
        let asker = if let Ok(context) = asker.cast::<PyContext>() {
            context.get().core().identity().into()
        } else {
            user = asker.extract()?;
            Asker {
                user: &user,
                context: None,
            }
        };
        let passage = self
            .wall
            .pass(asker, action, held.target(), &OwnersOfProcess, CLOCK.monotonic());
        Ok(match passage {
            Passage::Own => "own",
            Passage::Granted(_) => "granted",
            Passage::Shared => "shared",
            Passage::Unknown => "unknown",
            Passage::Foreign => "foreign",
            Passage::Malformed(_) => "malformed",
        })
    }
}

/// The name of a user's resource, such as `document:ann/reports/7`: the user's id is encoded so that no id can be read as
/// another one's. Raises `ValueError` for what makes no name.
#[pyfunction]
pub(crate) fn resource_name(kind: &str, user_id: &str, path: &str) -> PyResult<String> {
    let name = format!("{kind}:{}/{path}", encode_owner(user_id));
    match parse(&name) {
        Ok(Named::Owned {
            kind: read,
            owner: Cow::Borrowed(owner),
        }) if read == kind && owner == user_id => Ok(name),
        Ok(Named::Owned {
            kind: read,
            owner: Cow::Owned(owner),
        }) if read == kind && owner == user_id => Ok(name),
        Ok(_) => Err(PyValueError::new_err(
            "a resource's kind has up to 64 characters of a-z, 0-9, '_', '.' and '-', begins with a letter and not with \
             'run_', and its owner is not blank",
        )),
        Err(fault) => Err(PyValueError::new_err(fault.to_string())),
    }
}
