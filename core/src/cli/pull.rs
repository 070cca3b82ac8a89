//! Pulling an image, with a line for each layer on a terminal.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::output::printable;
use super::terminal::Terminal;
use crate::Divvy;
use crate::agent::AgentError;
use crate::launch::docker::Progress;

/// Has the engine pull an image, unless it has it. An agent that runs does it
/// by itself.
pub(super) async fn pull(divvy: &Divvy, image: &str) -> Result<(), AgentError> {
    let Some(agent) = divvy.agent() else {
        return Ok(());
    };
    let mut shown = Terminal::shows_stderr().then(Bars::default);
    let mut began = false;
    let pulled = agent
        .fetch_image(image, |progress| {
            if !std::mem::replace(&mut began, true) && shown.is_none() {
                tell!("divvy: pulling {}", printable(image));
            }
            if let Some(bars) = &mut shown {
                bars.show(&progress);
            }
        })
        .await;
    if let Some(bars) = shown {
        bars.end();
    }
    pulled
}

/// One bar for each layer.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    layers: BTreeMap<String, ProgressBar>,
}

impl Bars {
    fn show(&mut self, progress: &Progress) {
        // A line of the whole image: its tag, its digest.
        if progress.layer.is_empty() || progress.status.starts_with("Pulling from") {
            return;
        }
        let bar = self
            .layers
            .entry(progress.layer.clone())
            .or_insert_with(|| self.all.add(ProgressBar::no_length().with_style(style())));
        bar.set_prefix(printable(&progress.layer));
        bar.set_message(printable(&progress.status));
        if let Some((done, of)) = progress.bytes {
            bar.set_length(of);
            bar.set_position(done);
        }
        if progress.status.ends_with("complete") || progress.status == "Already exists" {
            bar.set_position(bar.length().unwrap_or(1));
            bar.abandon();
        }
    }

    /// What was pulled is no news.
    fn end(self) {
        // A terminal that is gone needs no clearing.
        let _ = self.all.clear();
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{prefix:12} {msg:18} {bar:24} {binary_bytes}/{binary_total_bytes}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}
