//! A routing policy that does whatever its mode says is wrong.

use sluice_sdk::routing::{Choice, Route, Routing, View};
use sluice_sdk::{Policy, choice, config, export_routing};

choice! {
    /// What is wrong with it.
    pub enum Mode {
        Honest = "honest",
        TrapRank = "trap-rank",
        EndlessLoop = "endless-loop",
        UnknownIds = "unknown-ids",
        DuplicateIds = "duplicate-ids",
        /// Ranks no replica.
        Nothing = "nothing",
        /// Costs that are no numbers.
        NanCosts = "nan-costs",
        /// Holds the request until the end of time.
        HoldForever = "hold-forever",
        GiantResult = "giant-result",
    }
}

config! {
    pub struct Config {
        /// What is wrong with it.
        pub mode: Mode = Mode::Honest;
    }
}

pub struct HostileRouting(Mode);

export_routing!(HostileRouting);

impl Policy for HostileRouting {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self(config.mode))
    }
}

impl Routing for HostileRouting {
    fn rank(&mut self, view: &View) -> Route {
        let choices = |cost: f64| view.ready().map(move |replica| Choice { replica: replica.id, cost });
        match self.0 {
            Mode::TrapRank => panic!("trap in rank"),
            Mode::EndlessLoop => loop {
                std::hint::black_box(view.now);
            },
            Mode::UnknownIds => Route::Ranked(vec![Choice { replica: u32::MAX - 1, cost: 0.0 }]),
            Mode::DuplicateIds => Route::Ranked(choices(0.0).chain(choices(0.0)).collect()),
            Mode::Nothing => Route::Ranked(Vec::new()),
            Mode::NanCosts => Route::Ranked(choices(f64::NAN).collect()),
            Mode::HoldForever => Route::HoldUntil(u64::MAX),
            Mode::GiantResult => Route::Ranked(vec![Choice { replica: 0, cost: 0.0 }; 1 << 14]),
            Mode::Honest => Route::Ranked(choices(0.0).collect()),
        }
    }
}
