//! The model that run logs are tested against: what random agents publish, and what a client may be sent of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use isolane::clock::Moment;
use isolane::events::{Class, CursorMode, Delta, Draft, EventKind, Extra, SpanScope, StreamWriter, Streams};
use isolane::ids::RequestId;
use isolane::lanes::LaneHandle;
use serde_json::Value;

pub(crate) const SECOND: u64 = 1_000_000;
const PROGRESS_TTL: u64 = 30 * SECOND;
const DEBUG_TTL: u64 = 5 * SECOND;
const DEBUG_LAG: u64 = 64;

/// What a page shows of a run.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Shown {
    /// The latest state of each execution, by its request.
    pub(crate) spans: BTreeMap<String, String>,
    /// Texts by request and message.
    pub(crate) texts: BTreeMap<(String, String), String>,
    /// The latest of the progress by request and key.
    pub(crate) progress: BTreeMap<(String, String), u64>,
}

impl Shown {
    pub(crate) fn apply(&mut self, message: &Value) {
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
pub(crate) struct Event {
    pub(crate) class: Class,
    /// Of progress: what it is the latest of.
    pub(crate) key: Option<(usize, usize, usize)>,
    pub(crate) at: u64,
}

/// All that was published.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) events: Vec<Event>,
    pub(crate) shown: Shown,
    pub(crate) shed: u64,
    /// Up to where a mirror has come that is read; `None` for the log itself.
    pub(crate) seen: Option<u64>,
}

impl Record {
    pub(crate) fn event(&self, number: u64) -> &Event {
        &self.events[usize::try_from(number).expect("small") - 1]
    }

    pub(crate) fn head(&self) -> u64 {
        self.events.len() as u64
    }

    pub(crate) fn is_superseded(&self, number: u64) -> bool {
        let own = self.event(number).key;
        let mut later = self.events.iter().skip(usize::try_from(number).expect("small"));
        own.is_some() && later.any(|event| event.key == own)
    }

    /// Whether a reader whose position was `from` may not be sent an event, and whether it must not. What the writer has left
    /// out its mirror does not get, whatever follows it there.
    pub(crate) fn skips(&self, number: u64, from: u64, now: u64) -> (bool, bool) {
        let event = self.event(number);
        match event.class {
            Class::Critical | Class::Content => (false, false),
            Class::Progress => {
                let has_expired = event.at + PROGRESS_TTL < now;
                let skipped = has_expired || self.is_superseded(number);
                // What came later may have been left out on the way to a mirror.
                (skipped, has_expired || skipped && self.seen.is_none())
            }
            Class::Debug => {
                let seen = self.seen.unwrap_or(self.head());
                let skipped = |upto: u64| upto.saturating_sub(from) > DEBUG_LAG || event.at + DEBUG_TTL < now;
                (skipped(seen) || self.shed > 0, skipped(seen))
            }
        }
    }
}

/// What a client keeps over its connections, by the rule that clients follow.
#[derive(Default)]
pub(crate) struct Client {
    pub(crate) epoch: Option<String>,
    pub(crate) position: u64,
    pub(crate) delivered: BTreeSet<u64>,
    pub(crate) covered_to: u64,
    pub(crate) shown: Shown,
    /// The text that the item before was a part of, in one read.
    pub(crate) joined: Option<(String, String)>,
    pub(crate) last_read: Vec<String>,
    pub(crate) ended: Option<(u64, String)>,
    pub(crate) connection: Option<std::sync::Arc<isolane::events::Connection>>,
}

impl Client {
    /// `open` are the numbers at which the executions began that have not ended: a snapshot shows them. `from` is where the
    /// read began.
    pub(crate) fn apply(&mut self, text: &str, open: &BTreeSet<u64>, record: &Record, from: &mut u64, now: u64) {
        let frame: Value = serde_json::from_str(text).expect("a frame is JSON");
        match frame["t"].as_str().expect("a frame has a type") {
            "sub" => {
                if frame["mode"] == "reset" {
                    assert_ne!(
                        self.epoch.as_deref(),
                        frame["e"].as_str(),
                        "nobody begins anew in one log"
                    );
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

    pub(crate) fn take(&mut self, entry: &Value, record: &Record, from: u64, now: u64) {
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

    pub(crate) fn connect(&mut self, lane: &LaneHandle, run: &str) {
        if let Some(old) = self.connection.take() {
            Streams::detach(&old);
        }
        let connection = Streams::attach(lane, CursorMode::Framed, 3, 0);
        let position = self.epoch.as_ref().map(|_| self.position);
        connection.subscribe(run, self.epoch.as_deref(), position);
        self.connection = Some(connection);
    }

    pub(crate) fn read(&mut self, limit: usize, open: &BTreeSet<u64>, record: &Record, now: u64) -> bool {
        let Some(connection) = self.connection.clone() else {
            return false;
        };
        self.last_read = connection.read(limit, now);
        self.apply_all(open, record, now);
        !self.last_read.is_empty()
    }

    pub(crate) fn apply_all(&mut self, open: &BTreeSet<u64>, record: &Record, now: u64) {
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
pub(crate) struct Agent {
    /// How many executions began.
    pub(crate) executions: usize,
    /// The execution that is open, and when it began.
    pub(crate) open: Option<(usize, u64)>,
}

pub(crate) struct Agents {
    pub(crate) lane: LaneHandle,
    pub(crate) writer: StreamWriter,
    pub(crate) each: HashMap<usize, Agent>,
    pub(crate) executions: usize,
    pub(crate) record: Record,
    /// Producers' ids with their numbers.
    pub(crate) ids: Vec<(String, u64)>,
    pub(crate) now: u64,
}

impl Agents {
    pub(crate) fn scope(agent: usize) -> SpanScope {
        let request = RequestId::new(&format!("req-{agent}")).expect("valid");
        SpanScope { request, parent: None }
    }

    /// The request that events of the agent have now.
    pub(crate) fn request(&self, agent: usize) -> String {
        match self.each.get(&agent) {
            Some(Agent {
                executions,
                open: Some(_),
            }) if *executions > 1 => format!("req-{agent}#{executions}"),
            _ => format!("req-{agent}"),
        }
    }

    pub(crate) fn open(&self) -> BTreeSet<u64> {
        self.each
            .values()
            .filter_map(|agent| agent.open.map(|(_, began)| began))
            .collect()
    }

    pub(crate) fn next(&self) -> u64 {
        self.record.head() + 1
    }

    pub(crate) fn publish(
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
            unix: self.now,
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

    pub(crate) fn plain(&mut self, agent: usize, kind: EventKind<'_>) {
        self.publish(agent, kind, "{\"x\":1", Extra::default(), None);
    }

    pub(crate) fn custom(&mut self, agent: usize) {
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
    pub(crate) fn again(&mut self, which: usize) {
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
            unix: self.now,
        };
        let log = self.writer.log();
        assert_eq!(log.publish(&self.lane, &Self::scope(0), draft, moment), Ok(number));
        assert_eq!(log.head(), self.record.head(), "nothing was appended");
    }

    pub(crate) fn text(&mut self, agent: usize, message: usize) {
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

    pub(crate) fn progress(&mut self, agent: usize, key: usize) {
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

    pub(crate) fn debug(&mut self, agent: usize) {
        let extra = Extra {
            class: Some(Class::Debug),
            ..Extra::default()
        };
        assert!(self.publish(agent, EventKind::Custom("debug"), "{\"x\":1", extra, None));
    }

    pub(crate) fn end(&mut self) {
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
    pub(crate) fn check(&self, client: &Client) {
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
