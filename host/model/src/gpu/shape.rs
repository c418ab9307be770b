//! A decoder's sizes as the kernels have them: whole tiles, and heads of one width.

use sluice_kernels::TILE;
use sluice_kernels::op::{HEAD_DIM, Heads};

use crate::blueprint::Blueprint;
use crate::model::Dimensions;

/// Why a model is not served on a GPU.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{architecture} with {what} cannot be served on a GPU, where {served}: serve it with --device cpu")]
pub struct Unsupported {
    architecture: &'static str,
    what: String,
    served: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    pub(crate) size: Dimensions,
    pub(crate) heads: Heads,
    /// Rows of the head's matrix: the vocabulary and what fills its last tile.
    pub(crate) head_rows: u32,
}

/// A norm is computed by one block, eight numbers a thread.
const WIDEST: usize = 8192;

/// Queries that share keys and values: half a tile of the tensor cores.
const MOST_IN_GROUP: usize = 8;

/// Of a head. Half of one is a whole block of NF4 weights, so that those of padded heads need not be quantised again.
const HEAD_DIMS: [usize; 2] = [HEAD_DIM as usize / 2, HEAD_DIM as usize];

impl Shape {
    pub(crate) fn of(blueprint: &Blueprint) -> Result<Self, Unsupported> {
        let size = blueprint.dimensions;
        let refuse =
            |what: String, served: String| Err(Unsupported { architecture: blueprint.architecture, what, served });
        if !HEAD_DIMS.contains(&size.head_dim) {
            return refuse(format!("heads of {}", size.head_dim), format!("they are of {HEAD_DIMS:?}"));
        }
        if size.heads / size.kv_heads > MOST_IN_GROUP {
            let what = format!("{} heads of queries to {} of keys", size.heads, size.kv_heads);
            return refuse(what, format!("at most {MOST_IN_GROUP} share one"));
        }
        for (name, width) in [("hidden size", size.hidden), ("feed-forward size", size.ffn)] {
            if !width.is_multiple_of(TILE.1 as usize) {
                return refuse(format!("a {name} of {width}"), format!("it is a multiple of {}", TILE.1));
            }
        }
        if size.hidden > WIDEST {
            return refuse(format!("a hidden size of {}", size.hidden), format!("it is at most {WIDEST}"));
        }
        if blueprint.biases.output {
            return refuse("a bias behind attention".to_owned(), "there is none".to_owned());
        }
        let heads = Heads { queries: size.heads as u32, kv: size.kv_heads as u32 };
        Ok(Self { size, heads, head_rows: (size.vocab as u32).next_multiple_of(TILE.0) })
    }

    pub(crate) fn hidden(&self) -> u32 {
        self.size.hidden as u32
    }

    pub(crate) fn ffn(&self) -> u32 {
        self.size.ffn as u32
    }

    pub(crate) fn layers(&self) -> u32 {
        self.size.layers as u32
    }

    /// Of what attention gives, padded heads included.
    pub(crate) fn attended(&self) -> u32 {
        self.heads.queries * HEAD_DIM
    }

    pub(crate) fn pads_heads(&self) -> bool {
        self.size.head_dim != HEAD_DIM as usize
    }
}

/// Bytes of bf16 numbers.
pub(crate) fn halves(count: u64) -> u64 {
    count.saturating_mul(2)
}

/// Bytes of numbers of four bytes.
pub(crate) fn words(count: u64) -> u64 {
    count.saturating_mul(4)
}
