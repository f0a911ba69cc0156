//! Cuts text into what may be a secret: runs of letters, digits and the signs that identifiers have inside.

/// Letters, digits and `-`.
const WORD: u8 = 1;
/// Signs that join words into one identifier: an address, a version, a name with underscores.
const JOINT: u8 = 2;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            classes[byte as usize] = WORD;
        } else if matches!(byte, b'.' | b'_' | b'@' | b'+') {
            classes[byte as usize] = JOINT;
        }
        byte += 1;
    }
    classes
};

fn class(byte: u8) -> u8 {
    CLASSES[usize::from(byte)]
}

/// Calls `visit` with the place of each run of at least `shortest` bytes.
///
/// Most words are shorter than a secret: it looks at every `shortest`-th byte, and back from there to the last separator.
fn runs(text: &[u8], shortest: usize, mut visit: impl FnMut(usize, usize)) {
    let mut from = 0;
    while from + shortest <= text.len() {
        let separator = text[from..from + shortest].iter().rposition(|byte| class(*byte) == 0);
        if let Some(at) = separator {
            from += at + 1;
            continue;
        }
        let rest = &text[from + shortest..];
        let more = rest.iter().position(|byte| class(*byte) == 0).unwrap_or(rest.len());
        let to = from + shortest + more;
        visit(from, to);
        from = to + 1;
    }
}

/// Calls `visit` with the place of each token of at least `shortest` bytes: each run without joints at its ends, and the
/// words in it, for an identifier may stand behind another one.
pub(super) fn tokens(text: &[u8], shortest: usize, mut visit: impl FnMut(usize, usize)) {
    let shortest = shortest.max(1);
    runs(text, shortest, |from, to| {
        let joint = |at: &usize| class(text[*at]) == JOINT;
        let first = (from..to).find(|at| !joint(at)).unwrap_or(to);
        let last = (first..to).rev().find(|at| !joint(at)).map_or(first, |at| at + 1);
        if last - first >= shortest {
            visit(first, last);
        }
        let mut word = first;
        let mut words = 0;
        for at in (first..last).filter(joint).chain([last]) {
            words += 1;
            if at - word >= shortest && (at < last || words > 1) {
                visit(word, at);
            }
            word = at + 1;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(text: &str, shortest: usize) -> Vec<&str> {
        let mut found = Vec::new();
        tokens(text.as_bytes(), shortest, |from, to| found.push(&text[from..to]));
        found
    }

    #[test]
    fn identifiers_are_found_whole_and_behind_others() {
        assert_eq!(found("see ann.smith@example.com.", 10), ["ann.smith@example.com"]);
        assert_eq!(found("user_0123456789ab", 10), ["user_0123456789ab", "0123456789ab"]);
        assert_eq!(found("key=0123456789&b", 10), ["0123456789"]);
        assert_eq!(
            found("https://host.example/0123456789-ab/x", 10),
            ["host.example", "0123456789-ab"]
        );
        assert_eq!(found("some words that are short", 10), [""; 0]);
        assert_eq!(found("____________", 10), [""; 0]);
    }

    proptest! {
        #[test]
        fn the_fast_search_finds_what_a_plain_one_does(text in "[a-z0-9 ._]{0,80}", shortest in 1_usize..20) {
            let mut fast = Vec::new();
            runs(text.as_bytes(), shortest, |from, to| fast.push(text[from..to].to_owned()));
            let plain: Vec<_> = text.split(' ').filter(|run| run.len() >= shortest).map(str::to_owned).collect();
            prop_assert_eq!(fast, plain);
        }
    }
}
