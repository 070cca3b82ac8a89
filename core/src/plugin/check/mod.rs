//! The conformance suite: does a plugin keep the contract?
//!
//! Named checks, each with its rule and remedy, made in plugin hosts of their
//! own; neither ledger nor state folder is needed. What a reply must look like
//! is not written down again here: `validate` says it, and a check says which
//! [`Rule`] was broken. How a plugin must *behave* is here, one file for each
//! operation: data (id, rule, remedy) and a function that tries it.
//!
//! `bench` runs hosts and keeps what was said; `survey` asks once what the
//! others build on; `report` is what comes out.
//!
//! The checks prepare and release real slices: on a machine that is in use, on
//! devices that may be in use.

pub(super) mod bench;
mod discover;
mod errors;
mod host;
mod interrupts;
mod manifest;
mod open;
mod prepare;
mod release;
mod report;
mod restore;
mod sample;
mod started;
mod survey;
mod watch;

use std::path::Path;

use futures_util::future::LocalBoxFuture;

use super::rule::Rule;
use super::validate;
use super::wire::Op;
use bench::{Bench, Checked, Stop, skipped};

pub(crate) use bench::{Exchange, Subject, shortened};
pub(crate) use interrupts::Interrupts;
pub(crate) use report::{Finding, Report, Verdict};

/// One check.
#[derive(Clone, Copy)]
struct Check {
    /// Its stable id, `GROUP.WHAT`.
    id: &'static str,
    /// What must be so, in one sentence.
    rule: &'static str,
    /// What an author does about it.
    remedy: &'static str,
    /// How it is looked at.
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    /// By what validation said of the replies.
    Keeps(Rule),
    /// By trying.
    Try(for<'a> fn(&'a mut Bench) -> LocalBoxFuture<'a, Checked>),
}

/// A check that tries something: `check!("id", "rule", "remedy", function)`.
macro_rules! check {
    ($id:expr, $rule:literal, $remedy:literal, $how:path) => {
        $crate::plugin::check::Check {
            id: $id,
            rule: $rule,
            remedy: $remedy,
            how: $crate::plugin::check::How::Try(|bench| Box::pin($how(bench))),
        }
    };
}
use check;

/// All checks, in the order in which they are made: what comes first, the
/// others need.
fn all() -> Vec<Check> {
    let groups: [(Op, &[Check]); 9] = [
        (Op::Manifest, &manifest::CHECKS),
        (Op::Open, &open::CHECKS),
        (Op::Discover, &discover::CHECKS),
        (Op::Watch, &watch::CHECKS),
        (Op::Prepare, &prepare::CHECKS),
        (Op::Started, &started::CHECKS),
        (Op::Release, &release::CHECKS),
        (Op::Restore, &restore::CHECKS),
        (Op::Sample, &sample::CHECKS),
    ];
    let mut all = Vec::new();
    for (op, tries) in groups {
        all.extend_from_slice(tries);
        let rules = Rule::ALL.iter().filter(|rule| rule.op() == op);
        all.extend(rules.map(|rule| Check {
            id: rule.id(),
            rule: rule.sentence(),
            remedy: rule.remedy(),
            how: How::Keeps(*rule),
        }));
    }
    all.extend_from_slice(&errors::CHECKS);
    all.extend_from_slice(&host::CHECKS);
    all
}

/// The ids of all checks.
pub(crate) fn ids() -> Vec<&'static str> {
    all().iter().map(|check| check.id).collect()
}

/// Makes the checks: all, or those of these ids and groups.
pub(crate) async fn run(subject: Subject, only: &[String], interrupts: &mut Interrupts) -> Report {
    let mut report = Report::new(&subject.file.path);
    let mut bench = Bench::new(subject);
    for check in all() {
        if !only.is_empty() && !only.iter().any(|wanted| is_meant(wanted, check.id)) {
            continue;
        }
        bench.begin();
        let looked = interrupts.until(look(&mut bench, &check)).await;
        let Some(checked) = looked else {
            report.interrupted = true;
            bench.tidy().await;
            return report;
        };
        let last = bench.last();
        report.findings.push(Finding::new(&check, checked, last));
        bench.tidy().await;
    }
    let survey = bench.survey().await;
    report.plugin = survey.manifest().ok().map(|m| (m.name, m.version));
    report.nothing_here = survey.nothing_here().map(str::to_owned);
    report
}

async fn look(bench: &mut Bench, check: &Check) -> Checked {
    match check.how {
        How::Keeps(rule) => keeps(bench, rule).await,
        How::Try(how) => how(bench).await,
    }
}

/// Of a file that others can change nothing is loaded, so nothing else is looked
/// at.
pub(crate) fn unsafe_file(file: &Path, why: &str) -> Report {
    const NOT_LOADED: &str = "the file is not loaded: see file.safe";
    let mut report = Report::new(file);
    report.nothing_here = Some(NOT_LOADED.into());
    report.findings = all()
        .iter()
        .map(|check| match check.id {
            manifest::SAFE => Finding::new(check, bench::failed(why), None),
            _ => Finding::new(check, skipped(NOT_LOADED), None),
        })
        .collect();
    report
}

/// A whole id, or the beginning of ids up to a dot.
pub(crate) fn is_meant(wanted: &str, id: &str) -> bool {
    id == wanted
        || id
            .strip_prefix(wanted)
            .is_some_and(|rest| rest.starts_with('.'))
}

/// Did the replies keep this rule?
async fn keeps(bench: &mut Bench, rule: Rule) -> Checked {
    let op = rule.op();
    let lies = match &*bench.lies(op).await {
        Ok(lies) => lies.clone(),
        Err(Stop::Skipped(why)) => return skipped(why),
        // Whose check fails is the one of the operation itself.
        Err(Stop::Failed(..)) => {
            return skipped(format!("{0} does not work: see {0}.works", op.name()));
        }
    };
    if let Some((lie, exchange)) = lies.iter().find(|(lie, _)| lie.rule == rule) {
        return Err(Stop::Failed(lie.to_string(), exchange.clone()));
    }
    match lies.first() {
        Some((lie, _)) => skipped(format!("refused for another reason: see {}", lie.rule.id())),
        None => Ok(()),
    }
}

/// Two documents as texts, where they begin to differ.
fn differs(a: &str, b: &str) -> String {
    let at = a.bytes().zip(b.bytes()).position(|(a, b)| a != b);
    let from = a.floor_char_boundary(at.unwrap_or(a.len().min(b.len())).saturating_sub(40));
    let from_b = b.floor_char_boundary(from);
    format!(
        "first …{}, then …{}",
        shortened(&a[from..], 120),
        shortened(&b[from_b..], 120)
    )
}

/// The same, of anything that becomes JSON.
fn same<T: serde::Serialize + PartialEq>(first: &T, then: &T, what: &str) -> Checked {
    if first == then {
        return Ok(());
    }
    let text = |value: &T| serde_json::to_string(value).unwrap_or_default();
    bench::failed(format!("{what}: {}", differs(&text(first), &text(then))))
}

/// Is this text without what moves a cursor?
fn is_plain(text: &str) -> bool {
    validate::printable(text, usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_has_an_id_a_rule_and_a_remedy_of_its_own() {
        let all = all();
        assert!(all.len() >= 40, "{} checks", all.len());
        let mut ids = BTreeSet::new();
        for check in &all {
            assert!(ids.insert(check.id), "{} is there twice", check.id);
            let (group, what) = check.id.split_once('.').expect("GROUP.WHAT");
            assert!(!group.is_empty() && !what.is_empty(), "{}", check.id);
            for text in [check.rule, check.remedy] {
                let last = text.chars().last();
                assert!(matches!(last, Some('.' | '?')), "{}: {text:?}", check.id);
            }
        }
        for rule in Rule::ALL {
            assert!(ids.contains(rule.id()), "{}", rule.id());
        }
    }

    #[test]
    fn a_group_means_its_checks() {
        assert!(is_meant("release", "release.twice"));
        assert!(is_meant("release.twice", "release.twice"));
        assert!(!is_meant("rel", "release.twice"));
        assert!(!is_meant("release.twice", "release.twice-more"));
    }

    #[test]
    fn a_difference_is_shown_where_it_begins() {
        let long = "x".repeat(200);
        let text = differs(&format!("{long}a"), &format!("{long}é"));
        assert_eq!(text, format!("first …{0}a, then …{0}é", "x".repeat(40)));
        assert_eq!(differs("", "é"), "first …, then …é");
    }
}
