//! Compressing frames.

use std::cell::RefCell;

use flate2::{Compress, Compression, FlushCompress, Status};

/// Frames below this size are sent as they are: compressing them saves little.
pub const MIN_BYTES: usize = 1024;

thread_local! {
    /// One encoder for all sockets of a thread: each frame begins anew, so none needs one of its own.
    static ENCODER: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

/// The frame as raw deflate, or `None` if it is small, or would not become smaller.
pub fn deflate(frame: &str) -> Option<Vec<u8>> {
    let input = frame.as_bytes();
    if input.len() < MIN_BYTES {
        return None;
    }
    ENCODER.with_borrow_mut(|encoder| {
        encoder.reset();
        let mut out = Vec::with_capacity(input.len());
        // What does not fit is not smaller.
        let status = encoder.compress_vec(input, &mut out, FlushCompress::Finish).ok()?;
        (status == Status::StreamEnd).then_some(out)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn each_frame_is_read_by_itself() {
        let frames = ["ab".repeat(600), "xyz ".repeat(20_000), "ab".repeat(600)];
        let packed = frames.each_ref().map(|frame| deflate(frame).expect("it shrinks"));
        assert_eq!(packed[0], packed[2], "nothing of one frame is in the next");
        for (frame, packed) in frames.iter().zip(&packed) {
            let mut text = String::new();
            flate2::read::DeflateDecoder::new(&packed[..])
                .read_to_string(&mut text)
                .expect("deflate");
            assert_eq!(&text, frame);
            assert!(packed.len() < frame.len() / 10);
        }
    }

    #[test]
    fn what_is_small_or_does_not_shrink_stays() {
        assert_eq!(deflate(&"a".repeat(MIN_BYTES - 1)), None);
        assert!(deflate(&"a".repeat(MIN_BYTES)).is_some());
        // Characters of all the values that a byte of a text can have.
        let noise: String = (0..4_000_u32)
            .filter_map(|at| char::from_u32(at.wrapping_mul(2_654_435_761) % 0x11_0000))
            .collect();
        assert!(deflate(&noise).is_none_or(|packed| packed.len() < noise.len()));
    }
}
