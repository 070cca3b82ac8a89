//! The events of this agent's life: a bounded memory of them, and whoever
//! listens.
//!
//! An id is `EPOCH-NUMBER`; the epoch is the agent's own, so an id of an agent
//! before it, or one that is no longer remembered, is noticed, and answered
//! with an event `gap`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::agent::events::Event;

/// So many events are remembered.
const MEMORY: usize = 4096;

#[derive(Debug)]
pub(super) struct Feed {
    epoch: u64,
    inner: Mutex<Inner>,
    /// The number of the last event.
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Arc<Event>>,
    /// The number of the event behind the last; the first is 1.
    next: u64,
}

/// Where a listener stands: the number of the last event it has.
pub(super) type Place = u64;

impl Feed {
    pub(super) fn new(epoch: u64) -> Self {
        Self {
            epoch,
            inner: Mutex::new(Inner {
                events: VecDeque::new(),
                next: 1,
            }),
            last: watch::Sender::new(0),
        }
    }

    pub(super) fn publish(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let last = {
            let mut inner = self.inner();
            for event in events {
                inner.events.push_back(Arc::new(event));
                inner.next += 1;
            }
            let excess = inner.events.len().saturating_sub(MEMORY);
            inner.events.drain(..excess);
            inner.next - 1
        };
        self.last.send_replace(last);
    }

    /// Told whenever there are more.
    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// The place after an id; `None`: here and now. The event is what is to be
    /// told of it first.
    pub(super) fn place(&self, after: Option<&str>, at_ms: u64) -> (Place, Option<Event>) {
        let inner = self.inner();
        let oldest = inner.next - inner.events.len() as u64;
        let Some(after) = after else {
            return (inner.next - 1, None);
        };
        if after == "0" {
            // All that is remembered.
            return (oldest - 1, None);
        }
        let known = after.split_once('-').and_then(|(epoch, number)| {
            let number: u64 = number.parse().ok()?;
            let mine = epoch.parse() == Ok(self.epoch);
            (mine && number + 1 >= oldest && number < inner.next).then_some(number)
        });
        match known {
            Some(number) => (number, None),
            None => {
                let gap = Event {
                    at_ms,
                    kind: "gap".into(),
                    subject: after.to_owned(),
                    id: None,
                    code: None,
                    owners: vec![],
                    holders: vec![],
                    message: "events between this and the next are not remembered; look at the whole again".into(),
                };
                (oldest - 1, Some(gap))
            }
        }
    }

    /// The events after a place, with their ids.
    pub(super) fn after(&self, place: Place) -> Vec<(Place, String, Arc<Event>)> {
        let inner = self.inner();
        let oldest = inner.next - inner.events.len() as u64;
        let events = inner.events.iter().zip(oldest..);
        events
            .filter(|(_, number)| *number > place)
            .map(|(event, number)| (number, self.id(number), Arc::clone(event)))
            .collect()
    }

    /// The id of a place.
    pub(super) fn id(&self, place: Place) -> String {
        format!("{}-{place}", self.epoch)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> Event {
        Event {
            at_ms: n,
            kind: "device.added".into(),
            subject: n.to_string(),
            id: None,
            code: None,
            owners: vec![],
            holders: vec![],
            message: String::new(),
        }
    }

    fn subjects(feed: &Feed, place: Place) -> Vec<String> {
        feed.after(place)
            .iter()
            .map(|e| e.2.subject.clone())
            .collect()
    }

    #[test]
    fn a_listener_goes_on_where_it_was() {
        let feed = Feed::new(7);
        feed.publish((1..=3).map(event).collect());
        assert_eq!(feed.place(None, 0), (3, None));
        assert_eq!(subjects(&feed, feed.place(Some("0"), 0).0), ["1", "2", "3"]);
        let (place, gap) = feed.place(Some("7-2"), 0);
        assert_eq!((subjects(&feed, place), gap), (vec!["3".to_owned()], None));
    }

    #[test]
    fn what_is_forgotten_is_said() {
        let feed = Feed::new(7);
        feed.publish((1..=MEMORY as u64 + 10).map(event).collect());
        for old in ["7-3", "6-100", "nonsense", "7-99999999"] {
            let (place, gap) = feed.place(Some(old), 5);
            assert_eq!(gap.map(|g| g.kind), Some("gap".into()), "{old}");
            assert_eq!(feed.after(place).len(), MEMORY);
        }
        assert_eq!(feed.place(Some("7-10"), 0).1, None);
    }
}
