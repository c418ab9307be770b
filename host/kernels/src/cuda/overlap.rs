//! Which launches of a recorded step begin while the ones before them end.
//!
//! Every kernel waits by itself before it touches what earlier ones wrote, and asks for its weights before. The attention of
//! decode reads more: lengths, tables, and pages of earlier steps. All of that is copied or written before a recorded step
//! begins, and the first launch of a step waits for all that is before it.

use super::calls::Call;
use crate::Card;

/// From so many rows on it saves nothing.
const ROWS: u32 = 128;

/// For each launch in turn; a step of `rows` rows.
pub(super) fn overlaps(card: &Card, rows: u32, calls: &[Call]) -> impl Iterator<Item = bool> {
    // The code that other cards run cannot wait by itself.
    let possible = card.has_wgmma() && rows < ROWS;
    let before = std::iter::once(None).chain(calls.iter().map(Some));
    calls.iter().zip(before).map(move |(call, before)| {
        // What a library launches is not known: it may be several kernels, or none.
        possible && matches!((call, before), (Call::Kernel(_), Some(Call::Kernel(_))))
    })
}

#[cfg(test)]
mod tests {
    use super::super::args::WidenArgs;
    use super::super::calls::{Gemm, Launch, Shape, Shared, Threads};
    use super::*;
    use crate::Card;
    use crate::cuda::args::Arguments;

    #[test]
    fn only_between_kernels_of_few_rows() {
        let kernel = || {
            let arguments = Arguments::of(&WidenArgs { from: 0, out: 0, rows: 0, width: 0 });
            let (threads, shared) = (Threads::AsCompiled, Shared::None);
            Call::Kernel(Launch { kernel: "widen", grid: [1; 3], threads, shared, arguments })
        };
        let library = || Call::Library(Gemm { shape: Shape { m: 1, n: 1, k: 1 }, x: 0, weights: 0, y: 0 });
        let calls = [kernel(), kernel(), library(), kernel(), kernel()];
        let found = |card, rows| overlaps(&card, rows, &calls).collect::<Vec<_>>();
        assert_eq!(found(Card::h200(), 127), [false, true, false, false, true]);
        assert_eq!(found(Card::h200(), 128), [false; 5]);
        assert_eq!(found(Card::rtx_4090(), 1), [false; 5]);
    }
}
