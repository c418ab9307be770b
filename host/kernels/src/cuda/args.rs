//! What the kernels are given, byte for byte as the structs of these names in `cuda/` have it.
//!
//! Counts are unsigned here and signed there: [`bounds`](super::bounds) lets none through that would differ.

use bytemuck::{Pod, Zeroable};

/// Of the card's memory; 0 where a kernel takes null for "there is none".
pub(super) type Pointer = u64;

/// Any kernel's arguments. Tensor maps within stand at multiples of 64 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments {
    bytes: [u8; MOST_BYTES],
    size: usize,
}

const MOST_BYTES: usize = size_of::<PrefillArgs>();

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct ProductArgs {
    pub(super) weights: Pointer,
    pub(super) scales: Pointer,
    pub(super) x: Pointer,
    pub(super) y: Pointer,
    pub(super) partial: Pointer,
    pub(super) arrivals: Pointer,
    pub(super) m: u32,
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) x_row: u32,
    pub(super) x_oct: u32,
    pub(super) y_row: u32,
    pub(super) y_oct: u32,
    pub(super) alpha: f32,
    pub(super) y_f32: Pointer,
    pub(super) splits: u32,
    pub(super) split_stride: u32,
    pub(super) y_wide: u32,
    pub(super) padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct NormArgs {
    pub(super) hidden: Pointer,
    pub(super) delta: Pointer,
    pub(super) parts: Pointer,
    pub(super) weight: Pointer,
    pub(super) out: Pointer,
    pub(super) n: u32,
    pub(super) splits: u32,
    pub(super) split_stride: u32,
    pub(super) out_row: u32,
    pub(super) out_oct: u32,
    pub(super) wide: u32,
    pub(super) eps: f32,
    pub(super) padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct RopeArgs {
    pub(super) qkv: Pointer,
    pub(super) parts: Pointer,
    pub(super) bias: Pointer,
    pub(super) q_norm: Pointer,
    pub(super) k_norm: Pointer,
    pub(super) cos_sin: Pointer,
    pub(super) angle_rows: Pointer,
    pub(super) slots: Pointer,
    pub(super) q: Pointer,
    pub(super) k_cache: Pointer,
    pub(super) v_cache: Pointer,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) splits: u32,
    pub(super) split_stride: u32,
    pub(super) eps: f32,
    pub(super) head_dim: u32,
    pub(super) query_scale: Pointer,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct AttentionArgs {
    pub(super) q: Pointer,
    pub(super) k_cache: Pointer,
    pub(super) v_cache: Pointer,
    pub(super) tables: Pointer,
    pub(super) lengths: Pointer,
    pub(super) out: Pointer,
    pub(super) partial: Pointer,
    pub(super) arrivals: Pointer,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) table_stride: u32,
    pub(super) splits: u32,
    pub(super) out_row: u32,
    pub(super) out_oct: u32,
    pub(super) wide: u32,
    pub(super) scale: f32,
    pub(super) starts: Pointer,
    pub(super) batch: u32,
    pub(super) padding: u32,
}

/// CUDA's description of a cache: what it means is the driver's affair.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub(super) struct TensorMap(pub(super) [u64; 16]);

/// Tokens of a group in a tensor map: what a swizzle goes over.
pub(super) const MAP_TOKENS: u32 = 8;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct PrefillArgs {
    pub(super) k_map: TensorMap,
    pub(super) v_map: TensorMap,
    pub(super) q: Pointer,
    pub(super) k_cache: Pointer,
    pub(super) v_cache: Pointer,
    pub(super) out: Pointer,
    pub(super) tables: Pointer,
    pub(super) sequences: Pointer,
    pub(super) tiles: Pointer,
    pub(super) query_scale: Pointer,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) table_stride: u32,
    pub(super) tile_count: u32,
    pub(super) first_group: u32,
    pub(super) scale: f32,
    pub(super) padding: [u64; 5],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct SiluArgs {
    pub(super) gate_up: Pointer,
    pub(super) out: Pointer,
    pub(super) rows: u32,
    pub(super) n: u32,
    pub(super) out_row: u32,
    pub(super) out_oct: u32,
    pub(super) wide: u32,
    pub(super) padding: u32,
}

/// Of `dequant_nf4` (codes, pairs of f16) and of `dequant_int8` (weights, f32).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct DequantArgs {
    pub(super) weights: Pointer,
    pub(super) scales: Pointer,
    pub(super) out: Pointer,
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) factor: f32,
    pub(super) padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct DequantNestedArgs {
    pub(super) codes: Pointer,
    pub(super) scale_codes: Pointer,
    pub(super) map: Pointer,
    pub(super) nested: Pointer,
    pub(super) first_blocks: Pointer,
    pub(super) out: Pointer,
    pub(super) n: u32,
    pub(super) k: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct EmbedArgs {
    pub(super) tokens: Pointer,
    pub(super) drawn: Pointer,
    pub(super) table: Pointer,
    pub(super) hidden: Pointer,
    pub(super) rows: u32,
    pub(super) width: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct GatherArgs {
    pub(super) from: Pointer,
    pub(super) indices: Pointer,
    pub(super) out: Pointer,
    pub(super) rows: u32,
    pub(super) width: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct WidenArgs {
    pub(super) from: Pointer,
    pub(super) out: Pointer,
    pub(super) rows: u32,
    pub(super) width: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct CountArgs {
    pub(super) tokens: Pointer,
    pub(super) spans: Pointer,
    pub(super) counts: Pointer,
    pub(super) n: u32,
    pub(super) padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct SampleArgs {
    pub(super) logits: Pointer,
    pub(super) rows: Pointer,
    pub(super) positions: Pointer,
    pub(super) bias_tokens: Pointer,
    pub(super) bias_values: Pointer,
    pub(super) forbidden: Pointer,
    pub(super) counts: Pointer,
    pub(super) scratch: Pointer,
    pub(super) tokens: Pointer,
    pub(super) results: Pointer,
    pub(super) top_tokens: Pointer,
    pub(super) top_logprobs: Pointer,
    pub(super) n: u32,
    pub(super) stride: u32,
    pub(super) is_f32: u32,
    pub(super) padding: u32,
}

/// As C++ lays them out. A kernel's own word is asked for as well, when it is first used.
const _: () = {
    assert!(size_of::<ProductArgs>() == 104);
    assert!(size_of::<NormArgs>() == 72);
    assert!(size_of::<RopeArgs>() == 120);
    assert!(size_of::<AttentionArgs>() == 112);
    assert!(size_of::<PrefillArgs>() == 384 && align_of::<PrefillArgs>() == 64);
    assert!(size_of::<SiluArgs>() == 40);
    assert!(size_of::<DequantArgs>() == 40);
    assert!(size_of::<DequantNestedArgs>() == 56);
    assert!(size_of::<EmbedArgs>() == 40);
    assert!(size_of::<GatherArgs>() == 32);
    assert!(size_of::<WidenArgs>() == 24);
    assert!(size_of::<CountArgs>() == 32);
    assert!(size_of::<SampleArgs>() == 112);
};

impl Arguments {
    pub(super) fn of<T: Pod>(arguments: &T) -> Self {
        const { assert!(size_of::<T>() <= MOST_BYTES) };
        let mut bytes = [0; MOST_BYTES];
        bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(arguments));
        Self { bytes, size: size_of::<T>() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}
