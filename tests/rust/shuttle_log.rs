//! The run log under every order of its threads that two schedulers think of: `cargo test --features shuttle --test
//! shuttle_log`.
//!
//! Publishers, readers that sleep until they are woken, and whoever ends the stream, each in a thread of its own. The map of
//! lanes is not shuttle's, so every lane is made before the threads begin.

mod schedules;

use std::sync::Arc;

use isolane::clock::{Moment, ProcessClock};
use isolane::events::{
    Connection, CursorMode, Draft, EventError, EventKind, Extra, Level, LogBounds, Outcome, RunLog, SpanScope,
    StreamWriter, Streams, Wake,
};
use isolane::ids::{RequestId, RunId, ThreadId, UserId};
use isolane::lanes::{LaneHandle, Registry};
use schedules::explore;
use serde_json::Value;
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

/// Wakes the thread of a reader.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    fn wait(&self) {
        let mut rung = self.rung.lock().expect("not poisoned");
        while !*rung {
            rung = self.rings.wait(rung).expect("not poisoned");
        }
    }
}

impl Wake for Bell {
    fn wake(&self) {
        *self.rung.lock().expect("not poisoned") = true;
        self.rings.notify_one();
    }
}

fn lane() -> LaneHandle {
    let registry = Registry::new(Box::new(ProcessClock::new()));
    registry.lane(&UserId::new("ann").expect("valid"))
}

fn open(lane: &LaneHandle, run: &str, bounds: LogBounds) -> Result<StreamWriter, EventError> {
    let run = RunId::new(run).expect("valid");
    Streams::open(lane, &run, &ThreadId::new("thread-1").expect("valid"), bounds)
}

/// Publishes an event that stands in no span.
fn publish(log: &RunLog, lane: &LaneHandle, payload: &str) -> Result<u64, EventError> {
    let request = RequestId::new("req-1").expect("valid");
    let scope = SpanScope { request, parent: None };
    let draft = Draft {
        kind: EventKind::Custom("note"),
        agent: None,
        message: None,
        payload,
        timed: false,
        extra: Extra::default(),
    };
    log.publish(lane, &scope, draft, Moment { unix: 0, monotonic: 1 })
}

/// What a reader was sent of one run.
#[derive(Debug, Default, PartialEq)]
struct History {
    position: u64,
    end: Option<(u64, String)>,
}

impl History {
    fn apply(&mut self, text: &str) {
        let frame: Value = serde_json::from_str(text).expect("a frame is JSON");
        let number = frame["n"].as_u64();
        match frame["t"].as_str().expect("a frame has a type") {
            "snap" => self.position = number.expect("a snapshot has a number"),
            "ev" => {
                for entry in frame["b"].as_array().expect("a batch") {
                    let number = entry["n"].as_u64().expect("a number");
                    assert_eq!(number, self.position + 1, "nothing is left out and nothing comes twice");
                    self.position = number;
                }
            }
            "end" => {
                let outcome = frame["outcome"].as_str().expect("an outcome").to_owned();
                assert_eq!(self.end, None, "a stream ends once");
                self.end = Some((number.expect("an end has a number"), outcome));
            }
            _ => {}
        }
    }
}

/// Reads as a socket's writer does, asleep when there is nothing, until the stream has ended.
fn read_to_the_end(connection: &Connection) -> History {
    let mut history = History::default();
    while history.end.is_none() {
        let texts = connection.read(2, 0);
        for text in &texts {
            history.apply(text);
        }
        if texts.is_empty() {
            let bell = Arc::new(Bell::default());
            if connection.park(bell.clone()) {
                bell.wait();
            }
        }
    }
    history
}

fn reader(lane: &LaneHandle) -> thread::JoinHandle<History> {
    let connection = Streams::attach(lane, CursorMode::Framed, 3, 0);
    connection.subscribe("run-1", None, None);
    thread::spawn(move || read_to_the_end(&connection))
}

fn small(events: usize) -> LogBounds {
    LogBounds {
        events,
        ..LogBounds::default()
    }
}

#[test]
fn a_reader_that_sleeps_misses_neither_an_event_nor_the_end() {
    explore(|| {
        let lane = lane();
        let writer = open(&lane, "run-1", LogBounds::default()).expect("opens");
        let reader = reader(&lane);
        let publishers = [0, 1].map(|_| {
            let (lane, writer) = (lane.clone(), writer.clone());
            thread::spawn(move || [0, 1].map(|_| publish(writer.log(), &lane, "{\"x\":1").expect("is taken")))
        });
        let mut numbers = Vec::new();
        for publisher in publishers {
            let own = publisher.join().expect("the thread ends");
            assert!(own[0] < own[1], "what is published later has the greater number");
            numbers.extend(own);
        }
        writer.log().end(Some(Outcome::Completed), "", 0, 2);
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3, 4], "numbers are dense");
        let history = reader.join().expect("the thread ends");
        assert_eq!((history.position, history.end), (4, Some((4, "completed".to_owned()))));
    });
}

#[test]
fn a_client_that_attaches_while_events_fold_has_an_unbroken_history() {
    explore(|| {
        let lane = lane();
        let writer = open(&lane, "run-1", small(2)).expect("opens");
        let publisher = {
            let (lane, writer) = (lane.clone(), writer.clone());
            thread::spawn(move || {
                for _ in 0..4 {
                    publish(writer.log(), &lane, "{\"x\":1").expect("is taken");
                }
                writer.log().end(None, "", 0, 2);
            })
        };
        let newcomer = {
            let lane = lane.clone();
            thread::spawn(move || {
                let connection = Streams::attach(&lane, CursorMode::Framed, 3, 0);
                connection.subscribe("run-1", None, None);
                read_to_the_end(&connection)
            })
        };
        publisher.join().expect("the thread ends");
        let history = newcomer.join().expect("the thread ends");
        assert_eq!(history.position, 4);
    });
}

#[test]
fn no_event_comes_after_the_end() {
    explore(|| {
        let lane = lane();
        let writer = open(&lane, "run-1", LogBounds::default()).expect("opens");
        let log = writer.log().clone();
        let reader = reader(&lane);
        let publisher = {
            let (lane, log) = (lane.clone(), log.clone());
            thread::spawn(move || {
                let taken = [0, 1].map(|_| publish(&log, &lane, "{\"x\":1").is_ok());
                assert!(taken[0] || !taken[1], "a stream that has ended stays so");
                taken.iter().filter(|taken| **taken).count() as u64
            })
        };
        let ender = thread::spawn(move || {
            log.end(None, "", 0, 2);
            log.head()
        });
        let head = ender.join().expect("the thread ends");
        assert_eq!(publisher.join().expect("the thread ends"), head);
        assert_eq!(writer.log().head(), head, "nothing was added after the end");
        let history = reader.join().expect("the thread ends");
        assert_eq!(
            (history.position, history.end.map(|(number, _)| number)),
            (head, Some(head))
        );
    });
}

#[test]
fn two_that_end_a_stream_at_once_agree_how() {
    explore(|| {
        let lane = lane();
        let writer = open(&lane, "run-1", LogBounds::default()).expect("opens");
        let log = writer.log().clone();
        let enders = [Outcome::Completed, Outcome::Failed].map(|outcome| {
            let log = log.clone();
            thread::spawn(move || {
                log.end(Some(outcome), "", 0, 2);
                log.view().ended.expect("has ended").0
            })
        });
        let [one, other] = enders.map(|ender| ender.join().expect("the thread ends"));
        assert_eq!(one, other);
    });
}

#[test]
fn the_last_of_several_writers_ends_the_stream() {
    explore(|| {
        let lane = lane();
        let writer = open(&lane, "run-1", LogBounds::default()).expect("opens");
        let log = writer.log().clone();
        let leaving = [writer.clone(), writer].map(|writer| thread::spawn(move || drop(writer)));
        let history = reader(&lane).join().expect("the thread ends");
        for writer in leaving {
            writer.join().expect("the thread ends");
        }
        assert!(log.is_over());
        assert_eq!(history.end, Some((0, "completed".to_owned())));
    });
}

#[test]
fn a_run_that_begins_while_a_client_attaches_is_seen() {
    explore(|| {
        let lane = lane();
        let opener = {
            let lane = lane.clone();
            thread::spawn(move || {
                let writer = open(&lane, "run-1", LogBounds::default()).expect("opens");
                publish(writer.log(), &lane, "{\"x\":1").expect("is taken");
            })
        };
        let client = thread::spawn(move || {
            let connection = Streams::attach(&lane, CursorMode::Framed, 3, 0);
            // What the welcome lists, the client asks for; what begins later is followed without asking.
            let listed = lane.streams().views();
            for stream in listed {
                connection.subscribe(stream.run.as_str(), Some(&stream.epoch), Some(0));
            }
            read_to_the_end_twice_told(&connection)
        });
        opener.join().expect("the thread ends");
        assert_eq!(client.join().expect("the thread ends"), 1);
    });
}

/// Reads until an end is told, and answers the last number: a run that was listed and followed is announced twice.
fn read_to_the_end_twice_told(connection: &Connection) -> u64 {
    let mut last = 0;
    loop {
        let texts = connection.read(8, 0);
        for text in &texts {
            let frame: Value = serde_json::from_str(text).expect("a frame is JSON");
            match frame["t"].as_str() {
                Some("ev") => last = frame["b"][0]["n"].as_u64().expect("a number"),
                Some("end") => return last,
                _ => {}
            }
        }
        if texts.is_empty() {
            let bell = Arc::new(Bell::default());
            if connection.park(bell.clone()) {
                bell.wait();
            }
        }
    }
}

#[test]
fn two_logs_that_make_room_for_each_other_do_not_wait_for_each_other() {
    explore(|| {
        let lane = lane();
        let bounds = LogBounds {
            user_bytes: 5_000,
            ..LogBounds::default()
        };
        let writers = ["run-1", "run-2"].map(|run| open(&lane, run, bounds).expect("opens"));
        let publishers = writers.map(|writer| {
            let lane = lane.clone();
            thread::spawn(move || {
                let payload = format!("{{\"x\":\"{}\"", "y".repeat(400));
                for _ in 0..4 {
                    let _ = publish(writer.log(), &lane, &payload);
                }
                writer.log().end(None, "", 0, 2);
                writer.log().forget();
            })
        });
        for publisher in publishers {
            publisher.join().expect("the thread ends");
        }
        assert_eq!(lane.streams().account().bytes(), 0, "every byte is returned");
    });
}

#[test]
fn a_log_that_is_dropped_while_it_is_read_and_written_returns_every_byte() {
    explore(|| {
        let lane = lane();
        let writer = open(&lane, "run-1", small(2)).expect("opens");
        let log = writer.log().clone();
        let connection = Streams::attach(&lane, CursorMode::Framed, 3, 0);
        connection.subscribe("run-1", None, None);
        let publisher = {
            let (lane, log) = (lane.clone(), log.clone());
            thread::spawn(move || {
                for _ in 0..3 {
                    let _ = publish(&log, &lane, "{\"x\":1");
                }
            })
        };
        let reader = thread::spawn(move || {
            for _ in 0..3 {
                connection.read(2, 0);
            }
            Streams::detach(&connection);
        });
        log.end(None, "", 0, 2);
        log.forget();
        publisher.join().expect("the thread ends");
        reader.join().expect("the thread ends");
        assert!(lane.streams().find("run-1").is_none());
        assert_eq!(lane.streams().account().bytes(), 0, "every byte is returned");
    });
}

#[test]
fn who_waits_for_a_delivery_is_told() {
    explore(|| {
        let lane = lane();
        let writer = open(&lane, "run-1", LogBounds::default()).expect("opens");
        let log = writer.log().clone();
        let number = publish(&log, &lane, "{\"x\":1").expect("is taken");
        let waiters = [0, 1].map(|_| {
            let log = log.clone();
            thread::spawn(move || {
                let bell = Arc::new(Bell::default());
                if log.wait(Level::Sent, number, bell.clone()).expect("there is room") {
                    bell.wait();
                }
                assert!(log.reached(Level::Sent) >= number);
            })
        });
        let connection = Streams::attach(&lane, CursorMode::Framed, 3, 0);
        connection.subscribe("run-1", None, None);
        // The writer comes back: what it was handed is written.
        for _ in 0..2 {
            connection.read(8, 0);
        }
        for waiter in waiters {
            waiter.join().expect("the thread ends");
        }
        assert_eq!(log.waiters(), 0);
    });
}

/// The emitters of a user open their runs through here. Who joins a stream that its last writer leaves in the same moment
/// gets one that goes on, or a new incarnation.
#[test]
fn a_stream_that_is_opened_while_its_last_writer_leaves_can_be_written() {
    explore(|| {
        let lane = lane();
        let leaving = open(&lane, "run-1", LogBounds::default()).expect("opens");
        let opener = {
            let lane = lane.clone();
            thread::spawn(move || {
                let writer = open(&lane, "run-1", LogBounds::default()).expect("opens");
                publish(writer.log(), &lane, "{\"x\":1").expect("is taken");
            })
        };
        drop(leaving);
        opener.join().expect("the thread ends");
    });
}
