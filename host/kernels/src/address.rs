//! Places in a device's memory, which is reserved once and handed out from its beginning on.

/// A number of bytes from the beginning of the device's memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address(pub u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    pub at: Address,
    pub bytes: u64,
}

/// Hands out regions that never go back.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Arena {
    used: u64,
}

/// What every region begins at a multiple of: as wide as a card's largest single read, and as a tensor map wants it.
const ALIGNMENT: u64 = 256;

impl Address {
    #[must_use]
    pub fn offset(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl Arena {
    /// Saturating: sizes are typed by people, and what does not fit is refused as a whole.
    pub fn take(&mut self, bytes: u64) -> Region {
        let at = Address(self.used);
        self.used = self.used.saturating_add(bytes).checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX);
        Region { at, bytes }
    }

    /// Bytes that everything so far takes.
    pub fn used(&self) -> u64 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_do_not_touch_and_sizes_saturate() {
        let mut arena = Arena::default();
        assert_eq!(arena.take(1), Region { at: Address(0), bytes: 1 });
        assert_eq!(arena.take(512).at, Address(256));
        assert_eq!((arena.take(0).at, arena.used()), (Address(768), 768));
        arena.take(u64::MAX);
        assert_eq!((arena.take(1).at, arena.used()), (Address(u64::MAX), u64::MAX));
    }
}
