//! What Divvy costs. `cargo bench -p divvy-bench` measures everything with
//! release binaries that it builds itself; bench/README.md says what each
//! figure means. A figure over its target is reported, never an error.

mod agent;
mod allocate;
mod docker;
mod figures;
mod launch;
mod ledger;
mod place;
mod plugin;
mod weight;

use std::error::Error;

use criterion::Criterion;

use figures::Figures;
use place::Place;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let asked = |flag: &str| args.iter().any(|a| a == flag);
    // `cargo test --all-targets` comes by as well: nothing to measure then.
    if !asked("--bench") || asked("--test") || asked("--list") {
        println!("nothing measured; run: cargo bench -p divvy-bench [-- NAME]");
        return Ok(());
    }
    let place = Place::build()?;
    let figures = Figures::default();
    let mut criterion = Criterion::default()
        .output_directory(&place.target.join("criterion"))
        .configure_from_args();
    plugin::bench(&mut criterion, &place, &figures)?;
    ledger::bench(&mut criterion, &place, &figures)?;
    allocate::bench(&mut criterion, &figures)?;
    criterion.final_summary();

    if selected(&args, agent::NAME) {
        ledger::shared(&place, &figures)?;
        agent::bench(&place, &figures)?;
    }
    let mut verdicts = Vec::new();
    if selected(&args, launch::NAME) {
        verdicts.extend(launch::bench(&place, &figures)?);
    }
    if selected(&args, docker::NAME) {
        verdicts.extend(docker::bench(&place, &figures)?);
    }
    println!("\n{figures}");
    for verdict in verdicts {
        println!("{verdict}");
    }
    Ok(())
}

/// Does the filter on the command line let this name through? As criterion
/// decides, roughly: no name at all, or a part of this one.
fn selected(args: &[String], name: &str) -> bool {
    const FLAGS: [&str; 5] = ["--bench", "--exact", "--quiet", "--verbose", "--noplot"];
    let mut value_follows = false;
    let mut names = args.iter().filter(|arg| {
        let is_value = value_follows;
        let is_option = arg.starts_with('-');
        value_follows = is_option && !arg.contains('=') && !FLAGS.contains(&arg.as_str());
        !is_option && !is_value
    });
    names
        .next()
        .is_none_or(|filter| name.contains(filter.as_str()))
}
