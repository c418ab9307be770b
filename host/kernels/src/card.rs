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
    /// What is planned for one, where there is none.
    pub fn h200() -> Self {
        let name = "NVIDIA H200".to_owned();
        Self { name, capability: (9, 0), multiprocessors: 132, shared_bytes: 232_448, memory_bytes: 141 << 30 }
    }

    /// Of another generation, without wgmma.
    pub fn rtx_4090() -> Self {
        let name = "NVIDIA GeForce RTX 4090".to_owned();
        Self { name, capability: (8, 9), multiprocessors: 128, shared_bytes: 101_376, memory_bytes: 24 << 30 }
    }

    /// Warpgroup products, bulk copies and clusters: Hopper's, which no other generation understands.
    pub fn has_wgmma(&self) -> bool {
        self.capability == (9, 0)
    }
}
