//! Which user's contexts hold which database session.

use std::collections::HashMap;

use crate::ids::UserId;
use crate::mutants::mutant;

/// Sessions by their address. A context holds its session for as long as it is bound, so an address cannot be reused.
#[derive(Debug, Default)]
pub struct SessionBindings {
    holders: HashMap<usize, Vec<(UserId, u32)>>,
}

impl SessionBindings {
    /// A context of `user` holds the session.
    pub fn bind(&mut self, session: usize, user: &UserId) {
        let holders = self.holders.entry(session).or_default();
        match holders.iter_mut().find(|(holder, _)| holder.is(user)) {
            Some((_, count)) => *count += 1,
            None => holders.push((user.clone(), 1)),
        }
    }

    /// A context of `user` no longer holds the session.
    pub fn unbind(&mut self, session: usize, user: &UserId) {
        let Some(holders) = self.holders.get_mut(&session) else {
            return;
        };
        if let Some(place) = holders.iter().position(|(holder, _)| holder.is(user)) {
            holders[place].1 -= 1;
            if holders[place].1 == 0 {
                holders.swap_remove(place);
            }
        }
        if holders.is_empty() {
            self.holders.remove(&session);
        }
    }

    /// Whether contexts of more than one user hold the session.
    pub fn is_shared(&self, session: usize) -> bool {
        !mutant!(SessionNotCompared) && self.holders.get(&session).is_some_and(|holders| holders.len() > 1)
    }

    /// How many sessions are bound.
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// Whether no session is bound.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_shared_when_two_users_hold_it() {
        let user = |id| UserId::new(id).expect("valid");
        let mut bindings = SessionBindings::default();
        bindings.bind(7, &user("ann"));
        bindings.bind(7, &user("ann"));
        assert!(!bindings.is_shared(7));
        bindings.bind(7, &user("bob"));
        assert!(bindings.is_shared(7));
        bindings.unbind(7, &user("bob"));
        assert!(!bindings.is_shared(7));
        bindings.unbind(7, &user("ann"));
        bindings.unbind(7, &user("ann"));
        bindings.unbind(7, &user("ann"));
        assert!(bindings.is_empty());
    }
}
