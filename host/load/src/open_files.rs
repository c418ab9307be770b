//! Lets the process open as many files as the system allows it: every connection is one.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Where the limit cannot be raised, connections fail, and the report says so.
pub(crate) fn allow_many() {
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    let _ = setrlimit(Resource::Nofile, raised);
}
