//! Cases of gates: silu(gate) · up where the product before it did not do that itself.

use sluice_kernels::op::SiluMul;
use sluice_kernels::{Layout, Op};

use super::Subject;
use super::case::{Case, Compared};
use super::limits::ROUNDED;
use super::view::View;

pub(super) fn subjects(full: bool) -> Vec<Subject> {
    let widths = if full { &[64, 768, 4864, 13_824][..] } else { &[64] };
    let rows = [(1, Layout::Rows), (37, Layout::Rows), (16, Layout::Wide { rows: 16 })];
    let more = [(600, Layout::Rows), (256, Layout::Wide { rows: 256 })];
    let rows = rows.into_iter().chain(if full { &more[..] } else { &[] }.iter().copied());
    let sizes = widths.iter().flat_map(|width| rows.clone().map(move |(rows, layout)| (rows, *width, layout)));
    vec![Subject::new("silu", sizes, silu)]
}

fn silu(case: &mut Case, (rows, width, layout): (u32, u32, Layout)) {
    let gate_up = case.activations(rows, 2 * width, Layout::Rows).at;
    let out = case.room_for_activations(rows, width, layout);
    let wide = if layout == Layout::Rows { "" } else { ", wide" };
    let op = Op::SiluMul(SiluMul { gate_up, out, rows, width });
    let gated = Compared::close("what is gated", View::of(out, rows, width), ROUNDED);
    case.check(format!("silu {rows} x {width}{wide}"), op, vec![gated]);
}
