//! The scanner of a process: keys, secrets, what came in, and what was looked at.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::PoisonError;

use siphasher::sip128::SipHasher24;

use super::canary::{CANARY_LENGTH, Key};
use super::coverage::{Boundary, Coverage};
use super::decode::Plain;
use super::exposure::{Exposure, Exposures};
use super::scan::{self, Candidate, Depth, Form, Found, Sighting, Tier};
use super::secrets::{SecretRefused, Secrets};
use super::stream::Window;
use crate::ids::{UserId, random_u64};
use crate::metrics::Counter;
use crate::mutants::mutant;
use crate::sync::{Mutex, MutexGuard};

/// Most users whose hash can be turned into the user again; the one noted first goes.
const MAX_KNOWN: usize = 10_000;
/// Most texts in parts whose ends are kept; the one begun first goes.
const MAX_TEXTS: usize = 1_000;

/// Users by the hash that stands for them.
#[derive(Debug, Default)]
struct Known {
    users: HashMap<u64, UserId>,
    order: VecDeque<u64>,
}

impl Known {
    fn note(&mut self, owner: u64, user: &UserId) {
        if self.users.contains_key(&owner) {
            return;
        }
        if self.order.len() >= MAX_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.users.remove(&oldest);
        }
        self.users.insert(owner, user.clone());
        self.order.push_back(owner);
    }

    fn forget(&mut self, user: &UserId) {
        let users = &mut self.users;
        self.order
            .retain(|owner| users.get(owner).is_some_and(|known| !known.is(user)));
        users.retain(|_, known| !known.is(user));
    }
}

/// Ends of texts that come in parts, by a number that stands for the text.
#[derive(Debug, Default)]
struct Texts {
    /// With the hash of who sees the text.
    windows: HashMap<u64, (u64, Window)>,
    order: VecDeque<u64>,
}

impl Texts {
    fn forget(&mut self, observer: u64) {
        let windows = &mut self.windows;
        self.order
            .retain(|number| windows.get(number).is_some_and(|(seen_by, _)| *seen_by != observer));
        windows.retain(|_, (seen_by, _)| *seen_by != observer);
    }
}

struct State {
    key: Key,
    /// The key of the epoch before: what was made with it is still known.
    former: Option<Key>,
    secrets: Secrets,
    known: Known,
    exposures: Exposures,
    plain: Plain,
}

/// Whether what is scanned is on its way to its reader for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It is, and counts for the bound.
    First,
    /// It was scanned on its way before.
    Again,
}

/// Finds what is not the observer's.
pub struct Scanner {
    state: Mutex<State>,
    texts: Mutex<Texts>,
    /// What evidence and observers are hashed with; never rotated, so that sightings of one canary stay one.
    salt: [u8; 16],
    /// Canaries made.
    pub minted: Counter,
    /// Scans that could not be done.
    pub errors: Counter,
    /// What was looked at.
    pub coverage: Coverage,
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("coverage", &self.coverage)
            .finish_non_exhaustive()
    }
}

impl Scanner {
    /// A scanner whose canaries are made with `key`.
    pub fn new(key: Key) -> Self {
        let mut salt = [0; 16];
        salt[..8].copy_from_slice(&random_u64().to_le_bytes());
        salt[8..].copy_from_slice(&random_u64().to_le_bytes());
        Self {
            state: Mutex::new(State {
                key,
                former: None,
                secrets: Secrets::default(),
                known: Known::default(),
                exposures: Exposures::default(),
                plain: Plain::default(),
            }),
            texts: Mutex::new(Texts::default()),
            salt,
            minted: Counter::default(),
            errors: Counter::default(),
            coverage: Coverage::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn salted(&self, bytes: &[u8]) -> u64 {
        SipHasher24::new_with_key(&self.salt).hash(bytes).h1
    }

    /// What stands for a user in sightings, as long as the key is not rotated.
    pub fn owner(&self, user: &str) -> u64 {
        self.state().key.owner(user)
    }

    /// A new canary of the user.
    pub fn mint(&self, user: &UserId) -> [u8; CANARY_LENGTH] {
        let mut state = self.state();
        let owner = state.key.owner(user.as_str());
        state.known.note(owner, user);
        self.minted.increment();
        state.key.mint(user.as_str())
    }

    /// From now on canaries are made with `key`. Those of the key before are still known, older ones no more.
    pub fn rotate(&self, key: Key) {
        let mut state = self.state();
        let former = std::mem::replace(&mut state.key, key);
        state.former = (!mutant!(FormerKeyForgotten)).then_some(former);
    }

    /// Names a value as the user's. Answers how many pieces of it are looked for.
    pub fn register(&self, user: &UserId, value: &[u8]) -> Result<NonZeroUsize, SecretRefused> {
        let mut state = self.state();
        let taken = state.secrets.register(user, value)?;
        let owner = state.key.owner(user.as_str());
        state.known.note(owner, user);
        Ok(taken)
    }

    /// How many secrets are looked for.
    pub fn secrets(&self) -> usize {
        self.state().secrets.len()
    }

    /// Lets go of everything that is held of a user. Answers how many secrets that were.
    pub fn forget(&self, user: &UserId) -> usize {
        let observer = self.salted(user.as_str().as_bytes());
        self.texts().forget(observer);
        let mut state = self.state();
        state.known.forget(user);
        state.exposures.forget(observer);
        state.secrets.forget(user)
    }

    fn texts(&self) -> MutexGuard<'_, Texts> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything is held of a user.
    pub fn holds(&self, user: &UserId) -> bool {
        let observer = self.salted(user.as_str().as_bytes());
        if self.texts().windows.values().any(|(seen_by, _)| *seen_by == observer) {
            return true;
        }
        let state = self.state();
        let known = state.known.users.values().any(|known| known.is(user));
        known || state.secrets.has(user)
    }

    /// Looks at what the user brought: what is somebody else's in it is no leak of ours when it comes out again. Answers how
    /// much of it is new.
    pub fn note_inbound(&self, user: &str, text: &[u8]) -> usize {
        let mut found = Found::default();
        self.search(text, 0, (Some(user), None), Depth::Everything, &mut found);
        let observer = self.salted(user.as_bytes());
        let mut state = self.state();
        found
            .sightings
            .iter()
            .filter(|sighting| state.exposures.note(observer, sighting.evidence))
            .count()
    }

    /// Looks at a text. `observer` is who will see it; nobody in particular when absent, and then all is somebody's.
    pub fn scan(&self, text: &[u8], observer: Option<&str>, depth: Depth, found: &mut Found) {
        self.scan_after(text, 0, observer, depth, found);
        found.bytes += text.len();
    }

    /// The same for the text from `after` on: what ends before that is left out.
    pub(super) fn scan_after(
        &self,
        text: &[u8],
        after: usize,
        observer: Option<&str>,
        depth: Depth,
        found: &mut Found,
    ) {
        let hashed = observer.map(|observer| self.salted(observer.as_bytes()));
        self.search(text, after, (observer, hashed), depth, found);
    }

    /// The search itself. With the hash of the observer it is asked whether the observer brought what is found.
    fn search(
        &self,
        text: &[u8],
        after: usize,
        (observer, hashed): (Option<&str>, Option<u64>),
        depth: Depth,
        found: &mut Found,
    ) {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut seen = Seen {
            scanner: self,
            key: &state.key,
            former: state.former.as_ref(),
            known: &state.known,
            exposures: &mut state.exposures,
            observer,
            hashed,
            after,
            found,
        };
        if depth == Depth::Canaries {
            scan::exact(text, |candidate| seen.candidate(&candidate));
            return;
        }
        let has_escapes = scan::all_forms(text, &mut state.plain, |candidate| seen.candidate(&candidate));
        if mutant!(SecretsNotSearched) {
            return;
        }
        state.secrets.find(text, |from, to, hash, owner| {
            seen.secret(from, to, hash, owner, Form::Plain);
        });
        if has_escapes {
            let plain = &state.plain;
            state.secrets.find(&plain.text, |from, to, hash, owner| {
                let (first, last) = plain.span(from, to);
                if last - first > to - from {
                    seen.secret(first, last, hash, owner, Form::Escaped);
                }
            });
        }
    }

    /// Looks at one part of a text that comes in parts. `text` names it: the same for all of its parts.
    pub fn scan_part(&self, text: (&str, &str), observer: &str, part: &[u8]) -> Found {
        let mut named = Vec::with_capacity(text.0.len() + text.1.len() + observer.len() + 2);
        for word in [text.0, text.1, observer] {
            named.extend_from_slice(word.as_bytes());
            named.push(0);
        }
        let number = self.salted(&named);
        let mut guard = self.texts();
        let texts = &mut *guard;
        if !texts.windows.contains_key(&number) {
            if texts.order.len() >= MAX_TEXTS
                && let Some(oldest) = texts.order.pop_front()
            {
                texts.windows.remove(&oldest);
            }
            texts.order.push_back(number);
        }
        let seen_by = self.salted(observer.as_bytes());
        let (_, window) = texts
            .windows
            .entry(number)
            .or_insert_with(|| (seen_by, Window::default()));
        window.feed(self, Some(observer), part)
    }

    /// Whether a canary of one's own is seen and one of somebody else is caught, by the same search as everything else.
    pub fn controls(&self) -> bool {
        let (own, other) = {
            let state = self.state();
            (state.key.mint(CONTROL), state.key.mint(OTHER_CONTROL))
        };
        let mut text = Vec::with_capacity(3 * CANARY_LENGTH);
        for part in [&b"{\"own\":\""[..], &own, b"\",\"foreign\":\"", &other, b"\"}"] {
            text.extend_from_slice(part);
        }
        let mut found = Found::default();
        self.scan_after(&text, 0, Some(CONTROL), Depth::Everything, &mut found);
        found.own == 1 && found.sightings.len() == 1 && found.sightings[0].tier == Tier::Canary
    }

    /// Notes a scan that is finished.
    pub fn note(&self, boundary: Boundary, found: &Found, delivery: Delivery) {
        let foreign = found.sightings.iter().filter(|sighting| !sighting.is_prior).count() + found.more;
        self.coverage
            .note(boundary, found.bytes, found.own, foreign, delivery == Delivery::First);
    }
}

/// Users that nobody is: no id of a user has a control character.
const CONTROL: &str = "\u{1}control";
const OTHER_CONTROL: &str = "\u{1}control of another";

/// Judges what the search comes upon.
struct Seen<'a> {
    scanner: &'a Scanner,
    key: &'a Key,
    former: Option<&'a Key>,
    known: &'a Known,
    exposures: &'a mut Exposures,
    observer: Option<&'a str>,
    hashed: Option<u64>,
    after: usize,
    found: &'a mut Found,
}

impl Seen<'_> {
    fn candidate(&mut self, candidate: &Candidate) {
        if candidate.to <= self.after {
            return;
        }
        let keys = [Some(self.key), self.former];
        let verified = keys
            .into_iter()
            .flatten()
            .find_map(|key| Some((key, key.verify(&candidate.canary)?)));
        let Some((key, owner)) = verified else { return };
        let is_own = self.observer.is_some_and(|observer| key.owner(observer) == owner);
        if is_own || mutant!(EveryCanaryIsOwn) {
            self.found.own += 1;
            return;
        }
        let evidence = self.scanner.salted(&candidate.canary);
        let user = self.known.users.get(&owner).cloned();
        self.sighting(
            Tier::Canary,
            owner,
            user,
            (candidate.from, candidate.to),
            candidate.form,
            evidence,
        );
    }

    fn secret(&mut self, from: usize, to: usize, hash: u128, owner: &UserId, form: Form) {
        if to <= self.after || self.observer.is_some_and(|observer| observer == owner.as_str()) {
            return;
        }
        let evidence = self.scanner.salted(&hash.to_le_bytes());
        let hashed = self.key.owner(owner.as_str());
        self.sighting(Tier::Secret, hashed, Some(owner.clone()), (from, to), form, evidence);
    }

    fn sighting(
        &mut self,
        tier: Tier,
        owner: u64,
        user: Option<UserId>,
        (from, to): (usize, usize),
        form: Form,
        evidence: u64,
    ) {
        let exposure = self
            .hashed
            .map_or(Exposure::None, |observer| self.exposures.look(observer, evidence));
        if exposure == Exposure::Known {
            return;
        }
        self.found.push(Sighting {
            tier,
            owner,
            user,
            offset: from,
            length: to - from,
            form,
            evidence,
            is_prior: exposure == Exposure::First,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("valid")
    }

    fn scanner() -> Scanner {
        Scanner::new(Key::fresh())
    }

    fn canary(scanner: &Scanner, name: &str) -> String {
        String::from_utf8(scanner.mint(&user(name)).to_vec()).expect("ASCII")
    }

    fn seen(scanner: &Scanner, text: &str, observer: &str) -> Found {
        let mut found = Found::default();
        scanner.scan(text.as_bytes(), Some(observer), Depth::Everything, &mut found);
        found
    }

    fn written(canary: &str, how: impl Fn(u8) -> String) -> String {
        canary.bytes().map(how).collect::<Vec<_>>().concat()
    }

    fn forms(found: &Found) -> Vec<(Form, usize, usize)> {
        found
            .sightings
            .iter()
            .map(|one| (one.form, one.offset, one.length))
            .collect()
    }

    #[test]
    fn a_canary_is_ones_own_or_somebody_elses() {
        let scanner = scanner();
        let text = format!("so {} it is", canary(&scanner, "ann"));
        let found = seen(&scanner, &text, "ann");
        assert_eq!((found.own, found.sightings.len(), found.bytes), (1, 0, text.len()));
        let found = seen(&scanner, &text, "bob");
        assert_eq!((found.own, forms(&found)), (0, vec![(Form::Plain, 3, 37)]));
        let one = &found.sightings[0];
        assert_eq!((one.tier, one.owner), (Tier::Canary, scanner.owner("ann")));
        assert_eq!(one.user.as_ref().map(UserId::as_str), Some("ann"));
        let mut nobody = Found::default();
        scanner.scan(text.as_bytes(), None, Depth::Canaries, &mut nobody);
        assert_eq!(
            nobody.sightings.len(),
            1,
            "what nobody in particular sees is somebody's"
        );
    }

    #[test]
    fn each_form_is_found_once_and_where_it_is() {
        let scanner = scanner();
        let canary = canary(&scanner, "ann");
        let percent: String = written(&canary, |byte| format!("%{byte:02x}"));
        let unicode: String = written(&canary, |byte| format!("\\u{byte:04X}"));
        let hidden = canary.replace('_', "\u{200b}_\u{2060}");
        let hex: String = written(&canary, |byte| format!("{byte:02x}"));
        let partly = canary.replace("iso", "%69s\\u006f");
        for (text, form) in [
            (canary.clone(), Form::Plain),
            (canary.to_uppercase(), Form::Folded),
            (percent.clone(), Form::Escaped),
            (unicode, Form::Escaped),
            (hidden, Form::Escaped),
            (partly, Form::Escaped),
            (hex.to_uppercase(), Form::Hex),
            (hex, Form::Hex),
        ] {
            let around = format!("xy {text} z");
            assert_eq!(
                forms(&seen(&scanner, &around, "bob")),
                [(form, 3, text.len())],
                "{form:?}"
            );
            assert_eq!(seen(&scanner, &around, "ann").own, 1);
        }
        // An escape elsewhere makes no second sighting.
        let beside = format!("%41 {canary} %41\u{200b}");
        assert_eq!(forms(&seen(&scanner, &beside, "bob")), [(Form::Plain, 4, 37)]);
    }

    #[test]
    fn what_is_nearly_a_canary_is_none() {
        let scanner = scanner();
        let canary = canary(&scanner, "ann");
        let mut other = canary.clone().into_bytes();
        other[30] = if other[30] == b'0' { b'1' } else { b'0' };
        let texts = [
            String::from_utf8(other).expect("ASCII"),
            canary[..36].to_owned(),
            canary[1..].to_owned(),
            canary.replace("iso1", "iso2"),
            "iso1_".to_owned(),
            "iso1_iso1_iso1_iso1_iso1_iso1_iso1_iso1_".to_owned(),
        ];
        for text in texts {
            assert!(forms(&seen(&scanner, &text, "bob")).is_empty(), "{text}");
        }
        assert_eq!(
            forms(&seen(&scanner, &format!("iso1_{canary}"), "bob")),
            [(Form::Plain, 5, 37)]
        );
    }

    #[test]
    fn the_key_before_is_known_and_older_ones_are_not() {
        let scanner = scanner();
        let canary = canary(&scanner, "ann");
        scanner.rotate(Key::fresh());
        assert_eq!(
            (
                seen(&scanner, &canary, "ann").own,
                seen(&scanner, &canary, "bob").sightings.len()
            ),
            (1, 1)
        );
        scanner.rotate(Key::fresh());
        assert_eq!(
            (
                seen(&scanner, &canary, "ann").own,
                seen(&scanner, &canary, "bob").sightings.len()
            ),
            (0, 0)
        );
    }

    #[test]
    fn what_a_user_brought_is_told_once_and_is_no_leak_to_that_user() {
        let scanner = scanner();
        let canary = canary(&scanner, "ann");
        assert_eq!(scanner.note_inbound("bob", canary.as_bytes()), 1);
        assert_eq!(scanner.note_inbound("bob", canary.as_bytes()), 0);
        let first = seen(&scanner, &canary, "bob");
        assert!(first.sightings[0].is_prior);
        assert!(seen(&scanner, &canary, "bob").sightings.is_empty());
        assert!(!seen(&scanner, &canary, "eve").sightings[0].is_prior, "to others it is");
        let second = String::from_utf8(scanner.mint(&user("ann")).to_vec()).expect("ASCII");
        assert!(
            !seen(&scanner, &second, "bob").sightings[0].is_prior,
            "and so is any other canary"
        );
    }

    #[test]
    fn a_user_who_is_forgotten_leaves_nothing() {
        let scanner = scanner();
        let ann = user("ann");
        canary(&scanner, "ann");
        scanner
            .register(&ann, b"6f9619ff-8b86-4d01-b42d-00cf4fc964ff")
            .expect("taken");
        assert!(scanner.holds(&ann) && !scanner.holds(&user("bob")));
        scanner.scan_part(("run", "text"), "bob", b"the end of a text");
        assert!(scanner.holds(&user("bob")));
        scanner.forget(&user("bob"));
        assert!(!scanner.holds(&user("bob")) && scanner.holds(&ann));
        assert_eq!(scanner.forget(&ann), 1);
        assert!(!scanner.holds(&ann));
    }

    #[test]
    fn the_controls_notice_a_scanner_that_sees_nothing() {
        assert!(scanner().controls());
    }

    proptest! {
        #[test]
        fn what_is_cut_anywhere_is_found_once(cuts in prop::collection::vec(0_usize..120, 0..6), escaped in any::<bool>()) {
            let scanner = scanner();
            let canary = canary(&scanner, "ann");
            let written = if escaped { written(&canary, |byte| format!("%{byte:02x}")) } else { canary };
            let text = format!("before {written} after");
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let (mut window, mut from, mut sightings) = (Window::default(), 0, 0);
            for cut in cuts {
                sightings += window.feed(&scanner, Some("bob"), &text.as_bytes()[from..cut]).sightings.len();
                from = cut;
            }
            prop_assert_eq!(sightings, 1);
        }

        #[test]
        fn any_bytes_are_scanned(text in prop::collection::vec(any::<u8>(), 0..400)) {
            let scanner = scanner();
            let mut found = Found::default();
            scanner.scan(&text, Some("bob"), Depth::Everything, &mut found);
            prop_assert!(found.sightings.is_empty());
        }
    }
}
