//! Crockford's base 32 in lower case: no letter that is taken for another, none that a URL, a file name or JSON escapes.

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

const NONE: u8 = 0xff;

const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut digit = 0;
    while digit < 32 {
        values[DIGITS[digit as usize] as usize] = digit;
        digit += 1;
    }
    values
};

/// Writes the lowest `5 * into.len()` bits of a number, the highest first.
pub(super) fn write(mut number: u128, into: &mut [u8]) {
    for digit in into.iter_mut().rev() {
        *digit = DIGITS[usize::from(number.to_le_bytes()[0] & 31)];
        number >>= 5;
    }
}

/// Reads digits, or nothing when one is none. At most 25 of them.
pub(super) fn read(digits: &[u8]) -> Option<u128> {
    let mut number = 0_u128;
    let mut all = 0;
    for digit in digits {
        let value = VALUES[usize::from(*digit)];
        all |= value;
        number = number << 5 | u128::from(value & 31);
    }
    (all < 32).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for number in [0, 1, 31, 32, u128::from(u64::MAX), (1 << 60) - 1] {
            let mut digits = [0; 13];
            write(number, &mut digits);
            assert_eq!(read(&digits), Some(number));
        }
        assert_eq!(read(b"0000u"), None, "u is no digit");
        assert_eq!(read(b"0000A"), None, "nor is a capital");
        assert_eq!(read(b"zz"), Some(1023));
    }
}
