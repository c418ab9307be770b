//! Cases of rows that are copied: embedded, gathered, put into the wide layout.

use sluice_kernels::op::{Embed, Gather, Widen};
use sluice_kernels::{Layout, Op, Region};

use super::Subject;
use super::case::{Case, Compared};

const TABLE: u32 = 1000;

pub(super) fn subjects(full: bool) -> Vec<Subject> {
    let sizes: &[(u32, u32)] =
        if full { &[(1, 256), (3, 5120), (37, 896), (256, 5120), (600, 8192)] } else { &[(1, 256), (37, 200)] };
    let wide: &[(u32, u32)] =
        if full { &[(16, 256), (32, 5120), (64, 896), (128, 13_824), (256, 5120)] } else { &[(16, 192)] };
    let sizes = sizes.iter().copied();
    vec![
        Subject::new("embed", sizes.clone(), embed),
        Subject::new("gather", sizes, gather),
        Subject::new("widen", wide.iter().copied(), widen),
    ]
}

fn indices(case: &mut Case, count: u32) -> Vec<i32> {
    (0..count).map(|_| case.random.below(TABLE) as i32).collect()
}

/// Half of the tokens are those that were drawn before.
fn embed(case: &mut Case, (rows, width): (u32, u32)) {
    let drawn = indices(case, rows);
    let drawn = case.put(&drawn);
    let mut tokens = indices(case, rows);
    tokens.iter_mut().step_by(2).for_each(|token| *token = -1 - *token % rows as i32);
    let tokens = case.put(&tokens);
    let (table, hidden) = (case.halves(TABLE * width, 1.0), case.room::<u16>(rows * width));
    let op = Op::Embed(Embed { tokens, drawn, table, hidden: hidden.at, rows, width });
    case.check(format!("embed {rows} x {width}"), op, vec![Compared::Same(vec![hidden])]);
}

fn gather(case: &mut Case, (rows, width): (u32, u32)) {
    let indices = indices(case, rows);
    let (indices, from) = (case.put(&indices), case.halves(TABLE * width, 1.0));
    let out = case.room::<u16>(rows * width);
    let op = Op::Gather(Gather { from, indices, out: out.at, rows, width });
    case.check(format!("gather {rows} x {width}"), op, vec![Compared::Same(vec![out])]);
}

fn widen(case: &mut Case, (rows, width): (u32, u32)) {
    let from = case.activations(rows, width, Layout::Rows).at;
    let out: Region = case.room::<u16>(rows * width);
    let op = Op::Widen(Widen { from, out: out.at, rows, width });
    case.check(format!("widen {rows} x {width}"), op, vec![Compared::Same(vec![out])]);
}
