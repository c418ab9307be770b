//! Batching: what does the next step compute?

pub use crate::bindings::batching::exports::sluice::policy::batching_policy::{
    BatchingView as View, Chunk, EngineLimits, EngineNow, LastStep, Schedule, SequenceTable,
};
pub use crate::rows::{Phase, Sequence};

pub trait Batching: crate::Policy {
    /// Once per step that has something to decide.
    fn plan(&mut self, view: &View) -> Schedule;
}

impl View {
    /// The sequences that the replica holds, in order of arrival.
    pub fn sequences(&self) -> impl DoubleEndedIterator<Item = Sequence> + ExactSizeIterator + Clone + '_ {
        self.sequences.rows()
    }
}

impl Schedule {
    /// Limits alone: the host fills in the rest, first come, first served.
    pub fn limits(max_running: u32, token_budget: u32) -> Self {
        Self { max_running, token_budget, ..Self::default() }
    }
}

/// Exports a batching policy from its crate: the component on wasm32, the name and version everywhere.
#[macro_export]
macro_rules! export_batching {
    ($policy:ident) => {
        $crate::package!($policy);

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "the canonical ABI's exports are generated")]
        const _: () = {
            use $crate::batching::{Batching, Schedule, View};

            $crate::component!($policy, batching);

            impl $crate::bindings::batching::exports::sluice::policy::batching_policy::Guest for Component {
                fn plan(view: View) -> Schedule {
                    INSTANCE.with(|instance| instance.call(|policy| policy.plan(&view)))
                }
            }
        };
    };
}
