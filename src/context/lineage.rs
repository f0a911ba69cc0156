//! Where a context stands in the tree of its run.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use foldhash::fast::RandomState;

use super::identity::ContextError;
use crate::ids::{self, MAX_ID_CHARS, RequestId};
use crate::mutants::mutant;

/// A chain of children may reach this depth.
pub const MAX_DEPTH: u32 = 10;

/// After this many names in one run, children get random names: the set of taken names stays bounded.
const NAMES_REMEMBERED: usize = 4_096;

/// The request ids of children taken in one run, as hashes: two equal hashes only cost a counter in a name. A root's id is not
/// among them, for the id of a child is longer.
#[derive(Debug, Default)]
struct TakenNames {
    hashes: HashSet<u64, RandomState>,
    /// The last counter given to a name, by the name's hash: the n-th child of one name is not searched from the start.
    counters: HashMap<u64, u32, RandomState>,
    hasher: RandomState,
}

impl TakenNames {
    fn take(&mut self, name: &str) -> bool {
        self.hashes.insert(self.hasher.hash_one(name))
    }
}

/// Depth, parent and path of a context.
#[derive(Debug, Clone)]
pub struct Lineage {
    depth: u32,
    parent: Option<RequestId>,
    number: u64,
    /// Made when it is first asked for: most contexts ask for nothing.
    path: OnceLock<Arc<[u64]>>,
    /// Of the whole run, made with the first child.
    names: OnceLock<Arc<Mutex<TakenNames>>>,
}

impl Lineage {
    /// A context without a parent in this process; `depth` and `parent` may come from elsewhere.
    pub fn root(number: u64, depth: u32, parent: Option<RequestId>) -> Self {
        Self {
            depth,
            parent,
            number,
            path: OnceLock::new(),
            names: OnceLock::new(),
        }
    }

    /// How many operations are above this one.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The request that started this one.
    pub fn parent(&self) -> Option<&RequestId> {
        self.parent.as_ref()
    }

    /// Numbers of the contexts from the root to this one, itself included.
    pub fn path(&self) -> &Arc<[u64]> {
        // Only a root is made without one.
        self.path.get_or_init(|| Arc::from([self.number]))
    }

    /// Whether it is a root, with no context above it in this process.
    pub fn is_root(&self) -> bool {
        self.path.get().is_none_or(|path| path.len() == 1)
    }

    /// A place below the context `request`, and the new request id: `{parent}_{operation}`, with a counter when taken.
    pub fn child(&self, request: &RequestId, operation: &str, number: u64) -> Result<(Self, RequestId), ContextError> {
        if operation.trim().is_empty() {
            return Err(ContextError {
                field: "operation_name",
                value: String::new(),
                rule: "required",
                message: "operation_name must be a non-empty string".to_owned(),
                fix: "Name the child after what it does, e.g. 'data_analysis'".to_owned(),
            });
        }
        if self.depth >= MAX_DEPTH && !mutant!(DepthUnbounded) {
            return Err(ContextError {
                field: "operation_depth",
                value: self.depth.to_string(),
                rule: "depth",
                message: format!(
                    "Maximum operation depth ({MAX_DEPTH}) exceeded. Current depth: {}",
                    self.depth
                ),
                fix: "Run the operation from a context nearer the root".to_owned(),
            });
        }
        let name = self.free_name(request, operation);
        let child = RequestId::new(&name).map_err(|fault| ContextError {
            field: "operation_name",
            value: super::shown(operation),
            rule: "control",
            message: format!("operation_name {fault}: {}", super::shown(operation)),
            fix: "Use letters, digits and underscores".to_owned(),
        })?;
        let path: Arc<[u64]> = self.path().iter().copied().chain([number]).collect();
        let lineage = Self {
            depth: self.depth + 1,
            parent: Some(request.clone()),
            number,
            path: OnceLock::from(path),
            names: self.names.clone(),
        };
        Ok((lineage, child))
    }

    fn free_name(&self, request: &RequestId, operation: &str) -> String {
        let cut_name = || {
            format!(
                "{}_{}_{}",
                ids::cut(request.as_str(), 150),
                ids::fresh(),
                ids::cut(operation, 60)
            )
        };
        let mut base = String::with_capacity(request.as_str().len() + 1 + operation.len());
        base.push_str(request.as_str());
        base.push('_');
        base.push_str(operation);
        // Leaves room for a counter.
        if base.len() > MAX_ID_CHARS - 8 && base.chars().count() > MAX_ID_CHARS - 8 {
            base = cut_name();
        }
        let mut names = lock(self.names.get_or_init(Arc::default));
        if names.hashes.len() >= NAMES_REMEMBERED {
            return cut_name();
        }
        if names.take(&base) || mutant!(RequestIdReused) {
            return base;
        }
        let hash = names.hasher.hash_one(&base);
        loop {
            let counter = names.counters.entry(hash).or_insert(1);
            *counter += 1;
            let name = format!("{base}_{counter}");
            if names.take(&name) {
                return name;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(value: &str) -> RequestId {
        RequestId::new(value).expect("valid")
    }

    #[test]
    fn names_are_unique_in_the_whole_run() {
        let root = Lineage::root(1, 0, None);
        let (a, a_id) = root.child(&request("req"), "a", 2).expect("child");
        assert_eq!(a_id.as_str(), "req_a");
        // `req` + `a_b` and `req_a` + `b` would both be `req_a_b`.
        let (_, one) = root.child(&request("req"), "a_b", 3).expect("child");
        let (_, two) = a.child(&a_id, "b", 4).expect("child");
        let (_, three) = a.child(&a_id, "b", 5).expect("child");
        let all: HashSet<_> = [one.as_str(), two.as_str(), three.as_str()].into_iter().collect();
        assert_eq!(all.len(), 3);
        assert_eq!(three.as_str(), "req_a_b_3");
    }

    #[test]
    fn long_names_stay_within_the_bound() {
        let mut lineage = Lineage::root(1, 0, None);
        let mut id = request(&"r".repeat(250));
        for depth in 0..MAX_DEPTH {
            (lineage, id) = lineage
                .child(&id, &"operation".repeat(30), u64::from(depth))
                .expect("child");
            assert!(id.as_str().chars().count() <= MAX_ID_CHARS);
        }
        assert_eq!(lineage.depth(), MAX_DEPTH);
        assert_eq!(lineage.child(&id, "x", 99).expect_err("too deep").rule, "depth");
    }
}
