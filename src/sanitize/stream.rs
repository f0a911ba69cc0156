//! A text that comes in pieces: a secret that is split between two of them is found as well.
//!
//! What could be the beginning of a finding is held back, 128 bytes at most. What is longer than that and can be told from its
//! beginning, as a token or a key in PEM armour, is masked when that is seen, and its rest is swallowed. What was held for 50 ms
//! goes out as it is. It stays known: when the rest comes, the rest is masked.

use super::characters::{begins_word, is_token, run, run_back};
use super::jwt;
use super::keynames::KeyRule;
use super::kind::{Kind, Kinds};
use super::mask::{UserMask, mask_spans};
use super::scan::Span;
use crate::clock::Micros;
use crate::mutants::mutant;

/// Most bytes that are held back.
pub const HOLD: usize = 128;
/// How long they are held back.
const PATIENCE: Micros = 50_000;
/// Longest last line of a key in PEM armour.
const LAST_LINE: usize = 96;

/// What goes on behind a mask that was written, and is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swallow {
    Nothing,
    Token,
    Pem,
}

/// One text that comes in pieces.
#[derive(Debug)]
pub struct Stream {
    kinds: Kinds,
    /// The text from a little before what is held.
    buffer: String,
    /// How much of the buffer has gone out already.
    gone: usize,
    swallow: Swallow,
    since: Micros,
    found: u64,
}

impl Stream {
    /// A stream that masks these kinds.
    pub fn new(kinds: Kinds) -> Self {
        Self {
            kinds,
            buffer: String::new(),
            gone: 0,
            swallow: Swallow::Nothing,
            since: 0,
            found: 0,
        }
    }

    /// Takes a piece, and gives what can go out.
    pub fn feed(&mut self, piece: &str, now: Micros, masks: &UserMask<'_>) -> String {
        if self.held() == 0 {
            self.since = now;
        }
        self.buffer.push_str(piece);
        self.release(false, masks)
    }

    /// Gives what was held for 50 ms.
    pub fn flush(&mut self, now: Micros, masks: &UserMask<'_>) -> String {
        if self.held() == 0 || now < self.since + PATIENCE {
            return String::new();
        }
        self.release(true, masks)
    }

    /// Gives all that is held.
    pub fn close(&mut self, masks: &UserMask<'_>) -> String {
        let rest = self.release(true, masks);
        *self = Self {
            found: self.found,
            ..Self::new(self.kinds)
        };
        rest
    }

    /// Bytes that are held back.
    pub fn held(&self) -> usize {
        self.buffer.len() - self.gone
    }

    /// How many findings were masked.
    pub fn found(&self) -> u64 {
        self.found
    }

    fn release(&mut self, all: bool, masks: &UserMask<'_>) -> String {
        let mut out = String::new();
        if !self.swallowed() {
            return out;
        }
        // The findings of the whole, those that only show beside a mask with them.
        let mut spans =
            mask_spans(&self.buffer, KeyRule::Plain, self.kinds, masks).map_or_else(Vec::new, |masked| masked.found);
        spans.retain(|span| span.end > self.gone);
        self.add_unfinished_token(&mut spans);
        let (cut, swallow) = if all {
            (self.buffer.len(), Swallow::Nothing)
        } else {
            self.cut(&spans)
        };
        for span in spans.iter().take_while(|span| span.start < cut) {
            let start = span.start.max(self.gone);
            out.push_str(&self.buffer[self.gone..start]);
            masks.write(&mut out, span.kind.name(), &self.buffer[span.start..span.end]);
            self.gone = span.end;
            self.found += 1;
        }
        if swallow == Swallow::Nothing {
            out.push_str(&self.buffer[self.gone..cut.max(self.gone)]);
            self.gone = cut.max(self.gone);
            self.forget();
        } else {
            // What follows the mask may be the last line of armour already.
            let rest = self.gone;
            self.buffer.drain(..rest);
            self.gone = 0;
            self.swallow = swallow;
        }
        out
    }

    /// Leaves out what belongs to a token that was masked already. Answers whether its end was seen.
    fn swallowed(&mut self) -> bool {
        let length = self.buffer.len();
        let end = match self.swallow {
            Swallow::Nothing => return true,
            Swallow::Token => Some(run(self.buffer.as_bytes(), 0, |byte| is_token(byte) || byte == b'=')),
            Swallow::Pem => self.end_of_armour(),
        };
        let is_over = end.is_some_and(|end| self.swallow == Swallow::Pem || end < length);
        // Of armour the end is kept: its last line may be split.
        let mut past = end.unwrap_or_else(|| length.saturating_sub(LAST_LINE));
        while !self.buffer.is_char_boundary(past) {
            past += 1;
        }
        self.buffer.drain(..past);
        if is_over {
            self.swallow = Swallow::Nothing;
        }
        is_over
    }

    fn end_of_armour(&self) -> Option<usize> {
        let from = self.buffer.find("-----END ")? + "-----END ".len();
        self.buffer[from..].find("-----").map(|dashes| from + dashes + 5)
    }

    /// A JSON web token that is longer than what is held back is told by the beginning of its header.
    fn add_unfinished_token(&self, spans: &mut Vec<Span>) {
        let bytes = self.buffer.as_bytes();
        let run = run_back(bytes, bytes.len(), usize::MAX, |byte| {
            jwt::is_base64url(byte) || byte == b'.'
        });
        if !self.kinds.has(Kind::Jwt) || bytes.len() - run <= HOLD {
            return;
        }
        let begins =
            |at: &usize| begins_word(bytes, *at) && jwt::may_begin(&bytes[*at..]) && jwt::begins_header(&bytes[*at..]);
        if let Some(start) = (run..bytes.len()).find(begins)
            && bytes.len() - start > HOLD
            && spans.iter().all(|span| span.end <= start)
        {
            spans.push(Span {
                start,
                end: bytes.len(),
                kind: Kind::Jwt,
            });
        }
    }

    /// Up to where the text can go out, and what is swallowed behind it.
    fn cut(&self, spans: &[Span]) -> (usize, Swallow) {
        let hold = if mutant!(CarryTooShort) { 8 } else { HOLD };
        let length = self.buffer.len();
        let oldest = length.saturating_sub(hold);
        let mut cut = self.may_go_on_from().max(oldest).max(self.gone);
        while !self.buffer.is_char_boundary(cut) {
            cut += 1;
        }
        // The last one first: what is held because of it may cut another.
        for span in spans.iter().rev() {
            let unfinished_key = span.kind == Kind::Pem && !self.buffer[..span.end].ends_with("-----");
            if span.start >= cut || (span.end < cut && !unfinished_key) {
                continue;
            }
            if span.start >= oldest && span.start >= self.gone {
                cut = span.start;
            } else if unfinished_key {
                return (span.end, Swallow::Pem);
            } else if span.end == length {
                return (span.end, Swallow::Token);
            } else {
                cut = cut.max(span.end);
            }
        }
        (cut, Swallow::Nothing)
    }

    /// Where the last words begin that may be the beginning of a finding: one without blanks, and groups of digits and capitals
    /// before it, which cards, accounts and the lines of armour are made of.
    fn may_go_on_from(&self) -> usize {
        let bytes = self.buffer.as_bytes();
        let mut from = run_back(bytes, bytes.len(), usize::MAX, |byte| !byte.is_ascii_whitespace());
        loop {
            let blanks = run_back(bytes, from, 2, |byte| byte == b' ');
            let group = |byte: u8| {
                byte.is_ascii_uppercase()
                    || byte.is_ascii_digit()
                    || matches!(byte, b'-' | b'+' | b'(' | b')' | b'.' | b'/')
            };
            let start = run_back(bytes, blanks, usize::MAX, group);
            let is_group = start < blanks && blanks < from;
            if !is_group || bytes.len() - start > HOLD {
                return from;
            }
            // Of a longer word only the end is a group, as of `no.4111`.
            from = run_back(bytes, start, usize::MAX, |byte| !byte.is_ascii_whitespace());
            if from < start {
                return from;
            }
        }
    }

    /// Forgets what went out, but for what a finding may have begun with.
    fn forget(&mut self) {
        let mut from = self.gone.saturating_sub(HOLD);
        while !self.buffer.is_char_boundary(from) {
            from += 1;
        }
        self.buffer.drain(..from);
        self.gone -= from;
    }
}

/// The same for a text that is whole. For comparison.
pub fn mask_whole(text: &str, kinds: Kinds, masks: &UserMask<'_>) -> String {
    mask_spans(text, KeyRule::Plain, kinds, masks).map_or_else(|| text.to_owned(), |masked| masked.text)
}
