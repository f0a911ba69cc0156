//! Payment cards: the ranges of the issuers, their lengths, Luhn's check digit, and where a number may stand.

use super::characters::{begins_word, ends_word, is_word};
use crate::mutants::mutant;

/// How the digits of a card are grouped, the longest first: of two cards that begin at one place the longer is tried first.
const SHAPES: [&[usize]; 5] = [&[4, 4, 4, 4, 3], &[4, 4, 4, 4], &[8, 8], &[4, 6, 5], &[4, 6, 4]];

/// The end of the card number that begins here, with the group of digits that ends at `group_end`.
///
/// Groups are tried from each of their beginnings, so that a card between other numbers is found as well.
pub(super) fn card_at(text: &[u8], start: usize, group_end: usize) -> Option<usize> {
    if !matches!(text[start], b'2'..=b'6') || !may_begin(text, start) {
        return None;
    }
    let first = group_end - start;
    if (13..=19).contains(&first) {
        return (may_end(text, group_end) && is_card(&text[start..group_end])).then_some(group_end);
    }
    let separator = *text.get(group_end).filter(|byte| matches!(byte, b' ' | b'-'))?;
    if separator == b'-' && start >= 2 && text[start - 1] == b'-' && is_word(text[start - 2]) {
        return None;
    }
    SHAPES
        .into_iter()
        .filter(|shape| shape[0] == first)
        .find_map(|shape| grouped(text, start, separator, shape))
}

fn grouped(text: &[u8], start: usize, separator: u8, shape: &[usize]) -> Option<usize> {
    let (mut at, mut digits) = (start, [0_u8; 19]);
    let mut count = 0;
    for (number, size) in shape.iter().enumerate() {
        if number > 0 {
            if text.get(at) != Some(&separator) {
                return None;
            }
            at += 1;
        }
        let group = text.get(at..at + size)?;
        if !group.iter().all(u8::is_ascii_digit) {
            return None;
        }
        digits[count..count + size].copy_from_slice(group);
        count += size;
        at += size;
    }
    let goes_on =
        separator == b'-' && text.get(at) == Some(&b'-') && text.get(at + 1).is_some_and(|next| is_word(*next));
    (!goes_on && may_end(text, at) && is_card(&digits[..count])).then_some(at)
}

/// Whether a number may begin here: not within a word, and not as the fraction of another number. One in ten fractions of
/// sixteen digits has a right check digit.
pub(super) fn may_begin(text: &[u8], start: usize) -> bool {
    let is_fraction = start > 0 && text[start - 1] == b'.' && (start < 2 || !text[start - 2].is_ascii_alphabetic());
    begins_word(text, start) && (!is_fraction || mutant!(CardAfterDot))
}

/// Whether a number may end here.
pub(super) fn may_end(text: &[u8], end: usize) -> bool {
    let has_fraction = text.get(end) == Some(&b'.') && text.get(end + 1).is_some_and(u8::is_ascii_digit);
    ends_word(text, end) && !has_fraction
}

fn is_card(digits: &[u8]) -> bool {
    is_issued(digits) && (luhn(digits) || mutant!(LuhnSkipped))
}

/// Whether an issuer has numbers that begin so and have this length.
fn is_issued(digits: &[u8]) -> bool {
    let prefix = |count: usize| {
        digits[..count]
            .iter()
            .fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'))
    };
    let length = digits.len();
    match prefix(2) {
        40..=49 => matches!(length, 13 | 16 | 19), // Visa
        51..=55 => length == 16,                   // Mastercard
        22..=27 => length == 16 && (2221..=2720).contains(&prefix(4)),
        34 | 37 => length == 15,                   // American Express
        36 | 38 | 39 => matches!(length, 14..=19), // Diners Club
        30 => matches!(length, 14..=19) && prefix(3) <= 305,
        35 => matches!(length, 16..=19) && (3528..=3589).contains(&prefix(4)), // JCB
        62 | 65 | 81 => matches!(length, 16..=19),                             // UnionPay, Discover
        60 => matches!(length, 16..=19) && prefix(4) == 6011,
        64 => matches!(length, 16..=19) && prefix(3) >= 644,
        50 | 56..=59 | 61 | 63 | 66..=69 => {
            // Maestro, of whose range only the parts in use are taken.
            matches!(length, 13..=19)
                && matches!(prefix(4), 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761 | 6762 | 6763)
        }
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0');
            match (place % 2, digit) {
                (0, _) => digit,
                (_, 0..=4) => 2 * digit,
                _ => 2 * digit - 9,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}
