//! What was heard of GPUs: by the kernel's log and by NVML's events, each thing once.

use std::time::{Duration, Instant};

/// What happened to a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The GPU's id.
    pub(crate) gpu: String,
    /// Its PCI address.
    pub(crate) address: String,
    pub(crate) what: What,
    /// The GPU instance, where it is one's.
    pub(crate) gi: Option<u32>,
    /// The process, where it is known: the kernel's log has it.
    pub(crate) pid: Option<u32>,
    /// The process's cgroups as they were then.
    pub(crate) cgroup: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Xid(u64),
    /// An ECC error in two bits. What follows, the XID says that comes with it.
    DoubleBit,
}

/// The same is told once in this time: it is heard twice, and a program may fail over and
/// over.
const ONCE: Duration = Duration::from_secs(10);
/// So much waits to be told at most.
const MOST: usize = 256;

/// What was heard lately, and what of it waits to be told.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    recent: Vec<(Heard, Instant)>,
    pub(crate) untold: Vec<Heard>,
}

impl Hearing {
    /// Takes in what the log has. Its lines say more than events do: one that was told as
    /// an event already is no news; one that waits gains its process.
    pub(crate) fn logged(&mut self, lines: Vec<Heard>, now: Instant) {
        self.forget(now);
        for line in lines {
            let mut recent = self.recent.iter();
            if recent.any(|(heard, _)| is_same(heard, &line)) {
                continue;
            }
            let mut recent = self.recent.iter_mut();
            let event = recent.find(|(heard, _)| is_event_of(heard, &line));
            match event {
                Some((event, _)) => {
                    let mut untold = self.untold.iter_mut();
                    if let Some(waits) = untold.find(|waits| *waits == event) {
                        *waits = line.clone();
                    }
                    *event = line;
                }
                None => self.add(line, now),
            }
        }
    }

    /// Takes in events, of which the log said nothing.
    pub(crate) fn told(&mut self, events: Vec<Heard>, now: Instant) {
        self.forget(now);
        for event in events {
            let mut recent = self.recent.iter();
            let known = |(heard, _): &(Heard, Instant)| {
                heard.gpu == event.gpu
                    && heard.what == event.what
                    && (event.gi.is_none() || heard.gi == event.gi)
            };
            if !recent.any(known) {
                self.add(event, now);
            }
        }
    }

    fn add(&mut self, heard: Heard, now: Instant) {
        if self.untold.len() < MOST {
            self.untold.push(heard.clone());
        }
        self.recent.push((heard, now));
    }

    fn forget(&mut self, now: Instant) {
        self.recent.retain(|(_, at)| now.duration_since(*at) < ONCE);
        let excess = self.recent.len().saturating_sub(4 * MOST);
        self.recent.drain(..excess);
    }
}

fn is_same(one: &Heard, other: &Heard) -> bool {
    let key = |heard: &Heard| (heard.gpu.clone(), heard.what, heard.gi, heard.pid);
    key(one) == key(other)
}

/// Is it an event that was told of what this line says?
fn is_event_of(event: &Heard, line: &Heard) -> bool {
    event.gpu == line.gpu
        && event.what == line.what
        && event.pid.is_none()
        && (event.gi.is_none() || event.gi == line.gi)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(xid: u64, gi: Option<u32>, pid: Option<u32>) -> Heard {
        Heard {
            gpu: "g".into(),
            address: "a".into(),
            what: What::Xid(xid),
            gi,
            pid,
            cgroup: None,
        }
    }

    #[test]
    fn each_thing_once_and_no_thing_for_another() {
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        let mut hearing = Hearing::default();
        let took = |hearing: &mut Hearing| {
            let untold = std::mem::take(&mut hearing.untold);
            untold
                .iter()
                .map(|heard| (heard.gi, heard.pid))
                .collect::<Vec<_>>()
        };
        // By the log first, then as an event.
        hearing.logged(vec![heard(31, None, Some(7))], now);
        hearing.told(vec![heard(31, None, None)], now);
        assert_eq!(took(&mut hearing), [(None, Some(7))]);
        // By an event first: while it waits it gains its process; told, it is no news.
        hearing.told(vec![heard(13, None, None)], now);
        hearing.logged(vec![heard(13, None, Some(8))], now);
        assert_eq!(took(&mut hearing), [(None, Some(8))]);
        hearing.told(vec![heard(43, None, None)], now);
        assert_eq!(took(&mut hearing).len(), 1);
        hearing.logged(vec![heard(43, None, Some(8))], now);
        assert_eq!(took(&mut hearing), []);
        // Two programs, and two instances.
        hearing.logged(
            vec![heard(94, Some(1), Some(1)), heard(94, Some(5), Some(2))],
            now,
        );
        assert_eq!(took(&mut hearing).len(), 2);
        hearing.told(
            vec![heard(45, Some(1), None), heard(45, Some(5), None)],
            now,
        );
        assert_eq!(took(&mut hearing).len(), 2);
        // Over and over.
        hearing.logged(vec![heard(31, None, Some(7))], later(9));
        assert_eq!(took(&mut hearing), []);
        hearing.logged(vec![heard(31, None, Some(7))], later(11));
        assert_eq!(took(&mut hearing).len(), 1);
    }
}
