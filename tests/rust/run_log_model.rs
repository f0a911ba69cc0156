//! The run log against a model: random agents publish, and connections of any speed read, with logs of any size.
//!
//! Every reader ends with an unbroken history: each number is delivered once and in order, or covered by a snapshot.

use std::collections::{BTreeSet, HashMap};

use isolane::clock::{Moment, ProcessClock};
use isolane::events::{CursorMode, Draft, EventKind, Extra, LogBounds, Outcome, SpanScope, StreamWriter, Streams};
use isolane::ids::{RequestId, RunId, ThreadId, UserId};
use isolane::lanes::{LaneHandle, Registry};
use proptest::prelude::*;
use serde_json::Value;

/// The time plays no part here.
const MOMENT: Moment = Moment { monotonic: 1, unix: 0 };

#[derive(Debug, Clone)]
enum Step {
    Start(usize),
    Think(usize),
    Begin(usize, usize),
    End(usize, usize),
    Finish(usize),
    Fail(usize),
    Custom(usize),
    Read(usize, usize),
    Reconnect(usize),
    Reload(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let agent = 0_usize..3;
    let step = prop_oneof![
        2 => agent.clone().prop_map(Step::Start),
        4 => agent.clone().prop_map(Step::Think),
        3 => (agent.clone(), 0_usize..2).prop_map(|(agent, tool)| Step::Begin(agent, tool)),
        3 => (agent.clone(), 0_usize..2).prop_map(|(agent, tool)| Step::End(agent, tool)),
        1 => agent.clone().prop_map(Step::Finish),
        1 => agent.clone().prop_map(Step::Fail),
        2 => agent.prop_map(Step::Custom),
        4 => (0_usize..3, 1_usize..9).prop_map(|(client, limit)| Step::Read(client, limit)),
        1 => (0_usize..3).prop_map(Step::Reconnect),
        1 => (0_usize..3).prop_map(Step::Reload),
    ];
    prop::collection::vec(step, 1..150)
}

/// What a client keeps over its connections, by the rule that clients follow.
#[derive(Default)]
struct Client {
    epoch: Option<String>,
    position: u64,
    delivered: BTreeSet<u64>,
    covered_to: u64,
    ended: Option<(u64, String)>,
    connection: Option<std::sync::Arc<isolane::events::Connection>>,
}

impl Client {
    /// `open` are the numbers at which the executions began that have not ended: a snapshot shows them.
    fn apply(&mut self, text: &str, open: &BTreeSet<u64>) {
        let frame: Value = serde_json::from_str(text).expect("a frame is JSON");
        match frame["t"].as_str().expect("a frame has a type") {
            "sub" => {
                if frame["mode"] == "reset" {
                    self.position = 0;
                    self.delivered.clear();
                }
                self.epoch = frame["e"].as_str().map(str::to_owned);
            }
            "snap" => {
                let number = frame["n"].as_u64().expect("a snapshot has a number");
                assert!(number > self.position, "a snapshot goes forward");
                let mut last = 0;
                let mut shown = BTreeSet::new();
                for message in frame["b"].as_array().expect("a snapshot has a body") {
                    let seq = message["seq"].as_u64().expect("a message has a number");
                    assert!(
                        last < seq && seq <= number,
                        "the body is in log order, up to its number"
                    );
                    last = seq;
                    shown.insert(seq);
                }
                assert!(!shown.is_empty(), "a snapshot stands for something");
                let hidden = open.iter().find(|began| **began <= number && !shown.contains(began));
                assert_eq!(hidden, None, "an open execution is in the snapshot");
                (self.position, self.covered_to) = (number, number);
            }
            "ev" => {
                for entry in frame["b"].as_array().expect("a batch") {
                    let number = entry["n"].as_u64().expect("a number");
                    assert_eq!(number, self.position + 1, "nothing is left out and nothing comes twice");
                    assert_eq!(entry["ev"]["seq"].as_u64(), Some(number));
                    self.position = number;
                    self.delivered.insert(number);
                }
            }
            "end" => {
                let number = frame["n"].as_u64().expect("an end has a number");
                self.ended = Some((number, frame["outcome"].as_str().expect("an outcome").to_owned()));
            }
            other => panic!("a frame of type {other}"),
        }
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

    fn read(&mut self, limit: usize, open: &BTreeSet<u64>) -> bool {
        let Some(connection) = self.connection.clone() else {
            return false;
        };
        let texts = connection.read(limit, 0);
        for text in &texts {
            self.apply(text, open);
        }
        !texts.is_empty()
    }
}

struct Agents {
    lane: LaneHandle,
    writer: StreamWriter,
    published: u64,
    /// When the open execution of each agent began.
    open: HashMap<usize, u64>,
}

impl Agents {
    fn publish(&mut self, agent: usize, kind: EventKind<'_>) {
        let request = RequestId::new(&format!("req-{agent}")).expect("valid");
        let scope = SpanScope { request, parent: None };
        let name = format!("agent-{agent}");
        let draft = Draft {
            kind,
            agent: Some(&name),
            message: None,
            payload: "{\"x\":1",
            timed: false,
            extra: Extra::default(),
        };
        // What breaks the order of a span is refused and changes nothing, which the numbers show.
        if let Ok(number) = self.writer.log().publish(&self.lane, &scope, draft, MOMENT) {
            self.published += 1;
            assert_eq!(number, self.published, "numbers are dense");
            match kind {
                EventKind::Started => drop(self.open.insert(agent, number)),
                EventKind::Completed | EventKind::Error => drop(self.open.remove(&agent)),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_has_an_unbroken_history(events in 1_usize..12, steps in steps()) {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let lane = registry.lane(&UserId::new("ann").expect("valid"));
        let (run, thread) = (RunId::new("run-1").expect("valid"), ThreadId::new("thread-1").expect("valid"));
        let bounds = LogBounds { events, ..LogBounds::default() };
        let writer = Streams::open(&lane, &run, &thread, bounds).expect("opens");
        let log = writer.log().clone();
        let mut agents = Agents { lane: lane.clone(), writer, published: 0, open: HashMap::new() };
        let mut clients: Vec<Client> = (0..3).map(|_| Client::default()).collect();
        for client in &mut clients {
            client.connect(&lane, "run-1");
        }
        for step in steps {
            match step {
                Step::Start(agent) => agents.publish(agent, EventKind::Started),
                Step::Think(agent) => agents.publish(agent, EventKind::Thinking),
                Step::Begin(agent, tool) => agents.publish(agent, EventKind::ToolExecuting(["sql", "web"][tool])),
                Step::End(agent, tool) => agents.publish(agent, EventKind::ToolCompleted(["sql", "web"][tool])),
                Step::Finish(agent) => agents.publish(agent, EventKind::Completed),
                Step::Fail(agent) => agents.publish(agent, EventKind::Error),
                Step::Custom(agent) => agents.publish(agent, EventKind::Custom("note")),
                Step::Read(client, limit) => {
                    let open = agents.open.values().copied().collect();
                    clients[client].read(limit, &open);
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
        log.end(None, "the test ended", 0, 2);
        let head = log.head();
        prop_assert!(head >= agents.published, "repairs are numbered like everything else");
        for client in &mut clients {
            while client.read(5, &BTreeSet::new()) {}
            prop_assert_eq!(client.position, head);
            let missing = (client.covered_to + 1..=head).find(|number| !client.delivered.contains(number));
            prop_assert_eq!(missing, None);
            prop_assert_eq!(client.ended.as_ref().map(|(number, _)| *number), Some(head));
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
    assert!(writer.log().publish(&bob, &scope, draft, MOMENT).is_err());
    assert!(writer.log().publish(&ann, &scope, draft, MOMENT).is_ok());
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
