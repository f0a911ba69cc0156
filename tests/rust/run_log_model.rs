//! The run log against a model: random agents publish in all classes, and connections of any speed read, with logs of any
//! size, at any time.
//!
//! Every number is accounted for: delivered once and in order, merged into the text that it is a part of, declared skipped for
//! a reason that the model knows, or covered by a snapshot. What a client shows in the end is what the agents said.

#[path = "log_model.rs"]
mod log_model;

use std::collections::{BTreeSet, HashMap};

use isolane::clock::{Moment, ProcessClock};
use isolane::events::{Class, CursorMode, Draft, EventKind, Extra, LogBounds, Outcome, SpanScope, Streams};
use isolane::ids::{RequestId, RunId, ThreadId, UserId};
use isolane::lanes::Registry;
use proptest::prelude::*;

use log_model::{Agents, Client, Record, SECOND};

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
