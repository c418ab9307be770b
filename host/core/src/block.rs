//! Blocks of the KV cache and the salted hashes by which their contents are found again.

use sha2::{Digest as _, Sha256};

/// A block of one replica's KV cache.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockId(pub u32);

/// 128 bits of SHA-256 over the salt and every token up to the end of a block: a collision would hand one
/// tenant's keys and values to another, so the hash is a strong one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockHash(pub [u8; 16]);

/// One hash per full block of a prompt, each over everything before it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HashChain {
    hashes: Vec<BlockHash>,
    salt: Vec<u8>,
}

impl HashChain {
    /// `salt` holds whatever else decides the contents of a block: the tenant's secret, the model's variant.
    pub fn new(salt: &[u8], tokens: &[u32], block_tokens: u32) -> Self {
        let mut chain = Self { hashes: Vec::new(), salt: salt.to_vec() };
        chain.extend(tokens, block_tokens);
        chain
    }

    /// Hashes the full blocks of `tokens` that are not hashed yet; `tokens` starts with those that are.
    pub fn extend(&mut self, tokens: &[u32], block_tokens: u32) {
        let blocks = tokens.chunks_exact(block_tokens.max(1) as usize).skip(self.hashes.len());
        for block in blocks {
            let hash = self.next(block);
            self.hashes.push(hash);
        }
    }

    pub fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }

    fn next(&self, block: &[u32]) -> BlockHash {
        let mut sha = Sha256::new();
        match self.hashes.last() {
            Some(parent) => sha.update(parent.0),
            None => {
                sha.update((self.salt.len() as u64).to_le_bytes());
                sha.update(&self.salt);
            }
        }
        for token in block {
            sha.update(token.to_le_bytes());
        }
        let digest = sha.finalize();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        BlockHash(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_depends_on_salt_and_on_every_token_before() {
        let tokens: Vec<u32> = (0..64).collect();
        let chain = HashChain::new(b"a", &tokens, 16);
        assert_eq!(chain.hashes().len(), 4);
        assert_ne!(chain, HashChain::new(b"b", &tokens, 16));

        let mut changed = tokens.clone();
        changed[17] = 999;
        let other = HashChain::new(b"a", &changed, 16);
        assert_eq!(chain.hashes()[0], other.hashes()[0]);
        assert!(chain.hashes()[1..].iter().zip(&other.hashes()[1..]).all(|(a, b)| a != b));
    }

    #[test]
    fn extending_gives_the_chain_of_the_whole() {
        let tokens: Vec<u32> = (0..50).collect();
        let mut chain = HashChain::new(b"", &tokens[..20], 8);
        chain.extend(&tokens, 8);
        assert_eq!(chain, HashChain::new(b"", &tokens, 8));
    }
}
