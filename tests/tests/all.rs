//! The one binary of integration tests: a list of modules.

mod hostile;
