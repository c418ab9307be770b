//! A component that traps when it is asked what it is, so it is written without the SDK's macros.

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "the canonical ABI's exports are generated")]
mod component {
    use sluice_sdk::batching::{Schedule, View};
    use sluice_sdk::{Descriptor, Events, State, bindings};

    struct Component;

    impl bindings::lifecycle::exports::sluice::policy::lifecycle::Guest for Component {
        fn describe() -> Descriptor {
            panic!("trap in describe")
        }

        fn configure(_json: String) -> Result<(), String> {
            Ok(())
        }

        fn observe(_events: Events) {}

        fn export_state() -> State {
            State::default()
        }

        fn import_state(_state: State) -> bool {
            false
        }
    }

    impl bindings::batching::exports::sluice::policy::batching_policy::Guest for Component {
        fn plan(_view: View) -> Schedule {
            Schedule::default()
        }
    }

    bindings::lifecycle::export!(Component with_types_in bindings::lifecycle);
    bindings::batching::export!(Component with_types_in bindings::batching);
}
