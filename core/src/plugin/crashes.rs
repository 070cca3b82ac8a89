//! What is remembered of a plugin's crashes, over the lives of hosts and
//! agents: the back-off before the next start, and the quarantine.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// So many crashes within [`WINDOW`] put a plugin in quarantine.
const LIMIT: usize = 5;
/// The time in which crashes are counted, and the length of a quarantine.
const WINDOW: Duration = Duration::from_secs(600);
/// The longest back-off.
const LONGEST: Duration = Duration::from_secs(60);

/// One crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Crash {
    /// When, ms since 1970.
    pub at_ms: u64,
    /// The operation that it was in.
    pub during: String,
    /// How it ended.
    pub reason: String,
}

/// The last crashes of one plugin, oldest first, at most five.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crashes(pub Vec<Crash>);

impl Crashes {
    /// Notes a crash.
    pub fn push(&mut self, crash: Crash) {
        self.0.push(crash);
        if self.0.len() > LIMIT {
            self.0.remove(0);
        }
    }

    /// The last one.
    #[must_use]
    pub fn last(&self) -> Option<&Crash> {
        self.0.last()
    }

    /// Until when (ms since 1970) the plugin is in quarantine, if it is now.
    #[must_use]
    pub fn quarantined_until(&self, now_ms: u64) -> Option<u64> {
        let (first, last) = (self.0.first()?, self.0.last()?);
        let until = last.at_ms.saturating_add(ms(WINDOW));
        let close = last.at_ms.saturating_sub(first.at_ms) <= ms(WINDOW);
        (self.0.len() >= LIMIT && close && until > now_ms).then_some(until)
    }

    /// How long to wait before the next start: nothing after one crash, so
    /// that a call can be tried again at once, then 1, 2, 4 … 60 s, counted
    /// over crashes that followed each other within the window.
    #[must_use]
    pub fn back_off(&self, now_ms: u64) -> Duration {
        let recent = self
            .0
            .iter()
            .filter(|c| c.at_ms.saturating_add(ms(WINDOW)) > now_ms)
            .count();
        let (Some(last), Some(steps)) = (self.0.last(), recent.checked_sub(2)) else {
            return Duration::ZERO;
        };
        let wait = Duration::from_secs(1 << steps.min(6)).min(LONGEST);
        Duration::from_millis(last.at_ms.saturating_add(ms(wait)).saturating_sub(now_ms)).min(wait)
    }

    /// Reads a plugin's history; none, or a broken one, is empty: it only ever
    /// delays.
    #[must_use]
    pub fn load(folder: &Path, plugin: &str) -> Self {
        std::fs::read(path(folder, plugin))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Writes a plugin's history by rename.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, folder: &Path, plugin: &str) -> std::io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        crate::sys::write_private(&path(folder, plugin), &serde_json::to_vec(self)?)
    }
}

fn path(folder: &Path, plugin: &str) -> PathBuf {
    folder.join(format!("{plugin}.json"))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crashes(at_seconds: &[u64]) -> Crashes {
        let mut all = Crashes::default();
        for at in at_seconds {
            all.push(Crash {
                at_ms: at * 1000,
                during: String::new(),
                reason: String::new(),
            });
        }
        all
    }

    #[test]
    fn the_first_crash_is_retried_at_once_then_ever_later() {
        let wait = |at: &[u64], now: u64| crashes(at).back_off(now * 1000).as_secs();
        assert_eq!(wait(&[], 0), 0);
        assert_eq!(wait(&[100], 100), 0);
        assert_eq!(wait(&[100, 101], 101), 1);
        assert_eq!(wait(&[100, 101, 103], 103), 2);
        assert_eq!(wait(&[100, 101, 103], 104), 1);
        assert_eq!(wait(&[100, 101, 103, 107], 120), 0);
        assert_eq!(
            wait(&[100, 101, 103, 107], 50),
            4,
            "a clock set back waits no longer"
        );
    }

    #[test]
    fn five_within_ten_minutes_is_a_quarantine_of_ten() {
        let until = |at: &[u64], now: u64| crashes(at).quarantined_until(now * 1000);
        assert_eq!(until(&[0, 1, 2, 3], 4), None);
        assert_eq!(until(&[0, 1, 2, 3, 4], 5), Some(604_000));
        assert_eq!(until(&[0, 1, 2, 3, 4], 605), None);
        assert_eq!(until(&[0, 200, 400, 600, 800], 801), None);
    }
}
