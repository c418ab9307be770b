//! The blocks of one replica's KV cache: who holds which, and which prefix lies in which.
//!
//! Every block is in exactly one of three states: held (by one or more sequences), free, or reclaimable: held by
//! nobody but still holding a cached prefix, until the room is needed. Least recently released goes first.

use std::collections::{BTreeMap, HashMap};

use sluice_core::{BlockHash, BlockId};

/// A change to the prefix index, for the pool's copy of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PrefixChange {
    Cached(BlockHash),
    Evicted(BlockHash),
}

#[derive(Clone, Copy, Default)]
struct Block {
    holders: u32,
    hash: Option<BlockHash>,
    /// When it was last released; orders the reclaimable ones.
    released: u64,
}

pub struct BlockPool {
    blocks: Vec<Block>,
    free: Vec<BlockId>,
    reclaimable: BTreeMap<u64, BlockId>,
    prefixes: HashMap<BlockHash, BlockId>,
    changes: Vec<PrefixChange>,
    releases: u64,
    /// Blocks that more than one sequence holds.
    shared: usize,
}

/// Fewer blocks are free or reclaimable than were asked for. Nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfBlocks;

impl BlockPool {
    pub fn new(total: u32) -> Self {
        Self {
            blocks: vec![Block::default(); total as usize],
            free: (0..total).rev().map(BlockId).collect(),
            reclaimable: BTreeMap::new(),
            prefixes: HashMap::new(),
            changes: Vec::new(),
            releases: 0,
            shared: 0,
        }
    }

    pub fn total(&self) -> u32 {
        count(self.blocks.len())
    }

    /// What can be allocated now, reclaimable blocks included.
    pub fn available(&self) -> u32 {
        count(self.free.len() + self.reclaimable.len())
    }

    pub fn reclaimable(&self) -> u32 {
        count(self.reclaimable.len())
    }

    pub fn held(&self) -> u32 {
        self.total() - self.available()
    }

    /// Appends `count` fresh blocks to `table`, or takes none.
    pub fn allocate(&mut self, count: u32, table: &mut Vec<BlockId>) -> Result<(), OutOfBlocks> {
        if count > self.available() {
            return Err(OutOfBlocks);
        }
        for _ in 0..count {
            let id = self.take_one().expect("availability was checked above");
            table.push(id);
        }
        Ok(())
    }

    /// How many of these blocks, from the first on, are cached.
    pub fn cached_prefix(&self, hashes: &[BlockHash]) -> usize {
        hashes.iter().take_while(|hash| self.prefixes.contains_key(hash)).count()
    }

    /// How many of these cached blocks are held by somebody.
    pub fn held_prefix(&self, hashes: &[BlockHash]) -> u32 {
        let blocks = hashes.iter().filter_map(|hash| self.prefixes.get(hash));
        count(blocks.filter(|id| self.blocks[id.0 as usize].holders > 0).count())
    }

    /// Appends the cached blocks of these hashes to `table` and holds them.
    pub fn hold_prefix(&mut self, hashes: &[BlockHash], table: &mut Vec<BlockId>) {
        for hash in hashes {
            let Some(&id) = self.prefixes.get(hash) else { break };
            let block = &mut self.blocks[id.0 as usize];
            if block.holders == 0 {
                self.reclaimable.remove(&block.released);
            }
            block.holders += 1;
            self.shared += usize::from(block.holders == 2);
            table.push(id);
        }
    }

    /// The contents of a held block are complete and can be found by others. The first block of a hash stays.
    pub fn publish(&mut self, id: BlockId, hash: BlockHash) {
        let block = &mut self.blocks[id.0 as usize];
        if block.hash.is_some() || self.prefixes.contains_key(&hash) {
            return;
        }
        block.hash = Some(hash);
        self.prefixes.insert(hash, id);
        self.changes.push(PrefixChange::Cached(hash));
    }

    /// Lets go of a sequence's blocks, the last first, so that a prefix outlives what follows it.
    pub fn release(&mut self, table: &mut Vec<BlockId>) {
        while let Some(id) = table.pop() {
            let block = &mut self.blocks[id.0 as usize];
            assert!(block.holders > 0, "block {} was released twice", id.0);
            block.holders -= 1;
            self.shared -= usize::from(block.holders == 1);
            if block.holders > 0 {
                continue;
            }
            if block.hash.is_some() {
                self.releases += 1;
                block.released = self.releases;
                self.reclaimable.insert(self.releases, id);
            } else {
                self.free.push(id);
            }
        }
    }

    /// Blocks of this table that nobody else holds.
    pub fn exclusive(&self, table: &[BlockId]) -> u32 {
        // Most often few blocks are shared, at the head of the table: once all are seen, the rest is its own.
        let shared = table.iter().filter(|id| self.blocks[id.0 as usize].holders > 1).take(self.shared).count();
        count(table.len() - shared)
    }

    /// What changed in the prefix index since the last call.
    pub fn drain_changes(&mut self) -> std::vec::Drain<'_, PrefixChange> {
        self.changes.drain(..)
    }

    /// Panics unless every block is in exactly one state. For tests, after every step.
    pub fn assert_consistent<'a>(&self, tables: impl Iterator<Item = &'a [BlockId]>) {
        let mut holders = vec![0_u32; self.blocks.len()];
        for id in tables.flatten() {
            holders[id.0 as usize] += 1;
        }
        let mut held = 0;
        for (index, (block, expected)) in self.blocks.iter().zip(&holders).enumerate() {
            assert_eq!(block.holders, *expected, "holders of block {index}");
            held += usize::from(block.holders > 0);
        }
        assert_eq!(self.shared, holders.iter().filter(|&&count| count > 1).count(), "shared blocks");
        assert_eq!(held + self.free.len() + self.reclaimable.len(), self.blocks.len(), "held + free + reclaimable");
        assert!(self.free.iter().all(|id| self.blocks[id.0 as usize].hash.is_none()), "a free block has a hash");
        assert!(self.reclaimable.values().all(|id| self.blocks[id.0 as usize].hash.is_some()), "reclaimable, no hash");
        assert_eq!(self.prefixes.len(), self.blocks.iter().filter(|block| block.hash.is_some()).count());
    }

    fn take_one(&mut self) -> Option<BlockId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => self.reclaim()?,
        };
        self.blocks[id.0 as usize].holders = 1;
        Some(id)
    }

    fn reclaim(&mut self) -> Option<BlockId> {
        let (_, id) = self.reclaimable.pop_first()?;
        if let Some(hash) = self.blocks[id.0 as usize].hash.take() {
            self.prefixes.remove(&hash);
            self.changes.push(PrefixChange::Evicted(hash));
        }
        Some(id)
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("there are at most u32::MAX blocks")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(n: u8) -> BlockHash {
        BlockHash([n; 16])
    }

    #[test]
    fn a_released_prefix_is_found_again_until_its_room_is_needed() {
        let mut pool = BlockPool::new(3);
        let mut table = Vec::new();
        pool.allocate(2, &mut table).unwrap();
        pool.publish(table[0], hash(1));
        pool.publish(table[1], hash(2));
        pool.release(&mut table);
        assert_eq!((pool.available(), pool.reclaimable()), (3, 2));

        let mut again = Vec::new();
        pool.hold_prefix(&[hash(1), hash(2), hash(3)], &mut again);
        assert_eq!(again.len(), 2);
        pool.release(&mut again);

        let mut other = Vec::new();
        pool.allocate(2, &mut other).unwrap();
        assert_eq!(pool.cached_prefix(&[hash(1), hash(2)]), 1, "the end of the prefix goes first");
        pool.assert_consistent([other.as_slice()].into_iter());
    }

    #[test]
    fn asking_for_too_much_takes_nothing() {
        let mut pool = BlockPool::new(2);
        let mut table = Vec::new();
        assert_eq!(pool.allocate(3, &mut table), Err(OutOfBlocks));
        assert_eq!((table.len(), pool.available()), (0, 2));
    }

    proptest! {
        #[test]
        fn blocks_are_conserved(operations in prop::collection::vec((0_u8..4, 0_u8..6, 0_u32..5), 1..200)) {
            let mut pool = BlockPool::new(12);
            let mut tables: Vec<Vec<BlockId>> = vec![Vec::new(); 6];
            for (operation, who, amount) in operations {
                let table = &mut tables[who as usize];
                match operation {
                    0 => { let _ = pool.allocate(amount, table); }
                    1 => pool.release(table),
                    2 => { if let Some(&id) = table.last() { pool.publish(id, hash(who * 8 + amount as u8)); } }
                    _ => pool.hold_prefix(&[hash(who * 8 + amount as u8)], table),
                }
                pool.assert_consistent(tables.iter().map(Vec::as_slice));
            }
        }
    }
}
