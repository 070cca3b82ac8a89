//! How answers and failures are written.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::json;

use super::FAILED;
use crate::agent::AgentError;
use crate::model::{Amount, Inventory, Slice, format_amount};

/// A failure, with its exit code.
#[derive(Debug)]
pub(super) enum Failure {
    /// Of the agent's: 125.
    Agent(AgentError),
    /// Of the words: 2.
    Words { code: &'static str, message: String },
}

impl<E: Into<AgentError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Agent(error.into())
    }
}

impl Failure {
    pub(super) fn words(code: &'static str, message: String) -> Self {
        Self::Words { code, message }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Agent(_) => FAILED,
            Self::Words { .. } => 2,
        }
    }

    pub(super) fn print(&self, json: bool) {
        let (code, message) = match self {
            Self::Agent(error) => (error.code(), error.to_string()),
            Self::Words { code, message } => (*code, message.clone()),
        };
        if json {
            let mut error = json!({ "code": code, "message": message });
            // A refusal explains itself to programs as well.
            if let Self::Agent(agent) = self
                && let Some(refusal) = agent.refusal()
            {
                error["refusal"] = refusal;
            }
            tell!("{}", json!({ "error": error }));
        } else {
            tell!("divvy: {} [{code}]", printable(&message));
        }
    }
}

/// The end of a verb that went through several names: each failure is said, the last
/// one is the verb's.
pub(super) fn each_had_its_turn(mut failed: Vec<Failure>, json: bool) -> Result<u8, Failure> {
    let Some(last) = failed.pop() else {
        return Ok(0);
    };
    for failure in failed {
        failure.print(json);
    }
    Err(last)
}

/// Prints a document.
pub(super) fn print_json(document: &impl Serialize) {
    match serde_json::to_string_pretty(document) {
        Ok(text) => say!("{text}"),
        Err(error) => tell!("divvy: cannot be written as JSON: {error}"),
    }
}

/// A table for people.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// Prints a table without trailing blanks.
pub(super) fn print_table(table: &Table) {
    for line in table.lines() {
        say!("{}", line.trim());
    }
}

/// Strings from containers, plugins and users never move a person's cursor
/// (S20).
pub(super) fn printable(text: &str) -> String {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    text.chars()
        .flat_map(|c| {
            if odd(c) {
                c.escape_unicode().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

/// `cpu 0.5, mem 256 MiB`.
pub(super) fn amounts<'a>(
    amounts: impl IntoIterator<Item = (&'a String, &'a Amount)>,
    inventory: Option<&Inventory>,
) -> String {
    let all: Vec<String> = amounts
        .into_iter()
        .map(|(slot, amount)| {
            let unit = inventory.and_then(|i| i.slot(slot));
            let unit = unit.map_or_else(|| unit_of(slot), |s| s.unit.as_str());
            format!("{slot} {}", format_amount(*amount, unit))
        })
        .collect();
    all.join(", ")
}

/// What a slot counts as far as its name says it: bytes of `mem` and `PLUGIN.mem`.
pub(super) fn unit_of(slot: &str) -> &'static str {
    match slot == "mem" || slot.ends_with(".mem") {
        true => "byte",
        false => "",
    }
}

/// ` (kernel)`: how firmly a slice's limit holds, where it is known.
pub(super) fn level(slice: &Slice) -> String {
    slice
        .level
        .map_or_else(String::new, |level| format!(" ({})", level.as_str()))
}

/// `3m`, `2h`: how long ago.
pub(super) fn ago(since_ms: u64) -> String {
    span(crate::sys::now_ms().saturating_sub(since_ms))
}

/// `3m`, `2h`.
pub(super) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m", seconds / 60),
        3600..=86_399 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The time of day of a time in ms since 1970: UTC, since what others say is so too.
pub(super) fn clock(ms: u64) -> String {
    let seconds = ms / 1000 % 86_400;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_of_the_day() {
        assert_eq!(clock(0), "00:00:00");
        assert_eq!(clock(86_400_000 + 3_723_999), "01:02:03");
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(
            printable("a\x1b[31mb\u{202e}c\nd"),
            "a\\u{1b}[31mb\\u{202e}c\\u{a}d"
        );
        assert_eq!(printable("naïve ✓"), "naïve ✓");
    }
}
