//! A member of the agent's group is no root: what a runtime or an engine does
//! for them as root is no more than what they could do themselves.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

fn volume(source: &Path, target: &Path) -> String {
    format!("{}:{}", source.display(), target.display())
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

/// What is below a mount is mounted on what is there, and on nothing that is
/// made for it; and what may be written can be written in the end.
#[test]
fn no_place_for_a_mount_is_made_in_a_folder_of_the_host() {
    requires!(root);
    let machine = Machine::with(&["cpu"]);
    let agent = machine.agent(&format!("group = {:?}", GROUP.0));
    let home = machine.path().join("home-61003");
    let outer = hers(machine.path().join("outer"));
    let inner = hers(machine.path().join("inner"));
    let readable = folder(machine.path().join("readable"), 0o755);
    let file = machine.path().join("file");
    fs::write(&file, "of the file").unwrap();
    let empty = |path: &Path| fs::read_dir(path).unwrap().count() == 0;
    for runtime in runtimes() {
        let missing = |volumes: &[String]| {
            let options: Vec<&str> = volumes.iter().flat_map(|v| ["-v", v]).collect();
            run(&machine, runtime, &options, "true")
                .run()
                .exits(125)
                .complains("make it first: ")
                .complains("[mount_point_missing]");
        };
        missing(&[
            volume(&readable, Path::new("/a")),
            volume(&inner, Path::new("/a/b")),
        ]);
        missing(&[
            volume(&outer, Path::new("/a")),
            volume(&file, Path::new("/a/f")),
        ]);
        // The current folder is one of them.
        missing(&[volume(&inner, &home.join("b"))]);
        assert!(empty(&readable) && empty(&outer) && empty(&home));

        // Of a place behind a closed folder nothing is told.
        let closed = folder(readable.join("closed"), 0o700);
        folder(closed.join("b"), 0o755);
        missing(&[
            volume(&readable, Path::new("/a")),
            volume(&inner, Path::new("/a/closed/b")),
        ]);
        // Nor by a link of her own, whether it leads there or nowhere.
        for (name, to) in [("there", "closed/b"), ("nowhere", "closed/none")] {
            std::os::unix::fs::symlink(readable.join(to), outer.join(name)).unwrap();
            missing(&[
                volume(&outer, Path::new("/a")),
                volume(&inner, &Path::new("/a").join(name)),
            ]);
            fs::remove_file(outer.join(name)).unwrap();
        }
        fs::remove_dir_all(closed).unwrap();

        for place in ["b", "c"] {
            hers(outer.join(place));
        }
        fs::write(outer.join("f"), "").unwrap();
        let volumes = [
            volume(&outer, Path::new("/a")),
            volume(&inner, Path::new("/a/b")),
            format!("{}:/a/c:ro", inner.display()),
            format!("{}:/a/f:ro", file.display()),
            volume(&inner, Path::new("/d")),
            format!("{}:/d:ro", inner.display()),
        ];
        let options: Vec<&str> = volumes.iter().flat_map(|v| ["-v", v]).collect();
        let script = "echo 1 >/a/x && echo 2 >/a/b/y && cat /a/c/y /a/f && echo 3 >here \
                      && ! touch /a/c/z 2>&1 && ! touch /d/z 2>&1 && ! touch /a/f 2>&1 \
                      && grep ' /a' /proc/self/mounts | grep -v nosuid,nodev | wc -l";
        let said = run(&machine, runtime, &options, script).run().succeeds();
        assert!(said.stdout.starts_with("2\nof the file"), "{said}");
        assert!(said.stdout.ends_with("\n0\n"), "{said}");
        assert_eq!(fs::read_to_string(outer.join("x")).unwrap(), "1\n");
        assert_eq!(fs::read_to_string(inner.join("y")).unwrap(), "2\n");
        assert_eq!(fs::read_to_string(home.join("here")).unwrap(), "3\n");
        for path in [&outer, &inner, &home] {
            fs::remove_dir_all(path).unwrap();
            hers(path.clone());
        }
    }
    agent.end().succeeds();
    nothing_is_left(&machine);
}

/// What a link hides from the check: the mount below is found read-only.
#[test]
fn nor_behind_a_link_of_the_root() {
    requires!(root);
    let machine = Machine::with(&["cpu"]);
    let agent = machine.agent(&format!("group = {:?}", GROUP.0));
    let root = hers(machine.path().join("root"));
    divvy_tests::rootfs::busybox(&root);
    fs::create_dir(root.join("a")).unwrap();
    std::os::unix::fs::symlink("a", root.join("link")).unwrap();
    let outer = hers(machine.path().join("outer"));
    for runtime in runtimes() {
        let volumes = [
            volume(&outer, Path::new("/a")),
            volume(&outer, Path::new("/link/b")),
        ];
        let mut options: Vec<&str> = volumes.iter().flat_map(|v| ["-v", v]).collect();
        options.extend(["--rootfs", word(&root)]);
        run(&machine, runtime, &options, "true")
            .run()
            .exits(125)
            .complains("[container_failed]");
        assert_eq!(fs::read_dir(&outer).unwrap().count(), 0, "{runtime}");
    }
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn an_engine_makes_no_place_either() {
    requires!(root, dockerd);
    let (docked, agent) = served();
    docked.engine.image(&serde_json::json!({}), |root| {
        fs::create_dir(root.join("a")).unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
    });
    let machine = &docked.machine;
    let outer = hers(machine.path().join("outer"));
    let inner = hers(machine.path().join("inner"));
    let at = |target: &str| {
        let volumes = [
            volume(&outer, Path::new("/a")),
            volume(&inner, Path::new(target)),
        ];
        let options: Vec<&str> = volumes.iter().flat_map(|v| ["-v", v]).collect();
        in_image(machine, &options, "echo 1 >/a/x; echo 2 >/a/b/y").run()
    };
    at("/a/b").exits(125).complains("[mount_point_missing]");
    at("/link/b").exits(125).complains("[container_failed]");
    assert_eq!(fs::read_dir(&outer).unwrap().count(), 0);
    hers(outer.join("b"));
    at("/a/b").succeeds();
    assert_eq!(fs::read_to_string(outer.join("x")).unwrap(), "1\n");
    assert_eq!(fs::read_to_string(inner.join("y")).unwrap(), "2\n");
    agent.end().succeeds();
    docked.nothing_is_left();
}

/// A folder with a `runc` that does what the file `swap` beside it says before it
/// makes a container, once: who owns a folder can do so at any moment.
fn swapping_runc(machine: &Machine) -> PathBuf {
    let bin = folder(machine.path().join("bin"), 0o755);
    let script = "\
#!/bin/sh
here=$(dirname $0)
case \" $* \" in
*' create '*) [ ! -e $here/swap ] || { mv $here/swap $here/done && . $here/done; };;
esac
PATH=${PATH#$here:} exec runc \"$@\"
";
    fs::write(bin.join("runc"), script).unwrap();
    fs::set_permissions(bin.join("runc"), fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

/// What is mounted is what was looked at, or nothing runs.
#[test]
fn what_is_replaced_meanwhile_is_not_entered() {
    requires!(root, runc);
    let machine = Machine::with(&["cpu"]);
    let bin = swapping_runc(&machine);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let agent = machine.agent_with(&format!("group = {:?}", GROUP.0), |divvy| {
        divvy.env("PATH", &path)
    });
    run(&machine, "runc", &[], "true").run().succeeds();

    // A file that she may read, in a folder that she may not enter.
    let closed = folder(machine.path().join("closed"), 0o700);
    folder(closed.join("data"), 0o777);
    fs::write(closed.join("data/secret"), "psst").unwrap();
    let home = machine.path().join("home-61003");
    let script = "cat secret; touch touched";
    let own = || {
        for name in ["way", "old"] {
            let _ = fs::remove_file(home.join(name));
            let _ = fs::remove_dir_all(home.join(name));
        }
        hers(home.join("way"));
        hers(home.join("way/data"))
    };
    let swap = format!(
        "cd {} && mv way old && ln -s {} way",
        home.display(),
        closed.display()
    );
    let refused = |divvy: Divvy| {
        fs::write(bin.join("swap"), &swap).unwrap();
        let said = divvy.run();
        assert!(!bin.join("swap").exists(), "{said}");
        said.exits(125)
            .complains("was replaced by something else")
            .complains("[source_replaced]");
        assert_eq!(fs::read_dir(closed.join("data")).unwrap().count(), 1);
    };
    for mode in ["ro", "rw"] {
        let volume = format!("{}:/data:{mode}", own().display());
        let options = ["-v", &volume, "-w", "/data"];
        refused(run(&machine, "runc", &options, script));
    }
    let current = own();
    refused(run(&machine, "runc", &[], script).folder(&current));
    // Root in somebody's folder.
    let current = own();
    let by_root = machine.divvy("run --rm --cpu 0.1 --mem 64MiB --runtime runc --");
    refused(by_root.args(["sh", "-c", script]).folder(&current));

    let volume = format!("{}:/data", own().display());
    let options = ["-v", &volume, "-w", "/data"];
    run(&machine, "runc", &options, "touch touched")
        .run()
        .succeeds();
    assert!(home.join("way/data/touched").exists());
    agent.end().succeeds();
    nothing_is_left(&machine);
}

/// Connections of hers.
fn connections(machine: &Machine, count: usize) -> Vec<UnixStream> {
    connections_of(machine, ALICE, count)
}

/// Connections of this user: the kernel tells the agent who the thread was.
fn connections_of(machine: &Machine, uid: u32, count: usize) -> Vec<UnixStream> {
    let socket = machine.socket();
    let open = move || {
        // This thread's alone.
        rustix::thread::set_thread_gid(rustix::fs::Gid::from_raw(GROUP.1)).unwrap();
        rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(uid)).unwrap();
        let all = (0..count).map(|_| UnixStream::connect(&socket).unwrap());
        all.collect()
    };
    std::thread::spawn(open).join().unwrap()
}

#[test]
fn a_member_cannot_use_up_the_agents_connections() {
    requires!(root);
    let machine = Machine::with(&["cpu"]);
    let agent = machine.agent(&format!("group = {:?}", GROUP.0));
    let held = connections(&machine, 256);
    let began = Instant::now();
    machine
        .divvy_as(ALICE, GROUP.1, "ps")
        .run()
        .exits(125)
        .complains("[too_many_connections]");
    // Others are served.
    machine.divvy("ps").run().succeeds();
    machine.divvy_as(ALICE + 1, GROUP.1, "ps").run().succeeds();
    // Who says nothing, or half a request, is not waited for.
    let mut half = held;
    half[0].write_all(b"GET /v1/version HTTP/1.1\r\n").unwrap();
    let last = half.pop().unwrap();
    for mut stream in [half.remove(0), last] {
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(!said.contains("200 OK"), "{said}");
    }
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(5), "{waited:?}");
    machine.divvy_as(ALICE, GROUP.1, "ps").run().succeeds();
    agent.end().succeeds();
}

/// Who has subordinate ids is many users.
#[test]
fn nor_can_many_users_together() {
    requires!(root);
    let machine = Machine::with(&["cpu"]);
    let agent = machine.agent_with(&format!("group = {:?}", GROUP.0), |divvy| {
        divvy.descriptors(1024)
    });
    // Three eighths of 1024.
    let held: Vec<UnixStream> = (0..4)
        .flat_map(|user| connections_of(&machine, 100_000 + user, 96))
        .collect();
    machine
        .divvy_as(ALICE, GROUP.1, "ps")
        .run()
        .exits(125)
        .complains("as many as all users but root may have")
        .complains("[too_many_connections]");
    machine.divvy("ps").run().succeeds();
    machine
        .divvy("run --rm --cpu 0.1 --mem 64MiB -- true")
        .run()
        .succeeds();
    drop(held);
    let served = || machine.divvy_as(ALICE, GROUP.1, "ps").run().code == 0;
    assert!(divvy_tests::eventually(served));
    agent.end().succeeds();
    nothing_is_left(&machine);
}
