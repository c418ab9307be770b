//! What a card is to those who plan for it.

/// One GPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Card {
    pub name: String,
    /// Of the compute capability: major, minor.
    pub capability: (u32, u32),
    pub multiprocessors: u32,
    /// That one block may use.
    pub shared_bytes: u32,
    pub memory_bytes: u64,
}

impl Card {
    /// Warpgroup products, bulk copies and clusters: Hopper's, which no other generation understands.
    pub fn has_wgmma(&self) -> bool {
        self.capability == (9, 0)
    }
}
