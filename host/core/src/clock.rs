//! Time, passed in: a real clock in the server, a virtual one in tests and in the simulator.

use crate::Nanos;

pub trait Clock: Send + Sync {
    /// Monotonic, from an origin of the implementor's choice.
    fn now(&self) -> Nanos;
}
