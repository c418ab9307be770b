//! The kernels that this program carries, and what their compiler said of each.

use super::calls::{Launch, Shared, Threads};
use crate::{Card, DeviceError};

/// Of one source, for all cards.
pub(super) struct Fatbin {
    pub(super) name: &'static str,
    pub(super) image: &'static [u8],
    kernels: &'static [Compiled],
}

/// A kernel.
#[derive(Debug)]
pub(super) struct Compiled {
    name: &'static str,
    /// Of its one argument.
    argument_bytes: Option<u32>,
    /// Of a block, at most.
    threads: Option<u32>,
    /// Of shared memory beside what is fixed, for kernels that want some.
    shared_bytes: Option<u32>,
}

/// What a block is launched with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    pub(super) threads: u32,
    /// Of shared memory beside what is fixed.
    pub(super) shared_bytes: u32,
}

/// As `build.rs` lists them.
pub(super) const FATBINS: &[Fatbin] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// The index of its fat binary, and the kernel.
pub(super) fn find(name: &str) -> Result<(usize, &'static Compiled), DeviceError> {
    let kernels =
        FATBINS.iter().enumerate().flat_map(|(index, fatbin)| fatbin.kernels.iter().map(move |kernel| (index, kernel)));
    let mut found = kernels.filter(|(_, kernel)| kernel.name == name);
    found.next().ok_or_else(|| DeviceError(format!("there is no kernel {name}")))
}

impl Compiled {
    /// Errors: the kernel does not go with these arguments, or a block of it has no room on this card.
    pub(super) fn block(&self, launch: &Launch, card: &Card) -> Result<Block, DeviceError> {
        let name = self.name;
        let handed = launch.arguments.bytes().len();
        if self.argument_bytes.map(|bytes| bytes as usize) != Some(handed) {
            return Err(DeviceError(format!("kernel {name} takes {:?} bytes, not {handed}", self.argument_bytes)));
        }
        let most = self.threads.ok_or_else(|| DeviceError(format!("kernel {name} has no launch bounds")))?;
        let threads = match launch.threads {
            Threads::AsCompiled => most,
            Threads::Count(count) if (1..=most).contains(&count) => count,
            Threads::Count(count) => {
                return Err(DeviceError(format!("kernel {name} of {count} threads, at most {most}")));
            }
        };
        let shared_bytes = match (launch.shared, self.shared_bytes) {
            (Shared::None, None) => 0,
            (Shared::AsCompiled { more }, Some(bytes)) => bytes.saturating_add(more),
            (shared, said) => return Err(DeviceError(format!("kernel {name} with {shared:?}: it wants {said:?}"))),
        };
        if shared_bytes > card.shared_bytes {
            let (card, room) = (&card.name, card.shared_bytes);
            return Err(DeviceError(format!(
                "kernel {name} wants {shared_bytes} bytes of shared memory, a {card} has {room}"
            )));
        }
        Ok(Block { threads, shared_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Card;
    use crate::cuda::args::{Arguments, WidenArgs};
    use crate::product_kernel::KERNELS;

    fn launch(threads: Threads, shared: Shared) -> Launch {
        let arguments = Arguments::of(&WidenArgs { from: 0, out: 0, rows: 0, width: 0 });
        Launch { kernel: "made up", grid: [1; 3], threads, shared, arguments }
    }

    fn kernel(argument_bytes: u32, shared_bytes: Option<u32>) -> Compiled {
        Compiled { name: "made up", argument_bytes: Some(argument_bytes), threads: Some(256), shared_bytes }
    }

    #[test]
    fn a_launch_goes_with_what_was_compiled() {
        let check = |kernel: Compiled, threads, shared, card: &Card, expected: Result<(u32, u32), &str>| {
            let found = kernel.block(&launch(threads, shared), card);
            let found = found.map(|block| (block.threads, block.shared_bytes)).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(|why| format!("kernel made up {why}")));
        };
        let more = |more| Shared::AsCompiled { more };
        let compiled = Threads::AsCompiled;
        check(kernel(24, None), compiled, Shared::None, &Card::rtx_4090(), Ok((256, 0)));
        check(kernel(24, Some(5)), Threads::Count(32), more(3), &Card::rtx_4090(), Ok((32, 8)));
        check(kernel(32, None), compiled, Shared::None, &Card::rtx_4090(), Err("takes Some(32) bytes, not 24"));
        check(
            kernel(24, None),
            Threads::Count(257),
            Shared::None,
            &Card::rtx_4090(),
            Err("of 257 threads, at most 256"),
        );
        check(kernel(24, None), Threads::Count(0), Shared::None, &Card::rtx_4090(), Err("of 0 threads, at most 256"));
        check(kernel(24, Some(5)), compiled, Shared::None, &Card::rtx_4090(), Err("with None: it wants Some(5)"));
        check(
            kernel(24, None),
            compiled,
            more(0),
            &Card::rtx_4090(),
            Err("with AsCompiled { more: 0 }: it wants None"),
        );
        check(kernel(24, Some(200_000)), compiled, more(0), &Card::h200(), Ok((256, 200_000)));
        let too_much = "wants 200000 bytes of shared memory, a NVIDIA GeForce RTX 4090 has 101376";
        check(kernel(24, Some(200_000)), compiled, more(0), &Card::rtx_4090(), Err(too_much));
    }

    /// What products are planned by is what their kernels were compiled for.
    #[test]
    fn blocks_of_products_have_the_warps_that_are_counted_on() {
        for kernel in &KERNELS {
            let (_, compiled) = find(kernel.name).expect("it is compiled");
            assert_eq!(compiled.threads, Some(32 * kernel.warps), "{}", kernel.name);
        }
        let products = FATBINS.iter().filter(|fatbin| fatbin.name.starts_with("product_"));
        assert_eq!(products.map(|fatbin| fatbin.kernels.len()).sum::<usize>(), KERNELS.len());
    }

    #[test]
    fn every_kernel_is_known_whole_and_once() {
        let names: Vec<_> = FATBINS.iter().flat_map(|fatbin| fatbin.kernels).map(|kernel| kernel.name).collect();
        for name in &names {
            let (_, kernel) = find(name).expect("it is listed");
            assert!(kernel.argument_bytes.is_some() && kernel.threads.is_some(), "{kernel:?}");
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
        }
        assert_eq!(find("nothing").expect_err("it is not listed").to_string(), "there is no kernel nothing");
    }
}
