//! Cases of norms: of every width that models have, with nothing, a sum or its parts added before, in both layouts.

use sluice_kernels::op::{Activations, Norm, Sum};
use sluice_kernels::{Layout, Op, Region};

use super::Subject;
use super::case::{Case, Compared};
use super::limits::ROUNDED;
use super::view::View;

const WIDTHS: [u32; 7] = [64, 256, 896, 3584, 5120, 7168, 8192];

/// What is added before: nothing (0), a sum (1), or one in so many parts.
const ADDED: [u32; 4] = [0, 1, 2, 5];

pub(super) fn subjects(full: bool) -> Vec<Subject> {
    let widths = if full { &WIDTHS[..] } else { &WIDTHS[..2] };
    let layouts = [(1, Layout::Rows), (37, Layout::Rows), (16, Layout::Wide { rows: 16 })];
    let more = [(130, Layout::Rows), (256, Layout::Wide { rows: 256 })];
    let layouts = layouts.into_iter().chain(if full { &more[..] } else { &[] }.iter().copied());
    let ragged = [200, 2056].map(|width| (width, 5, Layout::Rows));
    let sizes = widths.iter().flat_map(|width| layouts.clone().map(move |(rows, layout)| (*width, rows, layout)));
    let sizes = sizes.chain(ragged).flat_map(|size| ADDED.map(|added| (size, added)));
    vec![Subject::new("norm", sizes, norm)]
}

fn norm(case: &mut Case, ((width, rows, layout), added): ((u32, u32, Layout), u32)) {
    let numbers = rows * width;
    let delta = match added {
        0 => None,
        1 => Some(Sum::Whole(case.activations(rows, width, Layout::Rows))),
        // Parts are further apart than they are long.
        count => {
            let stride = numbers + 24;
            let parts = case.random.bell((count * stride) as usize, 0.5);
            Some(Sum::Parts { at: case.put(&parts), count, stride })
        }
    };
    let (hidden, weight) = (case.halves(numbers, 1.0), case.halves(width, 1.0));
    let out = case.room_for_activations(rows, width, layout);
    let residual = Activations { at: hidden, layout: Layout::Rows };
    let stays = match added {
        0 | 1 => Compared::Same(vec![Region { at: hidden, bytes: u64::from(numbers) * 2 }]),
        _ => Compared::close("the residual stream", View::of(residual, rows, width), ROUNDED),
    };
    let normed = Compared::close("what is normalised", View::of(out, rows, width), ROUNDED);
    let op = Op::Norm(Norm { hidden, delta, weight, out, rows, width, eps: 1e-6 });
    let how = match (added, layout) {
        (0, _) => String::new(),
        (1, _) => ", a sum added".to_owned(),
        (parts, _) => format!(", {parts} parts added"),
    };
    let wide = if layout == Layout::Rows { "" } else { ", wide" };
    case.check(format!("norm {rows} x {width}{wide}{how}"), op, vec![stays, normed]);
}
