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

/// Whether no word goes on across this place.
#[inline]
pub(super) fn begins_word(text: &[u8], at: usize) -> bool {
    at == 0 || !is_word(text[at - 1])
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
