//! What is computed twice and compared: a memory's content, and operations that turn some of it into something else.

use bytemuck::Pod;
use sluice_kernels::op::{Activations, Sample};
use sluice_kernels::{Address, Card, Layout, Op, Region};

use super::image::Image;
use super::limits::Limits;
use super::random::Random;
use super::view::View;

/// Checks of one memory. None reads what another writes, unless the other one comes before it.
pub struct Case {
    pub(crate) card: Card,
    pub(crate) random: Random,
    pub(crate) image: Image,
    pub(crate) checks: Vec<Check>,
}

pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) ops: Vec<Op>,
    /// What the reference computes in their place, where it would take too long.
    pub(crate) reference: Option<Vec<Op>>,
    /// All that `ops` may write.
    pub(crate) writes: Vec<Region>,
    pub(crate) compared: Vec<Compared>,
}

pub(crate) enum Compared {
    /// To the bit.
    Same(Vec<Region>),
    /// Found, and what is expected.
    Close(&'static str, Vec<(View, View)>, Limits),
    /// Numbers, whichever.
    Written(View),
    Draws(Sample),
}

impl Case {
    pub(crate) fn new(card: &Card, seed: u64) -> Self {
        Self { card: card.clone(), random: Random::new(seed), image: Image::default(), checks: Vec::new() }
    }

    pub(crate) fn put<T: Pod>(&mut self, values: &[T]) -> Address {
        self.image.put(values)
    }

    /// Room for so many `T`.
    pub(crate) fn room<T>(&mut self, count: u32) -> Region {
        self.image.room(u64::from(count) * size_of::<T>() as u64)
    }

    /// Random bf16 numbers of this standard deviation.
    pub(crate) fn halves(&mut self, count: u32, deviation: f32) -> Address {
        let numbers = self.random.halves(count as usize, deviation);
        self.put(&numbers)
    }

    /// Random activations, in any layout.
    pub(crate) fn activations(&mut self, rows: u32, width: u32, layout: Layout) -> Activations {
        Activations { at: self.halves(rows * width, 1.0), layout }
    }

    pub(crate) fn room_for_activations(&mut self, rows: u32, width: u32, layout: Layout) -> Activations {
        Activations { at: self.room::<u16>(rows * width).at, layout }
    }

    pub(crate) fn check(&mut self, name: String, op: Op, compared: Vec<Compared>) {
        let writes = compared.iter().flat_map(Compared::regions).collect();
        self.checks.push(Check { name, ops: vec![op], reference: None, writes, compared });
    }
}

impl Compared {
    pub(crate) fn close(what: &'static str, view: View, limits: Limits) -> Self {
        Self::Close(what, vec![(view.clone(), view)], limits)
    }

    /// What is found there was written by the device that is checked.
    pub(crate) fn regions(&self) -> Vec<Region> {
        match self {
            Self::Same(regions) => regions.clone(),
            Self::Close(_, pairs, _) => pairs.iter().flat_map(|(found, _)| found.regions()).collect(),
            Self::Written(view) => view.regions(),
            Self::Draws(op) => super::draws::written(op),
        }
    }

    /// What is expected is there, on the reference.
    pub(crate) fn expected(&self) -> Vec<Region> {
        match self {
            Self::Close(_, pairs, _) => pairs.iter().flat_map(|(_, expected)| expected.regions()).collect(),
            Self::Written(_) => Vec::new(),
            Self::Same(_) | Self::Draws(_) => self.regions(),
        }
    }
}
