//! A run log, whoever stores it, and its mirror in another worker: random agents publish into the log, the store loses, repeats and
//! forgets, and clients go from one worker to the other at any time.
//!
//! A client that hops sees what a client of the writer alone sees: every number is accounted for, there is one order, and each
//! execution has one end.

#[path = "log_model.rs"]
mod log_model;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use isolane::clock::{Moment, ProcessClock};
use isolane::events::{Class, EventError, EventKind, LogBounds, MirrorError, Outcome, Replicator, RunLog, Streams};
use isolane::ids::{RunId, ThreadId, UserId};
use isolane::lanes::{LaneHandle, Registry};
use proptest::prelude::*;
use serde_json::Value;

use log_model::{Agents, Client, Record, SECOND, Shown};

const RUN: &str = "run-1";

#[derive(Debug, Clone)]
enum Step {
    Start(usize),
    Think(usize),
    Begin(usize, usize),
    End(usize, usize),
    Finish(usize),
    Fail(usize),
    Custom(usize),
    Text(usize, usize, usize),
    Progress(usize, usize, usize),
    Debug(usize, usize),
    Again(usize),
    Wait(u64),
    /// The store takes so many bytes.
    Store(usize),
    /// What the store was to take is lost on the way.
    Lose(usize),
    /// The store is emptied.
    Empty,
    /// The mirror reads so many entries of the store.
    Feed(usize),
    /// It is fed once more from the beginning of what the store has.
    FeedAgain(usize),
    /// It is fed, and one entry is missing.
    FeedGap(usize),
    Read(usize, usize),
    /// A client goes to the other worker.
    Hop(usize),
    Reload(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let agent = 0_usize..3;
    let bytes = prop_oneof![Just(1_usize), Just(2_000), Just(1 << 20)];
    let step = prop_oneof![
        2 => agent.clone().prop_map(Step::Start),
        3 => agent.clone().prop_map(Step::Think),
        3 => (agent.clone(), 0_usize..2).prop_map(|(agent, tool)| Step::Begin(agent, tool)),
        3 => (agent.clone(), 0_usize..2).prop_map(|(agent, tool)| Step::End(agent, tool)),
        1 => agent.clone().prop_map(Step::Finish),
        1 => agent.clone().prop_map(Step::Fail),
        2 => agent.clone().prop_map(Step::Custom),
        5 => (agent.clone(), 0_usize..2, 1_usize..6).prop_map(|(agent, text, parts)| Step::Text(agent, text, parts)),
        4 => (agent.clone(), 0_usize..2, 1_usize..4).prop_map(|(agent, key, times)| Step::Progress(agent, key, times)),
        2 => (agent, prop_oneof![4 => 1_usize..4, 1 => 60_usize..80]).prop_map(|(agent, times)| Step::Debug(agent, times)),
        1 => (0_usize..8).prop_map(Step::Again),
        1 => prop_oneof![Just(SECOND / 100), Just(3 * SECOND), Just(6 * SECOND), Just(31 * SECOND)].prop_map(Step::Wait),
        6 => bytes.clone().prop_map(Step::Store),
        1 => bytes.prop_map(Step::Lose),
        1 => Just(Step::Empty),
        6 => prop_oneof![1_usize..9, Just(1_000)].prop_map(Step::Feed),
        1 => prop_oneof![1_usize..9, Just(1_000)].prop_map(Step::FeedAgain),
        1 => (0_usize..8).prop_map(Step::FeedGap),
        4 => (0_usize..3, prop_oneof![1_usize..9, Just(1_000)]).prop_map(|(client, limit)| Step::Read(client, limit)),
        3 => (0_usize..3).prop_map(Step::Hop),
        1 => (0_usize..3).prop_map(Step::Reload),
    ];
    prop::collection::vec(step, 1..150)
}

type Entries = Vec<(u64, Vec<u8>)>;

/// A store of one log, as an engine may be: a list of entries and a snapshot.
#[derive(Default)]
struct Store {
    entries: BTreeMap<u64, Vec<u8>>,
    snapshot: Option<(u64, Vec<u8>)>,
    outcome: Option<Outcome>,
    has_begun: bool,
}

impl Store {
    fn after(&self, position: u64, limit: usize) -> Entries {
        let entries = self.entries.range(position + 1..).take(limit);
        entries.map(|(number, bytes)| (*number, bytes.clone())).collect()
    }
}

fn pieces(entries: &Entries) -> impl Iterator<Item = (u64, &[u8])> {
    entries.iter().map(|(number, bytes)| (*number, &**bytes))
}

/// The worker that publishes, the store, and the worker that has the mirror.
struct Cluster {
    _registries: [Registry; 2],
    replica: Arc<Replicator>,
    log: Arc<RunLog>,
    mirror: Arc<RunLog>,
    store: Store,
    agents: Agents,
    here: LaneHandle,
    there: LaneHandle,
    clients: Vec<Client>,
    /// Which clients are with the mirror.
    is_there: [bool; 3],
}

impl Cluster {
    fn new(events: usize, mirrored: usize) -> Self {
        let registries = [(); 2].map(|()| Registry::new(Box::new(ProcessClock::new())));
        let [here, there] = [0, 1].map(|at: usize| registries[at].lane(&UserId::new("ann").expect("valid")));
        let replica = Replicator::install(&registries[0], 0).expect("the first");
        let (run, thread) = (
            RunId::new(RUN).expect("valid"),
            ThreadId::new("thread-1").expect("valid"),
        );
        let bounds = |events| LogBounds {
            events,
            ..LogBounds::default()
        };
        let writer = Streams::open(&here, &run, &thread, bounds(events)).expect("opens");
        let log = writer.log().clone();
        let mirror = Streams::mirror(&there, &run, &thread, log.epoch(), "w1", bounds(mirrored)).expect("is mirrored");
        let mut clients: Vec<Client> = (0..3).map(|_| Client::default()).collect();
        for client in &mut clients {
            client.connect(&here, RUN);
        }
        let agents = Agents {
            lane: here.clone(),
            writer,
            each: HashMap::new(),
            executions: 0,
            record: Record::default(),
            ids: Vec::new(),
            now: SECOND,
        };
        Self {
            _registries: registries,
            replica,
            log,
            mirror,
            store: Store::default(),
            agents,
            here,
            there,
            clients,
            is_there: [false; 3],
        }
    }

    fn now(&self) -> Moment {
        Moment {
            monotonic: self.agents.now,
            unix: self.agents.now,
        }
    }

    fn store(&mut self, bytes: usize) {
        for append in self.replica.take(bytes) {
            assert_eq!(append.log.run().as_str(), RUN);
            let chunk = append.chunk;
            if append.is_whole {
                self.store = Store {
                    has_begun: true,
                    ..Store::default()
                };
            } else if !self.store.has_begun {
                assert!(self.replica.rewind(RUN, self.log.epoch()));
                continue;
            }
            self.store.entries.extend(chunk.entries);
            if let Some((upto, snapshot)) = chunk.snapshot {
                self.store.entries = self.store.entries.split_off(&(upto + 1));
                self.store.snapshot = Some((upto, snapshot));
            }
            self.store.outcome = chunk.ended;
            assert!(self.replica.stored(RUN, self.log.epoch(), chunk.upto));
            assert!(chunk.upto <= self.log.head());
        }
        assert!(
            self.store.entries.len() <= 3 * self.log.kept().0.max(600),
            "what is stored has a bound"
        );
    }

    fn lose(&mut self, bytes: usize) {
        self.replica.take(bytes);
        self.replica.again(RUN, self.log.epoch());
    }

    /// Hands the mirror what follows its position, from the snapshot if the store does not go back so far.
    fn feed(&mut self, limit: usize) {
        let (position, now) = (self.mirror.head(), self.now());
        let entries = self.store.after(position, limit);
        let is_trimmed = self.store.snapshot.as_ref().is_some_and(|(upto, _)| *upto > position);
        if self.mirror.mirror_append(pieces(&entries), now).expect("is read") && !is_trimmed {
            return;
        }
        assert_eq!(self.mirror.head(), position, "nothing is taken behind a gap");
        // The store was emptied and has not got it again, or goes back to its snapshot.
        let Some((upto, snapshot)) = self.store.snapshot.clone() else {
            return;
        };
        let entries = self.store.after(upto, limit);
        self.mirror
            .mirror_reset(upto, &snapshot, pieces(&entries), now)
            .expect("is read");
    }

    fn feed_again(&mut self, limit: usize) {
        let (position, entries) = (self.mirror.head(), self.store.after(0, limit));
        let shown = self.mirror.account();
        let last = entries.last().map_or(0, |(number, _)| *number);
        let taken = self
            .mirror
            .mirror_append(pieces(&entries), self.now())
            .expect("is read");
        if taken && last <= position {
            assert_eq!(self.mirror.account(), shown, "what comes again changes nothing");
        }
    }

    fn feed_gap(&mut self, missing: usize) {
        let position = self.mirror.head();
        let mut entries = self.store.after(position, 1_000);
        if entries.len() < 2 || !self.store.has_begun {
            return;
        }
        let missing = missing % (entries.len() - 1);
        let (number, _) = entries.remove(missing);
        let taken = self
            .mirror
            .mirror_append(pieces(&entries), self.now())
            .expect("is read");
        assert!(!taken, "a gap is told");
        assert!(self.mirror.head() < number, "nothing behind it is taken");
    }

    fn hop(&mut self, client: usize) {
        self.is_there[client] = !self.is_there[client];
        let lane = if self.is_there[client] { &self.there } else { &self.here };
        self.clients[client].connect(lane, RUN);
    }

    fn read(&mut self, client: usize, limit: usize) -> bool {
        let is_over = self.log.is_over();
        let open = if is_over { BTreeSet::new() } else { self.agents.open() };
        let now = self.agents.now;
        let record = &mut self.agents.record;
        record.seen = self.is_there[client].then(|| self.mirror.head());
        // Either worker may leave out what is for debugging.
        record.shed = self.here.shared().events.shed.get() + self.there.shared().events.shed.get();
        self.clients[client].read(limit, &open, record, now)
    }

    fn step(&mut self, step: Step) {
        let agents = &mut self.agents;
        match step {
            Step::Start(agent) => agents.plain(agent, EventKind::Started),
            Step::Think(agent) => agents.plain(agent, EventKind::Thinking),
            Step::Begin(agent, tool) => agents.plain(agent, EventKind::ToolExecuting(["sql", "web"][tool])),
            Step::End(agent, tool) => agents.plain(agent, EventKind::ToolCompleted(["sql", "web"][tool])),
            Step::Finish(agent) => agents.plain(agent, EventKind::Completed),
            Step::Fail(agent) => agents.plain(agent, EventKind::Error),
            Step::Custom(agent) => agents.custom(agent),
            Step::Text(agent, text, parts) => (0..parts).for_each(|_| agents.text(agent, text)),
            Step::Progress(agent, key, times) => (0..times).for_each(|_| agents.progress(agent, key)),
            Step::Debug(agent, times) => (0..times).for_each(|_| agents.debug(agent)),
            Step::Again(which) => agents.again(which),
            Step::Wait(time) => agents.now += time,
            Step::Store(bytes) => self.store(bytes),
            Step::Lose(bytes) => self.lose(bytes),
            Step::Empty => {
                self.store = Store::default();
                self.replica.rewind(RUN, self.log.epoch());
            }
            Step::Feed(limit) => self.feed(limit),
            Step::FeedAgain(limit) => self.feed_again(limit),
            Step::FeedGap(missing) => self.feed_gap(missing),
            Step::Read(client, limit) => drop(self.read(client, limit)),
            Step::Hop(client) => self.hop(client),
            Step::Reload(client) => {
                let connection = self.clients[client].connection.take();
                self.clients[client] = Client {
                    connection,
                    ..Client::default()
                };
                let lane = if self.is_there[client] { &self.there } else { &self.here };
                self.clients[client].connect(lane, RUN);
            }
        }
        let account = self.mirror.account();
        assert!(
            account.is_balanced(),
            "the mirror accounts for each number: {account:?}"
        );
        assert!(self.mirror.head() <= self.log.head());
        assert_eq!(self.mirror.has_open_spans() || self.mirror.head() < self.log.head(), {
            self.log.has_open_spans() || self.mirror.head() < self.log.head()
        });
    }

    /// Brings everything to the mirror.
    fn catch_up(&mut self) {
        for _ in 0..10_000 {
            self.store(1 << 20);
            self.feed(1_000);
            if self.store.outcome.is_some() && self.mirror.head() == self.log.head() {
                break;
            }
        }
        assert_eq!(self.mirror.head(), self.log.head());
        let outcome = self.store.outcome.expect("the end was stored");
        self.mirror.mirror_end(outcome, self.now()).expect("ends");
        assert_eq!(self.mirror.view().ended.map(|(outcome, _)| outcome), Some(outcome));
        assert_eq!(self.replica.figures().behind, 0);
    }
}

/// What a client shows that reads a log from its beginning, with the outcome that it is told.
fn shown_by(lane: &LaneHandle, now: u64) -> (Shown, Option<String>) {
    let mut client = Client::default();
    client.connect(lane, RUN);
    let connection = client.connection.expect("is connected");
    let (mut shown, mut outcome, mut last) = (Shown::default(), None, 0);
    loop {
        let texts = connection.read(7, now);
        if texts.is_empty() {
            break;
        }
        for text in texts {
            let frame: Value = serde_json::from_str(&text).expect("a frame is JSON");
            let word = |name: &str| frame[name].as_u64().expect("a number");
            match frame["t"].as_str().expect("a type") {
                "snap" => {
                    assert_eq!(last, 0, "a snapshot comes first");
                    frame["b"]
                        .as_array()
                        .expect("a body")
                        .iter()
                        .for_each(|message| shown.apply(message));
                    last = word("n");
                }
                "ev" => {
                    for entry in frame["b"].as_array().expect("a body") {
                        assert_eq!(entry["f"].as_u64(), Some(last + 1));
                        last = entry["n"].as_u64().expect("a number");
                        shown.apply(&entry["ev"]);
                    }
                }
                "skip" => last = word("n"),
                "end" => {
                    assert_eq!(word("n"), last, "the end is told when all is told");
                    outcome = frame["outcome"].as_str().map(str::to_owned);
                }
                _ => {}
            }
        }
    }
    (shown, outcome)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn who_hops_between_workers_sees_what_the_writer_told(
        events in prop_oneof![1_usize..12, 12_usize..100],
        mirrored in prop_oneof![1_usize..12, 12_usize..100],
        steps in steps(),
    ) {
        let mut cluster = Cluster::new(events, mirrored);
        for step in steps {
            cluster.step(step);
            prop_assert!(cluster.mirror.kept().0 <= mirrored);
        }
        cluster.agents.end();
        cluster.catch_up();
        let head = cluster.log.head();
        let forgotten: u64 = [&cluster.here, &cluster.there].map(|lane| lane.shared().events.forgotten.get()).iter().sum();
        for client in 0..3 {
            for _ in 0..10_000 {
                if !cluster.read(client, 5) {
                    break;
                }
            }
            let (client, record) = (&cluster.clients[client], &cluster.agents.record);
            prop_assert_eq!(client.position, head);
            let critical = |number: &u64| record.event(*number).class == Class::Critical;
            let missing = (client.covered_to + 1..=head).filter(critical).find(|number| !client.delivered.contains(number));
            prop_assert_eq!(missing, None);
            prop_assert_eq!(client.ended.as_ref().map(|(number, _)| *number), Some(head));
            if forgotten == 0 {
                cluster.agents.check(client);
            }
        }
        let Cluster { mirror, there, agents, clients, replica, log, .. } = cluster;
        drop((clients, agents, replica, log));
        mirror.forget();
        drop(mirror);
        prop_assert_eq!(there.streams().account().bytes(), 0, "every byte is returned");
    }

    /// The worker that publishes dies at any moment: another one closes what is open, and all others show the same.
    #[test]
    fn a_run_whose_worker_died_is_closed_once_and_for_all(
        events in prop_oneof![1_usize..12, 12_usize..100],
        mirrored in prop_oneof![1_usize..12, 12_usize..100],
        steps in steps(),
    ) {
        let mut cluster = Cluster::new(events, mirrored);
        for step in steps {
            cluster.step(step);
        }
        let now = cluster.now();
        let (head, open) = (cluster.mirror.head(), cluster.mirror.has_open_spans());
        let old = cluster.mirror.clone();
        let (adopted, chunk) = old.adopt("worker_lost", "the worker is gone", now).expect("is adopted");
        prop_assert!(old.is_forgotten() && old.adopt("worker_lost", "again", now).is_err());
        prop_assert_eq!(old.mirror_append([], now), Err(MirrorError::Event(EventError::Closed)));
        prop_assert!(adopted.account().is_balanced(), "{:?}", adopted.account());
        prop_assert_eq!(adopted.head() > head, open, "what is open is closed");
        prop_assert!(!adopted.has_open_spans());
        prop_assert_eq!(chunk.ended, Some(Outcome::Lost));
        let (shown, outcome) = shown_by(&cluster.there, now.monotonic);
        prop_assert_eq!(outcome.as_deref(), Some("lost"));
        prop_assert!(!shown.spans.values().any(|state| state == "open"), "{:?}", shown.spans);

        // A third worker that reads it from the store.
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let third = registry.lane(&UserId::new("ann").expect("valid"));
        let (run, thread) = (RunId::new(RUN).expect("valid"), ThreadId::new("thread-1").expect("valid"));
        let bounds = LogBounds { events: mirrored, ..LogBounds::default() };
        let mirror = Streams::mirror(&third, &run, &thread, adopted.epoch(), "w1", bounds).expect("is mirrored");
        let taken = match &chunk.snapshot {
            Some((upto, snapshot)) => mirror.mirror_reset(*upto, snapshot, pieces(&chunk.entries), now),
            None => mirror.mirror_append(pieces(&chunk.entries), now),
        };
        prop_assert_eq!(taken, Ok(true));
        prop_assert_eq!(mirror.head(), adopted.head());
        mirror.mirror_end(Outcome::Lost, now).expect("ends");
        let of_third = shown_by(&third, now.monotonic);
        prop_assert_eq!(&of_third.1, &outcome);
        // Unless a snapshot had no room for all.
        let forgotten: u64 = [&cluster.there, &third].map(|lane| lane.shared().events.forgotten.get()).iter().sum();
        if forgotten == 0 {
            prop_assert_eq!(of_third, (shown, outcome));
        }

        // Those who were there go on in it, and are told once that it ended.
        for client in (0..3).filter(|client| cluster.is_there[*client]).collect::<BTreeSet<_>>() {
            let connection = cluster.clients[client].connection.clone().expect("is connected");
            let mut texts = Vec::new();
            // The read that leaves an incarnation behind has nothing to tell of it.
            for _ in 0..200 {
                texts.extend(connection.read(9, now.monotonic));
            }
            let frames: Vec<Value> = texts.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
            let of = |kind: &str| frames.iter().filter(|frame| frame["t"] == kind).collect::<Vec<_>>();
            prop_assert_eq!(of("end").len(), 1);
            prop_assert_eq!(of("end")[0]["outcome"].as_str(), Some("lost"));
            let began = of("sub");
            let last = began.last().expect("it begins anew");
            prop_assert_eq!(last["mode"].as_str(), Some("reset"));
            prop_assert_eq!(last["e"].as_str(), Some(&**adopted.epoch()));
            prop_assert!(!began.iter().any(|frame| frame["mode"] == "gone"));
        }
    }
}
