//! `divvy events`.

use serde_json::json;

use super::args::{Events, Global};
use super::open;
use super::output::{Failure, clock, printable};
use crate::agent::AgentError;

pub(super) async fn run(global: &Global, args: &Events) -> Result<u8, Failure> {
    let divvy = open(global).await?;
    // Without -f: all that the agent remembers.
    let after = match (&args.after, args.follow) {
        (Some(after), _) => Some(after.as_str()),
        (None, true) => None,
        (None, false) => Some("0"),
    };
    let mut events = divvy.events(after, args.follow).await?;
    let lost = |e| AgentError::System("the agent went away", e);
    while let Some((id, event)) = events.next().await.map_err(lost)? {
        if global.json {
            say!("{}", json!({ "id": id, "event": event }));
            continue;
        }
        let holders = match event.holders[..] {
            [] => String::new(),
            _ => format!(" (held by {})", event.holders.join(" ")),
        };
        say!(
            "{id} {} {:<20} {}: {}{holders}",
            clock(event.at_ms),
            event.kind,
            printable(&event.subject),
            printable(&event.message)
        );
    }
    Ok(0)
}
