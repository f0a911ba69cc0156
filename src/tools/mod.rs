//! Tool calls and permissions: the wall of ownership, grants, roles, what a check came to, and the book of calls.
//!
//! The order of a check is fixed: the wall first, then the action, then each resource. No role and no service can open what
//! the wall has closed; only a grant of the owner can.

mod boundary;
mod dispatch;
mod grants;
mod pattern;
mod resource;
mod roles;
mod verdict;
mod wall;

pub use boundary::{Ask, MAX_RESOURCES, evaluate};
pub use dispatch::{CallEnd, DispatchBook, DispatchFigures, MAX_TOOLS, TooManyCalls, ToolFigures};
pub use grants::{GrantFault, GrantKind, Grants, MAX_GRANTS, MAX_GRANTS_OF_A_USER, NewGrant};
pub use pattern::{MAX_PATTERN, Pattern};
pub use resource::{MAX_RESOURCE, Named, ResourceFault, encode_owner, parse};
pub use roles::{EVERYONE, Effect, PolicyFault, RoleSet, RoleSpec, RuleSpec, Ruling};
pub use verdict::{Code, MAX_VIOLATIONS, Verdict, Violation, ViolationKind};
pub use wall::{Asker, KnownOwners, Passage, Target, UnknownOwner, Wall};
