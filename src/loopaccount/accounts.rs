//! The accounts of all users.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::account::{Account, Figures};

/// Users with an account of their own. At the bound those whose coroutines ended longest ago are added to one account of all
/// who went, which the total of the process counts.
pub const MAX_USERS: usize = 10_000;

struct Entry {
    account: Arc<Account>,
    /// When it was last asked for, by count.
    used: u64,
}

#[derive(Default)]
struct Table {
    users: HashMap<Arc<str>, Entry>,
    uses: u64,
    gone: Figures,
    /// Shared by users that came while every account was in use.
    others: Arc<Account>,
}

/// Accounts by user.
#[derive(Default)]
pub struct Accounts(Mutex<Table>);

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts")
            .field("users", &self.table().users.len())
            .finish()
    }
}

impl Accounts {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account of a user, made when there is none.
    pub fn of(&self, user: &str) -> Arc<Account> {
        let mut table = self.table();
        table.uses += 1;
        let now = table.uses;
        if let Some(entry) = table.users.get_mut(user) {
            entry.used = now;
            return entry.account.clone();
        }
        if table.users.len() >= MAX_USERS && !make_room(&mut table) {
            return table.others.clone();
        }
        let account = Arc::new(Account::default());
        let entry = Entry {
            account: account.clone(),
            used: now,
        };
        table.users.insert(Arc::from(user), entry);
        account
    }

    /// The figures of one user, if there are any.
    pub fn figures(&self, user: &str) -> Option<Figures> {
        let account = self.table().users.get(user).map(|entry| entry.account.clone());
        account.map(|account| account.figures())
    }

    /// The figures of all users together, those who went included.
    pub fn total(&self) -> Figures {
        let (mut total, accounts) = {
            let table = self.table();
            let mut accounts: Vec<_> = table.users.values().map(|entry| entry.account.clone()).collect();
            accounts.push(table.others.clone());
            (table.gone.clone(), accounts)
        };
        for account in accounts {
            total.merge(account.figures());
        }
        total
    }

    /// Users with an account.
    pub fn users(&self) -> usize {
        self.table().users.len()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.table() = Table::default();
    }
}

/// Adds a tenth of the users to those who went: the ones not asked for longest, of whom nothing runs.
fn make_room(table: &mut Table) -> bool {
    let mut idle: Vec<(u64, Arc<str>)> = table
        .users
        .iter()
        .filter(|(_, entry)| Arc::strong_count(&entry.account) == 1)
        .map(|(user, entry)| (entry.used, user.clone()))
        .collect();
    let many = (MAX_USERS / 10).min(idle.len());
    if many == 0 {
        return false;
    }
    idle.select_nth_unstable(many - 1);
    for (_, user) in &idle[..many] {
        if let Some(entry) = table.users.remove(user) {
            table.gone.merge(entry.account.figures());
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopaccount::Step;

    #[test]
    fn a_user_keeps_its_account_and_no_other_has_it() {
        let accounts = Accounts::default();
        let step = Step {
            wall: 7,
            cpu: 7,
            passed_on: false,
        };
        accounts.of("ann").record(step);
        accounts.of("ann").record(step);
        accounts.of("bob").record(step);
        assert_eq!(accounts.figures("ann").expect("known").wall, 14);
        assert_eq!(accounts.figures("bob").expect("known").wall, 7);
        assert!(accounts.figures("eve").is_none());
        assert_eq!(accounts.total().wall, 21);
    }

    #[test]
    fn at_the_bound_idle_users_go_and_the_total_stays() {
        let accounts = Accounts::default();
        let busy = accounts.of("busy");
        for user in 0..MAX_USERS + 5 {
            accounts.of(&format!("user-{user}")).record(Step {
                wall: 1,
                cpu: 1,
                passed_on: false,
            });
        }
        assert!(accounts.users() <= MAX_USERS);
        assert_eq!(accounts.total().wall, MAX_USERS as u64 + 5);
        assert!(Arc::ptr_eq(&busy, &accounts.of("busy")), "who is in use stays");
        assert!(accounts.figures("user-0").is_none(), "who was used longest ago went");
    }

    #[test]
    fn when_all_are_in_use_who_comes_shares_an_account() {
        let accounts = Accounts::default();
        let held: Vec<_> = (0..MAX_USERS).map(|user| accounts.of(&user.to_string())).collect();
        let (one, two) = (accounts.of("late"), accounts.of("later"));
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!((held.len(), accounts.users()), (MAX_USERS, MAX_USERS));
    }
}
