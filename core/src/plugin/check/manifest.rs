//! `manifest`: what a plugin says of itself, before it has seen the machine.

use divvy_plugin::{DefaultAmount, Manifest};

use super::bench::{Bench, Checked, Reply, failed, skipped};
use super::{Check, check, is_plain, same};
use crate::plugin::find;
use crate::plugin::wire::Op;

/// The check that comes before a file is loaded.
pub(super) const SAFE: &str = "file.safe";

pub(super) const CHECKS: [Check; 7] = [
    check!(
        SAFE,
        "The file is a regular one, root's or yours, and nobody else can write to it.",
        "Build with umask 022, or install it: install -m 644 FILE FOLDER.",
        safe
    ),
    check!(
        "file.loads",
        "The file is a shared object with the layout of generation v1, and says its manifest.",
        "Build it with crate-type cdylib, divvy_plugin::export_plugin! and divvy-plugin 1.x.",
        loads
    ),
    check!(
        "deadline.manifest",
        "Loading and manifest take at most 5 s.",
        "Touch nothing in manifest and in static initialisers; begin in open.",
        in_time
    ),
    check!(
        "manifest.constant",
        "The manifest is the same in every process.",
        "Make it of constants; what depends on the machine belongs into discover.",
        constant
    ),
    check!(
        "manifest.described",
        "Version, summary, and every slot and setting are described.",
        "Fill in Manifest::version, the summaries and Slot::unit.",
        described
    ),
    check!(
        "manifest.printable",
        "Texts have no control characters.",
        "Write plain text: it is shown in terminals.",
        printable
    ),
    check!(
        "manifest.defaults",
        "A slot's default is a multiple of its quantum, or like another slot that there is.",
        "Correct Slot::default.",
        defaults
    ),
];

/// It was when it was opened, or nothing would have been loaded; is it still?
async fn safe(bench: &mut Bench) -> Checked {
    match find::open(bench.subject.file.path.clone()) {
        Ok(_) => Ok(()),
        Err(error) => failed(error.to_string()),
    }
}

async fn loads(bench: &mut Bench) -> Checked {
    let mut host = bench.bare()?;
    match host.say(Op::Manifest, &()).await {
        Reply::Yes(text) => match serde_json::from_str::<Manifest>(&text) {
            Ok(_) => Ok(()),
            Err(e) => failed(format!("its manifest cannot be read: {e}")),
        },
        Reply::No(error) => failed(error.message),
        Reply::Nothing(why) => failed(why),
        Reply::Late(_) => skipped("it does not answer in time: see deadline.manifest"),
    }
}

async fn in_time(bench: &mut Bench) -> Checked {
    let mut host = bench.bare()?;
    host.ask_in_time(Op::Manifest, &()).await
}

async fn constant(bench: &mut Bench) -> Checked {
    let first = bench.survey().await.manifest()?;
    let then: Manifest = bench.bare()?.ask(Op::Manifest, &()).await?;
    same(&first, &then, "another process says something else")
}

async fn described(bench: &mut Bench) -> Checked {
    let manifest = bench.survey().await.manifest()?;
    let slots = manifest.slots.iter();
    let slots = slots.flat_map(|s| [(s.name.as_str(), &s.summary), (&s.name, &s.unit)]);
    let settings = manifest
        .config
        .iter()
        .map(|c| (c.name.as_str(), &c.summary));
    let own = [
        ("version", &manifest.version),
        ("summary", &manifest.summary),
    ];
    match own
        .into_iter()
        .chain(slots)
        .chain(settings)
        .find(|(_, text)| text.trim().is_empty())
    {
        Some((what, _)) => failed(format!("of {what} it says nothing")),
        None => Ok(()),
    }
}

async fn printable(bench: &mut Bench) -> Checked {
    let manifest = bench.survey().await.manifest()?;
    let slots = manifest.slots.iter().flat_map(|s| [&s.summary, &s.unit]);
    let settings = manifest.config.iter().map(|c| &c.summary);
    let mut all = [&manifest.version, &manifest.summary]
        .into_iter()
        .chain(slots)
        .chain(settings);
    match all.find(|text| !is_plain(text)) {
        Some(text) => failed(format!("{text:?} moves the cursor")),
        None => Ok(()),
    }
}

async fn defaults(bench: &mut Bench) -> Checked {
    let manifest = bench.survey().await.manifest()?;
    for slot in &manifest.slots {
        let (name, quantum) = (&slot.name, slot.quantum);
        match &slot.default {
            Some(DefaultAmount::Fixed(amount)) if !amount.is_multiple_of(quantum) => {
                return failed(format!("{name}: {amount} is no multiple of {quantum}"));
            }
            Some(DefaultAmount::Like(other)) if manifest.slots.iter().all(|s| s.name != *other) => {
                return failed(format!("{name}: there is no slot {other}"));
            }
            _ => {}
        }
    }
    Ok(())
}
