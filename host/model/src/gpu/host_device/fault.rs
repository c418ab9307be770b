//! What is wrong with an operation: which of its fields, and how.

use std::fmt;

/// On a card it would be an illegal access, or wrong numbers without a word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    field: &'static str,
    problem: String,
}

impl Fault {
    pub(super) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.field, self.problem)
    }
}

/// Whoever finds a fault says what was expected.
pub(super) fn expect(holds: bool, field: &'static str, problem: impl FnOnce() -> String) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(Fault::new(field, problem())) }
}

/// A number that the device's memory holds, which is not negative.
pub(super) fn natural(field: &'static str, number: i32) -> Result<usize, Fault> {
    usize::try_from(number).map_err(|_| Fault::new(field, format!("holds {number}, expected 0 or more")))
}

/// A number that the device's memory holds, as an index below `limit`.
pub(super) fn index(field: &'static str, number: i32, limit: usize) -> Result<usize, Fault> {
    match usize::try_from(number) {
        Ok(index) if index < limit => Ok(index),
        _ => Err(Fault::new(field, format!("holds {number}, expected 0 or more and less than {limit}"))),
    }
}
