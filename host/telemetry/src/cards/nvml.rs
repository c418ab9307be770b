//! The cards as NVIDIA's management library knows them. It is loaded where the program runs.

use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::gpm::GpmMetricId;
use nvml_wrapper::gpm::gpm_metrics_get;
use nvml_wrapper::{Device, GpmSample, Nvml};

use super::library::{Activity, Answer, Card, Library, Memory, Utilization};

impl Library for Nvml {
    type Card<'a> = NvmlCard<'a>;

    fn card(&self, uuid: &str) -> Answer<NvmlCard<'_>> {
        Ok(NvmlCard { nvml: self, device: self.device_by_uuid(uuid)? })
    }
}

pub(super) struct NvmlCard<'a> {
    nvml: &'a Nvml,
    device: Device<'a>,
}

impl<'a> Card for NvmlCard<'a> {
    /// Of the performance monitoring that Hopper and newer have; older cards refuse it.
    type Counters = GpmSample<'a>;

    fn utilization(&self) -> Answer<Utilization> {
        let percent = self.device.utilization_rates()?;
        Ok(Utilization { gpu: ratio(percent.gpu.into()), memory: ratio(percent.memory.into()) })
    }

    fn memory(&self) -> Answer<Memory> {
        let info = self.device.memory_info()?;
        Ok(Memory { used_bytes: info.used, total_bytes: info.total })
    }

    fn power_watts(&self) -> Answer<f64> {
        Ok(f64::from(self.device.power_usage()?) / 1e3)
    }

    fn sm_clock_hz(&self) -> Answer<u64> {
        Ok(u64::from(self.device.clock_info(Clock::SM)?) * 1_000_000)
    }

    fn throttle_reasons(&self) -> Answer<u64> {
        Ok(self.device.current_throttle_reasons()?.bits())
    }

    fn counters(&self) -> Answer<GpmSample<'a>> {
        self.device.gpm_sample()
    }

    fn activity(&self, before: &GpmSample<'a>, after: &GpmSample<'a>) -> Answer<Activity> {
        let metrics = gpm_metrics_get(self.nvml, before, after, &[GpmMetricId::SmUtil, GpmMetricId::DramBwUtil])?;
        // One of the two may be missing where the other is not.
        let value = |index: usize| metrics.get(index)?.as_ref().ok().map(|metric| ratio(metric.value));
        Ok(Activity { sm: value(0), dram: value(1) })
    }
}

fn ratio(percent: f64) -> f64 {
    (percent / 100.0).clamp(0.0, 1.0)
}
