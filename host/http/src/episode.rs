//! Tells the first of a row of like troubles from the others, so that the log has one line for all of them.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Default)]
pub(crate) struct Episode {
    /// When there was trouble last.
    last: Option<Instant>,
}

/// After so long without trouble, an episode is over.
const QUIET: Duration = Duration::from_secs(10);

impl Episode {
    /// There is trouble; true if it is the first in a while.
    pub(crate) fn begins(&mut self) -> bool {
        let now = Instant::now();
        self.last.replace(now).is_none_or(|last| now - last >= QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_episode_lasts_until_it_was_quiet_for_a_while() {
        let mut episode = Episode::default();
        assert!(episode.begins());
        for _ in 0..5 {
            tokio::time::advance(QUIET / 2).await;
            assert!(!episode.begins());
        }
        tokio::time::advance(QUIET).await;
        assert!(episode.begins());
    }
}
