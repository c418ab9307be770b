//! Fits the number of connections to the files that the process may open: every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::EdgeLimits;

/// For everything that is not a connection of the API: the model, the logs, policies, the admin listener.
const RESERVE: u64 = 128;

impl EdgeLimits {
    /// Lets the process open as many files as the system allows it, and takes no more connections than that leaves room
    /// for. Beyond the limit nothing works, not even to say so.
    #[must_use]
    pub fn within_open_files(self) -> Self {
        let connections = fitting(self.connections, raised());
        if connections < self.connections {
            tracing::warn!(
                connections,
                asked = self.connections,
                "fewer connections are taken than server.max_connections says, since the process may not open more files: \
                 raise its limit (ulimit -n)"
            );
        }
        Self { connections, ..self }
    }
}

/// How many files may be open, once the limit is as high as it can be; `None` without a limit.
fn raised() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            limit.current
        }
    }
}

/// Where the files are so few that the reserve would be most of them, it is half.
fn fitting(connections: usize, files: Option<u64>) -> usize {
    let room = files.map_or(u64::MAX, |files| files.saturating_sub(RESERVE).max(files / 2).max(1));
    connections.min(usize::try_from(room).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_other_files() {
        for (connections, files, expected) in [
            (4096, None, 4096),
            (4096, Some(1 << 20), 4096),
            (4096, Some(1024), 896),
            (100, Some(1024), 100),
            (4096, Some(128), 64),
            (4096, Some(1), 1),
        ] {
            assert_eq!(fitting(connections, files), expected, "{files:?}");
        }
    }

    #[test]
    fn the_limit_is_as_high_as_it_can_be() {
        let limits = EdgeLimits { connections: 1, ..EdgeLimits::default() }.within_open_files();
        assert_eq!(limits.connections, 1);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
