//! The programs that look at GPUs, where there is none to see: their interpreter and
//! packages work in a container, and they say what is missing.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use divvy_tests::clients::{self, PROGRAMS, REQUIREMENTS, look};
use divvy_tests::dockerd::Docked;
use divvy_tests::rootfs::{job, machine, nothing_is_left, runtimes};
use divvy_tests::{Divvy, Machine, Output, requires};

/// A Python starts small, but not in what a shell needs.
const MEMORY: &str = "--mem=256MiB";

fn on_clients(machine: &Machine, runtime: &str) -> Divvy {
    let job = job(machine, runtime, &format!("{MEMORY} --rootfs"));
    job.arg(clients::rootfs()).arg("--")
}

#[track_caller]
fn says_what_is_missing(program: &str, output: Output) {
    let output = output.succeeds();
    assert_eq!(output.stdout.lines().count(), 1, "{program}: {output}");
    let answer = output.json();
    let error = answer["error"].as_str().unwrap_or_default();
    // The words of each one's own package for a library that is not there.
    let words = ["LibraryNotFound: NVML", "DynamicLibNotFoundError: \"cuda\""];
    assert!(
        words.iter().any(|w| error.contains(w)),
        "{program}: {output}"
    );
}

#[test]
fn without_a_gpu_each_says_so_and_succeeds() {
    requires!(root, python_clients);
    for runtime in runtimes() {
        let machine = machine();
        for program in PROGRAMS {
            let output = on_clients(&machine, runtime).args(look(program)).run();
            says_what_is_missing(program, output);
        }
        nothing_is_left(&machine);
    }
}

#[test]
fn an_engine_takes_them_as_an_image() {
    requires!(root, dockerd, python_clients);
    let docked = Docked::new();
    docked.engine.import(&clients::tar(), "clients");
    for program in PROGRAMS {
        let run = docked.run(&format!("--rm {MEMORY}")).arg("clients:1");
        says_what_is_missing(program, run.args(look(program)).run());
    }
    docked.nothing_is_left();
}

#[test]
fn every_module_finds_the_libraries_that_it_is_linked_with() {
    requires!(root, python_clients);
    let script = "import importlib, os, sysconfig\n\
         folder = sysconfig.get_config_var('DESTSHARED')\n\
         names = sorted(name.split('.')[0] for name in os.listdir(folder) if '.so' in name)\n\
         for name in names: importlib.import_module(name)\n\
         print('_ctypes' in names and '_ssl' in names)";
    for runtime in runtimes() {
        let machine = machine();
        let run = on_clients(&machine, runtime).args(["/usr/bin/python3", "-c", script]);
        let output = run.run().succeeds();
        assert_eq!(output.stdout, "True\n", "{output}");
    }
}

#[test]
fn packages_are_those_that_are_required() {
    requires!(root, python_clients);
    let machine = machine();
    let script = "from importlib.metadata import distributions\n\
         for d in distributions(): print(f'{d.name}=={d.version}')";
    let run = on_clients(&machine, "built-in").args(["/usr/bin/python3", "-c", script]);
    let output = run.run().succeeds();
    let mut found: Vec<&str> = output.stdout.lines().collect();
    let lines = REQUIREMENTS.lines().filter(|line| line.contains("=="));
    let mut required: Vec<&str> = lines.map(|line| line.trim_end_matches(" \\")).collect();
    found.sort_unstable();
    required.sort_unstable();
    assert_eq!(found, required, "{output}");
}
