//! Draws, and the counts that they go by.

use super::{Call, Launch, Shared, Site, require};
use crate::cuda::args::{CountArgs, SampleArgs};
use crate::op::{Count, Sample};
use crate::sampling::{SampleResult, SampleRow, TOP};
use crate::{Address, DeviceError};

/// Blocks that draw a row together, each with its part of the vocabulary in shared memory.
const CLUSTER: u32 = 8;

/// Of a block that counts one sequence's tokens.
const COUNT_THREADS: u32 = 1024;

pub(super) fn count(op: &Count, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    let arguments = CountArgs {
        tokens: site.at(op.tokens),
        spans: site.at(op.spans),
        counts: site.at(op.counts),
        n: op.vocab,
        padding: 0,
    };
    if op.span_count > 0 {
        let grid = [op.span_count, 1, 1];
        calls.push(Call::Kernel(Launch::new("count_tokens", grid, COUNT_THREADS, &arguments)));
    }
    Ok(())
}

/// By clusters where the card has them; else by blocks, whose scratch memory bounds the rows of a launch.
pub(super) fn sample(op: &Sample, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    let whole = op.stride.is_multiple_of(8) && op.vocab <= op.stride && op.vocab > 0;
    require(whole, || format!("a draw from {} logits, {} a row: not a multiple of 8", op.vocab, op.stride))?;
    let clusters = site.card.has_wgmma();
    let together = if clusters { op.rows.max(1) } else { site.workspace.drawn_rows(op.stride) };
    require(together > 0, || format!("no room to draw from {} logits", op.stride))?;
    for first in (0..op.rows).step_by(together as usize) {
        let rows = together.min(op.rows - first);
        let arguments = arguments(op, first, site);
        calls.push(Call::Kernel(if clusters {
            let shared = Shared::AsCompiled { more: 4 * part(op.vocab) };
            Launch { shared, ..Launch::as_compiled("sample_cluster", [CLUSTER * rows, 1, 1], &arguments) }
        } else {
            Launch::as_compiled("sample_block", [rows, 1, 1], &arguments)
        }));
    }
    Ok(())
}

/// For the rows from `first` on.
fn arguments(op: &Sample, first: u32, site: Site<'_>) -> SampleArgs {
    let behind = |address: Address, bytes: usize| site.at(address) + u64::from(first) * bytes as u64;
    SampleArgs {
        logits: behind(op.logits, op.stride as usize * 2),
        rows: behind(op.draws, size_of::<SampleRow>()),
        positions: behind(op.positions, 4),
        bias_tokens: site.at(op.bias_tokens),
        bias_values: site.at(op.bias_values),
        forbidden: site.at(op.forbidden),
        counts: site.at(op.counts),
        scratch: site.workspace.scratch(),
        tokens: behind(op.drawn, 4),
        results: behind(op.results, size_of::<SampleResult>()),
        top_tokens: behind(op.top_tokens, TOP * 4),
        top_logprobs: behind(op.top_logprobs, TOP * 4),
        n: op.vocab,
        stride: op.stride,
        is_f32: 0,
        padding: 0,
    }
}

/// Numbers of the vocabulary that one block of a cluster has.
fn part(vocab: u32) -> u32 {
    vocab.div_ceil(CLUSTER).next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MEMORY, launches, planned};
    use super::*;
    use crate::Card;
    use crate::Op;

    fn op(rows: u32, vocab: u32, stride: u32) -> Op {
        Op::Sample(Sample {
            logits: Address(1 << 30),
            stride,
            vocab,
            draws: Address(0x10000),
            positions: Address(0x20000),
            bias_tokens: Address(0x30000),
            bias_values: Address(0x40000),
            forbidden: Address(0x50000),
            counts: Address(0x60000),
            drawn: Address(0x70000),
            results: Address(0x80000),
            top_tokens: Address(0x90000),
            top_logprobs: Address(0xa0000),
            rows,
        })
    }

    #[test]
    fn a_cluster_holds_the_vocabulary() {
        for (vocab, expected) in [(152_064, 19_008), (7, 8), (151_936, 18_992), (1003, 128), (65, 16)] {
            assert_eq!(part(vocab), expected);
            assert!(part(vocab) * CLUSTER >= vocab);
        }
        let calls = planned(&Card::h200(), op(256, 151_936, 152_064)).expect("it is launched");
        let [Call::Kernel(launch)] = &calls[..] else { panic!("one launch") };
        assert_eq!((launch.kernel, launch.grid), ("sample_cluster", [2048, 1, 1]));
        assert_eq!(launch.shared, Shared::AsCompiled { more: 4 * 18_992 });
    }

    #[test]
    fn without_clusters_rows_are_cut_by_the_scratch() {
        let calls = planned(&Card::rtx_4090(), op(256, 151_936, 152_064)).expect("it is launched");
        let found = launches::<SampleArgs>(&calls);
        assert_eq!(found.iter().map(|(_, grid, _)| grid[0]).collect::<Vec<_>>(), [110, 110, 36]);
        let (name, _, last) = found[2];
        assert_eq!((name, last.scratch == 0), ("sample_block", false));
        assert_eq!(last.logits, MEMORY + (1 << 30) + 220 * 152_064 * 2);
        assert_eq!((last.rows, last.results), (MEMORY + 0x10000 + 220 * 64, MEMORY + 0x80000 + 220 * 16));
        assert_eq!((last.tokens, last.top_tokens), (MEMORY + 0x70000 + 220 * 4, MEMORY + 0x90000 + 220 * 80));
        assert_eq!(last.bias_tokens, found[0].2.bias_tokens);
    }

    #[test]
    fn strange_vocabularies_are_refused() {
        for (vocab, stride) in [(9, 9), (17, 16), (0, 8), (1 << 30, 1 << 30)] {
            let refused = planned(&Card::rtx_4090(), op(1, vocab, stride)).is_err();
            assert!(refused, "{vocab} of {stride}");
        }
    }
}
