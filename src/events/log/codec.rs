//! How the events of a log travel to a store and to the workers that read it there.
//!
//! A piece is a version, a sum, and a body. The sum is taken under a key that is made of the user, the run and the epoch: what is
//! damaged is refused, and so is what was stored under another log, whoever put it there by mistake. It is no protection from
//! somebody who may write the store. Reading never panics: each length is compared with what is left.

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::entry::{Entry, Extras, Part, TextId};
use crate::clock::Micros;
use crate::events::event::Class;
use crate::events::fold::{FoldKey, Slot};
use crate::metrics::CUSTOM;
use crate::mutants::mutant;

/// The version of the body of an event, and of that of a snapshot.
const EVENT: u8 = 1;
const SNAPSHOT: u8 = 0x41;
/// Before the body: the version, and the sum.
const HEAD: usize = 1 + size_of::<u64>();

/// What else an event has.
const CLOSES: u8 = 1;
const ID: u8 = 2;
const PART: u8 = 4;
/// Nothing is left of the numbers.
const GONE: u8 = 8;

/// What came from a store is no piece of this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what was stored of the log cannot be read: {0}; it is damaged, of another log, or of a later version")]
pub struct Malformed(pub(super) &'static str);

/// What sums are taken under: another one for each log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seal(u64, u64);

impl Seal {
    pub(super) fn new(user: &str, run: &str, epoch: &str) -> Self {
        if mutant!(EntryNotBound) {
            return Self(0, 0);
        }
        let half = |key| {
            let mut hasher = SipHasher13::new_with_keys(key, 0x6973_6f6c_616e_6531);
            for part in [user, run, epoch] {
                hasher.write(&(part.len() as u64).to_le_bytes());
                hasher.write(part.as_bytes());
            }
            hasher.finish()
        };
        Self(half(1), half(2))
    }

    fn sum(self, version: u8, body: &[u8]) -> [u8; 8] {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(&[version]);
        hasher.write(body);
        hasher.finish().to_le_bytes()
    }

    fn close(self, mut piece: Vec<u8>) -> Vec<u8> {
        let sum = self.sum(piece[0], &piece[HEAD..]);
        piece[1..HEAD].copy_from_slice(&sum);
        piece
    }

    fn open(self, version: u8, piece: &[u8]) -> Result<Reader<'_>, Malformed> {
        let (head, body) = piece.split_at_checked(HEAD).ok_or(Malformed("it is cut off"))?;
        if head[0] != version {
            return Err(Malformed("its version is unknown"));
        }
        if head[1..] != self.sum(version, body) && !mutant!(EntryNotSummed) {
            return Err(Malformed("its sum is wrong"));
        }
        Ok(Reader(body))
    }
}

fn piece(version: u8, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + room);
    out.push(version);
    out.resize(HEAD, 0);
    out
}

/// Numbers take seven bits a byte, the lowest first.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[allow(clippy::cast_possible_truncation)] // of seven bits
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[allow(clippy::cast_possible_truncation)] // less than 128
    out.push(number as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// A text that may be missing: 0, or its length and one.
fn put_maybe(out: &mut Vec<u8>, text: Option<&str>) {
    put(out, text.map_or(0, |text| text.len() as u64 + 1));
    out.extend_from_slice(text.unwrap_or_default().as_bytes());
}

fn put_key(out: &mut Vec<u8>, (span, slot): FoldKey) {
    put(out, u64::from(span));
    let (tag, numbers): (u8, [Option<u32>; 2]) = match slot {
        Slot::Started => (0, [None; 2]),
        Slot::Thinking => (1, [None; 2]),
        Slot::ToolBegun(call, tool) => (2, [Some(call), Some(tool)]),
        Slot::ToolEnded(tool) => (3, [Some(tool), None]),
        Slot::ToolPaired(tool) => (4, [Some(tool), None]),
        Slot::Terminal => (5, [None; 2]),
        Slot::Custom(name) => (6, [Some(name), None]),
        Slot::Progress(key) => (7, [Some(key), None]),
        Slot::Text => (8, [None; 2]),
    };
    out.push(tag);
    for number in numbers.into_iter().flatten() {
        put(out, u64::from(number));
    }
}

fn put_text_id(out: &mut Vec<u8>, id: &TextId) {
    put_maybe(out, id.agent.as_deref());
    put_text(out, &id.kind);
    put_text(out, &id.request);
    put_text(out, &id.message);
}

/// All of an event but where it stands, which is `before`, the number that precedes it for its reader.
fn put_entry(out: &mut Vec<u8>, entry: &Entry, before: u64) {
    let extras = entry.extras.as_deref();
    let (id, part) = (entry.id(), extras.and_then(|extras| extras.part.as_ref()));
    let flags = [
        (entry.closes.is_some(), CLOSES),
        (id.is_some(), ID),
        (part.is_some(), PART),
    ];
    out.push(
        flags
            .iter()
            .filter(|(is_there, _)| *is_there)
            .map(|(_, flag)| flag)
            .sum(),
    );
    out.push((entry.class as u8) << 4 | entry.kind);
    put(out, entry.number);
    put(out, entry.number - before - 1);
    put(out, entry.unix);
    put_key(out, entry.key);
    if let Some(closes) = entry.closes {
        put_key(out, closes);
    }
    if let Some(id) = id {
        put_text(out, id);
    }
    if let Some(part) = part {
        put_text_id(out, &part.of);
        put(out, part.at.start as u64);
        put(out, part.at.len() as u64);
    }
    out.extend_from_slice(entry.text.as_bytes());
}

/// An event as it travels. `before` is the number that precedes it: those between were left out.
pub(super) fn encode(seal: Seal, entry: &Entry, before: u64) -> Vec<u8> {
    let mut out = piece(EVENT, 64 + entry.weight());
    put_entry(&mut out, entry, before);
    seal.close(out)
}

/// That nothing is left of the numbers after `before` up to `number`.
pub(super) fn encode_gone(seal: Seal, number: u64, before: u64) -> Vec<u8> {
    let mut out = piece(EVENT, 16);
    out.push(GONE);
    out.push(0);
    put(&mut out, number);
    put(&mut out, number - before - 1);
    seal.close(out)
}

/// What was read of an event.
#[derive(Debug)]
pub(super) struct Arrived {
    /// The number that precedes it for its reader.
    pub(super) before: u64,
    pub(super) number: u64,
    /// `None` when nothing is left of the numbers. Its monotonic time is not set.
    pub(super) entry: Option<Entry>,
}

/// Reads an event.
pub(super) fn decode(seal: Seal, bytes: &[u8]) -> Result<Arrived, Malformed> {
    seal.open(EVENT, bytes)?.arrived()
}

/// What is left of a body.
struct Reader<'a>(&'a [u8]);

const CUT: Malformed = Malformed("it is cut off");

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(CUT)?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for at in 0..10 {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if at == 9 && bits > 1 {
                return Err(Malformed("a number is too large"));
            }
            number |= bits << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed("a number is too long"))
    }

    fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed("a number is too large"))
    }

    fn taken(&mut self, length: u64) -> Result<&'a str, Malformed> {
        let length = usize::try_from(length).map_err(|_| CUT)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        str::from_utf8(taken).map_err(|_| Malformed("a text is not UTF-8"))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.number()?;
        self.taken(length)
    }

    fn maybe(&mut self) -> Result<Option<&'a str>, Malformed> {
        match self.number()? {
            0 => Ok(None),
            length => self.taken(length - 1).map(Some),
        }
    }

    fn key(&mut self) -> Result<FoldKey, Malformed> {
        let span = self.small()?;
        let slot = match self.byte()? {
            0 => Slot::Started,
            1 => Slot::Thinking,
            2 => Slot::ToolBegun(self.small()?, self.small()?),
            3 => Slot::ToolEnded(self.small()?),
            4 => Slot::ToolPaired(self.small()?),
            5 => Slot::Terminal,
            6 => Slot::Custom(self.small()?),
            7 => Slot::Progress(self.small()?),
            8 => Slot::Text,
            _ => return Err(Malformed("its place is unknown")),
        };
        Ok((span, slot))
    }

    fn text_id(&mut self) -> Result<TextId, Malformed> {
        Ok(TextId {
            agent: self.maybe()?.map(Box::from),
            kind: self.text()?.into(),
            request: self.text()?.into(),
            message: self.text()?.into(),
        })
    }

    fn arrived(&mut self) -> Result<Arrived, Malformed> {
        let (flags, kinds) = (self.byte()?, self.byte()?);
        let number = self.number()?;
        let left_out = self.number()?;
        let before = number.checked_sub(1).and_then(|last| last.checked_sub(left_out));
        let before = before.ok_or(Malformed("its number makes no sense"))?;
        if flags == GONE {
            let is_all = kinds == 0 && self.0.is_empty();
            let gone = Arrived {
                before,
                number,
                entry: None,
            };
            return is_all.then_some(gone).ok_or(Malformed("it goes on after its end"));
        }
        if flags & !(CLOSES | ID | PART) != 0 {
            return Err(Malformed("it has what is unknown"));
        }
        let class = Class::new(kinds >> 4).ok_or(Malformed("its class is unknown"))?;
        let kind = kinds & 0xf;
        if usize::from(kind) > CUSTOM {
            return Err(Malformed("its kind is unknown"));
        }
        let unix: Micros = self.number()?;
        let key = self.key()?;
        let closes = if flags & CLOSES == 0 { None } else { Some(self.key()?) };
        let id = if flags & ID == 0 {
            None
        } else {
            Some(Arc::from(self.text()?))
        };
        let part = if flags & PART == 0 {
            None
        } else {
            Some((self.text_id()?, self.number()?, self.number()?))
        };
        if (key.1 == Slot::Text) != part.is_some() || part.is_some() && class != Class::Content {
            return Err(Malformed("a part of a text is none"));
        }
        let text = self.taken(self.0.len() as u64)?;
        if text.is_empty() {
            return Err(CUT);
        }
        let part = part
            .map(|(of, start, length)| {
                let end = start.checked_add(length).and_then(|end| usize::try_from(end).ok());
                let at = usize::try_from(start).ok().zip(end).map(|(start, end)| start..end);
                let at = at.filter(|at| text.get(at.clone()).is_some());
                let at = at.ok_or(Malformed("a part lies outside of its message"))?;
                Ok(Part { of: Arc::new(of), at })
            })
            .transpose()?;
        let extras = (id.is_some() || part.is_some()).then(|| Box::new(Extras { id, part }));
        let entry = Entry {
            number,
            class,
            kind,
            superseded: false,
            unix,
            monotonic: 0,
            key,
            closes,
            extras,
            text: text.into(),
        };
        Ok(Arrived {
            before,
            number,
            entry: Some(entry),
        })
    }
}

/// What a snapshot says beside what it keeps.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    /// The number up to which it stands for all.
    pub(super) upto: u64,
    /// When the log was opened.
    pub(super) opened: Micros,
    /// How many events were folded into it.
    pub(super) folded: u64,
    /// Executions that began, completed and failed up to its number, and the most within each other.
    pub(super) executions: u32,
    pub(super) completed: u32,
    pub(super) failed: u32,
    pub(super) deepest: u16,
    /// The agent of the first.
    pub(super) first: Option<Box<str>>,
}

/// One thing that a snapshot keeps, as it travels.
#[derive(Debug)]
pub(in crate::events) enum Moved {
    /// An event, and whether it is how an ended call began that another open call needs.
    Event(Entry, bool),
    /// A text: its latest part, the contents of all parts, and whether the beginning is missing.
    Text(Entry, String, bool),
}

impl Moved {
    pub(super) fn entry(&mut self) -> &mut Entry {
        match self {
            Self::Event(entry, _) | Self::Text(entry, ..) => entry,
        }
    }

    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Event(entry, _) => entry.weight(),
            Self::Text(entry, contents, _) => entry.weight() + contents.len(),
        }
    }
}

/// The same, on its way out.
#[derive(Debug)]
pub(in crate::events) enum Moving<'a> {
    Event(&'a Entry, bool),
    Text(&'a Entry, &'a str, bool),
}

/// Writes a snapshot: `cut` are the texts that were dropped.
pub(super) fn encode_snapshot<'a>(
    seal: Seal,
    summary: &Summary,
    cut: impl ExactSizeIterator<Item = &'a Arc<TextId>>,
    kept: impl Iterator<Item = Moving<'a>>,
) -> Vec<u8> {
    let mut out = piece(SNAPSHOT, 256);
    put(&mut out, summary.upto);
    put(&mut out, summary.opened);
    put(&mut out, summary.folded);
    put(&mut out, u64::from(summary.executions));
    put(&mut out, u64::from(summary.completed));
    put(&mut out, u64::from(summary.failed));
    put(&mut out, u64::from(summary.deepest));
    put_maybe(&mut out, summary.first.as_deref());
    put(&mut out, cut.len() as u64);
    for id in cut {
        put_text_id(&mut out, id);
    }
    let mut body = Vec::new();
    for moving in kept {
        body.clear();
        match moving {
            Moving::Event(entry, is_paired) => {
                out.push(u8::from(is_paired && !mutant!(SnapshotForgetsPairs)));
                put_entry(&mut body, entry, entry.number - 1);
            }
            Moving::Text(entry, contents, is_cut) => {
                out.push(2 + u8::from(is_cut));
                put_text(&mut out, contents);
                put_entry(&mut body, entry, entry.number - 1);
            }
        }
        put(&mut out, body.len() as u64);
        out.extend_from_slice(&body);
    }
    seal.close(out)
}

/// A snapshot that was read.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) summary: Summary,
    pub(super) cut: Vec<Arc<TextId>>,
    /// In log order.
    pub(super) kept: Vec<Moved>,
}

/// Reads a snapshot.
pub(super) fn decode_snapshot(seal: Seal, bytes: &[u8]) -> Result<Snapshot, Malformed> {
    let mut reader = seal.open(SNAPSHOT, bytes)?;
    let summary = Summary {
        upto: reader.number()?,
        opened: reader.number()?,
        folded: reader.number()?,
        executions: reader.small()?,
        completed: reader.small()?,
        failed: reader.small()?,
        deepest: u16::try_from(reader.number()?).map_err(|_| Malformed("a number is too large"))?,
        first: reader.maybe()?.map(Box::from),
    };
    if summary.folded > summary.upto {
        return Err(Malformed("its number makes no sense"));
    }
    // Nothing is reserved by what a length says: each one is read.
    let mut cut = Vec::new();
    for _ in 0..reader.number()? {
        cut.push(Arc::new(reader.text_id()?));
    }
    let mut kept = Vec::new();
    let mut before = 0;
    while !reader.0.is_empty() {
        let form = reader.byte()?;
        let contents = if form >= 2 { reader.text()? } else { "" };
        let length = reader.number()?;
        let length = usize::try_from(length).map_err(|_| CUT)?;
        let (body, rest) = reader.0.split_at_checked(length).ok_or(CUT)?;
        reader.0 = rest;
        let arrived = Reader(body).arrived()?;
        let entry = arrived.entry.ok_or(Malformed("it keeps what is gone"))?;
        if entry.number <= before || entry.number > summary.upto {
            return Err(Malformed("what it keeps is out of order"));
        }
        before = entry.number;
        let is_text = entry.key.1 == Slot::Text;
        let is_begun = matches!(entry.key.1, Slot::ToolBegun(..));
        kept.push(match form {
            0 if !is_text => Moved::Event(entry, false),
            1 if is_begun => Moved::Event(entry, true),
            2 | 3 if is_text => Moved::Text(entry, contents.to_owned(), form == 3),
            _ => return Err(Malformed("its form is unknown")),
        });
    }
    Ok(Snapshot { summary, cut, kept })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(number: u64) -> Entry {
        let text = "{\"type\":\"text\",\"payload\":{\"delta\":\"añb\"}}";
        let at = text.find('a').map_or(0..0, |_| {
            let from = text.find("añb").expect("there");
            from..from + "añb".len()
        });
        Entry {
            number,
            class: Class::Content,
            kind: 6,
            superseded: false,
            unix: 1_700_000_000_000_000,
            monotonic: 0,
            key: (3, Slot::Text),
            closes: Some((3, Slot::ToolBegun(7, 300))),
            extras: Some(Box::new(Extras {
                id: Some("id".into()),
                part: Some(Part {
                    of: Arc::new(TextId {
                        agent: None,
                        kind: "text".into(),
                        request: "req".into(),
                        message: "m".into(),
                    }),
                    at,
                }),
            })),
            text: text.into(),
        }
    }

    fn pieces(seal: Seal) -> [(Vec<u8>, bool); 3] {
        let (one, two) = (entry(2), entry(9));
        let mut event = entry(4);
        (event.key, event.extras, event.closes) = ((1, Slot::ToolBegun(1, 1)), None, None);
        let summary = Summary {
            upto: 12,
            opened: 5,
            folded: 11,
            executions: 3,
            completed: 1,
            failed: 1,
            deepest: 2,
            first: Some("agent".into()),
        };
        let cut = one.part().map(|part| part.of.clone());
        let kept = [
            Moving::Text(&one, "all of it", true),
            Moving::Event(&event, true),
            Moving::Text(&two, "", false),
        ];
        let snapshot = encode_snapshot(seal, &summary, cut.iter(), kept.into_iter());
        [
            (encode(seal, &entry(9), 4), false),
            (encode_gone(seal, 300, 1), false),
            (snapshot, true),
        ]
    }

    fn is_read(seal: Seal, piece: &[u8], is_snapshot: bool) -> bool {
        if is_snapshot {
            decode_snapshot(seal, piece).is_ok()
        } else {
            decode(seal, piece).is_ok()
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let seal = Seal::new("ann", "run", "epoch");
        let [(event, _), (gone, _), (snapshot, _)] = pieces(seal);
        let arrived = decode(seal, &event).expect("is read");
        assert_eq!((arrived.before, arrived.number), (4, 9));
        assert_eq!(
            format!("{:?}", arrived.entry.expect("an event")),
            format!("{:?}", entry(9))
        );
        let arrived = decode(seal, &gone).expect("is read");
        assert_eq!(
            (arrived.before, arrived.number, arrived.entry.is_none()),
            (1, 300, true)
        );
        let read = decode_snapshot(seal, &snapshot).expect("is read");
        assert_eq!((read.summary.upto, read.summary.folded, read.cut.len()), (12, 11, 1));
        assert!(matches!(&read.kept[0], Moved::Text(_, contents, true) if contents == "all of it"));
        assert!(matches!(&read.kept[1], Moved::Event(_, true)));
        assert!(matches!(&read.kept[2], Moved::Text(_, contents, false) if contents.is_empty()));
    }

    #[test]
    fn what_is_of_another_log_is_refused() {
        let seal = Seal::new("ann", "run", "epoch");
        for (user, run, epoch) in [
            ("bob", "run", "epoch"),
            ("ann", "run2", "epoch"),
            ("ann", "run", "epoch2"),
        ] {
            let other = Seal::new(user, run, epoch);
            for (piece, is_snapshot) in pieces(seal) {
                assert!(is_read(seal, &piece, is_snapshot));
                assert!(!is_read(other, &piece, is_snapshot), "{user} {run} {epoch}");
            }
        }
        // What stands where is part of it.
        let [one, two] = [("ab", "c"), ("a", "bc")].map(|(user, run)| Seal::new(user, run, "epoch"));
        assert!(!is_read(two, &pieces(one)[0].0, false));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        /// With its sum or without a look at it: damage is an error, and nothing panics.
        #[test]
        fn what_was_damaged_is_refused(
            which in 0_usize..3,
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            length in any::<prop::sample::Index>(),
            cuts in any::<bool>(),
            summed in any::<bool>(),
        ) {
            let seal = Seal::new("ann", "run", "epoch");
            let (piece, is_snapshot) = pieces(seal)[which].clone();
            let mut damaged = piece.clone();
            for (at, byte) in damage {
                let at = at.index(damaged.len());
                damaged[at] ^= byte;
            }
            if cuts {
                damaged.truncate(length.index(damaged.len()));
            }
            if summed && damaged.len() >= HEAD {
                // As if whoever damaged it had summed it anew: it is read or refused, and never more than that.
                let damaged = seal.close(damaged);
                is_read(seal, &damaged, is_snapshot);
                is_read(seal, &damaged, !is_snapshot);
            } else if damaged != piece {
                prop_assert!(!is_read(seal, &damaged, is_snapshot));
            }
        }

        /// Bytes from nowhere do not panic, whatever their sum.
        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200), version in any::<u8>()) {
            let seal = Seal::new("ann", "run", "epoch");
            for version in [version, EVENT, SNAPSHOT] {
                let mut bytes = piece(version, body.len());
                bytes.extend_from_slice(&body);
                let bytes = seal.close(bytes);
                is_read(seal, &bytes, false);
                is_read(seal, &bytes, true);
                is_read(seal, &body, false);
            }
        }
    }
}
