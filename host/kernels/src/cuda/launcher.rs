//! Turns operations into launches, and launches them, with all that this takes: kernels, cuBLASLt, their memory.

use std::collections::HashMap;
use std::env;

use super::args::{MAP_TOKENS, TensorMap};
use super::bounds;
use super::calls::{self, Call, Site};
use super::driver::{DeviceMemory, Stream, tensor_map};
use super::kernels::Kernels;
use super::library::Library;
use super::workspace::Workspace;
use crate::op::{BLOCK_TOKENS, KvPool};
use crate::{Address, Card, DeviceError, Op};

/// Set to 1, every operation is waited for, recorded ones too, so that an error names the kernel that made it.
const SYNCHRONOUS: &str = "SLUICE_CUDA_SYNC";

pub(super) struct Launcher {
    /// Of caches that a kernel has read so.
    maps: HashMap<KvPool, [TensorMap; 2]>,
    kernels: Kernels,
    /// None until the first product of its kind.
    library: Option<Library>,
    workspace: Workspace,
    /// What the workspace is a plan of.
    _memory: DeviceMemory,
    synchronous: bool,
}

/// Whether algorithms are tried out, which overwrites what products read and make, and what is dequantised.
#[derive(Clone, Copy)]
pub(super) enum Trial<'a> {
    On(&'a Stream),
    Never,
}

impl Launcher {
    pub(super) fn new(card: &Card, stream: &Stream) -> Result<Self, DeviceError> {
        let workspace = Workspace::plan(card);
        let memory = DeviceMemory::zeros(workspace.bytes(), stream)?;
        Ok(Self {
            maps: HashMap::new(),
            kernels: Kernels::load()?,
            library: None,
            workspace: workspace.at(memory.at()),
            _memory: memory,
            synchronous: env::var_os(SYNCHRONOUS).is_some_and(|value| value == "1"),
        })
    }

    pub(super) fn is_synchronous(&self) -> bool {
        self.synchronous
    }

    /// Appends the launches of `op`, which can be issued from now on.
    pub(super) fn prepare(
        &mut self,
        op: &Op,
        card: &Card,
        memory: &DeviceMemory,
        trial: Trial<'_>,
        calls: &mut Vec<Call>,
    ) -> Result<(), DeviceError> {
        let first = calls.len();
        bounds::check(op, memory.bytes())?;
        self.map_cache(op, card, memory.at())?;
        let site = Site { card, memory: memory.at(), workspace: &self.workspace, maps: &self.maps };
        calls::plan(op, site, calls)?;
        calls[first..].iter().try_for_each(|call| self.prepare_call(call, card, trial))?;
        match (op, trial) {
            // The product behind it is tried with weights as they are: equal ones would take less power, and mislead.
            (Op::Dequantize(_), Trial::On(stream)) => self.issue_all(&calls[first..], card, stream),
            _ => Ok(()),
        }
    }

    fn prepare_call(&mut self, call: &Call, card: &Card, trial: Trial<'_>) -> Result<(), DeviceError> {
        let gemm = match call {
            Call::Kernel(launch) => return self.kernels.prepare(card, launch),
            Call::Library(gemm) => gemm,
        };
        let library = match &mut self.library {
            Some(library) => library,
            none => none.insert(Library::open(&self.workspace)?),
        };
        match trial {
            Trial::On(stream) => library.try_out(gemm, stream, &self.workspace),
            Trial::Never => library.prepare(gemm.shape),
        }
    }

    /// Describes the cache to the units that copy from it, once for each pool, where a kernel reads it so.
    fn map_cache(&mut self, op: &Op, card: &Card, memory: u64) -> Result<(), DeviceError> {
        let Op::PrefillAttention(attention) = op else { return Ok(()) };
        let pool = attention.cache.pool;
        if !card.has_wgmma() || self.maps.contains_key(&pool) {
            return Ok(());
        }
        let heads = u64::from(pool.layers) * u64::from(pool.blocks) * u64::from(pool.kv_heads);
        let groups = heads * u64::from(BLOCK_TOKENS / MAP_TOKENS);
        let map = |address: Address| tensor_map(memory + address.0, groups);
        self.maps.insert(pool, [map(pool.keys)?, map(pool.values)?]);
        Ok(())
    }

    /// What was prepared.
    pub(super) fn issue(&self, call: &Call, overlaps: bool, card: &Card, stream: &Stream) -> Result<(), DeviceError> {
        let issued = match call {
            Call::Kernel(launch) => self
                .kernels
                .of(launch, card)
                .and_then(|(kernel, block)| stream.launch(kernel, launch.grid, block, &launch.arguments, overlaps)),
            Call::Library(gemm) => match &self.library {
                Some(library) => library.run(gemm, stream, &self.workspace),
                None => Err(DeviceError("it was not prepared".into())),
            },
        };
        issued.map_err(|error| DeviceError(format!("launching {}: {error}", call.name())))
    }

    /// Each after the one before it has ended.
    pub(super) fn issue_all(&self, calls: &[Call], card: &Card, stream: &Stream) -> Result<(), DeviceError> {
        for call in calls {
            self.issue(call, false, card, stream)?;
            if self.synchronous {
                stream.synchronize().map_err(|error| DeviceError(format!("{}: {error}", call.name())))?;
            }
        }
        Ok(())
    }
}
