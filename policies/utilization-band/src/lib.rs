//! Batching: the 70/85 rule. Once per new device sample, below the band the limit on running sequences grows, above
//! it shrinks, within it starts over.
//!
//! Its faults are known. NVML's utilisation says that some kernel ran, so continuous decode reads near 1 at any batch
//! size; more load makes smaller batches and so longer queues; the band resets from anywhere; memory runs out by
//! tokens, not by sequences. With roofline share as its signal it means what its author wanted.

use sluice_sdk::batching::{Batching, Phase, Schedule, View};
use sluice_sdk::state::{Reader, Writer};
use sluice_sdk::{DeviceSample, Policy, choice, config, export_batching};

choice! {
    /// Which utilisation the rule looks at.
    pub enum Signal {
        Nvml = "nvml",
        EngineBusy = "engine-busy",
        RooflineShare = "roofline-share",
    }
}

choice! {
    /// What the steps are added to.
    pub enum Base {
        /// The limit in force: the rule as its text and its flow chart have it.
        Limit = "limit",
        /// The length of the pool of waiting sequences: the rule as its listing has it, where the pool has just
        /// been emptied.
        Pool = "pool",
    }
}

config! {
    pub struct Config {
        /// Utilisation as NVML reports it, as the share of time that steps keep the device busy, or as the share of
        /// what the device could do.
        pub signal: Signal = Signal::EngineBusy;
        /// Below this ratio the limit grows.
        pub low: f64 = 0.70, 0.0..=1.0;
        /// Above this ratio the limit shrinks.
        pub high: f64 = 0.85, 0.0..=1.0;
        /// The limit at the start and after every sample within the band.
        pub start: u32 = 8, 1..=65_536;
        /// By how many sequences it grows.
        pub step_up: u32 = 4, 0..=65_536;
        /// By how many sequences it shrinks.
        pub step_down: u32 = 2, 0..=65_536;
        /// It never grows above this.
        pub max: u32 = 32, 1..=65_536;
        /// It never shrinks below this.
        pub min: u32 = 4, 1..=65_536;
        /// Whether steps are added to the limit in force, or to the length of the waiting pool, as the listing does.
        pub base: Base = Base::Limit;
        /// Tokens in a step at most; the engine's own limit where it is lower or this is null.
        pub token_budget: Option<u32> = None, 1..=1_048_576;
    }
}

pub struct UtilizationBand {
    config: Config,
    limit: u32,
    /// The last sample that was acted on.
    sample: Option<u64>,
}

export_batching!(UtilizationBand);

impl Policy for UtilizationBand {
    type Config = Config;
    const STATE_SCHEMA: &'static str = "utilization-band/1";

    fn new(config: Config) -> Result<Self, String> {
        if config.low > config.high {
            return Err("`low` must not be above `high`".to_owned());
        }
        if config.min > config.max {
            return Err("`min` must not be above `max`".to_owned());
        }
        Ok(Self { limit: config.start, sample: None, config })
    }

    fn export_state(&self) -> Vec<u8> {
        let mut state = Writer::default();
        state.u32(self.limit);
        state.finish()
    }

    fn import_state(&mut self, bytes: &[u8]) -> bool {
        let limit = Reader::new(bytes).u32();
        self.limit = limit.unwrap_or(self.limit).clamp(self.config.min, self.config.max.max(self.config.start));
        limit.is_some()
    }
}

impl Batching for UtilizationBand {
    fn plan(&mut self, view: &View) -> Schedule {
        if let Some(sample) = view.engine.device.filter(|sample| self.sample != Some(sample.number)) {
            self.sample = Some(sample.number);
            self.adjust(&sample, view);
        }
        let budget = self.config.token_budget.unwrap_or(u32::MAX);
        Schedule::limits(self.limit.min(view.limits.max_sequences), budget.min(view.limits.max_batched_tokens))
    }
}

impl UtilizationBand {
    /// Without a signal the limit stays as it is.
    fn adjust(&mut self, sample: &DeviceSample, view: &View) {
        let Config { low, high, start, step_up, step_down, max, min, .. } = self.config;
        let Some(utilization) = self.signal(sample) else { return };
        let base = self.base(view);
        self.limit = if utilization < low {
            base.saturating_add(step_up).min(max)
        } else if utilization > high {
            base.saturating_sub(step_down).max(min)
        } else {
            start
        };
    }

    fn signal(&self, sample: &DeviceSample) -> Option<f64> {
        let signal = match self.config.signal {
            Signal::Nvml => sample.nvml_gpu,
            Signal::EngineBusy => Some(sample.engine_busy),
            Signal::RooflineShare => sample.roofline_share,
        };
        signal.filter(|ratio| ratio.is_finite())
    }

    fn base(&self, view: &View) -> u32 {
        match self.config.base {
            Base::Limit => self.limit,
            Base::Pool => view.sequences().filter(|sequence| sequence.phase == Phase::Waiting).count() as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_sdk::batching::Sequence;

    fn view(number: u64, utilization: Option<f64>) -> View {
        let mut view = View::default();
        view.limits.max_sequences = 256;
        view.limits.max_batched_tokens = 2048;
        let sample = DeviceSample { number, nvml_gpu: utilization, ..DeviceSample::default() };
        view.engine.device = Some(sample);
        view
    }

    fn band(config: Config) -> UtilizationBand {
        UtilizationBand::new(Config { signal: Signal::Nvml, ..config }).unwrap()
    }

    /// The limits after one sample each of these utilisations.
    fn check(config: Config, utilization: &[f64], limits: &[u32]) {
        let mut band = band(config);
        let got: Vec<u32> = (1..)
            .zip(utilization)
            .map(|(number, utilization)| band.plan(&view(number, Some(*utilization))).max_running)
            .collect();
        assert_eq!(got, limits, "{utilization:?}");
    }

    #[test]
    fn below_the_band_the_limit_grows_by_four_up_to_32() {
        check(Config::default(), &[0.5; 8], &[12, 16, 20, 24, 28, 32, 32, 32]);
    }

    #[test]
    fn above_the_band_the_limit_shrinks_by_two_down_to_4() {
        check(Config::default(), &[0.9; 4], &[6, 4, 4, 4]);
    }

    #[test]
    fn within_the_band_and_on_its_edges_the_limit_starts_over_from_anywhere() {
        check(Config::default(), &[0.5, 0.5, 0.70, 0.9, 0.85, 0.8], &[12, 16, 8, 6, 8, 8]);
    }

    #[test]
    fn a_sample_is_acted_on_once() {
        let mut band = band(Config::default());
        let limits = [1, 1, 1, 2].map(|number| band.plan(&view(number, Some(0.1))).max_running);
        assert_eq!(limits, [12, 12, 12, 16]);
    }

    #[test]
    fn without_a_signal_the_limit_holds() {
        let mut band = band(Config::default());
        assert_eq!(band.plan(&View { engine: Default::default(), ..view(1, None) }).max_running, 8);
        assert_eq!(band.plan(&view(1, None)).max_running, 8);
        assert_eq!(band.plan(&view(2, Some(f64::NAN))).max_running, 8);
    }

    #[test]
    fn each_signal_is_read_from_its_own_column() {
        for (signal, limit) in [(Signal::Nvml, 12), (Signal::EngineBusy, 6), (Signal::RooflineShare, 8)] {
            let mut view = view(1, Some(0.1));
            view.engine.device = view.engine.device.map(|sample| DeviceSample {
                engine_busy: 0.99,
                roofline_share: Some(0.75),
                ..sample
            });
            let mut band = UtilizationBand::new(Config { signal, ..Config::default() }).unwrap();
            assert_eq!(band.plan(&view).max_running, limit, "{signal:?}");
        }
    }

    #[test]
    fn from_the_pool_steps_start_at_the_number_that_waits() {
        let mut band = band(Config { base: Base::Pool, ..Config::default() });
        assert_eq!(band.plan(&view(1, Some(0.1))).max_running, 4, "an emptied pool");
        let mut full = view(2, Some(0.1));
        for id in 0..10 {
            full.sequences.push(Sequence { id, ..sequence() });
        }
        assert_eq!(band.plan(&full).max_running, 14);
    }

    fn sequence() -> Sequence {
        Sequence {
            id: 0,
            tenant: 0,
            priority: 0,
            phase: Phase::Waiting,
            prompt_tokens: 1,
            computed_tokens: 0,
            generated_tokens: 0,
            max_new_tokens: 1,
            blocks_held: 0,
            blocks_exclusive: 0,
            preemptions: 0,
            arrival: 0,
            first_token_time: None,
            last_token_time: None,
            deadline: None,
        }
    }

    #[test]
    fn the_engines_limits_are_never_exceeded() {
        let mut band = band(Config { token_budget: Some(1 << 20), ..Config::default() });
        let mut view = view(1, Some(0.1));
        view.limits.max_sequences = 3;
        assert_eq!(band.plan(&view), Schedule::limits(3, 2048));
    }

    #[test]
    fn the_limit_survives_a_swap() {
        let mut old = band(Config::default());
        old.plan(&view(1, Some(0.1)));
        let mut new = band(Config::default());
        assert!(new.import_state(&old.export_state()));
        assert_eq!(new.plan(&view(2, None)).max_running, 12);
        assert!(!new.import_state(&[1]));
        assert_eq!(new.limit, 12);
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused() {
        assert!(UtilizationBand::new(Config { low: 0.9, ..Config::default() }).is_err());
        assert!(UtilizationBand::new(Config { min: 33, ..Config::default() }).is_err());
    }
}
