//! Products of bf16 by cuBLASLt: an algorithm for each shape, found before the product is first computed.

#![allow(unsafe_code, reason = "cuBLASLt is a library of C functions")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t, cublasStatus_t, cudaDataType,
};

use super::calls::{Gemm, Shape};
use super::driver::{Event, Stream};
use super::workspace::Workspace;
use crate::DeviceError;

/// What all products share, and what is known of each shape. Fields are dropped as they stand: the handle goes last.
pub(super) struct Library {
    plans: HashMap<Shape, Plan>,
    multiply: Multiply,
    preference: Preference,
    handle: Handle,
}

struct Plan {
    layouts: Layouts,
    algorithm: cublasLtMatmulAlgo_t,
    tried: bool,
}

struct Layouts {
    weights: MatrixLayout,
    x: MatrixLayout,
    y: MatrixLayout,
}

struct Handle(cublasLtHandle_t);
struct Multiply(cublasLtMatmulDesc_t);
struct Preference(cublasLtMatmulPreference_t);
struct MatrixLayout(cublasLtMatrixLayout_t);

// SAFETY: none of cuBLASLt's objects is bound to a thread, and these have one owner.
unsafe impl Send for Library {}

/// Algorithms that are tried: the best by cuBLASLt's own word.
const CANDIDATES: usize = 6;

/// Times that each is.
const TRIALS: usize = 3;

/// So many times as slow as the best so far, it is not tried again.
const HOPELESS: f32 = 2.0;

/// Bytes of random numbers that come from the host.
const PATTERN: u64 = 4 << 20;

/// CUBLAS_OP_T of `cublasOperation_t` in CUDA's library_types.h, which the bindings lack.
const TRANSPOSED: i32 = 1;

impl Library {
    /// With the current context's card.
    pub(super) fn open(workspace: &Workspace) -> Result<Self, DeviceError> {
        // SAFETY: the library's constructors, run here, are those of NVIDIA's.
        if !unsafe { sys::is_culib_present() } {
            let why = "cuBLASLt, which computes products of many rows, is not installed: there is no libcublasLt";
            return Err(DeviceError(why.into()));
        }
        let handle = Handle(named("cublasLtCreate", result::create_handle())?);
        let (_, bytes) = workspace.library();
        Ok(Self { plans: HashMap::new(), multiply: Multiply::new()?, preference: Preference::new(bytes)?, handle })
    }

    /// Finds the algorithm that cuBLASLt thinks best, if none is known. Nothing runs.
    pub(super) fn prepare(&mut self, shape: Shape) -> Result<(), DeviceError> {
        if self.plans.contains_key(&shape) {
            return Ok(());
        }
        let layouts = Layouts::of(shape)?;
        let algorithm = self.candidates(shape, &layouts)?[0];
        self.plans.insert(shape, Plan { layouts, algorithm, tried: false });
        Ok(())
    }

    /// Finds the fastest algorithm: computes the product several times, from the weights that are there and random numbers,
    /// since the card slows down under load and not all algorithms alike. `gemm.x`, `gemm.y` and the workspace are
    /// overwritten.
    pub(super) fn try_out(&mut self, gemm: &Gemm, stream: &Stream, workspace: &Workspace) -> Result<(), DeviceError> {
        let shape = gemm.shape;
        if self.plans.get(&shape).is_some_and(|plan| plan.tried) {
            return Ok(());
        }
        fill(gemm.x, 2 * u64::from(shape.m) * u64::from(shape.k), stream)?;
        let layouts = Layouts::of(shape)?;
        let mut best = None;
        for algorithm in self.candidates(shape, &layouts)? {
            let multiply = || self.multiply(&layouts, &algorithm, gemm, stream, workspace);
            let least = best.map_or(f32::INFINITY, |(least, _)| least);
            let time = time(multiply, least, stream, workspace)?;
            if best.is_none() || time < least {
                best = Some((time, algorithm));
            }
        }
        let (_, algorithm) = best.ok_or_else(|| none(shape))?;
        self.plans.insert(shape, Plan { layouts, algorithm, tried: true });
        Ok(())
    }

    /// Of a shape that was prepared.
    pub(super) fn run(&self, gemm: &Gemm, stream: &Stream, workspace: &Workspace) -> Result<(), DeviceError> {
        let plan = self.plans.get(&gemm.shape);
        let plan = plan.ok_or_else(|| DeviceError(format!("cuBLASLt: {:?} was not prepared", gemm.shape)))?;
        self.multiply(&plan.layouts, &plan.algorithm, gemm, stream, workspace)
    }

    /// To cuBLASLt, which goes down columns, y is `n` by `m`, and the weights are to be transposed.
    fn multiply(
        &self,
        layouts: &Layouts,
        algorithm: &cublasLtMatmulAlgo_t,
        gemm: &Gemm,
        stream: &Stream,
        workspace: &Workspace,
    ) -> Result<(), DeviceError> {
        let (one, zero) = (1.0f32, 0.0f32);
        let (scratch, bytes) = workspace.library();
        let y = pointer(gemm.y);
        // SAFETY: all objects are valid; `bounds` has seen to the memory of the matrices, which are of the layouts' sizes;
        // both factors are read before the call returns.
        let multiplied = unsafe {
            result::matmul(
                self.handle.0,
                self.multiply.0,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                pointer(gemm.weights),
                layouts.weights.0,
                pointer(gemm.x),
                layouts.x.0,
                y,
                layouts.y.0,
                y,
                layouts.y.0,
                algorithm,
                pointer(scratch),
                bytes as usize,
                stream.handle().cast(),
            )
        };
        named("cublasLtMatmul", multiplied).map_err(|error| DeviceError(format!("{error} of {:?}", gemm.shape)))
    }

    /// The best first; at least one.
    fn candidates(&self, shape: Shape, layouts: &Layouts) -> Result<Vec<cublasLtMatmulAlgo_t>, DeviceError> {
        let empty = cublasLtMatmulHeuristicResult_t {
            algo: cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut found = [empty; CANDIDATES];
        let mut count = 0;
        // SAFETY: all objects are valid; it writes at most CANDIDATES results, and their number.
        let asked = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle.0,
                self.multiply.0,
                layouts.weights.0,
                layouts.x.0,
                layouts.y.0,
                layouts.y.0,
                self.preference.0,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        named("cublasLtMatmulAlgoGetHeuristic", asked.result())
            .map_err(|error| DeviceError(format!("{error} of {shape:?}")))?;
        let good = found.iter().take(count.max(0) as usize).filter(|one| one.state.result().is_ok());
        let good: Vec<_> = good.map(|one| one.algo).collect();
        if good.is_empty() { Err(none(shape)) } else { Ok(good) }
    }
}

fn none(shape: Shape) -> DeviceError {
    DeviceError(format!("cuBLASLt has no algorithm for {shape:?}"))
}

/// The shortest of several, in milliseconds, each with nothing of the matrices in the cache. Gives up on what is far from
/// `least`.
fn time(
    multiply: impl Fn() -> Result<(), DeviceError>,
    least: f32,
    stream: &Stream,
    workspace: &Workspace,
) -> Result<f32, DeviceError> {
    let (start, end) = (Event::new()?, Event::new()?);
    let (scratch, bytes) = workspace.library();
    // What is loaded at its first launch is not part of its time.
    multiply()?;
    let mut best = f32::INFINITY;
    for _ in 0..TRIALS {
        stream.clear(scratch, bytes)?;
        stream.record(&start)?;
        multiply()?;
        stream.record(&end)?;
        end.synchronize()?;
        best = best.min(end.since(&start)?);
        if best > HOPELESS * least {
            break;
        }
    }
    Ok(best)
}

/// Random numbers, which repeat where there are many.
fn fill(at: u64, bytes: u64, stream: &Stream) -> Result<(), DeviceError> {
    let numbers = random_bf16(bytes.min(PATTERN) as usize);
    stream.copy_in(at, &numbers)?;
    let mut filled = numbers.len() as u64;
    while filled < bytes {
        let more = filled.min(bytes - filled);
        stream.copy(at + filled, at, more)?;
        filled += more;
    }
    // `numbers` goes.
    stream.synchronize()
}

/// Below 2, of all magnitudes. By SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
fn random_bf16(bytes: usize) -> Vec<u8> {
    let words = (1..=bytes.div_ceil(8) as u64).flat_map(|index| {
        let mut word = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let finite = (word ^ (word >> 31)) & 0xbfff_bfff_bfff_bfff;
        finite.to_le_bytes()
    });
    words.take(bytes).collect()
}

impl Layouts {
    fn of(shape: Shape) -> Result<Self, DeviceError> {
        let Shape { m, n, k } = shape;
        Ok(Self { weights: MatrixLayout::new(k, n)?, x: MatrixLayout::new(k, m)?, y: MatrixLayout::new(n, m)? })
    }
}

impl Multiply {
    fn new() -> Result<Self, DeviceError> {
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let made = result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F);
        let made = Self(named("cublasLtMatmulDescCreate", made)?);
        let attribute = cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        let value = ptr::from_ref(&TRANSPOSED).cast();
        // SAFETY: the object is valid; so many bytes are read before the call returns.
        let set = unsafe { result::set_matmul_desc_attribute(made.0, attribute, value, size_of_val(&TRANSPOSED)) };
        named("cublasLtMatmulDescSetAttribute", set)?;
        Ok(made)
    }
}

impl Preference {
    fn new(workspace: u64) -> Result<Self, DeviceError> {
        let made = Self(named("cublasLtMatmulPreferenceCreate", result::create_matmul_pref())?);
        let attribute = cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let value = ptr::from_ref(&workspace).cast();
        // SAFETY: the object is valid; so many bytes are read before the call returns.
        let set = unsafe { result::set_matmul_pref_attribute(made.0, attribute, value, size_of_val(&workspace)) };
        named("cublasLtMatmulPreferenceSetAttribute", set)?;
        Ok(made)
    }
}

impl MatrixLayout {
    /// Whose columns follow each other.
    fn new(rows: u32, columns: u32) -> Result<Self, DeviceError> {
        let made = result::create_matrix_layout(cudaDataType::CUDA_R_16BF, rows.into(), columns.into(), rows.into());
        Ok(Self(named("cublasLtMatrixLayoutCreate", made)?))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it was made once; the device waits for its work before it goes.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

impl Drop for Multiply {
    fn drop(&mut self) {
        // SAFETY: it was made once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: it was made once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

impl Drop for MatrixLayout {
    fn drop(&mut self) {
        // SAFETY: it was made once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

fn named<T>(call: &str, result: Result<T, CublasError>) -> Result<T, DeviceError> {
    result.map_err(|error| DeviceError(format!("{call}: {error}")))
}

fn pointer(at: u64) -> *mut c_void {
    ptr::with_exposed_provenance_mut(at as usize)
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn random_numbers_are_finite_and_differ() {
        let bytes = random_bf16(1001);
        assert_eq!(bytes.len(), 1001);
        let numbers: Vec<bf16> = bytes.chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]])).collect();
        assert!(numbers.iter().all(|number| number.to_f32().abs() < 2.0));
        let distinct: std::collections::HashSet<u16> = numbers.iter().map(|number| number.to_bits()).collect();
        assert!(distinct.len() > 450, "{}", distinct.len());
    }
}
