//! The wall: a resource is reached by its owner, and by whom the owner let in. First in every check, and nothing overrules it.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::grants::{GrantKind, Grants};
use super::resource::{Named, ResourceFault, parse};
use crate::clock::Micros;
use crate::context::Identity;
use crate::ids::UserId;
use crate::mutants::mutant;

/// What to do about a resource whose owner nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownOwner {
    /// It is refused as another user's would be.
    #[default]
    Deny,
    /// The roles decide.
    Roles,
}

/// Whose things are by what the process knows.
pub trait KnownOwners {
    /// Whose run it is.
    fn of_run(&self, run: &str) -> Option<UserId>;
}

/// Who asks. Of somebody who is known by the id alone no thread, run or request is one's own.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The user.
    pub user: &'a str,
    /// The user's thread, run and request.
    pub context: Option<&'a Identity>,
}

impl<'a> From<&'a Identity> for Asker<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self {
            user: identity.user.as_str(),
            context: Some(identity),
        }
    }
}

impl Asker<'_> {
    fn has_thread(&self, id: &str) -> bool {
        self.context.is_some_and(|own| own.thread.as_str() == id)
    }

    fn has_run(&self, id: &str) -> bool {
        self.context.is_some_and(|own| own.run.as_str() == id)
    }

    fn has_request(&self, id: &str) -> bool {
        self.context.is_some_and(|own| own.request.as_str() == id)
    }
}

/// What somebody asks to reach.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// By its name.
    Name(&'a str),
    /// An object that says whose it is, with the name that rules see.
    Object {
        /// Its name.
        name: &'a str,
        /// Whose it is.
        owner: &'a str,
    },
}

impl<'a> Target<'a> {
    /// The name.
    pub fn name(&self) -> &'a str {
        match self {
            Self::Name(name) | Self::Object { name, .. } => name,
        }
    }
}

/// What the wall says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It is the asker's own.
    Own,
    /// Its owner lets the asker in.
    Granted(GrantKind),
    /// It is of a kind that belongs to nobody.
    Shared,
    /// Nobody knows whose it is.
    Unknown,
    /// It is another user's.
    Foreign,
    /// Its name is none.
    Malformed(ResourceFault),
}

/// The wall of a permission system.
#[derive(Debug)]
pub struct Wall {
    unknown: UnknownOwner,
    /// Kinds of things that belong to nobody.
    shared: HashSet<Box<str>, RandomState>,
    grants: Arc<Grants>,
}

impl Wall {
    /// A wall. Things of the kind `tool` belong to nobody: roles decide who may use them.
    pub fn new(unknown: UnknownOwner, shared: impl IntoIterator<Item = Box<str>>, grants: Arc<Grants>) -> Self {
        let shared = shared.into_iter().chain(std::iter::once(Box::from("tool"))).collect();
        Self {
            unknown,
            shared,
            grants,
        }
    }

    /// What to do about a resource whose owner nobody knows.
    pub fn unknown(&self) -> UnknownOwner {
        self.unknown
    }

    /// Whether the asker may come near the resource at all.
    pub fn pass(
        &self,
        asker: Asker<'_>,
        action: &str,
        target: Target<'_>,
        known: &dyn KnownOwners,
        now: Micros,
    ) -> Passage {
        if mutant!(WallSkipped) {
            return Passage::Own;
        }
        let name = match target {
            Target::Object { name, owner } => return self.owned(asker, owner, name, action, now),
            Target::Name(name) => name,
        };
        match parse(name) {
            Err(fault) => Passage::Malformed(fault),
            Ok(Named::Owned { owner, .. }) => self.owned(asker, &owner, name, action, now),
            Ok(Named::Unowned { kind }) => self.unowned(kind),
            Ok(Named::Kind { kind, name: id }) => match kind {
                "run" | "stream" => self.of_run(asker, id, name, action, known, now),
                "thread" if asker.has_thread(id) => Passage::Own,
                "request" if asker.has_request(id) => Passage::Own,
                _ => self.unowned(kind),
            },
            Ok(Named::Bare(id)) => {
                if id == asker.user || asker.has_thread(id) || asker.has_request(id) {
                    return Passage::Own;
                }
                self.of_run(asker, id, name, action, known, now)
            }
        }
    }

    fn of_run(
        &self,
        asker: Asker<'_>,
        run: &str,
        name: &str,
        action: &str,
        known: &dyn KnownOwners,
        now: Micros,
    ) -> Passage {
        if asker.has_run(run) {
            return Passage::Own;
        }
        known.of_run(run).map_or(Passage::Unknown, |owner| {
            self.owned(asker, owner.as_str(), name, action, now)
        })
    }

    fn owned(&self, asker: Asker<'_>, owner: &str, name: &str, action: &str, now: Micros) -> Passage {
        let reader = asker.user;
        if owner == reader {
            return Passage::Own;
        }
        self.grants
            .allows(owner, reader, Some(name), Some(action), now)
            .map_or(Passage::Foreign, Passage::Granted)
    }

    fn unowned(&self, kind: &str) -> Passage {
        if self.shared.contains(kind) {
            Passage::Shared
        } else {
            Passage::Unknown
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::grants::NewGrant;
    use super::super::pattern::Pattern;
    use super::*;
    use crate::context::{Ids, PlaceholderPolicy};

    pub(in super::super) struct Runs(pub(in super::super) &'static [(&'static str, &'static str)]);

    impl KnownOwners for Runs {
        fn of_run(&self, run: &str) -> Option<UserId> {
            let found = self.0.iter().find(|(known, _)| *known == run);
            found.map(|(_, owner)| UserId::new(owner).expect("valid"))
        }
    }

    pub(in super::super) fn ann() -> Identity {
        let ids = Ids {
            user: "ann",
            thread: "thread-1",
            run: "run-1",
            request: Some("req-1"),
        };
        Identity::new(ids, &PlaceholderPolicy::default()).expect("valid")
    }

    #[test]
    fn only_what_is_ones_own_passes_without_a_grant() {
        let wall = Wall::new(UnknownOwner::Deny, [Box::from("model")], Arc::default());
        let known = Runs(&[("run-2", "ann"), ("run-3", "bob")]);
        let pass = |name| wall.pass((&ann()).into(), "read", Target::Name(name), &known, 0);
        for own in [
            "document:ann/7",
            "user:ann",
            "ann",
            "run-1",
            "run-2",
            "run:run-1",
            "stream:run-2",
            "thread-1",
            "thread:thread-1",
            "req-1",
        ] {
            assert_eq!(pass(own), Passage::Own, "{own}");
        }
        for foreign in [
            "document:bob/7",
            "user:bob",
            "run-3",
            "run:run-3",
            "stream:run-3",
            "document:ANN/7",
        ] {
            assert_eq!(pass(foreign), Passage::Foreign, "{foreign}");
        }
        for unknown in [
            "document:7",
            "document:/7",
            "run-4",
            "thread:thread-2",
            "thread-2",
            "bob",
        ] {
            assert_eq!(pass(unknown), Passage::Unknown, "{unknown}");
        }
        assert_eq!(
            (pass("tool:search"), pass("model:/large")),
            (Passage::Shared, Passage::Shared)
        );
        assert!(matches!(pass("document:ann/../bob/7"), Passage::Malformed(_)));
        let object = |owner| {
            wall.pass(
                (&ann()).into(),
                "read",
                Target::Object { name: "engine", owner },
                &known,
                0,
            )
        };
        assert_eq!((object("ann"), object("bob")), (Passage::Own, Passage::Foreign));
    }

    #[test]
    fn a_grant_of_the_owner_opens_the_wall() {
        let grants = Arc::new(Grants::default());
        let wall = Wall::new(UnknownOwner::Deny, [], grants.clone());
        let pass = |name| wall.pass((&ann()).into(), "read", Target::Name(name), &Runs(&[]), 0);
        let grant = NewGrant {
            kind: GrantKind::Shared,
            resource: Some(Pattern::new("document:bob/7").expect("valid")),
            actions: Vec::new(),
            until: None,
        };
        let user = |id| UserId::new(id).expect("valid");
        grants.give(&user("bob"), &user("ann"), grant, 0).expect("given");
        assert_eq!(pass("document:bob/7"), Passage::Granted(GrantKind::Shared));
        assert_eq!(pass("document:bob/8"), Passage::Foreign);
        assert_eq!(pass("document:eve/7"), Passage::Foreign);
    }
}
