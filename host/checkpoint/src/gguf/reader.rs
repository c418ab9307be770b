//! A cursor over a mapped file that takes nothing on trust: a length is compared with what is left before it is used.

use super::GgufProblem;

/// Longer than any chat template; a longer text is a damaged length.
const TEXT_LIMIT: u64 = 16 << 20;

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], GgufProblem> {
        if count > self.left() {
            return Err(GgufProblem::Truncated { at: self.at, wanted: count, left: self.left() });
        }
        let taken = &self.bytes[self.at..][..count as usize];
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], GgufProblem> {
        let mut array = [0; SIZE];
        array.copy_from_slice(self.take(SIZE as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufProblem> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufProblem> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each.
    pub(super) fn count(&mut self, what: &'static str, least: u64, limit: u64) -> Result<usize, GgufProblem> {
        let at = self.at;
        let count = self.u64()?;
        if count > limit {
            return Err(GgufProblem::TooMany { what, count, limit });
        }
        match count.checked_mul(least) {
            Some(wanted) if wanted <= self.left() => Ok(count as usize),
            wanted => Err(GgufProblem::Truncated { at, wanted: wanted.unwrap_or(u64::MAX), left: self.left() }),
        }
    }

    pub(super) fn text(&mut self) -> Result<&'a str, GgufProblem> {
        let at = self.at;
        let length = self.count("bytes of a text", 1, TEXT_LIMIT)?;
        std::str::from_utf8(self.take(length as u64)?).map_err(|_| GgufProblem::NotText { at })
    }
}
