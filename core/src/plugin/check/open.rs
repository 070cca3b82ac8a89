//! `open`: the beginning of every host's life.

use std::collections::BTreeMap;

use divvy_plugin::{ErrorCode, OpenRequest};

use super::bench::{Bench, Checked, failed, skipped};
use super::{Check, check};
use crate::plugin::client::unknown_setting;
use crate::plugin::wire::Op;

pub(super) const CHECKS: [Check; 5] = [
    check!(
        "deadline.open",
        "open answers within its deadline.",
        "Wait for no hardware in open: look, and say absent or driver.",
        in_time
    ),
    check!(
        "open.works",
        "open succeeds with these settings, or says that the hardware is absent.",
        "Answer absent where hardware, driver or library is missing; invalid for a bad setting.",
        works
    ),
    check!(
        "open.unknown-key-refused",
        "A plugin with settings refuses a key that is none of them, as invalid.",
        "Answer ErrorCode::Invalid for every other key: a misspelt setting must not be ignored.",
        unknown_key
    ),
    check!(
        "open.beside-another",
        "The plugin can be open in several hosts at once.",
        "Take nothing that another process is then refused: every command has hosts of its own.",
        beside_another
    ),
    check!(
        "open.after-kill",
        "open succeeds after a host was killed.",
        "Leave nothing behind in open; a lock must end with its process.",
        after_kill
    ),
];

async fn in_time(bench: &mut Bench) -> Checked {
    bench.survey().await.manifest()?;
    let mut host = bench.loaded().await?;
    host.ask_in_time(Op::Open, &bench.open_request()).await
}

async fn works(bench: &mut Bench) -> Checked {
    let manifest = bench.survey().await.manifest()?;
    // The agent says so before it asks the plugin.
    if let Some(why) = unknown_setting(&manifest, &bench.subject.config) {
        return failed(why);
    }
    bench.host().await.map(drop)
}

async fn unknown_key(bench: &mut Bench) -> Checked {
    if bench.survey().await.manifest()?.config.is_empty() {
        return skipped("it has no settings");
    }
    let mut config: BTreeMap<_, _> = bench.subject.config.clone();
    config.insert("no-such-setting".into(), "1".into());
    let mut host = bench.loaded().await?;
    let error = host
        .ask_in_vain(
            Op::Open,
            &OpenRequest {
                config,
                ..OpenRequest::default()
            },
        )
        .await?;
    match error.code {
        ErrorCode::Invalid => Ok(()),
        ErrorCode::Absent => skipped(format!("not here: {}", error.message)),
        _ => failed(format!(
            "it was refused, but not as invalid: {}",
            error.message
        )),
    }
}

async fn beside_another(bench: &mut Bench) -> Checked {
    bench.survey().await.manifest()?;
    let _first = bench.host().await?;
    bench.host().await.map(drop)
}

async fn after_kill(bench: &mut Bench) -> Checked {
    bench.survey().await.manifest()?;
    bench.host().await?.kill().await;
    bench.host().await.map(drop)
}
