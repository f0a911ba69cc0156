//! Classes of bytes, and the borders between words. All of them are ASCII: a letter of another script ends a word.

const WORD: u8 = 1;
const TOKEN: u8 = 2;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation)] // below 256
        let character = byte as u8;
        if character.is_ascii_alphanumeric() || character == b'_' {
            classes[byte] = WORD | TOKEN;
        } else if matches!(character, b'-' | b'.' | b'+' | b'/' | b'~') {
            classes[byte] = TOKEN;
        }
        byte += 1;
    }
    classes
};

/// Whether it is a letter, a digit or `_`: what `\w` is.
#[inline]
pub(super) fn is_word(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & WORD != 0
}

/// Whether tokens of whatever kind are made of it.
#[inline]
pub(super) fn is_token(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TOKEN != 0
}

/// Whether no word goes on across this place. The letters of an escape, as `\n` in the text of JSON, are of no word.
#[inline]
pub(super) fn begins_word(text: &[u8], at: usize) -> bool {
    at == 0 || !is_word(text[at - 1]) || ends_escape(text, at)
}

fn ends_escape(text: &[u8], at: usize) -> bool {
    [2, 6]
        .into_iter()
        .any(|length| at >= length && text[at - length] == b'\\' && after_escape(text, at + 1 - length) == at)
}

fn is_escape(letter: u8) -> bool {
    matches!(letter, b'b' | b'f' | b'n' | b'r' | b't')
}

/// Behind an escape whose letters would begin here: what masked half of one would leave no JSON.
pub(super) fn after_escape(text: &[u8], at: usize) -> usize {
    if at == 0 || text[at - 1] != b'\\' {
        return at;
    }
    match text[at..] {
        [letter, ..] if is_escape(letter) => at + 1,
        [b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(u8::is_ascii_hexdigit) => at + 5,
        _ => at,
    }
}

/// Whether no word goes on behind this place.
#[inline]
pub(super) fn ends_word(text: &[u8], at: usize) -> bool {
    text.get(at).is_none_or(|byte| !is_word(*byte))
}

/// The end of the run of bytes of a class that begins here.
pub(super) fn run(text: &[u8], from: usize, class: impl Fn(u8) -> bool) -> usize {
    text[from..]
        .iter()
        .position(|byte| !class(*byte))
        .map_or(text.len(), |at| from + at)
}

/// The beginning of the run of bytes of a class that ends here, of at most so many.
pub(super) fn run_back(text: &[u8], end: usize, most: usize, class: impl Fn(u8) -> bool) -> usize {
    let least = end.saturating_sub(most);
    let mut from = end;
    while from > least && class(text[from - 1]) {
        from -= 1;
    }
    from
}
