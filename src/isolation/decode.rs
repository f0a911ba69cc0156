//! What hides a canary without changing it for whoever reads it: escapes, characters of no width, base 64, hexadecimal.
//!
//! One layer is undone, not several: what is encoded twice is found by nobody here.

use std::sync::OnceLock;

use aho_corasick::AhoCorasick;
use memchr::{memchr2_iter, memchr3_iter, memmem};

use super::canary::{CANARY_LENGTH, CANARY_PREFIX};

/// A text without escapes and characters of no width, and where in the original its pieces were.
#[derive(Debug, Default)]
pub(super) struct Plain {
    pub(super) text: Vec<u8>,
    /// Where pieces begin: here, and in the original.
    marks: Vec<(usize, usize)>,
}

enum Piece {
    Nothing,
    Byte(u8),
    Letter(char),
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits
        .iter()
        .try_fold(0, |number, digit| Some(number << 4 | char::from(*digit).to_digit(16)?))
}

fn has_no_width(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

/// What stands at the beginning of `text`, if it is hidden, and how many bytes it takes.
fn piece(text: &[u8]) -> Option<(Piece, usize)> {
    match text {
        [b'%', high, low, ..] => Some((Piece::Byte(u8::try_from(hex(&[*high, *low])?).ok()?), 3)),
        [b'\\', b'u', a, b, c, d, ..] => {
            let letter = char::from_u32(hex(&[*a, *b, *c, *d])?)?;
            let piece = if has_no_width(letter) {
                Piece::Nothing
            } else {
                Piece::Letter(letter)
            };
            Some((piece, 6))
        }
        [0xe2, 0x80, 0x8b..=0x8f, ..]
        | [0xe2, 0x81, 0xa0..=0xa4, ..]
        | [0xef, 0xbb, 0xbf, ..]
        | [0xe1, 0xa0, 0x8e, ..] => Some((Piece::Nothing, 3)),
        [0xc2, 0xad, ..] => Some((Piece::Nothing, 2)),
        _ => None,
    }
}

impl Plain {
    /// Undoes the escapes of `text`. Answers whether there were any.
    pub(super) fn take(&mut self, text: &[u8]) -> bool {
        self.text.clear();
        self.marks.clear();
        // These are rare, and in most texts nothing is beyond ASCII at all, so most are searched once.
        let rare = !text.is_ascii()
            && (memmem::find(text, b"\xef\xbb\xbf").is_some()
                || memmem::find(text, b"\xc2\xad").is_some()
                || memmem::find(text, b"\xe1\xa0\x8e").is_some());
        let mut common = memchr3_iter(b'%', b'\\', 0xe2, text).peekable();
        let others = if rare { text } else { &[] };
        let mut others = memchr2_iter(0xef, 0xc2, others).peekable();
        let mut third = memchr::memchr_iter(0xe1, if rare { text } else { &[] }).peekable();
        let mut copied = 0;
        loop {
            let next = [common.peek(), others.peek(), third.peek()]
                .into_iter()
                .flatten()
                .min()
                .copied();
            let Some(at) = next else { break };
            if common.next_if_eq(&at).is_none() && others.next_if_eq(&at).is_none() {
                third.next();
            }
            if at < copied {
                continue;
            }
            let Some((piece, length)) = piece(&text[at..]) else {
                continue;
            };
            self.copy(text, copied, at);
            self.marks.push((self.text.len(), at));
            match piece {
                Piece::Nothing => {}
                Piece::Byte(byte) => self.text.push(byte),
                Piece::Letter(letter) => {
                    let mut bytes = [0; 4];
                    self.text.extend_from_slice(letter.encode_utf8(&mut bytes).as_bytes());
                }
            }
            copied = at + length;
        }
        if self.marks.is_empty() {
            return false;
        }
        self.copy(text, copied, text.len());
        self.marks.push((self.text.len(), text.len()));
        true
    }

    fn copy(&mut self, text: &[u8], from: usize, to: usize) {
        if from < to {
            self.marks.push((self.text.len(), from));
            self.text.extend_from_slice(&text[from..to]);
        }
    }

    /// Where in the original the byte at `at` begins.
    fn original(&self, at: usize) -> usize {
        let next = self.marks.partition_point(|(here, _)| *here <= at);
        let (here, there) = self.marks[next.saturating_sub(1)];
        there + (at - here)
    }

    /// From where to where in the original, for what stands in the text.
    pub(super) fn span(&self, from: usize, to: usize) -> (usize, usize) {
        let first = self.marks.partition_point(|(here, _)| *here < to);
        let end = match self.marks.get(first) {
            // Where the next piece begins the one before has ended, however long it is in the original.
            Some((here, there)) if *here == to => *there,
            _ => self.original(to.saturating_sub(1)) + 1,
        };
        (self.original(from), end)
    }
}

const DIGITS_64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn value_64(digit: u8) -> Option<u32> {
    let digit = match digit {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    };
    DIGITS_64
        .iter()
        .position(|known| *known == digit)
        .and_then(|at| u32::try_from(at).ok())
}

/// The digits that the prefix always has, when it begins `shift` bytes after a group: and after how many digits they begin.
fn prefix_64(shift: usize) -> (usize, Vec<u8>) {
    let mut bytes = vec![0; shift];
    bytes.extend_from_slice(CANARY_PREFIX);
    let bits = |from: usize| {
        (from..from + 6).fold(0, |value, bit| {
            value << 1 | usize::from(bytes[bit / 8] >> (7 - bit % 8) & 1)
        })
    };
    let first = (shift * 8).div_ceil(6);
    let last = (shift + CANARY_PREFIX.len()) * 8 / 6;
    (first, (first..last).map(|digit| DIGITS_64[bits(digit * 6)]).collect())
}

struct Encoded {
    search: AhoCorasick,
    /// Digits of base 64 before the pattern, by the number of the pattern.
    before: [usize; 3],
}

fn encoded() -> &'static Encoded {
    static ENCODED: OnceLock<Encoded> = OnceLock::new();
    ENCODED.get_or_init(|| {
        let in_64 = [0, 1, 2].map(prefix_64);
        let before = [in_64[0].0, in_64[1].0, in_64[2].0];
        let mut patterns: Vec<_> = in_64.into_iter().map(|(_, digits)| digits).collect();
        patterns.push(b"69736f315f".to_vec());
        patterns.push(b"69736F315F".to_vec());
        let search = AhoCorasick::new(patterns).expect("five short patterns");
        Encoded { search, before }
    })
}

/// What the digits of base 64 from `start` say, past `shift` bytes; `start` may lie before the text. Line ends are skipped.
fn read_64(text: &[u8], start: isize, shift: usize) -> Option<([u8; CANARY_LENGTH], usize)> {
    let mut canary = [0; CANARY_LENGTH];
    let (mut bits, mut held, mut written) = (0_u32, 0, 0);
    let mut at = start;
    while written < shift + CANARY_LENGTH {
        // The digits before the text, and those that share a byte with what is before the canary, are put right below.
        let digit = match usize::try_from(at) {
            Ok(at) => *text.get(at)?,
            Err(_) => b'A',
        };
        at += 1;
        if matches!(digit, b'\n' | b'\r') {
            continue;
        }
        let value = match value_64(digit) {
            Some(value) => value,
            None if written <= shift => 0,
            None => return None,
        };
        bits = bits << 6 | value;
        held += 6;
        if held >= 8 {
            held -= 8;
            if written >= shift {
                canary[written - shift] = u8::try_from(bits >> held & 0xff).unwrap_or_default();
            }
            bits &= (1 << held) - 1;
            written += 1;
        }
    }
    canary[..CANARY_PREFIX.len()].copy_from_slice(CANARY_PREFIX);
    Some((canary, usize::try_from(at).ok()?))
}

fn read_hex(text: &[u8], at: usize) -> Option<[u8; CANARY_LENGTH]> {
    let digits = text.get(at..at + 2 * CANARY_LENGTH)?;
    let mut canary = [0; CANARY_LENGTH];
    for (byte, pair) in canary.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(hex(pair)?).ok()?;
    }
    Some(canary)
}

/// Calls `visit` with from where to where each candidate in base 64 or hexadecimal is, with the candidate, and whether it
/// was hexadecimal.
pub(super) fn encoded_candidates(text: &[u8], mut visit: impl FnMut(usize, usize, [u8; CANARY_LENGTH], bool)) {
    let encoded = encoded();
    for found in encoded.search.find_iter(text) {
        let (pattern, at) = (found.pattern().as_usize(), found.start());
        if let Some(before) = encoded.before.get(pattern) {
            let start = at.cast_signed() - before.cast_signed();
            if let Some((canary, end)) = read_64(text, start, pattern) {
                visit(at.saturating_sub(*before), end, canary, false);
            }
        } else if let Some(canary) = read_hex(text, at) {
            visit(at, at + 2 * CANARY_LENGTH, canary, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_digits_of_the_prefix_are_those_of_base_64() {
        let digits = |shift| String::from_utf8(prefix_64(shift).1).expect("digits");
        assert_eq!(
            (digits(0), digits(1), digits(2)),
            ("aXNvMV".into(), "lzbzFf".into(), "pc28xX".into())
        );
    }

    #[test]
    fn escapes_are_undone_and_their_places_known() {
        let mut plain = Plain::default();
        let text = "a%69s\\u006f1\u{200b}_\u{ad}b\u{2014}".as_bytes();
        assert!(plain.take(text));
        assert_eq!(plain.text, "aiso1_b\u{2014}".as_bytes());
        assert_eq!(plain.span(1, 6), (1, 16), "from the escape to the underscore");
        assert_eq!(plain.span(0, 1), (0, 1));
        assert!(!plain.take("100 % of it, C:\\users, \u{2014}".as_bytes()));
        assert!(plain.take(b"\\u200bx"), "also escaped characters of no width");
        assert_eq!(plain.text, b"x");
    }

    fn encode_64(bytes: &[u8]) -> String {
        let mut out = String::new();
        for chunk in bytes.chunks(3) {
            let group = chunk
                .iter()
                .fold(0_usize, |group, byte| group << 8 | usize::from(*byte))
                << (8 * (3 - chunk.len()));
            for digit in 0..=chunk.len() {
                out.push(char::from(DIGITS_64[group >> (18 - 6 * digit) & 63]));
            }
        }
        out
    }

    proptest! {
        #[test]
        fn a_canary_is_read_at_each_place_of_base_64(before in prop::collection::vec(any::<u8>(), 0..7), after in prop::collection::vec(any::<u8>(), 0..7)) {
            let canary = crate::isolation::Key::from_bytes(&[7; 32]).mint("ann");
            let text = encode_64(&[&before[..], &canary, &after].concat());
            let mut found = Vec::new();
            encoded_candidates(text.as_bytes(), |_, _, candidate, _| found.push(candidate));
            prop_assert!(found.contains(&canary));
        }
    }
}
