//! Batching: first come, first served, as many as the engine can hold.

use sluice_sdk::batching::{Batching, Schedule, View};
use sluice_sdk::{Policy, config, export_batching};

config! {
    pub struct Config {
        /// Sequences that run at most; the engine's own limit where it is lower or this is null.
        pub max_running: Option<u32> = None, 1..=65_536;
        /// Tokens in a step at most; the engine's own limit where it is lower or this is null.
        pub token_budget: Option<u32> = None, 1..=1_048_576;
    }
}

pub struct FirstCome(Config);

export_batching!(FirstCome);

impl Policy for FirstCome {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self(config))
    }
}

impl Batching for FirstCome {
    fn plan(&mut self, view: &View) -> Schedule {
        let within = |wanted: Option<u32>, limit: u32| wanted.map_or(limit, |wanted| wanted.min(limit));
        Schedule::limits(
            within(self.0.max_running, view.limits.max_sequences),
            within(self.0.token_budget, view.limits.max_batched_tokens),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: Config, expected: (u32, u32)) {
        let mut view = View::default();
        view.limits.max_sequences = 64;
        view.limits.max_batched_tokens = 2048;
        let schedule = FirstCome(config).plan(&view);
        assert_eq!(schedule, Schedule::limits(expected.0, expected.1));
    }

    #[test]
    fn runs_what_the_engine_holds_in_order_of_arrival() {
        check(Config::default(), (64, 2048));
    }

    #[test]
    fn a_configured_limit_holds_up_to_the_engines() {
        check(Config { max_running: Some(8), token_budget: Some(256) }, (8, 256));
        check(Config { max_running: Some(65), token_budget: Some(4096) }, (64, 2048));
    }
}
