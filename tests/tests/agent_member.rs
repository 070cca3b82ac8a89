//! A member of the agent's group is no root: what a runtime or an engine does
//! for them as root is no more than what they could do themselves.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use divvy_tests::dockerd::Docked;
use divvy_tests::rootfs::{nothing_is_left, runtimes};
use divvy_tests::{Divvy, Machine, requires};

/// A group that every machine has (`users`), and a user who need not exist.
const GROUP: (&str, u32) = ("users", 100);
const ALICE: u32 = 61_003;

/// `divvy run` of hers, of a shell script on the host's root.
fn run(machine: &Machine, runtime: &str, options: &[&str], script: &str) -> Divvy {
    let run = machine.divvy_as(ALICE, GROUP.1, "run --rm --cpu 0.1 --mem 64MiB --runtime");
    let run = run.arg(runtime).args(options);
    run.args(["--", "sh", "-c", script])
}

/// A folder of root's, with this mode.
fn folder(path: PathBuf, mode: u32) -> PathBuf {
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// A folder of hers.
fn hers(path: PathBuf) -> PathBuf {
    let path = folder(path, 0o755);
    chown(&path, Some(ALICE), Some(GROUP.1)).unwrap();
    path
}

fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Docker with an agent, of which she is a member.
fn served() -> (Docked, divvy_tests::Agent) {
    let docked = Docked::new();
    let agent = docked.machine.agent(&format!("group = {:?}", GROUP.0));
    (docked, agent)
}

fn in_image(machine: &Machine, options: &[&str], script: &str) -> Divvy {
    let run = machine.divvy_as(
        ALICE,
        GROUP.1,
        "run --rm --cpu 0.1 --mem 64MiB --launcher docker",
    );
    run.args(options).args(["app:1", "sh", "-c", script])
}

#[test]
fn a_folder_that_is_closed_to_them_is_not_entered() {
    requires!(root);
    let machine = Machine::with(&["cpu"]);
    let agent = machine.agent(&format!("group = {:?}", GROUP.0));
    let closed = folder(machine.path().join("closed"), 0o700);
    let behind = folder(closed.join("open"), 0o755);
    fs::write(behind.join("secret"), "psst").unwrap();
    let root_owned = folder(machine.path().join("readable"), 0o755);
    for runtime in runtimes() {
        let volume = format!("{}:/there", root_owned.display());
        let refused = [
            (vec!["-w", word(&behind)], word(&behind)),
            // Made as root, it would stay.
            (
                vec!["-v", &volume, "-w", "/there/new/one"],
                "/there/new/one",
            ),
            (vec!["-w", "/usr/new"], "/usr/new"),
        ];
        for (options, dir) in refused {
            run(&machine, runtime, &options, "cat secret")
                .run()
                .exits(126)
                .complains(&format!("divvy: -w {dir}: cannot be entered"))
                .complains("[workdir_unusable]");
        }
        assert_eq!(fs::read_dir(&root_owned).unwrap().count(), 0);
        // What she could make herself is made, and is hers.
        let made = format!("{}/made", machine.path().join("home-61003").display());
        let said = run(&machine, runtime, &["-w", &made], "pwd; stat -c %u .");
        said.run().succeeds().says(&format!("{made}\n{ALICE}\n"));
        fs::remove_dir(made).unwrap();

        let start = machine.divvy_as(
            ALICE,
            GROUP.1,
            "run -d --name w --cpu 0.1 --mem 64MiB --runtime",
        );
        start
            .arg(runtime)
            .args(["-w", "/tmp", "--", "sleep", "60"])
            .run()
            .succeeds();
        let exec = |dir: &str| {
            let exec = machine.divvy_as(ALICE, GROUP.1, "exec -w");
            exec.args([dir, "w", "pwd"]).run()
        };
        for dir in [word(&behind), "/usr/new"] {
            exec(dir).exits(126).complains("[workdir_unusable]");
        }
        exec("/usr").succeeds().says("/usr\n");
        let own = machine.divvy_as(ALICE, GROUP.1, "exec w pwd").run();
        assert_eq!(own.succeeds().stdout, "/tmp\n");
        machine.divvy_as(ALICE, GROUP.1, "rm -f w").run().succeeds();
    }
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn an_engine_enters_no_folder_for_them_either() {
    requires!(root, dockerd);
    let (docked, agent) = served();
    docked.engine.image(&serde_json::json!({}), |root| {
        let closed = folder(root.join("closed"), 0o700);
        folder(closed.join("open"), 0o755);
        folder(root.join("tmp"), 0o777);
    });
    let machine = &docked.machine;
    let root_owned = folder(machine.path().join("readable"), 0o755);
    let volume = format!("{}:/there", root_owned.display());
    for options in [
        vec!["-w", "/closed/open"],
        vec!["-v", &volume, "-w", "/there/new"],
    ] {
        in_image(machine, &options, "pwd")
            .run()
            .exits(126)
            .complains("[workdir_unusable]");
    }
    assert_eq!(fs::read_dir(&root_owned).unwrap().count(), 0);
    in_image(machine, &["-w", "/tmp/new"], "pwd; stat -c %u .")
        .run()
        .succeeds()
        .says(&format!("/tmp/new\n{ALICE}\n"));
    let start = machine.divvy_as(
        ALICE,
        GROUP.1,
        "run -d --name w --cpu 0.1 --mem 64MiB --launcher docker -w /tmp app:1 sleep 60",
    );
    start.run().succeeds();
    let exec = |words: &str| machine.divvy_as(ALICE, GROUP.1, words).run();
    exec("exec -w /closed/open w pwd")
        .exits(126)
        .complains("[workdir_unusable]");
    assert_eq!(exec("exec w pwd").succeeds().stdout, "/tmp\n");
    exec("rm -f w").succeeds();
    agent.end().succeeds();
    docked.nothing_is_left();
}
