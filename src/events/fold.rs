//! What is left of the oldest events when a log is full: the latest of each span and key, in log order, and texts as a whole.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::log::{LogEntry, Moved, Moving, TextId};
use crate::metrics::EVENT_KINDS;
use crate::mutants::mutant;

/// Dropped texts that are remembered.
const MAX_CUT_TEXTS: usize = 64;

/// What an event is the latest of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    Started,
    Thinking,
    /// A tool call that has begun, by its number in the span and the number of the tool's name.
    ToolBegun(u32, u32),
    /// The latest ended call of a tool, by the number of the tool's name.
    ToolEnded(u32),
    /// How the latest ended call of a tool began, kept while another call of that tool is open: a client counts, and the end
    /// alone would close the other one.
    ToolPaired(u32),
    Terminal,
    /// An application's own event, by the number of its type.
    Custom(u32),
    /// Progress, by the number of its key.
    Progress(u32),
    /// A part of a text: it is kept with the text's other parts.
    Text,
}

/// The span (0 for none) and the slot.
pub(super) type FoldKey = (u32, Slot);

/// What stands at a place of the snapshot.
#[derive(Debug)]
enum Kept {
    Event(LogEntry),
    Text(Box<Text>),
}

impl Kept {
    fn key(&self) -> FoldKey {
        match self {
            Self::Event(entry) => entry.key,
            Self::Text(text) => text.latest.key,
        }
    }

    fn kind(&self) -> usize {
        match self {
            Self::Event(entry) => usize::from(entry.kind),
            Self::Text(text) => usize::from(text.latest.kind),
        }
    }
}

/// The parts of a text in one.
#[derive(Debug)]
struct Text {
    id: Arc<TextId>,
    /// The contents of all parts.
    contents: String,
    /// Earlier parts were dropped for lack of room.
    is_cut: bool,
    /// The latest part, of which all but the contents is.
    latest: LogEntry,
}

impl Text {
    fn weight(&self) -> usize {
        size_of::<Self>() + self.contents.capacity() + self.latest.weight()
    }
}

/// The prefix of a log as a state.
#[derive(Debug, Default)]
pub(super) struct Fold {
    /// By the number of the event, or of the latest part of the text.
    by_number: BTreeMap<u64, Kept>,
    latest: HashMap<FoldKey, u64, RandomState>,
    /// Where each text stands.
    texts: HashMap<Arc<TextId>, u64, RandomState>,
    /// Texts that were dropped, in that order: they stand at 0, which is no number.
    cut: VecDeque<Arc<TextId>>,
    /// How many calls of a tool have begun here and not ended, by the span and the number of the tool's name.
    open_calls: HashMap<(u32, u32), u32, RandomState>,
    bytes: usize,
    /// Of each kind of event, how many were dropped.
    forgotten: [u64; EVENT_KINDS.len()],
}

impl Fold {
    /// Takes in the oldest entry of the log.
    pub(super) fn take(&mut self, entry: LogEntry) {
        match entry.key {
            (_, Slot::Text) => return self.take_part(entry),
            (span, Slot::ToolBegun(_, tool)) => *self.open_calls.entry((span, tool)).or_default() += 1,
            (span, Slot::ToolEnded(tool)) => self.end_call(span, tool, entry.closes),
            _ => {}
        }
        if let Some(earlier) = self.latest.insert(entry.key, entry.number) {
            if mutant!(FoldDropsLatest) {
                self.latest.insert(entry.key, earlier);
                return;
            }
            self.drop_number(earlier);
        }
        self.bytes += entry.weight();
        self.by_number.insert(entry.number, Kept::Event(entry));
    }

    /// Adds a part to its text, which stands where its latest part is: as everything here, it is the latest.
    fn take_part(&mut self, entry: LogEntry) {
        let Some(id) = entry.part().map(|part| part.of.clone()) else {
            return;
        };
        let number = entry.number;
        let place = self.texts.insert(id.clone(), number);
        let text = match place.and_then(|place| self.by_number.remove(&place)) {
            Some(Kept::Text(mut text)) => {
                self.bytes -= text.weight();
                if mutant!(FoldKeepsLastPart) {
                    text.contents.clear();
                }
                text.contents.push_str(entry.contents());
                text.latest = entry;
                text
            }
            _ => Box::new(Text {
                id,
                contents: entry.contents().to_owned(),
                is_cut: place.is_some(),
                latest: entry,
            }),
        };
        self.bytes += text.weight();
        self.by_number.insert(number, Kept::Text(text));
    }

    /// A call of the tool has ended: how it began goes, unless the end needs it.
    fn end_call(&mut self, span: u32, tool: u32, begun: Option<FoldKey>) {
        let earlier = self.latest.remove(&(span, Slot::ToolPaired(tool)));
        if let Some(earlier) = earlier {
            self.drop_number(earlier);
        }
        let Some(begun) = begun.and_then(|begun| self.forget(begun)) else {
            return;
        };
        if self.open_calls.contains_key(&(span, tool)) {
            self.latest.insert((span, Slot::ToolPaired(tool)), begun);
        } else {
            self.drop_number(begun);
        }
    }

    /// Forgets what was the latest of a key. Answers its number.
    fn forget(&mut self, key: FoldKey) -> Option<u64> {
        let number = self.latest.remove(&key)?;
        if let (span, Slot::ToolBegun(_, tool)) = key
            && let Entry::Occupied(mut open) = self.open_calls.entry((span, tool))
        {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
        Some(number)
    }

    fn is_emptied(&self, number: u64) -> bool {
        matches!(self.by_number.get(&number), Some(Kept::Text(text)) if text.is_cut && text.contents.is_empty())
    }

    /// Drops the contents of a text and lets the rest stand, so that what follows is not taken for the whole of it. Answers
    /// `false` when it has none.
    fn empty_text(&mut self, number: u64) -> bool {
        let Some(Kept::Text(text)) = self.by_number.get_mut(&number) else {
            return false;
        };
        if text.contents.is_empty() {
            return false;
        }
        self.bytes -= text.weight();
        text.contents = String::new();
        text.is_cut = true;
        self.bytes += text.weight();
        true
    }

    fn drop_number(&mut self, number: u64) {
        match self.by_number.remove(&number) {
            Some(Kept::Event(entry)) => self.bytes -= entry.weight(),
            Some(Kept::Text(text)) => {
                self.bytes -= text.weight();
                // What comes later of the text must not be taken for the whole of it.
                if self.cut.len() >= MAX_CUT_TEXTS
                    && let Some(oldest) = self.cut.pop_front()
                    && self.texts.get(&oldest) == Some(&0)
                {
                    self.texts.remove(&oldest);
                }
                self.texts.insert(text.id.clone(), 0);
                self.cut.push_back(text.id.clone());
            }
            None => {}
        }
    }

    /// Makes room by dropping the oldest events that no open span needs, then the oldest thoughts, texts and messages of open
    /// ones. A text is as old as its latest part. What remains at the worst is how each open span and its open tools began.
    pub(super) fn shrink(&mut self, max_bytes: usize, max_events: usize, is_open: impl Fn(u32) -> bool) {
        for keep_open_spans in [true, false] {
            while self.bytes > max_bytes || self.by_number.len() > max_events {
                let may_go = |(span, slot): FoldKey| {
                    if keep_open_spans {
                        !is_open(span) || mutant!(FoldForgetsOpenSpans)
                    } else {
                        matches!(slot, Slot::Thinking | Slot::Custom(_) | Slot::Progress(_) | Slot::Text)
                    }
                };
                let mut keys = self
                    .by_number
                    .iter()
                    .map(|(number, kept)| (*number, kept.key(), kept.kind()));
                let victim = keys.find(|(_, key, _)| may_go(*key));
                let Some((number, key, kind)) = victim else { break };
                // Of a text that was emptied before, nothing more is lost.
                if !self.is_emptied(number) {
                    self.forgotten[kind] += 1;
                }
                if self.bytes > max_bytes && self.empty_text(number) {
                    continue;
                }
                if self.forget(key).is_none()
                    && let (span, Slot::ToolBegun(_, tool)) = key
                {
                    self.latest.remove(&(span, Slot::ToolPaired(tool)));
                }
                self.drop_number(number);
            }
        }
    }

    /// The messages that stand for the prefix, in log order.
    pub(super) fn messages(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.by_number.values().map(|kept| match kept {
            Kept::Event(entry) => Cow::Borrowed(&*entry.text),
            Kept::Text(text) => {
                let is_cut = text.is_cut && !mutant!(CutTextLooksWhole);
                Cow::Owned(text.latest.with_contents(&[&text.contents], is_cut))
            }
        })
    }

    /// What stands for the prefix, in log order, a text by its latest part.
    pub(super) fn kept(&self) -> impl Iterator<Item = &LogEntry> {
        self.by_number.values().map(|kept| match kept {
            Kept::Event(entry) => entry,
            Kept::Text(text) => &text.latest,
        })
    }

    /// Texts that were dropped.
    pub(super) fn cut(&self) -> impl Iterator<Item = &Arc<TextId>> {
        self.cut.iter().filter(|id| self.texts.get(*id) == Some(&0))
    }

    /// All that is kept, in log order, on its way to another worker.
    pub(super) fn moving(&self) -> impl Iterator<Item = Moving<'_>> {
        self.by_number.values().map(|kept| match kept {
            Kept::Text(text) => Moving::Text(&text.latest, &text.contents, text.is_cut),
            Kept::Event(entry) => {
                let paired = match entry.key {
                    (span, Slot::ToolBegun(_, tool)) => self.latest.get(&(span, Slot::ToolPaired(tool))),
                    _ => None,
                };
                Moving::Event(entry, paired == Some(&entry.number))
            }
        })
    }

    /// What came from another worker.
    pub(super) fn restored(cut: Vec<Arc<TextId>>, kept: Vec<Moved>) -> Self {
        let mut fold = Self::default();
        for moved in kept {
            let (number, kept) = match moved {
                Moved::Event(entry, is_paired) => {
                    let key = match entry.key {
                        (span, Slot::ToolBegun(_, tool)) if is_paired => (span, Slot::ToolPaired(tool)),
                        key => key,
                    };
                    if let (span, Slot::ToolBegun(_, tool)) = key {
                        *fold.open_calls.entry((span, tool)).or_default() += 1;
                    }
                    fold.latest.insert(key, entry.number);
                    fold.bytes += entry.weight();
                    (entry.number, Kept::Event(entry))
                }
                Moved::Text(latest, contents, is_cut) => {
                    let Some(id) = latest.part().map(|part| part.of.clone()) else {
                        continue;
                    };
                    fold.texts.insert(id.clone(), latest.number);
                    let text = Text {
                        id,
                        contents,
                        is_cut,
                        latest,
                    };
                    fold.bytes += text.weight();
                    (text.latest.number, Kept::Text(Box::new(text)))
                }
            };
            fold.by_number.insert(number, kept);
        }
        for id in cut.into_iter().take(MAX_CUT_TEXTS) {
            if !fold.texts.contains_key(&id) {
                fold.texts.insert(id.clone(), 0);
                fold.cut.push_back(id);
            }
        }
        fold
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events dropped because the snapshot itself was full, by their kind.
    pub(super) fn forgotten(&self) -> [u64; EVENT_KINDS.len()] {
        self.forgotten
    }
}
