//! Finds what models are computed on.

use anyhow::{Result, bail};

use crate::config::DeviceChoice;

pub(crate) enum Device {
    Cpu,
    #[cfg(feature = "cuda")]
    Gpus(crate::on_gpu::Gpus),
}

pub(crate) fn find(choice: DeviceChoice) -> Result<Device> {
    let found = match choice {
        DeviceChoice::Cpu => return Ok(Device::Cpu),
        DeviceChoice::Auto | DeviceChoice::Cuda => gpus(),
    };
    match (found, choice) {
        (Ok(device), _) => Ok(device),
        (Err(why), DeviceChoice::Cuda) => bail!("engine.device: {why}"),
        (Err(why), _) => {
            tracing::info!("{why}: models are computed on the CPU");
            Ok(Device::Cpu)
        }
    }
}

#[cfg(feature = "cuda")]
fn gpus() -> Result<Device, String> {
    crate::on_gpu::Gpus::find().map(Device::Gpus)
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Result<Device, String> {
    Err("this program was built without CUDA (`cargo build --release --features cuda` builds it in)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_asked_for_and_is_not_there_is_an_error() {
        assert!(matches!(find(DeviceChoice::Cpu), Ok(Device::Cpu)));
        let (auto, cuda) = (find(DeviceChoice::Auto), find(DeviceChoice::Cuda));
        match auto {
            Ok(Device::Cpu) => assert!(cuda.err().is_some_and(|error| error.to_string().contains("engine.device: "))),
            auto => assert_eq!(auto.is_ok(), cuda.is_ok()),
        }
    }
}
