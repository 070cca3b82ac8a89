//! What an agent says that devices and workloads use: whose it is, how old it is, and
//! that a plugin which hangs in a measurement keeps nobody waiting.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use divvy::agent::{Samples, WorkloadSample};
use divvy_tests::rootfs::{machine, nothing_is_left, record};
use divvy_tests::{Agent, Machine, eventually, requires};

/// No reader waits longer, whatever a plugin does.
const SOON: Duration = Duration::from_millis(500);

fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

/// What it says, which comes soon.
#[track_caller]
fn samples(agent: &Agent) -> Samples {
    let began = Instant::now();
    let samples = block(agent.client().get("/v1/samples")).unwrap();
    let took = began.elapsed();
    assert!(took < SOON, "{took:?}");
    samples
}

#[track_caller]
fn metrics(agent: &Agent) -> String {
    let began = Instant::now();
    let page = agent.metrics();
    let took = began.elapsed();
    assert!(took < SOON, "{took:?}");
    page
}

fn age_ms(samples: &Samples, plugin: &str) -> Option<u64> {
    let plugin = samples.plugins.iter().find(|p| p.plugin == plugin);
    plugin.unwrap().age_ms
}

fn measure(samples: &Samples, device: &str, measure: &str) -> Option<String> {
    let device = samples.devices.iter().find(|d| d.id == device)?;
    Some(device.measures.get(measure)?.to_string())
}

fn workload(samples: &Samples, name: &str) -> WorkloadSample {
    let mut all = samples.workloads.iter();
    let found = all.find(|w| w.name == name);
    found.unwrap_or_else(|| panic!("{samples:#?}")).clone()
}

/// A machine with the CPU plugin and one that misbehaves as set, and its agent.
fn with_faulty(settings: &str) -> (Machine, Agent) {
    let machine = machine();
    machine.add("faulty");
    let settings = settings.replace("FOLDER", machine.path().to_str().unwrap());
    let agent = machine.agent(&format!("[plugins.faulty]\n{settings}"));
    (machine, agent)
}

#[test]
fn a_plugin_that_hangs_in_a_measurement_keeps_nobody_waiting_and_what_it_said_grows_old() {
    requires!(root);
    // Good as long as the file is full.
    let settings = "mode = \"hang\"\nop = \"sample\"\nonce = \"FOLDER/once\"\ntimes = 9";
    let (machine, agent) = with_faulty(settings);
    fs::write(machine.path().join("once"), "xxxxxxxxx").unwrap();
    let known = || measure(&samples(&agent), "unit-a", "utilization_ratio");
    assert!(eventually(|| known().as_deref() == Some("1")));
    let busy = measure(&samples(&agent), "core-0-0", "busy_seconds_total");
    assert!(busy.is_some());
    let line = "divvy_device_utilization_ratio{device=\"faulty/unit-a\",plugin=\"faulty\"} 1";
    assert!(metrics(&agent).contains(line), "{}", metrics(&agent));

    fs::write(machine.path().join("once"), "").unwrap();
    let hung = Instant::now();
    // Prepared and watched, as if nothing were.
    let run = "run -d --name w --cpu 0.25 --mem 32MiB --slot faulty.units=0.25 -- sleep 600";
    machine.divvy(run).run().succeeds();
    let failed = || {
        let samples = samples(&agent);
        let mut plugins = samples.plugins.into_iter();
        let error = plugins.find(|p| p.plugin == "faulty").unwrap().error;
        error.is_some_and(|e| e.code == "plugin_crashed")
    };
    assert!(eventually(failed));
    let then = age_ms(&samples(&agent), "faulty").unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let (now, devices) = (
        samples(&agent),
        machine.divvy("devices --json").run().succeeds().json(),
    );
    assert!(age_ms(&now, "faulty").unwrap() >= then + 3000);
    assert!(age_ms(&now, "cpu").unwrap() < 5000);
    assert!(measure(&now, "unit-a", "utilization_ratio").is_some());
    assert!(devices["age_ms"].as_u64().unwrap() < 4000, "{devices:#}");
    assert_eq!(devices["failed_plugins"].as_array().unwrap().len(), 0);

    // Too old to say something of now.
    while hung.elapsed() < Duration::from_secs(31) {
        std::thread::sleep(Duration::from_secs(1));
        samples(&agent);
    }
    let page = metrics(&agent);
    assert!(!page.contains("divvy_device_utilization_ratio{"), "{page}");
    let age = page
        .lines()
        .find_map(|l| l.strip_prefix("divvy_sample_age_seconds{plugin=\"faulty\"} "));
    assert!(age.unwrap().parse::<f64>().unwrap() > 30.0, "{page}");
    assert!(
        page.contains("divvy_device_busy_seconds_total{device=\"cpu/core-0-0\""),
        "{page}"
    );
    machine.divvy("rm -f w").run().succeeds();
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn a_workload_that_runs_has_its_own_figures_with_and_without_an_agent() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent("");
    let quick = agent.socket().to_owned();
    machine
        .divvy("run -d --name w --cpu 0.5 --mem 64MiB -- sh -c")
        .arg("sleep 600 & while :; do :; done")
        .run()
        .succeeds();
    let has = |w: &WorkloadSample, name: &str| {
        let amount = w.measures.get(name);
        amount.is_some_and(|a| !a.is_zero())
    };
    let all = ["cpu_seconds_total", "memory_used_bytes", "processes_count"];
    assert!(eventually(|| {
        let w = workload(&samples(&agent), "w");
        all.iter().all(|name| has(&w, name))
    }));
    let w = workload(&samples(&agent), "w");
    assert!(w.measures["memory_used_bytes"] < "64000000".parse().unwrap());
    // init, sh and sleep.
    assert_eq!(w.measures["processes_count"], "3".parse().unwrap());
    // Though it has cores: no device's figure is a workload's.
    assert!(w.devices.is_empty(), "{w:#?}");
    let page = metrics(&agent);
    for family in ["cpu_seconds_total", "memory_used_bytes"] {
        let line = format!(
            "divvy_workload_{family}{{workload=\"w\",id=\"{}\",user=\"0\"}}",
            w.id
        );
        assert!(page.contains(&line), "{line}\n{page}");
    }

    agent.end().succeeds();
    assert!(!quick.exists());
    let alone = block(async {
        let divvy = divvy::Divvy::builder()
            .state(machine.state())
            .plugin_dir(machine.plugin_folder())
            .config(divvy::config::Config::default())
            .exe(divvy_tests::executable())
            .socket(divvy::Socket::None)
            .build()
            .await
            .unwrap();
        let first = divvy.samples().await.unwrap();
        let shown = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            divvy.samples().await.unwrap();
            let began = Instant::now();
            (divvy.samples().await.unwrap(), began.elapsed())
        };
        tokio::select! {
            () = divvy.measure() => unreachable!("it returns never"),
            (again, took) = shown => [(first, Duration::ZERO), (again, took)],
        }
    });
    for (samples, took) in alone {
        assert!(took < SOON, "{took:?}");
        assert!(all.iter().all(|name| has(&workload(&samples, "w"), name)));
        assert!(age_ms(&samples, "cpu").unwrap() < 3000);
        assert!(measure(&samples, "core-0-0", "busy_seconds_total").is_some());
    }
    machine.divvy("rm -f w").run().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn what_processes_use_is_their_workloads_and_the_rest_is_nobodys() {
    requires!(root);
    let settings = "mode = \"processes\"\nop = \"sample\"\nfile = \"FOLDER/pids\"";
    let (machine, agent) = with_faulty(settings);
    machine
        .divvy("run -d --name w --cpu 0.25 --mem 32MiB --slot faulty.units=0.25 -- sh -c")
        .arg("sleep 601 & sleep 602 & wait")
        .run()
        .succeeds();
    let pid = record(&machine, "w")["pid"].as_u64().unwrap();
    let id = record(&machine, "w")["id"].as_str().unwrap().to_owned();
    let mut stranger = Command::new("sleep").arg("603").spawn().unwrap();
    // In its cgroup are the init, the shell and two sleeps.
    let children = |of: u64| {
        let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children"));
        let words = list.unwrap_or_default();
        let pids = words.split_whitespace().map(|p| p.parse::<u64>().unwrap());
        pids.collect::<Vec<u64>>()
    };
    let sleeps = || {
        children(pid)
            .iter()
            .flat_map(|c| children(*c))
            .collect::<Vec<u64>>()
    };
    assert!(eventually(|| sleeps().len() == 2));
    let (one, two) = (sleeps()[0], sleeps()[1]);
    let pids = format!("{one} {two} {}", stranger.id());
    fs::write(machine.path().join("pids"), pids).unwrap();

    assert!(eventually(|| !samples(&agent).foreign.is_empty()));
    let seen = samples(&agent);
    let w = workload(&seen, "w");
    let [unit] = w.devices.as_slice() else {
        panic!("{w:#?}");
    };
    assert_eq!(
        (unit.plugin.as_str(), unit.id.as_str()),
        ("faulty", "unit-a")
    );
    assert_eq!(unit.measures["memory_used_bytes"].to_string(), "2097152");
    assert!(
        !unit.measures.contains_key("utilization_ratio"),
        "a device's"
    );
    let [foreign] = seen.foreign.as_slice() else {
        panic!("{seen:#?}");
    };
    assert_eq!(
        (foreign.pid, foreign.command.as_deref()),
        (stranger.id(), Some("sleep"))
    );
    let page = metrics(&agent);
    for line in [
        format!("divvy_slice_memory_used_bytes{{workload=\"w\",id=\"{id}\",user=\"0\",device=\"faulty/unit-a\"}} 2097152.0"),
        "divvy_device_foreign_memory_used_bytes{device=\"faulty/unit-a\",plugin=\"faulty\"} 1048576.0".into(),
    ] {
        assert!(page.contains(&line), "{line}\n{page}");
    }
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    machine.divvy("rm -f w").run().succeeds();
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn what_a_plugin_cannot_have_measured_is_not_believed() {
    requires!(root);
    let (machine, agent) = with_faulty("mode = \"sample-escapes\"\nop = \"sample\"");
    let error = || {
        let mut plugins = samples(&agent).plugins.into_iter();
        plugins.find(|p| p.plugin == "faulty").unwrap().error
    };
    assert!(eventually(|| error().is_some()));
    assert_eq!(error().unwrap().code, "plugin_lied");
    assert!(samples(&agent).devices.iter().all(|d| d.plugin == "cpu"));
    assert!(!metrics(&agent).contains("faulty/unit-a\",plugin"));
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn members_see_their_own_figures_alone() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent("group = \"users\"");
    let (alice, users) = (61_017, 100);
    machine
        .divvy("run -d --name roots --cpu 0.1 --mem 32MiB -- sleep 600")
        .run()
        .succeeds();
    machine
        .divvy_as(
            alice,
            users,
            "run -d --name hers --cpu 0.1 --mem 32MiB -- sleep 600",
        )
        .run()
        .succeeds();
    assert_eq!(samples(&agent).workloads.len(), 2);
    let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1])\ns.sendall(b'GET /v1/samples HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\nwhile d:=s.recv(65536): sys.stdout.buffer.write(d)";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(agent.socket());
    std::os::unix::process::CommandExt::uid(&mut python, alice);
    std::os::unix::process::CommandExt::gid(&mut python, users);
    let said = String::from_utf8(python.output().unwrap().stdout).unwrap();
    assert!(
        said.contains("\"hers\"") && said.contains("core-0-0"),
        "{said}"
    );
    assert!(!said.contains("roots"), "{said}");
    machine.divvy("rm -f roots hers").run().succeeds();
    agent.end().succeeds();
    nothing_is_left(&machine);
}

#[test]
fn an_agent_that_nobody_asks_has_no_host_that_measures() {
    requires!(root);
    let machine = machine();
    let agent = machine.agent("");
    machine.divvy("devices").run().succeeds();
    // One answers, one watches.
    assert!(eventually(|| machine.hosts().len() == 2));
    samples(&agent);
    assert!(eventually(|| machine.hosts().len() == 3));
    let began = Instant::now();
    while machine.hosts().len() == 3 && began.elapsed() < Duration::from_secs(90) {
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(machine.hosts().len(), 2);
    assert!(began.elapsed() > Duration::from_secs(50));
    agent.end().succeeds();
    nothing_is_left(&machine);
}
