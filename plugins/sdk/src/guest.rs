//! What the export macros expand to: one instance per component, and the lifecycle that every world exports.

use std::cell::RefCell;

use crate::config::parse;
use crate::{Configuration, Descriptor, Policy, State};

/// The component's only instance. Until it is configured it runs with the defaults.
pub struct Instance<P>(RefCell<Option<P>>);

impl<P: Policy> Instance<P> {
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    pub fn configure(&self, json: &str) -> Result<(), String> {
        let policy = configure::<P>(json)?;
        self.0.replace(Some(policy));
        Ok(())
    }

    pub fn call<R>(&self, call: impl FnOnce(&mut P) -> R) -> R {
        let mut slot = self.0.borrow_mut();
        let policy = slot.get_or_insert_with(|| match configure::<P>("{}") {
            Ok(policy) => policy,
            Err(reason) => panic!("the defaults are refused: {reason}"),
        });
        call(policy)
    }
}

impl<P: Policy> Default for Instance<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// A policy from its configuration's JSON.
pub fn configure<P: Policy>(json: &str) -> Result<P, String> {
    P::new(parse(json)?)
}

pub fn describe<P: Policy>() -> Descriptor {
    Descriptor {
        name: P::NAME.to_owned(),
        version: P::VERSION.to_owned(),
        description: P::DESCRIPTION.to_owned(),
        configuration_schema: P::Config::schema(),
        state_schema: P::STATE_SCHEMA.to_owned(),
    }
}

pub fn export_state<P: Policy>(policy: &P) -> State {
    State { schema: P::STATE_SCHEMA.to_owned(), bytes: policy.export_state() }
}

/// State of another schema is refused here, so that no policy has to.
pub fn import_state<P: Policy>(policy: &mut P, state: &State) -> bool {
    !P::STATE_SCHEMA.is_empty() && state.schema == P::STATE_SCHEMA && policy.import_state(&state.bytes)
}

/// Takes name, version and description from the policy's Cargo.toml.
#[doc(hidden)]
#[macro_export]
macro_rules! package {
    ($policy:ident) => {
        impl $crate::Package for $policy {
            const NAME: &'static str = env!("CARGO_PKG_NAME");
            const VERSION: &'static str = env!("CARGO_PKG_VERSION");
            const DESCRIPTION: &'static str = env!("CARGO_PKG_DESCRIPTION");
        }
    };
}

/// The type that the generated exports call, its instance, and its lifecycle.
#[doc(hidden)]
#[macro_export]
macro_rules! component {
    ($policy:ident, $decision:ident) => {
        struct Component;

        thread_local! {
            static INSTANCE: $crate::guest::Instance<$policy> = const { $crate::guest::Instance::new() };
        }

        impl $crate::bindings::lifecycle::exports::sluice::policy::lifecycle::Guest for Component {
            fn describe() -> $crate::Descriptor {
                $crate::guest::describe::<$policy>()
            }

            fn configure(json: String) -> Result<(), String> {
                INSTANCE.with(|instance| instance.configure(&json))
            }

            fn observe(events: $crate::Events) {
                INSTANCE.with(|instance| instance.call(|policy| $crate::Policy::observe(policy, &events)));
            }

            fn export_state() -> $crate::State {
                INSTANCE.with(|instance| instance.call(|policy| $crate::guest::export_state(policy)))
            }

            fn import_state(state: $crate::State) -> bool {
                INSTANCE.with(|instance| instance.call(|policy| $crate::guest::import_state(policy, &state)))
            }
        }

        $crate::bindings::lifecycle::export!(Component with_types_in $crate::bindings::lifecycle);
        $crate::bindings::$decision::export!(Component with_types_in $crate::bindings::$decision);
    };
}
