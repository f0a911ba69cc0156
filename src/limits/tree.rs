//! The permit tree: how the units and resources that one run holds move between its nodes.
//!
//! A node that runs under a permit lends its unit to its children: it is suspended while they hold permits, and gets a unit
//! back when the last of them is done. A named resource is lent one borrower at a time, to whoever below asks first. So
//! nesting cannot deadlock on what the run holds itself, and no limit is ever exceeded.
//!
//! Invariant: a suspended node has a child that runs, or has children that do; the others of its children may wait. So it
//! always gets its unit back without waiting.

use std::collections::HashMap;

use super::queue::Ticket;
use super::request::Task;
use super::resources::ResourceSet;
use crate::clock::Micros;
use crate::mutants::mutant;

/// Most nodes of one tree at the same time, waiting ones included.
pub const MAX_NODES: usize = 64;
/// Most permits above a permit.
pub const MAX_DEPTH: u8 = 20;

/// The fence of the node's grant, which no other grant of the limiter has.
pub(super) type NodeId = u64;

#[derive(Debug)]
struct Node {
    parent: Option<NodeId>,
    depth: u8,
    /// The number of the context that the permit was taken for.
    context: u64,
    /// Who took it, and when.
    task: Task,
    since: Micros,
    /// Children that hold a permit. While there are any, the node is suspended: its unit is theirs.
    running_children: u32,
    /// Resources taken from the pool, and those of them that are lent to nodes below.
    owned: ResourceSet,
    lent: ResourceSet,
    /// Resources of nodes above.
    borrowed: Vec<(NodeId, ResourceSet)>,
}

/// A node that waits.
#[derive(Debug)]
struct WaitingNode {
    ticket: Ticket,
    parent: Option<NodeId>,
    path: Box<[u64]>,
    task: Task,
    since: Micros,
}

/// What becomes of a request for a permit of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldState {
    /// It waits.
    Waiting,
    /// It holds a permit.
    Held,
    /// Its permit is with those nested in it.
    Lent,
}

/// A permit that a run holds or waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunPermit {
    /// What becomes of it.
    pub state: HeldState,
    /// How many permits are around it.
    pub depth: u8,
    /// Since when it is held, or waits.
    pub since: Micros,
}

/// Where the resources of a new node come from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sources {
    /// From nodes above.
    pub(super) borrowed: Vec<(NodeId, ResourceSet)>,
    /// From the pool.
    pub(super) pool: ResourceSet,
}

/// What becomes of the unit of a node that is done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Freed {
    /// It goes back to the pool.
    ToPool,
    /// It was lent by this node, which has it again if none of its children runs any more: then to a child that waits. Else it
    /// goes to the pool, where the fair order decides.
    Under(NodeId),
    /// It stays in the tree, with the children that it was lent to.
    Kept,
}

/// The nodes of one run.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: HashMap<NodeId, Node>,
    /// The nodes of each context, the latest last.
    by_context: HashMap<u64, Vec<NodeId>>,
    waiting: Vec<WaitingNode>,
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

    /// How many permits are above a new child of `parent`.
    pub(super) fn depth_under(&self, parent: Option<NodeId>) -> u8 {
        parent
            .and_then(|parent| self.nodes.get(&parent))
            .map_or(0, |parent| parent.depth + 1)
    }

    /// Whether a node has its unit to lend: none of its children runs.
    pub(super) fn has_unit(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.running_children == 0)
    }

    /// Where the resources that a child of `parent` wants would come from: from nodes above as far as they are not lent.
    pub(super) fn sources(&self, parent: Option<NodeId>, wanted: ResourceSet) -> Sources {
        let mut sources = Sources {
            borrowed: Vec::new(),
            pool: wanted,
        };
        let mut above = parent;
        while let Some(id) = above.filter(|_| !sources.pool.is_empty()) {
            let Some(node) = self.nodes.get(&id) else { break };
            // What it has itself borrowed, it lends on.
            let has = node.borrowed.iter().fold(node.owned, |all, (_, some)| all | *some);
            let lendable = has & !node.lent & sources.pool;
            if !lendable.is_empty() {
                sources.borrowed.push((id, lendable));
                sources.pool = sources.pool & !lendable;
            }
            above = node.parent;
        }
        sources
    }

    /// A node that runs. Answers whether nodes wait that it lends its unit to: they asked before it ran.
    pub(super) fn add(
        &mut self,
        id: NodeId,
        parent: Option<NodeId>,
        (context, task): (u64, Task),
        sources: Sources,
        now: Micros,
    ) -> bool {
        let depth = self.depth_under(parent);
        // The parent may have ended while its child waited.
        let parent = parent.filter(|parent| self.nodes.contains_key(parent));
        if let Some(parent) = parent.and_then(|parent| self.nodes.get_mut(&parent)) {
            parent.running_children += 1;
        }
        for (lender, resources) in &sources.borrowed {
            if let Some(lender) = self.nodes.get_mut(lender) {
                lender.lent = lender.lent | *resources;
            }
        }
        self.nodes.insert(
            id,
            Node {
                parent,
                depth,
                context,
                task,
                since: now,
                running_children: 0,
                owned: sources.pool,
                lent: ResourceSet::NONE,
                borrowed: sources.borrowed,
            },
        );
        self.by_context.entry(context).or_default().push(id);
        let mut adopted = false;
        for at in 0..self.waiting.len() {
            let waiting = &self.waiting[at];
            if self.nearest(&waiting.path, waiting.task) == Some(id) {
                self.waiting[at].parent = Some(id);
                adopted = true;
            }
        }
        adopted
    }

    /// What the run holds and waits for, the earliest first.
    pub(super) fn permits(&self) -> Vec<RunPermit> {
        let held = self.nodes.values().map(|node| RunPermit {
            state: if node.running_children == 0 {
                HeldState::Held
            } else {
                HeldState::Lent
            },
            depth: node.depth,
            since: node.since,
        });
        let waiting = self.waiting.iter().map(|node| RunPermit {
            state: HeldState::Waiting,
            depth: self.depth_under(node.parent),
            since: node.since,
        });
        let mut all: Vec<_> = held.chain(waiting).collect();
        all.sort_by_key(|permit| (permit.since, permit.depth));
        all
    }

    /// The node that has run for longest: the outermost, unless that is done already.
    pub(super) fn outermost(&self) -> Option<NodeId> {
        self.nodes.keys().min().copied()
    }

    /// A node that waits.
    pub(super) fn wait(&mut self, ticket: Ticket, parent: Option<NodeId>, path: &[u64], task: Task, now: Micros) {
        let path = path.into();
        self.waiting.push(WaitingNode {
            ticket,
            parent,
            path,
            task,
            since: now,
        });
    }

    /// The parent of a waiting node, which may have changed since it began to wait.
    pub(super) fn parent_of_waiting(&self, ticket: Ticket) -> Option<NodeId> {
        self.waiting.iter().find(|node| node.ticket == ticket)?.parent
    }

    /// A waiting node got a unit or gave up. Answers its parent.
    pub(super) fn stop_waiting(&mut self, ticket: Ticket) -> Option<NodeId> {
        let place = self.waiting.iter().position(|node| node.ticket == ticket)?;
        self.waiting.remove(place).parent
    }

    /// Children of a node that wait, the first to come first.
    pub(super) fn waiting_under(&self, parent: NodeId) -> impl Iterator<Item = Ticket> {
        self.waiting
            .iter()
            .filter(move |node| node.parent == Some(parent))
            .map(|node| node.ticket)
    }

    /// What all nodes hold together: units, and how often each resource.
    pub(super) fn holdings(&self) -> (u32, impl Iterator<Item = ResourceSet>) {
        let units = self.nodes.values().filter(|node| node.running_children == 0).count();
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        (units, self.nodes.values().map(|node| node.owned))
    }

    /// The fault that a child which gave up keeps its parent's unit.
    pub(super) fn lose_unit_of(&mut self, parent: Option<NodeId>) {
        if let Some(parent) = parent.and_then(|parent| self.nodes.get_mut(&parent)) {
            parent.running_children += 1;
        }
    }

    /// A node is done. Answers what becomes of its unit, and the resources that go back to the pool.
    pub(super) fn remove(&mut self, id: NodeId) -> (Freed, ResourceSet) {
        let Some(node) = self.nodes.remove(&id) else {
            return (Freed::Kept, ResourceSet::NONE);
        };
        if let Some(stack) = self.by_context.get_mut(&node.context) {
            stack.retain(|other| *other != id);
            if stack.is_empty() {
                self.by_context.remove(&node.context);
            }
        }
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.parent == Some(id)) {
            waiting.parent = node.parent;
        }
        self.pass_on_lent(id, &node);
        for (lender, resources) in &node.borrowed {
            if let Some(lender) = self.nodes.get_mut(lender) {
                // What was lent on stays lent, to who has it now.
                lender.lent = lender.lent & !(*resources & !node.lent);
            }
        }
        let unit = self.free_unit(id, &node);
        (unit, node.owned & !node.lent)
    }

    fn free_unit(&mut self, id: NodeId, node: &Node) -> Freed {
        if node.running_children > 0 {
            // Suspended, and done before its children: they move up to its own parent. Its unit is with them.
            for child in self.nodes.values_mut().filter(|child| child.parent == Some(id)) {
                child.parent = node.parent;
            }
            if let Some(parent) = node.parent.and_then(|parent| self.nodes.get_mut(&parent)) {
                parent.running_children += node.running_children - 1;
            }
            return Freed::Kept;
        }
        let Some(parent) = node.parent else {
            // The fair order decides who is next, be it of this run or of another.
            return Freed::ToPool;
        };
        let Some(above) = self.nodes.get_mut(&parent) else {
            return Freed::ToPool;
        };
        above.running_children -= 1;
        if mutant!(LastChildReturnsUnit) && above.running_children == 0 {
            return Freed::ToPool;
        }
        Freed::Under(parent)
    }

    /// What a node that is done had lent: its own belongs to the borrowers from here on, what it had borrowed itself they have of
    /// its lenders.
    fn pass_on_lent(&mut self, id: NodeId, node: &Node) {
        if node.lent.is_empty() {
            return;
        }
        for borrower in self.nodes.values_mut() {
            let mut passed = ResourceSet::NONE;
            borrower.borrowed.retain(|(lender, resources)| {
                if *lender == id {
                    passed = passed | *resources;
                }
                *lender != id
            });
            borrower.owned = borrower.owned | (passed & node.owned);
            for (lender, resources) in &node.borrowed {
                let lent_on = passed & *resources;
                if !lent_on.is_empty() {
                    borrower.borrowed.push((*lender, lent_on));
                }
            }
        }
    }
}
