//! The run log against a model: random agents publish in all classes, and connections of any speed read, with logs of any
//! size, at any time.
//!
//! Every number is accounted for: delivered once and in order, merged into the text that it is a part of, declared skipped for
//! a reason that the model knows, or covered by a snapshot. What a client shows in the end is what the agents said.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use isolane::clock::{Moment, ProcessClock};
use isolane::events::{
    Class, CursorMode, Delta, Draft, EventKind, Extra, LogBounds, Outcome, SpanScope, StreamWriter, Streams,
};
use isolane::ids::{RequestId, RunId, ThreadId, UserId};
use isolane::lanes::{LaneHandle, Registry};
use proptest::prelude::*;
use serde_json::Value;

const SECOND: u64 = 1_000_000;
const PROGRESS_TTL: u64 = 30 * SECOND;
const DEBUG_TTL: u64 = 5 * SECOND;
const DEBUG_LAG: u64 = 64;

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
    Read(usize, usize),
    Duplicate(usize),
    Reconnect(usize),
    Reload(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let agent = 0_usize..3;
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
        4 => (0_usize..3, prop_oneof![1_usize..9, Just(1_000)]).prop_map(|(client, limit)| Step::Read(client, limit)),
        1 => (0_usize..3).prop_map(Step::Duplicate),
        1 => (0_usize..3).prop_map(Step::Reconnect),
        1 => (0_usize..3).prop_map(Step::Reload),
    ];
    prop::collection::vec(step, 1..150)
}

/// What a page shows of a run.
#[derive(Debug, Default, Clone, PartialEq)]
struct Shown {
    /// The latest state of each execution, by its request.
    spans: BTreeMap<String, String>,
    /// Texts by request and message.
    texts: BTreeMap<(String, String), String>,
    /// The latest of the progress by request and key.
    progress: BTreeMap<(String, String), u64>,
}

impl Shown {
    fn apply(&mut self, message: &Value) {
        let word = |value: &Value| value.as_str().expect("a text").to_owned();
        let (kind, request, payload) = (
            word(&message["type"]),
            word(&message["request_id"]),
            &message["payload"],
        );
        match kind.as_str() {
            "agent_started" => drop(self.spans.insert(request, "open".to_owned())),
            "agent_completed" | "agent_error" => drop(self.spans.insert(request, kind)),
            "text" => {
                let text = self.texts.entry((request, word(&payload["message_id"]))).or_default();
                text.push_str(payload["delta"].as_str().expect("a part"));
            }
            "progress" => {
                let value = payload["value"].as_u64().expect("a value");
                self.progress.insert((request, word(&payload["key"])), value);
            }
            _ => {}
        }
    }
}

/// An event as it was published.
struct Event {
    class: Class,
    /// Of progress: what it is the latest of.
    key: Option<(usize, usize, usize)>,
    at: u64,
}

/// All that was published.
#[derive(Default)]
struct Record {
    events: Vec<Event>,
    shown: Shown,
    shed: u64,
}

impl Record {
    fn event(&self, number: u64) -> &Event {
        &self.events[usize::try_from(number).expect("small") - 1]
    }

    fn head(&self) -> u64 {
        self.events.len() as u64
    }

    fn is_superseded(&self, number: u64) -> bool {
        let own = self.event(number).key;
        let later = self.events.iter().skip(usize::try_from(number).expect("small"));
        own.is_some() && later.into_iter().any(|event| event.key == own)
    }

    /// Whether a reader whose position was `from` may not be sent an event, and whether it must not.
    fn skips(&self, number: u64, from: u64, now: u64) -> (bool, bool) {
        let event = self.event(number);
        match event.class {
            Class::Critical | Class::Content => (false, false),
            Class::Progress => {
                let skipped = self.is_superseded(number) || event.at + PROGRESS_TTL < now;
                (skipped, skipped)
            }
            Class::Debug => {
                let skipped = self.head() - from > DEBUG_LAG || event.at + DEBUG_TTL < now;
                (skipped || self.shed > 0, skipped)
            }
        }
    }
}

/// What a client keeps over its connections, by the rule that clients follow.
#[derive(Default)]
struct Client {
    epoch: Option<String>,
    position: u64,
    delivered: BTreeSet<u64>,
    covered_to: u64,
    shown: Shown,
    /// The text that the item before was a part of, in one read.
    joined: Option<(String, String)>,
    last_read: Vec<String>,
    ended: Option<(u64, String)>,
    connection: Option<std::sync::Arc<isolane::events::Connection>>,
}

impl Client {
    /// `open` are the numbers at which the executions began that have not ended: a snapshot shows them. `from` is where the
    /// read began.
    fn apply(&mut self, text: &str, open: &BTreeSet<u64>, record: &Record, from: &mut u64, now: u64) {
        let frame: Value = serde_json::from_str(text).expect("a frame is JSON");
        match frame["t"].as_str().expect("a frame has a type") {
            "sub" => {
                if frame["mode"] == "reset" {
                    self.position = 0;
                    self.delivered.clear();
                    self.shown = Shown::default();
                }
                self.epoch = frame["e"].as_str().map(str::to_owned);
            }
            "snap" => {
                let number = frame["n"].as_u64().expect("a snapshot has a number");
                if number <= self.position {
                    return;
                }
                let mut last = 0;
                let mut shown = BTreeSet::new();
                self.shown = Shown::default();
                for message in frame["b"].as_array().expect("a snapshot has a body") {
                    let seq = message["seq"].as_u64().expect("a message has a number");
                    assert!(seq <= number, "the body goes up to its number");
                    assert!(last < seq, "the body is in log order");
                    last = seq;
                    shown.insert(seq);
                    self.shown.apply(message);
                }
                assert!(!shown.is_empty(), "a snapshot stands for something");
                let hidden = open.iter().find(|began| **began <= number && !shown.contains(began));
                assert_eq!(hidden, None, "an open execution is in the snapshot");
                (self.position, self.covered_to, *from) = (number, number, number);
            }
            "ev" => {
                for entry in frame["b"].as_array().expect("a batch") {
                    self.take(entry, record, *from, now);
                }
            }
            "skip" => {
                let word = |name: &str| frame[name].as_u64().expect("a number");
                let (first, number) = (word("f"), word("n"));
                if number <= self.position {
                    return;
                }
                assert_eq!(first, self.position + 1, "nothing is left out");
                assert_eq!(word("k"), number + 1 - first, "all of them were skipped");
                for skipped in first..=number {
                    assert!(
                        record.skips(skipped, *from, now).0,
                        "{skipped} was skipped for no reason"
                    );
                }
                self.position = number;
            }
            "end" => {
                let number = frame["n"].as_u64().expect("an end has a number");
                self.ended = Some((number, frame["outcome"].as_str().expect("an outcome").to_owned()));
            }
            other => panic!("a frame of type {other}"),
        }
    }

    fn take(&mut self, entry: &Value, record: &Record, from: u64, now: u64) {
        let (first, number) = (
            entry["f"].as_u64().expect("a number"),
            entry["n"].as_u64().expect("a number"),
        );
        if number <= self.position {
            return;
        }
        let message = &entry["ev"];
        assert_eq!(first, self.position + 1, "nothing is left out and nothing comes twice");
        assert_eq!(message["seq"].as_u64(), Some(number));
        assert_eq!(entry["p"].as_u64(), Some(record.event(number).class as u64));
        assert_eq!(entry["id"], message["event_id"]);
        let text = (message["type"] == "text").then(|| {
            let word = |value: &Value| value.as_str().expect("a text").to_owned();
            (word(&message["request_id"]), word(&message["payload"]["message_id"]))
        });
        let delivered = if text.is_some() { parts(message) } else { vec![number] };
        assert!(
            text.is_none() || text != self.joined,
            "what stands side by side is joined"
        );
        self.joined = text;
        assert_eq!(delivered.last(), Some(&number));
        assert!(delivered.is_sorted(), "the parts are joined in order");
        for each in first..=number {
            let (may, must) = record.skips(each, from, now);
            if delivered.contains(&each) {
                assert!(!must, "{each} is delivered, and is not worth it any more");
                assert!(self.delivered.insert(each), "{each} is delivered twice");
            } else {
                assert!(may, "{each} was skipped for no reason");
            }
        }
        let skipped = number + 1 - first - delivered.len() as u64;
        assert_eq!(entry["k"].as_u64().unwrap_or(0), skipped, "what is skipped is counted");
        self.position = number;
        self.shown.apply(message);
    }

    fn connect(&mut self, lane: &LaneHandle, run: &str) {
        if let Some(old) = self.connection.take() {
            Streams::detach(&old);
        }
        let connection = Streams::attach(lane, CursorMode::Framed, 3, 0);
        let position = self.epoch.as_ref().map(|_| self.position);
        connection.subscribe(run, self.epoch.as_deref(), position);
        self.connection = Some(connection);
    }

    fn read(&mut self, limit: usize, open: &BTreeSet<u64>, record: &Record, now: u64) -> bool {
        let Some(connection) = self.connection.clone() else {
            return false;
        };
        self.last_read = connection.read(limit, now);
        self.apply_all(open, record, now);
        !self.last_read.is_empty()
    }

    fn apply_all(&mut self, open: &BTreeSet<u64>, record: &Record, now: u64) {
        self.joined = None;
        let texts = std::mem::take(&mut self.last_read);
        let mut from = self.position;
        for text in &texts {
            self.apply(text, open, record, &mut from, now);
        }
        self.last_read = texts;
    }
}

/// The numbers of the parts that a text was joined of: each part is its own number.
fn parts(message: &Value) -> Vec<u64> {
    let text = message["payload"]["delta"].as_str().expect("a part");
    text.split_terminator(',')
        .map(|part| part.parse().expect("a number"))
        .collect()
}

/// What an agent has going on.
#[derive(Default)]
struct Agent {
    /// How many executions began.
    executions: usize,
    /// The execution that is open, and when it began.
    open: Option<(usize, u64)>,
}

struct Agents {
    lane: LaneHandle,
    writer: StreamWriter,
    each: HashMap<usize, Agent>,
    executions: usize,
    record: Record,
    /// Producers' ids with their numbers.
    ids: Vec<(String, u64)>,
    now: u64,
}

impl Agents {
    fn scope(agent: usize) -> SpanScope {
        let request = RequestId::new(&format!("req-{agent}")).expect("valid");
        SpanScope { request, parent: None }
    }

    /// The request that events of the agent have now.
    fn request(&self, agent: usize) -> String {
        match self.each.get(&agent) {
            Some(Agent {
                executions,
                open: Some(_),
            }) if *executions > 1 => format!("req-{agent}#{executions}"),
            _ => format!("req-{agent}"),
        }
    }

    fn open(&self) -> BTreeSet<u64> {
        self.each
            .values()
            .filter_map(|agent| agent.open.map(|(_, began)| began))
            .collect()
    }

    fn next(&self) -> u64 {
        self.record.head() + 1
    }

    fn publish(
        &mut self,
        agent: usize,
        kind: EventKind<'_>,
        payload: &str,
        extra: Extra<'_>,
        key: Option<usize>,
    ) -> bool {
        let name = format!("agent-{agent}");
        let draft = Draft {
            kind,
            agent: Some(&name),
            message: None,
            payload,
            timed: false,
            extra,
        };
        let moment = Moment {
            monotonic: self.now,
            unix: 0,
        };
        // What breaks the order of a span is refused and changes nothing, which the numbers show.
        let published = self
            .writer
            .log()
            .publish(&self.lane, &Self::scope(agent), draft, moment);
        self.record.shed = self.lane.shared().events.shed.get();
        let Ok(number) = published else { return false };
        assert_eq!(number, self.next(), "numbers are dense");
        let own = self.each.entry(agent).or_default();
        if kind == EventKind::Started {
            own.executions += 1;
            self.executions += 1;
            own.open = Some((self.executions, number));
        }
        let span = own.open.map_or(0, |(span, _)| span);
        let request = self.request(agent);
        match kind {
            EventKind::Started => drop(self.record.shown.spans.insert(request, "open".to_owned())),
            EventKind::Completed | EventKind::Error => {
                self.record.shown.spans.insert(request, kind.name().to_owned());
                self.each.entry(agent).or_default().open = None;
            }
            _ => {}
        }
        self.record.events.push(Event {
            class: draft.class(),
            // Outside of executions each agent, whose request is its own, has its own keys.
            key: key.map(|key| (span, if span == 0 { agent } else { 0 }, key)),
            at: self.now,
        });
        true
    }

    fn plain(&mut self, agent: usize, kind: EventKind<'_>) {
        self.publish(agent, kind, "{\"x\":1", Extra::default(), None);
    }

    fn custom(&mut self, agent: usize) {
        let (number, id) = (self.next(), format!("id-{}", self.next()));
        let extra = Extra {
            class: Some(Class::Critical),
            event_id: Some(&id),
            ..Extra::default()
        };
        assert!(self.publish(agent, EventKind::Custom("note"), "{\"x\":1", extra, None));
        self.ids.push((id, number));
    }

    /// Publishes something once more that was published before.
    fn again(&mut self, which: usize) {
        let Some((id, number)) = self.ids.iter().rev().nth(which).cloned() else {
            return;
        };
        let extra = Extra {
            event_id: Some(&id),
            ..Extra::default()
        };
        let draft = Draft {
            kind: EventKind::Custom("another"),
            agent: None,
            message: None,
            payload: "{\"x\":2",
            timed: false,
            extra,
        };
        let moment = Moment {
            monotonic: self.now,
            unix: 0,
        };
        let log = self.writer.log();
        assert_eq!(log.publish(&self.lane, &Self::scope(0), draft, moment), Ok(number));
        assert_eq!(log.head(), self.record.head(), "nothing was appended");
    }

    fn text(&mut self, agent: usize, message: usize) {
        let name = format!("text-{message}");
        let part = format!("{},", self.next());
        let before = format!("{{\"message_id\":\"{name}\",\"delta\":\"");
        let at = (before.len(), before.len() + part.len());
        let payload = format!("{before}{part}\",\"at\":{}", self.next());
        let delta = Delta { message: &name, at };
        let extra = Extra {
            delta: Some(delta),
            ..Extra::default()
        };
        let request = self.request(agent);
        assert!(self.publish(agent, EventKind::Custom("text"), &payload, extra, None));
        self.record
            .shown
            .texts
            .entry((request, name))
            .or_default()
            .push_str(&part);
    }

    fn progress(&mut self, agent: usize, key: usize) {
        let name = format!("key-{key}");
        let payload = format!("{{\"key\":\"{name}\",\"value\":{}", self.next());
        let extra = Extra {
            class: Some(Class::Progress),
            key: Some(&name),
            ..Extra::default()
        };
        let (request, value) = (self.request(agent), self.next());
        assert!(self.publish(agent, EventKind::Custom("progress"), &payload, extra, Some(key)));
        self.record.shown.progress.insert((request, name), value);
    }

    fn debug(&mut self, agent: usize) {
        let extra = Extra {
            class: Some(Class::Debug),
            ..Extra::default()
        };
        assert!(self.publish(agent, EventKind::Custom("debug"), "{\"x\":1", extra, None));
    }

    fn end(&mut self) {
        let account = self.writer.log().account();
        assert!(account.is_balanced(), "each number is accounted for: {account:?}");
        self.writer.log().end(None, "the test ended", 0, self.now.max(2));
        for _ in self.next()..=self.writer.log().head() {
            // Ends of what was open.
            self.record.events.push(Event {
                class: Class::Critical,
                key: None,
                at: self.now,
            });
        }
        for state in self.record.shown.spans.values_mut().filter(|state| *state == "open") {
            "agent_error".clone_into(state);
        }
    }

    /// Whether a client whose history is whole shows what was published.
    fn check(&self, client: &Client) {
        let (shown, all) = (&client.shown, &self.record.shown);
        assert_eq!(shown.spans, all.spans);
        assert_eq!(shown.texts, all.texts);
        for (key, latest) in &all.progress {
            let has_expired = self.record.event(*latest).at + PROGRESS_TTL < self.now;
            assert!(
                shown.progress.get(key) == Some(latest) || has_expired,
                "the latest of {key:?} is {latest}, not {:?}",
                shown.progress.get(key)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_has_an_unbroken_history(events in prop_oneof![1_usize..12, 12_usize..100], steps in steps()) {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let lane = registry.lane(&UserId::new("ann").expect("valid"));
        let (run, thread) = (RunId::new("run-1").expect("valid"), ThreadId::new("thread-1").expect("valid"));
        let bounds = LogBounds { events, ..LogBounds::default() };
        let writer = Streams::open(&lane, &run, &thread, bounds).expect("opens");
        let log = writer.log().clone();
        let mut agents = Agents {
            lane: lane.clone(),
            writer,
            each: HashMap::new(),
            executions: 0,
            record: Record::default(),
            ids: Vec::new(),
            now: SECOND,
        };
        let mut clients: Vec<Client> = (0..3).map(|_| Client::default()).collect();
        for client in &mut clients {
            client.connect(&lane, "run-1");
        }
        for step in steps {
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
                Step::Read(client, limit) => {
                    clients[client].read(limit, &agents.open(), &agents.record, agents.now);
                }
                Step::Duplicate(client) => {
                    let shown = clients[client].shown.clone();
                    clients[client].apply_all(&agents.open(), &agents.record, agents.now);
                    prop_assert_eq!(&clients[client].shown, &shown, "what comes again changes nothing");
                }
                Step::Reconnect(client) => clients[client].connect(&lane, "run-1"),
                Step::Reload(client) => {
                    let connection = clients[client].connection.take();
                    clients[client] = Client { connection, ..Client::default() };
                    clients[client].connect(&lane, "run-1");
                }
            }
            // The snapshot may be larger than the log by how the open executions and their tools began.
            prop_assert!(log.kept().0 <= events, "{:?} kept of {events}", log.kept());
        }
        let published = agents.record.head();
        agents.end();
        let head = log.head();
        prop_assert!(head >= published, "repairs are numbered like everything else");
        let forgotten = lane.shared().events.forgotten.get();
        for client in &mut clients {
            for _ in 0..10_000 {
                if !client.read(5, &BTreeSet::new(), &agents.record, agents.now) {
                    break;
                }
            }
            prop_assert_eq!(client.position, head);
            let critical = |number: &u64| agents.record.event(*number).class == Class::Critical;
            let missing = (client.covered_to + 1..=head).filter(critical).find(|number| !client.delivered.contains(number));
            prop_assert_eq!(missing, None);
            prop_assert_eq!(client.ended.as_ref().map(|(number, _)| *number), Some(head));
            if forgotten == 0 {
                agents.check(client);
            }
        }
        prop_assert!(matches!(log.view().ended, Some((Outcome::Completed | Outcome::Failed | Outcome::Partial, _))));
        drop(clients);
        drop(agents);
        log.forget();
        drop(log);
        prop_assert_eq!(lane.streams().account().bytes(), 0, "every byte is returned");
    }
}

/// A log of another user can be named by nobody else's connection, and nobody else can publish into it.
#[test]
fn a_log_is_its_owners_alone() {
    let registry = Registry::new(Box::new(ProcessClock::new()));
    let lane = |user| registry.lane(&UserId::new(user).expect("valid"));
    let (ann, bob) = (lane("ann"), lane("bob"));
    let (run, thread) = (
        RunId::new("run-of-ann").expect("valid"),
        ThreadId::new("thread-1").expect("valid"),
    );
    let writer = Streams::open(&ann, &run, &thread, LogBounds::default()).expect("opens");
    assert!(
        Streams::open(&bob, &run, &thread, LogBounds::default()).is_err(),
        "the run id is taken"
    );
    let scope = SpanScope {
        request: RequestId::new("req-1").expect("valid"),
        parent: None,
    };
    let draft = Draft {
        kind: EventKind::Started,
        agent: Some("a"),
        message: None,
        payload: "{",
        timed: false,
        extra: Extra::default(),
    };
    assert!(
        writer
            .log()
            .publish(&bob, &scope, draft, Moment { monotonic: 1, unix: 0 })
            .is_err()
    );
    assert!(
        writer
            .log()
            .publish(&ann, &scope, draft, Moment { monotonic: 1, unix: 0 })
            .is_ok()
    );
    let connection = Streams::attach(&bob, CursorMode::Framed, 3, 0);
    connection.subscribe("run-of-ann", None, None);
    connection.subscribe("run-of-nobody", None, None);
    let answers: Vec<String> = connection
        .read(64, 0)
        .iter()
        .map(|text| text.replace("run-of-ann", "x").replace("run-of-nobody", "x"))
        .collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0], answers[1]);
}
