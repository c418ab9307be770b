//! A matrix of any form, packed once at load for the instructions that there are.

use sluice_checkpoint::nf4::BLOCK;
use sluice_checkpoint::{GgmlBlocks, GgmlKind, MatrixData, StoredMatrix};

use super::floats::{Bf16, F16, Floats};
use super::ggml::{Blocks, formats};
use super::instructions::Instructions;
use super::int8::Int8;
use super::nf4::Nf4;
use super::panels::{PANEL, Panels, Rows};

pub(crate) struct Matrix {
    panels: Box<dyn Panels>,
    outputs: usize,
}

impl Matrix {
    pub(crate) fn pack(stored: &StoredMatrix<'_>, instructions: Instructions) -> Self {
        let inputs = stored.inputs;
        let panels: Box<dyn Panels> = match &stored.data {
            MatrixData::F32(bytes) => Box::new(Floats::<f32>::pack(bytes, inputs, instructions)),
            MatrixData::F16(bytes) => Box::new(Floats::<F16>::pack(bytes, inputs, instructions)),
            MatrixData::Bf16(bytes) => Box::new(Floats::<Bf16>::pack(bytes, inputs, instructions)),
            MatrixData::Int8(rows) => Box::new(Int8::pack(rows, inputs, instructions)),
            MatrixData::Nf4(blocks) if inputs.is_multiple_of(BLOCK) => {
                Box::new(Nf4::pack(blocks, inputs, instructions))
            }
            // Blocks that go over the ends of rows: no model that is worth being small has such widths.
            MatrixData::Nf4(_) => {
                let bytes: Vec<u8> = stored.to_f32().into_iter().flat_map(f32::to_le_bytes).collect();
                Box::new(Floats::<f32>::pack(&bytes, inputs, instructions))
            }
            MatrixData::Ggml(blocks) => pack_ggml(blocks, inputs, instructions),
        };
        Self { panels, outputs: stored.outputs }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// How many panels of [`PANEL`] outputs there are; the last may have fewer.
    pub(crate) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Adds to `out`, one slice per row, the products of the rows with the outputs of a panel.
    pub(crate) fn add(&self, panel: usize, rows: &Rows<'_>, out: &mut [&mut [f32]]) {
        self.panels.add(panel, rows, out);
    }

    /// The weights of one output, widened.
    pub(crate) fn weights(&self, output: usize, weights: &mut [f32]) {
        self.panels.weights(output, weights);
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    pub(crate) fn wants_groups(&self) -> bool {
        self.panels.wants_groups()
    }
}

fn pack_ggml(stored: &GgmlBlocks<'_>, inputs: usize, instructions: Instructions) -> Box<dyn Panels> {
    let bytes = &stored.blocks;
    match stored.kind {
        GgmlKind::Q4_0 => Box::new(Blocks::pack::<formats::Q4_0>(bytes, inputs, instructions)),
        GgmlKind::Q4_1 => Box::new(Blocks::pack::<formats::Q4_1>(bytes, inputs, instructions)),
        GgmlKind::Q5_0 => Box::new(Blocks::pack::<formats::Q5_0>(bytes, inputs, instructions)),
        GgmlKind::Q5_1 => Box::new(Blocks::pack::<formats::Q5_1>(bytes, inputs, instructions)),
        GgmlKind::Q8_0 => Box::new(Blocks::pack::<formats::Q8_0>(bytes, inputs, instructions)),
        GgmlKind::Q2K => Box::new(Blocks::pack::<formats::Q2K>(bytes, inputs, instructions)),
        GgmlKind::Q3K => Box::new(Blocks::pack::<formats::Q3K>(bytes, inputs, instructions)),
        GgmlKind::Q4K => Box::new(Blocks::pack::<formats::Q4K>(bytes, inputs, instructions)),
        GgmlKind::Q5K => Box::new(Blocks::pack::<formats::Q5K>(bytes, inputs, instructions)),
        GgmlKind::Q6K => Box::new(Blocks::pack::<formats::Q6K>(bytes, inputs, instructions)),
    }
}
