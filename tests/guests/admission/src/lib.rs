//! An admission policy that does whatever its mode says is wrong.

use sluice_sdk::admission::{Admission, ArrivalView, FlowView, NextFlow, Rejection, Verdict};
use sluice_sdk::{Policy, choice, config, export_admission};

choice! {
    /// What is wrong with it.
    pub enum Mode {
        Honest = "honest",
        TrapAdmit = "trap-admit",
        TrapNext = "trap-next",
        EndlessLoop = "endless-loop",
        /// Serves a tenant that nobody knows.
        UnknownTenant = "unknown-tenant",
        /// Never serves tenant 1 while another waits.
        StarveTenant = "starve-tenant",
        /// Serves nobody until the end of time.
        HoldForever = "hold-forever",
        RejectAll = "reject-all",
        /// Lets a request in to make no token.
        DegradeToNothing = "degrade-to-nothing",
        /// A reason longer than a result may be.
        GiantReason = "giant-reason",
    }
}

config! {
    pub struct Config {
        /// What is wrong with it.
        pub mode: Mode = Mode::Honest;
    }
}

pub struct HostileAdmission(Mode);

export_admission!(HostileAdmission);

impl Policy for HostileAdmission {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self(config.mode))
    }
}

impl Admission for HostileAdmission {
    fn admit(&mut self, view: &ArrivalView) -> Verdict {
        match self.0 {
            Mode::TrapAdmit => panic!("trap in admit"),
            Mode::EndlessLoop => loop {
                std::hint::black_box(view.now);
            },
            Mode::RejectAll => Verdict::Reject(Rejection::busy("never", u64::MAX)),
            Mode::DegradeToNothing => Verdict::Degrade(0),
            Mode::GiantReason => Verdict::Reject(Rejection::busy("x".repeat(1 << 16), 0)),
            _ => Verdict::Accept(view.request.priority),
        }
    }

    fn next(&mut self, view: &FlowView) -> NextFlow {
        let waiting = view.waiting().map(|flow| flow.tenant);
        match self.0 {
            Mode::TrapNext => panic!("trap in next"),
            Mode::UnknownTenant => NextFlow::Serve(u64::MAX - 1),
            Mode::HoldForever => NextFlow::HoldUntil(u64::MAX),
            Mode::StarveTenant => NextFlow::Serve(waiting.max_by_key(|tenant| (*tenant != 1, *tenant)).unwrap_or(0)),
            _ => NextFlow::Serve(waiting.min().unwrap_or(0)),
        }
    }
}
