//! `cargo xtask test`: every check there is, in the order in which they fail
//! fastest, the tests last. CI runs this and nothing else.
//!
//! Everything prints straight through; a summary comes at the end. With
//! `CI=true` what is missing is a failure, else it is skipped and said.

mod needs;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::shell::{self, say};

/// A workspace of its own, which `--all` and `--workspace` leave out.
const EXAMPLE: &str = "examples/plugin-npu/Cargo.toml";

/// What was done, for the summary.
#[derive(Debug, Default)]
struct Steps(Vec<Step>);

#[derive(Debug)]
struct Step {
    name: &'static str,
    end: End,
}

#[derive(Debug)]
enum End {
    Good(Duration),
    Failed(Duration),
    Skipped(String),
}

/// The rules of this run.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// A continuous integration machine: nothing is skipped for want of a tool.
    ci: bool,
}

/// Checks everything, up to the first failure.
pub(crate) fn run(quick: bool) -> Result<()> {
    let rules = Rules {
        ci: std::env::var("CI").is_ok_and(|v| v == "true" || v == "1"),
    };
    let mut steps = Steps::default();
    let result = all(rules, quick, &mut steps);
    eprintln!("\nxtask: summary");
    for step in &steps.0 {
        eprintln!("  {}", step.line());
    }
    result
}

fn all(rules: Rules, quick: bool, steps: &mut Steps) -> Result<()> {
    needs::install(rules, steps)?;
    let fmt = shell::works(&mut shell::cargo(["fmt", "--version"])?);
    let tool = |there: bool, component: &str| {
        (!there).then(|| format!("not installed: rustup component add {component}"))
    };
    steps.cargo(
        rules,
        "format",
        tool(fmt, "rustfmt"),
        &[
            &["fmt", "--all", "--check"],
            &["fmt", "--check", "--manifest-path", EXAMPLE],
        ],
    )?;
    if !quick {
        let clippy = shell::works(&mut shell::cargo(["clippy", "--version"])?);
        let lint = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ];
        let example = [
            "clippy",
            "--all-targets",
            "--locked",
            "--manifest-path",
            EXAMPLE,
            // Beside what the tests build of it.
            "--target-dir",
            "target/plugin-npu",
            "--",
            "-D",
            "warnings",
        ];
        steps.cargo(rules, "lints", tool(clippy, "clippy"), &[&lint, &example])?;
        licences(rules, steps)?;
        steps.cargo(
            rules,
            "documentation",
            None,
            &[&["doc", "--no-deps", "--workspace", "--locked"]],
        )?;
    }
    // Tests start `divvy` and load the plugins' shared objects.
    steps.cargo(
        rules,
        "build",
        None,
        &[&["build", "--workspace", "--locked"]],
    )?;
    let doc_tests = ["test", "--doc", "--workspace", "--locked"];
    if shell::works(&mut shell::cargo(["nextest", "--version"])?) {
        steps.cargo(rules, "doc tests", None, &[&doc_tests])?;
        steps.cargo(
            rules,
            "tests",
            None,
            &[&["nextest", "run", "--workspace", "--locked"]],
        )
    } else {
        // Doc tests are among them.
        steps.cargo(
            rules,
            "tests",
            None,
            &[&["test", "--workspace", "--locked"]],
        )
    }
}

/// cargo-deny is for whoever changes dependencies; its database of advisories
/// comes from the network.
fn licences(rules: Rules, steps: &mut Steps) -> Result<()> {
    if !shell::works(&mut shell::cargo(["deny", "--version"])?) {
        let why = "cargo-deny is not installed: cargo install cargo-deny --locked";
        steps.skip("licences", why);
        return Ok(());
    }
    steps.cargo(
        rules,
        "licences",
        None,
        &[&[
            "deny",
            "--locked",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ]],
    )?;
    if !shell::works(&mut shell::cargo(["deny", "fetch", "db"])?) {
        steps.skip(
            "advisories",
            "their database cannot be fetched; `cargo deny fetch db` says why",
        );
        return Ok(());
    }
    steps.cargo(
        rules,
        "advisories",
        None,
        &[&["deny", "--locked", "check", "advisories"]],
    )
}

// === impl Steps ===

impl Steps {
    /// Runs cargo, once or more. With a reason in `missing` it cannot run.
    fn cargo(
        &mut self,
        rules: Rules,
        name: &'static str,
        missing: Option<String>,
        commands: &[&[&str]],
    ) -> Result<()> {
        if let Some(why) = missing {
            return self.missing(rules, name, why);
        }
        self.time(name, || {
            for args in commands {
                say(format_args!("cargo {}", args.join(" ")));
                let mut command = shell::cargo(*args)?;
                if args.first() == Some(&"doc") {
                    command.env("RUSTDOCFLAGS", "-D warnings");
                }
                if rules.ci {
                    // Each build is from nothing: incremental state only costs.
                    command.env("CARGO_INCREMENTAL", "0");
                    // A test that lacks something fails instead of passing by.
                    command.env("DIVVY_TESTS_REQUIRE", "all");
                } else {
                    command.env_remove("DIVVY_TESTS_REQUIRE");
                }
                shell::run(&mut command)?;
            }
            Ok(())
        })
    }

    fn time(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let result = work();
        let time = start.elapsed();
        let end = if result.is_ok() {
            End::Good(time)
        } else {
            End::Failed(time)
        };
        self.0.push(Step { name, end });
        result
    }

    /// What is missing: a failure in CI, else skipped.
    fn missing(&mut self, rules: Rules, name: &'static str, why: String) -> Result<()> {
        if rules.ci {
            bail!("{name}: {why}");
        }
        self.skip(name, why);
        Ok(())
    }

    fn skip(&mut self, name: &'static str, why: impl Into<String>) {
        let why = why.into();
        say(format_args!("SKIPPED: {name}: {why}"));
        self.0.push(Step {
            name,
            end: End::Skipped(why),
        });
    }
}

impl Step {
    fn line(&self) -> String {
        let name = self.name;
        match &self.end {
            End::Good(time) => format!("ok       {name:<14} {:>6.1} s", time.as_secs_f64()),
            End::Failed(time) => format!("FAILED   {name:<14} {:>6.1} s", time.as_secs_f64()),
            End::Skipped(why) => format!("skipped  {name:<14} {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_skipped_by_people_and_fails_in_ci() {
        let mut steps = Steps::default();
        steps
            .missing(Rules { ci: false }, "format", "not installed".into())
            .unwrap();
        assert_eq!(steps.0[0].line(), "skipped  format         not installed");
        let error = steps
            .missing(Rules { ci: true }, "format", "not installed".into())
            .unwrap_err();
        assert_eq!(error.to_string(), "format: not installed");
    }

    #[test]
    fn the_first_failure_ends_the_run() {
        let mut steps = Steps::default();
        steps.time("a", || Ok(())).unwrap();
        steps.time("b", || bail!("no")).unwrap_err();
        assert!(steps.0[0].line().starts_with("ok       a"));
        assert!(steps.0[1].line().starts_with("FAILED   b"));
    }
}
