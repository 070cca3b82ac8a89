//! The host process: what it has, and when it ends.

use super::*;

// === the good plugin ===

#[tokio::test]
async fn a_good_plugin_answers_every_operation() {
    let machine = Machine::with(&["faulty"]);
    let set = machine.plugins("");
    let faulty = set.get("faulty").unwrap();
    assert_eq!(
        faulty.status().await,
        Status::Idle,
        "nothing is started before it is needed"
    );
    for op in OPS {
        call(faulty, op)
            .await
            .unwrap_or_else(|e| panic!("{op}: {e}"));
    }
    assert_eq!(ids(&faulty.discover().await.unwrap()), ["unit-a", "unit-b"]);
    let edits = prepare(faulty).await.unwrap();
    assert_eq!(edits.env[0].value, "unit-a");
    assert_eq!(edits.device_nodes[0].path, "/dev/faulty-a");
    assert_eq!(faulty.status().await, Status::Ready);
    let hosts = machine.hosts();
    assert!(hosts.contains(&faulty.pid().await.unwrap()));
    assert_eq!(hosts.len(), 3, "one answers, one watches, one measures");
}

#[tokio::test]
async fn a_host_ends_with_its_client() {
    let machine = Machine::with(&["faulty"]);
    let set = machine.plugins("");
    set.get("faulty").unwrap().discover().await.unwrap();
    assert_eq!(machine.hosts().len(), 1);
    drop(set);
    assert!(eventually(|| machine.hosts().is_empty()));
}

// === the host process ===

#[tokio::test]
async fn a_host_has_nothing_open_that_is_not_its_own() {
    let machine = Machine::with(&["faulty"]);
    let secret = machine.path().join("secret");
    let secret_fd = File::create(&secret).unwrap();
    // As a careless program that embeds Divvy would leave it: inheritable.
    let high = rustix::io::fcntl_dupfd_cloexec(secret_fd.as_fd(), 900).unwrap();
    rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty()).unwrap();
    let set = machine.plugins("");
    let faulty = set.get("faulty").unwrap();
    faulty.discover().await.unwrap();
    let open = open_files(faulty.pid().await.unwrap());
    assert_eq!(open[&0], "/dev/null");
    assert!(
        open[&1].starts_with("pipe:") && open[&1] == open[&2],
        "{open:?}"
    );
    assert!(open[&3].starts_with("socket:"), "{open:?}");
    assert_eq!(
        open[&4],
        machine.plugin_file("faulty").display().to_string()
    );
    // Reader and writer of the channel are two descriptors of one socket.
    let others: Vec<&String> = open.range(5..).map(|(_, file)| file).collect();
    assert_eq!(others, [&open[&3]], "{open:?}");
}

#[tokio::test]
async fn a_host_sees_no_environment_but_its_own() {
    let machine = Machine::with(&["faulty"]);
    let set = machine.plugins("");
    let faulty = set.get("faulty").unwrap();
    faulty.discover().await.unwrap();
    let environment = fs::read(format!("/proc/{}/environ", faulty.pid().await.unwrap())).unwrap();
    for variable in String::from_utf8_lossy(&environment).split_terminator('\0') {
        let name = variable.split('=').next().unwrap_or_default();
        assert!(
            ["PATH", "LD_LIBRARY_PATH", "RUST_BACKTRACE"].contains(&name),
            "{variable}"
        );
    }
}

#[test]
fn a_host_dies_with_its_agent_even_in_the_middle_of_a_call() {
    let machine = Machine::with(&["faulty"]);
    let divvy = machine
        .divvy("--set faulty.mode=hang --set faulty.op=discover devices")
        .spawn();
    assert!(
        eventually(|| machine.hosts().len() == 1),
        "a host is started"
    );
    std::thread::sleep(Duration::from_millis(100));
    divvy.kill();
    assert!(
        eventually(|| machine.hosts().is_empty()),
        "left behind: {:?}",
        machine.hosts()
    );
}

#[test]
fn a_host_is_not_started_by_hand() {
    let machine = Machine::new();
    machine
        .host_by_hand()
        .run()
        .exits(125)
        .complains("started by the agent, not by hand");
}
