//! Events as records of an event stream (server-sent events).

use std::borrow::Cow;

use super::json;
use super::log::{Batch, RunLog};

/// The event before a snapshot: what follows up to its id replaces what the client has.
const SNAPSHOT: &str = "isolane.snapshot";
/// The event that says that the stream has ended.
const END: &str = "isolane.end";

/// One record: what a client is told, and the position after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The event's type.
    pub event: String,
    /// One line of JSON.
    pub data: String,
    /// `run:epoch:number`, for a client to resume from; `run:epoch:end` once all is told.
    pub id: Option<String>,
}

/// Where a client is by the id of its last record. What cannot be read is the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The incarnation of the log.
    pub epoch: Option<String>,
    /// The latest number that it has.
    pub number: Option<u64>,
    /// Whether it was told the end.
    pub is_end: bool,
}

impl Place {
    /// Reads an id. One of another run is the beginning of this one.
    pub fn of(id: &str, run: &str) -> Self {
        let mut parts = id.rsplitn(3, ':');
        let (Some(number), Some(epoch), Some(named)) = (parts.next(), parts.next(), parts.next()) else {
            return Self::default();
        };
        if named != run {
            return Self::default();
        }
        Self {
            epoch: Some(epoch.to_owned()),
            number: number.parse().ok(),
            is_end: number == "end",
        }
    }
}

fn id(log: &RunLog, number: u64) -> String {
    let mut id = format!("{}:{}:", log.run().as_str(), log.epoch());
    json::number(&mut id, number);
    id
}

/// The type of a message, which begins with it.
fn type_of(message: &str) -> Cow<'_, str> {
    let quoted = message.strip_prefix("{\"type\":").unwrap_or_default();
    let mut types = serde_json::Deserializer::from_str(quoted).into_iter::<Cow<'_, str>>();
    types.next().and_then(Result::ok).unwrap_or(Cow::Borrowed("message"))
}

fn message(text: &str, id: Option<String>) -> Record {
    Record {
        event: type_of(text).into_owned(),
        data: text.to_owned(),
        id,
    }
}

/// What was read of a log. Of a snapshot only the last message has an id: the position after all of it.
pub(super) fn records(out: &mut Vec<Record>, log: &RunLog, batch: &Batch<'_>) {
    if let Some(to) = batch.snapshot_to {
        let mut data = "{".to_owned();
        json::number_member(&mut data, "n", to);
        data.push('}');
        out.push(Record {
            event: SNAPSHOT.to_owned(),
            data,
            // A snapshot without messages has its position here.
            id: batch.snapshot.is_empty().then(|| id(log, to)),
        });
    }
    let last = batch.snapshot.len().saturating_sub(1);
    for (at, text) in batch.snapshot.iter().enumerate() {
        let to = batch.snapshot_to.filter(|_| at == last);
        out.push(message(text, to.map(|to| id(log, to))));
    }
    for item in &batch.items {
        out.push(message(&item.text, Some(id(log, item.number))));
    }
    if let Some((_, outcome)) = batch.end {
        let mut data = "{".to_owned();
        json::text_member(&mut data, "outcome", outcome.name());
        data.push('}');
        out.push(Record {
            event: END.to_owned(),
            data,
            id: Some(format!("{}:{}:end", log.run().as_str(), log.epoch())),
        });
    }
}

/// The log is gone.
pub(super) fn lost() -> Record {
    Record {
        event: END.to_owned(),
        data: "{\"outcome\":\"lost\"}".to_owned(),
        id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_from_the_right() {
        let place = |id| Place::of(id, "run:1");
        let of = |number, is_end| Place {
            epoch: Some("K3x9".to_owned()),
            number,
            is_end,
        };
        assert_eq!(place("run:1:K3x9:57"), of(Some(57), false));
        assert_eq!(place("run:1:K3x9:end"), of(None, true));
        assert_eq!(place("run:1:K3x9:-1"), of(None, false));
        for id in ["", "57", "K3x9:57", "run:2:K3x9:57"] {
            assert_eq!(place(id), Place::default());
        }
    }

    #[test]
    fn the_type_is_that_of_the_message() {
        assert_eq!(type_of(r#"{"type":"agent_started","x":1}"#), "agent_started");
        assert_eq!(type_of(r#"{"type":"a \"b\"","x":1}"#), "a \"b\"");
        assert_eq!(type_of("{}"), "message");
    }
}
