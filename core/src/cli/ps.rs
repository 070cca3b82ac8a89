//! `divvy ps`.

use serde_json::json;

use super::args::{Global, Ps};
use super::divvy;
use super::output::{Failure, ago, amounts, print_json, print_table, printable, table};
use crate::model::{Record, State};

pub(super) async fn run(global: &Global, args: &Ps) -> Result<u8, Failure> {
    let records: Vec<Record> = divvy(global, "ps")
        .await?
        .workloads()
        .await?
        .into_iter()
        .filter(|r| args.all || r.state != State::Exited)
        .collect();
    if global.json {
        print_json(&json!({ "workloads": records }));
        return Ok(0);
    }
    if args.quiet {
        records.iter().for_each(|r| say!("{}", r.name));
        return Ok(0);
    }
    let mut shown = table([
        "NAME", "ID", "STATE", "AGE", "SLICE", "ROOT", "RUNTIME", "COMMAND",
    ]);
    for record in &records {
        shown.add_row([
            record.name.clone(),
            record.id.clone(),
            state(record),
            ago(record.created_ms),
            amounts(&record.asked, None),
            printable(&record.root),
            record.runtime.clone(),
            short(&printable(&record.command.join(" "))),
        ]);
    }
    print_table(&shown);
    Ok(0)
}

/// `running`, `exited 0`, `exited 137, out of memory`.
pub(super) fn state(record: &Record) -> String {
    let Some(exit) = &record.exit else {
        return record.state.word().to_owned();
    };
    let code = exit.code.map_or_else(|| "?".into(), |c| c.to_string());
    let memory = if exit.out_of_memory {
        ", out of memory"
    } else {
        ""
    };
    format!("{} {code}{memory}", record.state.word())
}

fn short(text: &str) -> String {
    if text.chars().count() <= 40 {
        return text.to_owned();
    }
    text.chars().take(39).chain(['…']).collect()
}
