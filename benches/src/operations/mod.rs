//! Every operation, computed by a device and by one that is believed, from the same random inputs: outputs are poisoned
//! before, and whatever is no output has to stay as it is.

mod attention;
mod case;
mod checker;
mod draws;
mod image;
mod limits;
mod moves;
mod norm;
mod product;
mod random;
mod rope;
mod sampling;
mod silu;
mod view;
mod weights;

#[cfg(test)]
mod tests;

use sluice_kernels::Card;

pub use case::Case;
pub use checker::{Checker, Finding};

/// Cases of one operation, which are made when they are wanted: some take gigabytes.
pub struct Subject {
    name: String,
    make: Box<dyn Fn(&mut Case)>,
}

/// Bytes of a device's memory that the largest case takes.
pub const MEMORY: u64 = 2 << 30;

/// Of all shapes that matter on a card; or a few small ones of each operation, for the host alone.
pub fn subjects(card: &Card, full: bool) -> Vec<Subject> {
    let all = [
        moves::subjects(full),
        norm::subjects(full),
        silu::subjects(full),
        rope::subjects(full),
        attention::subjects(full),
        sampling::subjects(full),
        weights::subjects(full),
        product::subjects(card, full),
    ];
    all.into_iter().flatten().collect()
}

impl Subject {
    /// Some sizes in one memory.
    fn new<S: Clone + 'static>(
        name: impl Into<String>,
        sizes: impl IntoIterator<Item = S>,
        add: impl Fn(&mut Case, S) + 'static,
    ) -> Self {
        let sizes: Vec<S> = sizes.into_iter().collect();
        Self { name: name.into(), make: Box::new(move |case| sizes.iter().for_each(|size| add(case, size.clone()))) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its name has all of these words; without any, it is meant too.
    pub fn is_meant(&self, words: &[&str]) -> bool {
        words.iter().all(|word| self.name.split(' ').any(|own| own == *word))
    }

    /// The same for a seed.
    pub fn case(&self, card: &Card, seed: u64) -> Case {
        let mut case = Case::new(card, seed);
        (self.make)(&mut case);
        case
    }
}
