//! What comes out of the checks.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Check;
use super::bench::{Checked, Exchange, Stop};

/// What became of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// The rule is kept.
    Pass,
    /// It is broken.
    Fail,
    /// It could not be looked at.
    Skipped,
}

/// One check and what was found.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    /// The check's id.
    pub(crate) check: &'static str,
    /// What must be so.
    pub(crate) rule: &'static str,
    /// Is it?
    pub(crate) verdict: Verdict,
    /// How the rule is broken, or why it could not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// The call that shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) call: Option<Exchange>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<&'static str>,
}

impl Finding {
    /// `last` is the last call that was made.
    pub(super) fn new(check: &Check, checked: Checked, last: Option<Exchange>) -> Self {
        let mut finding = Self {
            check: check.id,
            rule: check.rule,
            verdict: Verdict::Pass,
            why: None,
            call: None,
            remedy: None,
        };
        match checked {
            Ok(()) => {}
            Err(Stop::Skipped(why)) => {
                finding.verdict = Verdict::Skipped;
                finding.why = Some(why);
            }
            Err(Stop::Failed(why, call)) => {
                finding.verdict = Verdict::Fail;
                finding.why = Some(why);
                finding.call = call.or(last);
                finding.remedy = Some(check.remedy);
            }
        }
        finding
    }
}

/// All that was found.
#[derive(Debug)]
pub(crate) struct Report {
    /// The plugin's file.
    pub(crate) file: PathBuf,
    /// Its name and version, if its manifest is good.
    pub(crate) plugin: Option<(String, String)>,
    /// Why there are no devices to try things with, if so: the reason for which
    /// most was skipped.
    pub(crate) nothing_here: Option<String>,
    /// Did somebody press Ctrl-C before the end?
    pub(crate) interrupted: bool,
    /// In the order of the checks.
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            plugin: None,
            nothing_here: None,
            interrupted: false,
            findings: vec![],
        }
    }

    /// How many checks ended so.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        let ended = |f: &&Finding| f.verdict == verdict;
        self.findings.iter().filter(ended).count()
    }
}
