//! A matrix in the form in which it is multiplied: panels of outputs, each read from front to back.

use super::activations::Group;

/// Outputs that are computed together: four registers of AVX-512, eight of AVX2.
pub(crate) const PANEL: usize = 64;

/// Every output of every row is one chain of operations in the order of the inputs, whatever the other rows are.
pub(crate) trait Panels: Send + Sync {
    /// Adds to `out`, one slice per row, the products of the rows with the outputs of one panel; the last panel's
    /// slices may be shorter than [`PANEL`].
    fn add(&self, panel: usize, rows: &Rows<'_>, out: &mut [&mut [f32]]);

    /// The weights of one output, widened.
    fn weights(&self, output: usize, weights: &mut [f32]);

    /// How much memory the matrix takes.
    #[cfg(test)]
    fn bytes(&self) -> usize;

    /// Whether it is [`Rows::groups`] that are multiplied.
    fn wants_groups(&self) -> bool {
        false
    }
}

/// What is multiplied: rows of `inputs` numbers.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    /// The same in bytes; empty where no panel wants them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no other processor multiplies bytes yet"))]
    pub(crate) groups: &'a [Group],
    pub(crate) inputs: usize,
}

#[cfg(target_arch = "x86_64")]
impl<'a> Rows<'a> {
    #[inline(always)]
    pub(crate) fn groups(&self, row: usize) -> &'a [Group] {
        let count = Group::count(self.inputs);
        &self.groups[row * count..][..count]
    }
}
