//! `divvy state`.

use serde_json::json;

use super::args::{Global, State};
use super::output::{Failure, print_json, printable};
use super::{agent, need_root};
use crate::agent::{describe_inventory, is_unknown};
use crate::launch::Folder;
use crate::ledger::Ledger;

pub(super) async fn run(global: &Global, args: &State) -> Result<u8, Failure> {
    need_root("state")?;
    match args {
        State::Dump => {
            let ledger = Ledger::new(&global.settings()?.state);
            print_json(&json!({ "schema": crate::ledger::SCHEMA, "records": ledger.records()? }));
            Ok(0)
        }
        State::Check => check(global).await,
        State::Rebuild => rebuild(global).await,
    }
}

async fn check(global: &Global) -> Result<u8, Failure> {
    let mut found: Vec<String> = Vec::new();
    let state = global.settings()?.state;
    let ledger = Ledger::new(&state);
    let records = match ledger.records() {
        Ok(records) => records,
        Err(error) => {
            found.push(error.to_string());
            vec![]
        }
    };
    for record in records.iter().filter(|r| r.has_container()) {
        let folder = Folder::new(&state, &record.id);
        match folder.record() {
            Ok(copy) if copy.slices == record.slices => {}
            Ok(_) => found.push(format!(
                "{}: its own copy of the record differs in its slices",
                record.name
            )),
            Err(error) => found.push(format!("{}: {error}", record.name)),
        }
        if is_unknown(record) {
            found.push(format!(
                "{name}: its record was lost with the ledger, so nobody knows what it holds; all devices are closed until it ends: divvy stop {name}",
                name = record.name
            ));
        }
        if record.holds() && matches!(folder.try_lock(), Ok(Some(_))) {
            found.push(format!(
                "{}: nobody carries it; `divvy ps` picks it up",
                record.name
            ));
        }
    }
    if let Ok(entries) = std::fs::read_dir(state.join("workloads")) {
        for entry in entries.filter_map(Result::ok) {
            let id = entry.file_name().to_string_lossy().into_owned();
            if !records.iter().any(|r| r.id == id) && !Folder::new(&state, &id).is_late() {
                found.push(format!("{} belongs to no record", entry.path().display()));
            }
        }
    }
    match agent(global) {
        Ok(agent) => {
            let (inventory, _) = agent.inventory().await;
            let (_, problems) = describe_inventory(&inventory, &records);
            found.extend(problems.iter().map(ToString::to_string));
            let strange = agent.strange_containers(&records).await;
            found.extend(strange.into_iter().map(|name| {
                format!(
                    "the container {name} of the engine belongs to no record; docker rm -f {name}"
                )
            }));
        }
        Err(failure) => failure.print(global.json),
    }
    if global.json {
        print_json(&json!({ "records": records.len(), "problems": found }));
    } else if found.is_empty() {
        say!("{} records, all well", records.len());
    } else {
        found.iter().for_each(|line| say!("{}", printable(line)));
    }
    Ok(u8::from(!found.is_empty()))
}

async fn rebuild(global: &Global) -> Result<u8, Failure> {
    let rebuilt = agent(global)?.rebuild().await?;
    let code = u8::from(!rebuilt.unreadable.is_empty());
    if global.json {
        print_json(&rebuilt);
        return Ok(code);
    }
    if let Some(aside) = rebuilt.set_aside {
        say!("the old ledger is now {}", aside.display());
    }
    let count = rebuilt.records.len();
    if rebuilt.sound {
        say!("the ledger is sound and was left alone; it has {count} records");
    } else {
        say!("the new ledger has {count} records");
    }
    rebuilt
        .unreadable
        .iter()
        .for_each(|line| say!("could not be read: {}", printable(line)));
    for name in &rebuilt.unknown {
        say!(
            "{name} may run and nobody knows what it holds: all devices are closed until it ends; divvy stop {name}"
        );
    }
    Ok(code)
}
