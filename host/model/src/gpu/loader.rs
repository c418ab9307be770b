//! Reads a checkpoint into a GPU's memory, matrix by matrix, quantised and put into the kernels' order on the way.

use std::borrow::Cow;

use bytemuck::cast_slice;
use half::bf16;
use half::slice::HalfFloatSliceExt as _;
use rayon::prelude::*;
use sluice_checkpoint::{Int8Rows, LoadError, MatrixData, NestedAbsmax, Nf4Blocks, StoredMatrix, Weights, int8, nf4};
use sluice_kernels::op::{BlockScales, HEAD_DIM, NestedScales};
use sluice_kernels::{Address, Device, DeviceError, Matrix, Op, Submission, WeightForm, Work, pack};

use crate::blueprint::{Blueprint, LayerTensors, Projection};
use crate::gpu::arrangement::Arrangement;
use crate::gpu::memory::BadLimits;
use crate::gpu::shape::{Shape, Unsupported};
use crate::gpu::weights::{LayerWeights, ModelWeights, Weighted, norm_name};

#[derive(Debug, thiserror::Error)]
pub enum GpuLoadError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    #[error(transparent)]
    Limits(#[from] BadLimits),
    #[error("the model cannot be brought to the GPU: {0}")]
    Device(#[from] DeviceError),
    #[error(
        "tensor `{tensor}` is held in four bits that are not NF4's: load a checkpoint of NF4, or one that is not quantised"
    )]
    Table { tensor: String },
    #[error("the maps of a checkpoint's doubly quantised scales differ from each other: quantise it again")]
    Maps,
}

pub(crate) struct Loader<'a, D> {
    pub(crate) weights: &'a Weights,
    pub(crate) shape: &'a Shape,
    pub(crate) device: &'a mut D,
}

/// Of what is converted before it is copied: enough that a copy is worth it, and little beside a matrix.
const CHUNK_BYTES: usize = 64 << 20;

/// Numbers that are quantised together, and half a head.
const BLOCK: usize = nf4::BLOCK;

/// Two codes of NF4's zero.
const NF4_ZEROS: u8 = 0x77;

/// Of the angles, that are copied at once.
const POSITIONS: usize = 4096;

/// How a matrix of `[outputs, inputs]` is read by its name.
type Read = for<'w> fn(&'w Weights, &str, usize, usize) -> Result<StoredMatrix<'w>, LoadError>;

/// One projection's matrices, as if they were below each other.
struct Sources<'a> {
    parts: Vec<StoredMatrix<'a>>,
    inputs: usize,
}

impl<D: Device> Loader<'_, D> {
    /// Fills in the units of what is quantised here.
    pub(crate) fn model(&mut self, blueprint: &Blueprint, places: &mut ModelWeights) -> Result<(), GpuLoadError> {
        self.table(&blueprint.embedding(), places.embedding)?;
        if let Some(head) = blueprint.head() {
            self.table(&head, places.head.weights)?;
        }
        let norm = blueprint.norm();
        self.vector(&[(norm_name(&norm), norm.width)], None, places.norm)?;
        for (index, layer) in places.layers.iter_mut().enumerate() {
            self.layer(&blueprint.layer(index), layer)?;
        }
        self.angles(blueprint, places.angles)
    }

    /// What is kept in bf16 beside the quantised weights, which are there.
    pub(crate) fn keep_dequantized(&mut self, places: &ModelWeights) -> Result<(), DeviceError> {
        for layer in &places.layers {
            let kept = layer.projections().into_iter();
            let ops: Vec<Op> = kept.filter_map(|it| Some(it.dequantize(it.dequantized?))).collect();
            if !ops.is_empty() {
                self.device.submit(&Submission { copies: &[], work: Work::Ops(&ops), results: &[] })?;
                self.device.wait()?;
                self.device.poll()?;
            }
        }
        Ok(())
    }

    fn layer(&mut self, tensors: &LayerTensors, layer: &mut LayerWeights) -> Result<(), GpuLoadError> {
        let shape = self.shape;
        for (norm, at) in [(&tensors.attention_norm, layer.attention_norm), (&tensors.mlp_norm, layer.mlp_norm)] {
            self.vector(&[(norm_name(norm), norm.width)], None, at)?;
        }
        for (norm, at) in tensors.head_norms.iter().flatten().zip(layer.head_norms.into_iter().flatten()) {
            self.vector(&[(norm_name(norm), norm.width)], Some(&Arrangement::head_norm(shape)), at)?;
        }
        let qkv = Arrangement::qkv(shape);
        self.matrix(&tensors.qkv, &qkv, &mut layer.qkv)?;
        if let Some(bias) = layer.qkv_bias {
            let parts = tensors.qkv.parts.iter().map(|part| (format!("{}.bias", part.name), part.outputs));
            self.vector(&parts.collect::<Vec<_>>(), Some(&qkv), bias)?;
        }
        self.matrix(&tensors.attention_output, &Arrangement::attention_output(shape), &mut layer.attention_output)?;
        self.matrix(&tensors.gate_up, &Arrangement::gate_up(shape), &mut layer.gate_up)?;
        self.matrix(&tensors.down, &Arrangement::plain(shape.size.hidden, shape.size.hidden), &mut layer.down)
    }

    /// An embedding or a head.
    fn table(&mut self, projection: &Projection, at: Address) -> Result<(), GpuLoadError> {
        let arrangement = Arrangement::plain(self.shape.size.vocab, self.shape.head_rows as usize);
        let sources = Sources::read(self.weights, projection, Weights::table)?;
        self.upload_bf16(&sources, &arrangement, at)
    }

    fn matrix(
        &mut self,
        projection: &Projection,
        arrangement: &Arrangement,
        weighted: &mut Weighted,
    ) -> Result<(), GpuLoadError> {
        let sources = Sources::read(self.weights, projection, Weights::projection)?;
        match weighted.matrix.form {
            WeightForm::Bf16 => self.upload_bf16(&sources, arrangement, weighted.matrix.weights),
            WeightForm::Int8 => self.upload_int8(&sources, arrangement, &mut weighted.matrix),
            WeightForm::Nf4 => {
                if let Some(part) =
                    sources.find(|data| nf4_blocks(data).is_some_and(|blocks| blocks.table != nf4::TABLE))
                {
                    let tensor = format!("{}.weight", projection.parts[part].name);
                    return Err(GpuLoadError::Table { tensor });
                }
                self.upload_nf4(&sources, arrangement, weighted)
            }
        }
    }

    /// A part of the rows at a time, since a table in two forms at once would be gigabytes.
    fn upload_bf16(
        &mut self,
        sources: &Sources<'_>,
        arrangement: &Arrangement,
        at: Address,
    ) -> Result<(), GpuLoadError> {
        let width = arrangement.width(sources.inputs);
        let mut at = at;
        for rows in arrangement.rows.chunks((CHUNK_BYTES / (2 * width)).max(1)) {
            let mut bytes = vec![0; rows.len() * 2 * width];
            bytes.par_chunks_exact_mut(2 * width).zip(rows).for_each_init(
                || (vec![0.0; sources.inputs], vec![bf16::ZERO; sources.inputs]),
                |(wide, narrow), (out, row)| {
                    let Some(row) = *row else { return };
                    let (part, row) = sources.place(row);
                    sources.parts[part].rows_to_f32(row, wide);
                    narrow.convert_from_f32_slice(wide);
                    arrangement.copy(cast_slice(narrow.reinterpret_cast()), out, 2 * BLOCK, 0);
                },
            );
            self.device.upload(at, &bytes)?;
            at = at.offset(bytes.len() as u64);
        }
        Ok(())
    }

    fn upload_int8(
        &mut self,
        sources: &Sources<'_>,
        arrangement: &Arrangement,
        matrix: &mut Matrix,
    ) -> Result<(), GpuLoadError> {
        let parts: Vec<&Int8Rows<'_>> = sources.parts.iter().filter_map(|part| int8_rows(&part.data)).collect();
        let inputs = sources.inputs;
        let codes = sources.gather(arrangement, inputs, BLOCK, 0, |part, row| &parts[part].codes[row * inputs..]);
        let scales = arrangement.rows.iter().map(|row| {
            row.map_or(0.0, |row| {
                let (part, row) = sources.place(row);
                parts[part].absmax[row]
            })
        });
        let scales: Vec<u8> = scales.flat_map(f32::to_le_bytes).collect();
        matrix.unit = int8::UNIT;
        let packed = pack::int8(cast_slice(&codes), matrix.inputs as usize);
        self.device.upload(matrix.weights, &packed)?;
        Ok(self.device.upload(matrix.scales, &scales)?)
    }

    fn upload_nf4(
        &mut self,
        sources: &Sources<'_>,
        arrangement: &Arrangement,
        weighted: &mut Weighted,
    ) -> Result<(), GpuLoadError> {
        let parts: Vec<&Nf4Blocks<'_>> = sources.parts.iter().filter_map(|part| nf4_blocks(&part.data)).collect();
        let (bytes, blocks) = (sources.inputs / 2, sources.inputs / BLOCK);
        let codes =
            sources.gather(arrangement, bytes, BLOCK / 2, NF4_ZEROS, |part, row| &parts[part].codes[row * bytes..]);
        let absmax: Vec<Cow<'_, [f32]>> = parts.iter().map(|part| part.absmax.to_f32()).collect();
        let absmax = sources.gather(arrangement, blocks, 1, 0.0, |part, row| &absmax[part][row * blocks..]);
        let inputs = weighted.matrix.inputs as usize;
        self.device.upload(weighted.matrix.weights, &pack::nf4(&codes, inputs))?;
        let (scales, unit) = pack::nf4_scales(&absmax, inputs);
        weighted.matrix.unit = unit;
        self.device.upload(weighted.matrix.scales, &scales)?;
        match weighted.scales {
            BlockScales::Own => Ok(()),
            BlockScales::F32(at) => Ok(self.device.upload(at, cast_slice(&pack::nf4_blocks(&absmax, inputs)))?),
            BlockScales::Nested(scales) => self.upload_nested(sources, arrangement, &parts, scales),
        }
    }

    /// Scales as they were quantised themselves. Padding names a group that there is: its codes are zeros.
    fn upload_nested(
        &mut self,
        sources: &Sources<'_>,
        arrangement: &Arrangement,
        parts: &[&Nf4Blocks<'_>],
        scales: NestedScales,
    ) -> Result<(), GpuLoadError> {
        let blocks = sources.inputs / BLOCK;
        let nested: Vec<&NestedAbsmax<'_>> = parts.iter().filter_map(|part| part.absmax.nested()).collect();
        let map = nested.first().map_or(&[0.0; 256], |first| &*first.map);
        if nested.len() < parts.len() || nested.iter().any(|other| *other.map != *map) {
            return Err(GpuLoadError::Maps);
        }
        let codes = sources.gather(arrangement, blocks, 1, 0, |part, row| &nested[part].codes[row * blocks..]);
        let pairs = |part: &&NestedAbsmax<'_>| {
            let offset = part.offset;
            part.absmax.iter().flat_map(move |largest| [*largest, offset]).collect::<Vec<f32>>()
        };
        let groups: Vec<f32> = nested.iter().flat_map(pairs).collect();
        let starts: Vec<usize> = nested
            .iter()
            .scan(0, |groups, part| Some(std::mem::replace(groups, *groups + part.absmax.len()) * nf4::NESTED_BLOCK))
            .collect();
        let first_blocks = arrangement.rows.iter().map(|row| {
            row.map_or(0, |row| {
                let (part, row) = sources.place(row);
                (starts[part] + row * blocks) as i32
            })
        });
        let first_blocks: Vec<i32> = first_blocks.collect();
        self.device.upload(scales.codes, &pack::nf4_blocks(&codes, sources.inputs))?;
        self.device.upload(scales.map, cast_slice(map))?;
        self.device.upload(scales.groups, cast_slice(&groups))?;
        Ok(self.device.upload(scales.first_blocks, cast_slice(&first_blocks))?)
    }

    /// Vectors one behind the other.
    fn vector(
        &mut self,
        parts: &[(String, usize)],
        arrangement: Option<&Arrangement>,
        at: Address,
    ) -> Result<(), GpuLoadError> {
        let mut numbers = Vec::new();
        for (name, length) in parts {
            numbers.extend(self.weights.vector(name, *length)?);
        }
        if let Some(arrangement) = arrangement {
            numbers = arrangement.rows.iter().map(|row| row.map_or(0.0, |row| numbers[row])).collect();
        }
        let bytes: Vec<u8> = numbers.into_iter().flat_map(|number| bf16::from_f32(number).to_le_bytes()).collect();
        Ok(self.device.upload(at, &bytes)?)
    }

    /// Cosine and sine of every pair of a head, for every position of every variant.
    fn angles(&mut self, blueprint: &Blueprint, at: Address) -> Result<(), GpuLoadError> {
        let (rope, longest) = (&blueprint.rope, blueprint.max_model_len);
        let factor = rope.attention_factor();
        let mut at = at;
        for variant in 0..rope.variants(longest).count() {
            let mut speeds = rope.speeds(variant, self.shape.size.head_dim);
            // What pads a head stays where it is.
            speeds.resize(HEAD_DIM as usize / 2, 0.0);
            for first in (0..longest).step_by(POSITIONS) {
                let positions = first..longest.min(first + POSITIONS as u32);
                let pairs = positions.into_par_iter().flat_map_iter(|position| {
                    speeds.iter().flat_map(move |speed| {
                        let (sin, cos) = (position as f32 * speed).sin_cos();
                        [(cos * factor).to_le_bytes(), (sin * factor).to_le_bytes()]
                    })
                });
                let bytes: Vec<u8> = pairs.flatten_iter().collect();
                self.device.upload(at, &bytes)?;
                at = at.offset(bytes.len() as u64);
            }
        }
        Ok(())
    }
}

impl<'a> Sources<'a> {
    fn read(weights: &'a Weights, projection: &Projection, read: Read) -> Result<Self, LoadError> {
        let inputs = projection.inputs;
        let parts =
            projection.parts.iter().map(|part| read(weights, &format!("{}.weight", part.name), part.outputs, inputs));
        Ok(Self { parts: parts.collect::<Result<_, _>>()?, inputs })
    }

    /// The part that a row of all of them is in, and its row there.
    fn place(&self, row: usize) -> (usize, usize) {
        let mut row = row;
        for (index, part) in self.parts.iter().enumerate() {
            if row < part.outputs {
                return (index, row);
            }
            row -= part.outputs;
        }
        unreachable!("an arrangement names rows that there are")
    }

    fn find(&self, wanted: impl Fn(&MatrixData<'a>) -> bool) -> Option<usize> {
        self.parts.iter().position(|part| wanted(&part.data))
    }

    /// All rows as they are arranged. `row` gives a part's row and what is behind it, of which `width` numbers count;
    /// `zero` fills what comes from nowhere.
    fn gather<'n, T: Copy + Send + Sync + 'n>(
        &self,
        arrangement: &Arrangement,
        width: usize,
        block: usize,
        zero: T,
        row: impl Fn(usize, usize) -> &'n [T] + Sync,
    ) -> Vec<T> {
        let out_width = arrangement.width(width);
        let mut gathered = vec![zero; arrangement.rows.len() * out_width];
        gathered.par_chunks_exact_mut(out_width).zip(&arrangement.rows).for_each(|(out, source)| {
            let Some(source) = *source else { return };
            let (part, source) = self.place(source);
            arrangement.copy(&row(part, source)[..width], out, block, zero);
        });
        gathered
    }
}

fn int8_rows<'m, 'a>(data: &'m MatrixData<'a>) -> Option<&'m Int8Rows<'a>> {
    match data {
        MatrixData::Int8(rows) => Some(rows),
        _ => None,
    }
}

fn nf4_blocks<'m, 'a>(data: &'m MatrixData<'a>) -> Option<&'m Nf4Blocks<'a>> {
    match data {
        MatrixData::Nf4(blocks) => Some(blocks),
        _ => None,
    }
}
