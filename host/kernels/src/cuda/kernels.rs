//! The kernels as a card has loaded them.

use std::collections::HashMap;

use super::calls::Launch;
use super::compiled::{Block, Compiled, FATBINS, find};
use super::driver::{Kernel, Module};
use crate::{Card, DeviceError};

pub(super) struct Kernels {
    /// Of each fat binary.
    modules: Vec<Module>,
    /// Those that were asked for.
    known: HashMap<&'static str, Known>,
}

struct Known {
    kernel: Kernel,
    compiled: &'static Compiled,
    /// Bytes of shared memory that launches may have, beside what is fixed.
    allowed: u32,
}

impl Kernels {
    pub(super) fn load() -> Result<Self, DeviceError> {
        let modules = FATBINS.iter().map(|fatbin| Module::load(fatbin.name, fatbin.image));
        Ok(Self { modules: modules.collect::<Result<_, _>>()?, known: HashMap::new() })
    }

    /// Before a launch: sees to it that the card can run the kernel so.
    pub(super) fn prepare(&mut self, card: &Card, launch: &Launch) -> Result<(), DeviceError> {
        let name = launch.kernel;
        if !self.known.contains_key(name) {
            let (module, compiled) = find(name)?;
            let known = Known { kernel: self.modules[module].kernel(name)?, compiled, allowed: 0 };
            self.known.insert(name, known);
        }
        let Some(known) = self.known.get_mut(name) else { return Ok(()) };
        let wanted = known.compiled.block(launch, card)?.shared_bytes;
        if wanted > known.allowed {
            known.kernel.allow_shared(wanted).map_err(|error| DeviceError(format!("kernel {name}: {error}")))?;
            known.allowed = wanted;
        }
        Ok(())
    }

    /// Of a launch that was prepared.
    pub(super) fn of(&self, launch: &Launch, card: &Card) -> Result<(&Kernel, Block), DeviceError> {
        let known = self.known.get(launch.kernel);
        let known = known.ok_or_else(|| DeviceError(format!("kernel {} was not prepared", launch.kernel)))?;
        Ok((&known.kernel, known.compiled.block(launch, card)?))
    }
}
