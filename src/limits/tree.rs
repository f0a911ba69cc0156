//! The permit tree: how the units that one run holds move between its nodes.
//!
//! A node that runs under a permit lends its unit to its children: it is suspended while they hold or await permits, and gets
//! a unit back when the last of them is done. So nesting cannot deadlock, and the limits are never exceeded.
//!
//! Invariant: while a suspended node has children, at least one of them holds a unit or has children that do. So the
//! suspended node always gets its unit back without waiting.

use std::collections::{HashMap, VecDeque};

use super::fair::Ticket;
use crate::mutants::mutant;

/// Most nodes of one tree at the same time, waiting ones included.
pub const MAX_NODES: usize = 64;

pub(super) type NodeId = u64;

/// Names the task or thread that asks, while it holds what it got.
pub type Task = usize;

#[derive(Debug)]
struct Node {
    parent: Option<NodeId>,
    /// The number of the context that the permit was taken for.
    context: u64,
    /// Who took it.
    task: Task,
    /// Children that hold a permit or wait for one. While there are any, the node is suspended: its unit is theirs.
    children: u32,
}

/// A node that waits.
#[derive(Debug, Clone, Copy)]
struct WaitingNode {
    ticket: Ticket,
    parent: Option<NodeId>,
}

/// What becomes of the unit of a node that is done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Freed {
    /// It goes back to the pool.
    ToPool,
    /// A node of the same tree that was waiting gets it.
    ToWaiting(Ticket),
    /// It stays in the tree, with a parent that runs again, or there was none to free.
    Kept,
}

/// The nodes of one run.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: HashMap<NodeId, Node>,
    /// The latest node of each context.
    by_context: HashMap<u64, Vec<NodeId>>,
    waiting: VecDeque<WaitingNode>,
    next: NodeId,
}

impl Tree {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len() + self.waiting.len()
    }

    /// The node whose unit is lent: the nearest above a place in the run, or one of the place itself that the same task took.
    /// Another task of the same context is nested in nothing, so it shares no unit.
    pub(super) fn nearest(&self, path: &[u64], task: Task) -> Option<NodeId> {
        let (own, above) = path.split_last()?;
        let nodes = |context: &u64| self.by_context.get(context).map_or(&[][..], Vec::as_slice);
        let nested = nodes(own)
            .iter()
            .rev()
            .find(|id| self.nodes.get(id).is_some_and(|node| node.task == task));
        nested
            .or_else(|| above.iter().rev().find_map(|context| nodes(context).last()))
            .copied()
    }

    /// Suspends `parent` for one more child. Answers whether its unit is to be had, which is so for the first child.
    pub(super) fn suspend(&mut self, parent: NodeId) -> bool {
        let Some(node) = self.nodes.get_mut(&parent) else {
            return false;
        };
        node.children += 1;
        node.children == 1
    }

    /// A node that runs.
    pub(super) fn add(&mut self, parent: Option<NodeId>, context: u64, task: Task) -> NodeId {
        self.next += 1;
        let id = self.next;
        self.nodes.insert(
            id,
            Node {
                parent,
                context,
                task,
                children: 0,
            },
        );
        self.by_context.entry(context).or_default().push(id);
        id
    }

    /// A node that waits.
    pub(super) fn wait(&mut self, ticket: Ticket, parent: Option<NodeId>) {
        self.waiting.push_back(WaitingNode { ticket, parent });
    }

    /// A waiting node got a unit or gave up. Answers its parent, which may have changed since it began to wait.
    pub(super) fn stop_waiting(&mut self, ticket: Ticket) -> Option<NodeId> {
        let place = self.waiting.iter().position(|node| node.ticket == ticket)?;
        self.waiting.remove(place)?.parent
    }

    /// A waiting node gave up: its parent has one child less. The invariant says that the parent is not left without a unit.
    pub(super) fn give_up(&mut self, ticket: Ticket) {
        if let Some(parent) = self.stop_waiting(ticket).and_then(|parent| self.nodes.get_mut(&parent)) {
            parent.children -= 1;
        }
    }

    /// A node is done.
    pub(super) fn remove(&mut self, id: NodeId) -> Freed {
        let Some(node) = self.nodes.remove(&id) else {
            return Freed::Kept;
        };
        if let Some(stack) = self.by_context.get_mut(&node.context) {
            stack.retain(|other| *other != id);
            if stack.is_empty() {
                self.by_context.remove(&node.context);
            }
        }
        if node.children > 0 {
            return self.orphan(id, &node);
        }
        if let Some(parent) = node.parent.and_then(|parent| self.nodes.get_mut(&parent)) {
            parent.children -= 1;
            if parent.children == 0 && !mutant!(LastChildReturnsUnit) {
                return Freed::Kept;
            }
        }
        // Under a suspended parent a sibling that waits comes before the pool: the parent may depend on it alone. Without one,
        // the fair order decides who is next.
        let sibling = node
            .parent
            .and_then(|_| self.waiting.iter().find(|waiting| waiting.parent == node.parent));
        sibling.map_or(Freed::ToPool, |sibling| Freed::ToWaiting(sibling.ticket))
    }

    /// A suspended node is done before its children: they move up to its own parent. Its unit is with them.
    fn orphan(&mut self, id: NodeId, node: &Node) -> Freed {
        for child in self.nodes.values_mut().filter(|child| child.parent == Some(id)) {
            child.parent = node.parent;
        }
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.parent == Some(id)) {
            waiting.parent = node.parent;
        }
        if let Some(parent) = node.parent.and_then(|parent| self.nodes.get_mut(&parent)) {
            parent.children += node.children - 1;
        }
        Freed::Kept
    }
}
