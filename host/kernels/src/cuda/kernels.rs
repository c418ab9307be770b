//! The compiled kernels by their names, with what each wants of a launch.

use std::collections::HashMap;

use super::calls::{Launch, Threads};
use super::driver::{Kernel, LaunchShape, Module};
use crate::{Card, DeviceError};

/// Names, and fat binaries for all cards.
const FATBINS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

pub(super) struct Kernels {
    modules: Vec<Module>,
    /// Those that were asked for.
    known: HashMap<&'static str, Known>,
}

struct Known {
    kernel: Kernel,
    threads: u32,
    /// Shared memory that it asks for, beside what is fixed.
    shared: u32,
    /// What launches may have.
    allowed: u32,
}

impl Kernels {
    pub(super) fn load() -> Result<Self, DeviceError> {
        let modules = FATBINS.iter().map(|(name, image)| Module::load(name, image)).collect::<Result<_, _>>()?;
        Ok(Self { modules, known: HashMap::new() })
    }

    /// Before a launch: finds the kernel, and sees to it that the card can run it so.
    pub(super) fn prepare(&mut self, card: &Card, launch: &Launch) -> Result<(), DeviceError> {
        let name = launch.kernel;
        if !self.known.contains_key(name) {
            let known = self.find(name, launch.arguments.bytes().len());
            self.known.insert(name, known.map_err(|error| DeviceError(format!("kernel {name}: {error}")))?);
        }
        self.known.get_mut(name).map_or(Ok(()), |known| known.allow(card, launch))
    }

    fn find(&self, name: &str, argument_bytes: usize) -> Result<Known, DeviceError> {
        for module in &self.modules {
            if let Some(kernel) = module.kernel(name)? {
                kernel.takes(argument_bytes)?;
                let shared = module.constant(&format!("shared_bytes_{name}"))?.unwrap_or(0).max(0) as u32;
                return Ok(Known { kernel, threads: kernel.most_threads()?, shared, allowed: 0 });
            }
        }
        Err(DeviceError("there is none of this name".into()))
    }

    /// Of one that was prepared.
    pub(super) fn of(&self, launch: &Launch, overlaps: bool) -> Result<(&Kernel, LaunchShape), DeviceError> {
        let known = self.known.get(launch.kernel);
        let known = known.ok_or_else(|| DeviceError(format!("kernel {} was not prepared", launch.kernel)))?;
        let threads = match launch.threads {
            Threads::AsCompiled => known.threads,
            Threads::Count(count) => count,
        };
        let shared = known.shared + launch.more_shared;
        Ok((&known.kernel, LaunchShape { grid: launch.grid, threads, shared, overlaps }))
    }
}

impl Known {
    fn allow(&mut self, card: &Card, launch: &Launch) -> Result<(), DeviceError> {
        let (name, wanted) = (launch.kernel, self.shared + launch.more_shared);
        if wanted <= self.allowed {
            return Ok(());
        }
        if wanted > card.shared_bytes {
            let (most, card) = (card.shared_bytes, &card.name);
            return Err(DeviceError(format!(
                "kernel {name} wants {wanted} bytes of shared memory, a {card} has {most}"
            )));
        }
        self.kernel.allow_shared(wanted).map_err(|error| DeviceError(format!("kernel {name}: {error}")))?;
        self.allowed = wanted;
        Ok(())
    }
}
