//! The frames of `isolane.v1` that a client sends.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::ids::MAX_ID_CHARS;

#[derive(Deserialize)]
struct RawFrame {
    t: String,
    s: Option<Value>,
    e: Option<Value>,
    n: Option<Value>,
    cid: Option<Value>,
}

/// Other frames than `sub` may have anything under the same names.
fn string(value: Option<Value>) -> Option<String> {
    match value {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn id(value: Option<Value>) -> Option<String> {
    string(value).filter(|id| id.chars().count() <= MAX_ID_CHARS)
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// It wants a stream, from a position of an epoch if it has one. A position that is no number is none.
    Subscribe {
        /// The stream.
        stream: String,
        /// The incarnation that the position belongs to.
        epoch: Option<String>,
        /// The latest number that the client has.
        position: Option<u64>,
    },
    /// It has everything up to these numbers of these streams.
    Ack(Acks),
    /// It wants a run to end.
    Cancel {
        /// The run.
        run: String,
        /// What the client calls this wish.
        command: Option<String>,
    },
    /// It signs in again. What with is for whoever checks it.
    AuthRefresh,
    /// It is still there.
    Pong,
    /// A frame of a later version, to be ignored.
    Unknown,
}

/// Streams and numbers, as a client has sent them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acks(Map<String, Value>);

impl Acks {
    /// Those that are numbers. The others are ignored one by one.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0
            .iter()
            .filter_map(|(run, number)| Some((run.as_str(), number.as_u64()?)))
    }
}

impl ClientFrame {
    /// Reads a frame. The error says what is wrong with it, and nothing of what is in it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let raw: RawFrame = serde_json::from_str(text).map_err(|_| "a frame must be a JSON object with a string t")?;
        match raw.t.as_str() {
            "sub" => Ok(Self::Subscribe {
                stream: id(raw.s).ok_or("a sub frame names its stream in s")?,
                epoch: string(raw.e),
                position: raw.n.and_then(|n| n.as_u64()),
            }),
            "ack" => Ok(match raw.s {
                Some(Value::Object(acks)) => Self::Ack(Acks(acks)),
                _ => Self::Unknown,
            }),
            "cancel" => Ok(Self::Cancel {
                run: id(raw.s).ok_or("a cancel frame names its run in s")?,
                command: id(raw.cid),
            }),
            "auth_refresh" => Ok(Self::AuthRefresh),
            "pong" => Ok(Self::Pong),
            _ => Ok(Self::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_again_is_told_whatever_it_is_with() {
        for frame in [
            r#"{"t":"auth_refresh","token":"x"}"#,
            r#"{"t":"auth_refresh","ticket":7,"s":[1]}"#,
            r#"{"t":"auth_refresh"}"#,
        ] {
            assert_eq!(ClientFrame::parse(frame), Ok(ClientFrame::AuthRefresh));
        }
        assert_eq!(
            ClientFrame::parse(r#"{"t":"auth","token":"x"}"#),
            Ok(ClientFrame::Unknown)
        );
    }

    #[test]
    fn acks_of_the_wrong_type_are_ignored_one_by_one() {
        let parsed = ClientFrame::parse(r#"{"t":"ack","s":{"a":1,"b":-1,"c":"1","d":1.5,"e":2,"f":null}}"#);
        let Ok(ClientFrame::Ack(acks)) = parsed else {
            panic!("{parsed:?}");
        };
        assert_eq!(acks.iter().collect::<Vec<_>>(), [("a", 1), ("e", 2)]);
        for frame in [r#"{"t":"ack"}"#, r#"{"t":"ack","s":7}"#, r#"{"t":"ack","s":[1]}"#] {
            assert_eq!(ClientFrame::parse(frame), Ok(ClientFrame::Unknown));
        }
    }
}
