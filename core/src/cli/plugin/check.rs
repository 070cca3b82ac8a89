//! `divvy plugin check`.

use serde_json::json;

use super::{open, subject};
use crate::cli::args::{self, Global};
use crate::cli::output::{Failure, print_json, printable};
use crate::plugin::check::{self, Exchange, Finding, Report, Verdict};

/// What is shown of a document, bytes.
const SHOWN: usize = 200;

pub(super) async fn run(global: &Global, args: &args::Check) -> Result<u8, Failure> {
    for wanted in &args.only {
        if !check::ids().iter().any(|id| check::is_meant(wanted, id)) {
            let message = format!(
                "--only {wanted:?} is no check and no group of checks; `divvy plugin check` without it names them"
            );
            return Err(Failure::words("no_such_check", message));
        }
    }
    let report = match open(&args.file)? {
        Ok(file) => {
            let subject = subject(global, file)?;
            check::run(subject, &args.only, &mut super::interrupts()?).await
        }
        Err(error) => check::unsafe_file(&args.file, &error.to_string()),
    };
    if report.interrupted {
        return Ok(super::interrupted());
    }
    if global.json {
        as_json(&report);
    } else {
        as_text(&report);
    }
    Ok(u8::from(report.count(Verdict::Fail) > 0))
}

fn as_json(report: &Report) {
    let plugin = report.plugin.as_ref();
    print_json(&json!({
        "file": report.file,
        "plugin": plugin.map(|(name, version)| json!({ "name": name, "version": version })),
        "nothing_here": report.nothing_here,
        "passed": report.count(Verdict::Pass),
        "failed": report.count(Verdict::Fail),
        "skipped": report.count(Verdict::Skipped),
        "checks": report.findings,
    }));
}

fn as_text(report: &Report) {
    // Where it stops early, most is skipped for one reason: said once.
    let nothing_here = |f: &&Finding| f.why.is_some() && f.why == report.nothing_here;
    for finding in report.findings.iter().filter(|f| !nothing_here(f)) {
        show(finding);
    }
    if let Some((name, version)) = &report.plugin {
        say!("plugin {} {}", printable(name), printable(version));
    }
    if let Some(why) = &report.nothing_here {
        let skipped = report.findings.iter().filter(nothing_here).count();
        say!("{skipped} checks were skipped: {}", printable(why));
    }
    say!(
        "{} passed, {} failed, {} skipped",
        report.count(Verdict::Pass),
        report.count(Verdict::Fail),
        report.count(Verdict::Skipped)
    );
}

fn show(finding: &Finding) {
    let Finding { check, rule, .. } = finding;
    let why = finding.why.as_deref().map(printable).unwrap_or_default();
    match finding.verdict {
        Verdict::Pass => say!("ok    {check:30} {rule}"),
        Verdict::Skipped => say!("skip  {check:30} {why}"),
        Verdict::Fail => {
            say!("FAIL  {check:30} {rule}");
            say!("        {why}");
            if let Some(call) = &finding.call {
                say!("        {}", line(call));
            }
            if let Some(remedy) = finding.remedy {
                say!("        Remedy: {remedy}");
            }
        }
    }
}

/// A call on one line.
pub(super) fn line(call: &Exchange) -> String {
    let short = |text: &str| printable(&check::shortened(text, SHOWN));
    format!(
        "{} {} → {}  ({} ms)",
        call.op,
        short(&call.request),
        short(&call.reply),
        call.ms
    )
}
