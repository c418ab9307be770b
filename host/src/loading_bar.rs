//! Shows on a terminal how far a model has been read; says nothing anywhere else.

use std::sync::OnceLock;

use indicatif::{ProgressBar, ProgressStyle};
use sluice_checkpoint::Progress;

/// Drawn once it is known how much there is to read, and cleared when the model is there.
#[derive(Default)]
pub(crate) struct LoadingBar(OnceLock<ProgressBar>);

impl Progress for LoadingBar {
    fn advanced(&self, bytes: u64, total: u64) {
        self.0.get_or_init(|| bar(total)).set_position(bytes);
    }
}

impl Drop for LoadingBar {
    fn drop(&mut self) {
        if let Some(bar) = self.0.get() {
            bar.finish_and_clear();
        }
    }
}

/// On standard error, and hidden where that is no terminal.
fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "loading {bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
    );
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
