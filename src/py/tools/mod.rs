//! The faces of tool calls and permissions.

mod dispatch;
mod grants;
mod policy;
mod resources;
mod verdict;
mod wall;

pub(crate) use self::dispatch::PyDispatchBook;
pub(crate) use self::grants::GrantBook;
pub(crate) use self::policy::RolePolicy;
pub(crate) use self::verdict::PyVerdict;
pub(crate) use self::wall::{OwnershipWall, resource_name};
