//! Compressing what a cache holds.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

/// `data` as zlib at its fastest level, or `None` unless that saves at least an eighth.
pub fn pack(data: &[u8]) -> Option<Box<[u8]>> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(data.len() / 2), Compression::fast());
    encoder.write_all(data).ok()?;
    let packed = encoder.finish().ok()?;
    (packed.len() <= data.len() - data.len() / 8).then(|| packed.into_boxed_slice())
}

/// What was packed, which had `length` bytes.
pub fn inflate(packed: &[u8], length: usize) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::with_capacity(length);
    ZlibDecoder::new(packed).read_to_end(&mut data)?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back() {
        let text = "the same words again, ".repeat(500);
        let packed = pack(text.as_bytes()).expect("it shrinks");
        assert!(packed.len() < text.len() / 8);
        assert_eq!(inflate(&packed, text.len()).expect("zlib"), text.as_bytes());
    }

    #[test]
    fn what_does_not_shrink_stays() {
        let mut noise = vec![0; 10_000];
        getrandom::fill(&mut noise).expect("random");
        assert!(pack(&noise).is_none());
        assert!(pack(b"").is_none() || inflate(&pack(b"").expect("some"), 0).expect("zlib").is_empty());
    }
}
