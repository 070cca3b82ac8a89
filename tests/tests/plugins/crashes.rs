//! Crashes: told, tried again once, left alone for a while, remembered.

use super::*;

#[tokio::test]
async fn a_crash_names_the_plugin_the_operation_and_the_signal() {
    for op in OPS {
        let (machine, set) = given("crash", op);
        let error = call(set.get("faulty").unwrap(), op).await.unwrap_err();
        assert_eq!(error.code(), "plugin_crashed", "{op}: {error}");
        says(
            &error,
            &format!("plugin faulty failed in {op}: it was ended by signal 11 (SIGSEGV)"),
        );
        assert_eq!(machine.hosts(), NOBODY, "{op}");
    }
}

#[tokio::test]
async fn every_kind_of_end_is_told_apart() {
    for (mode, words) in [
        ("abort", "ended by signal 6 (SIGABRT)"),
        ("exit", "exited with status 7"),
        // Its child keeps the channel open.
        ("fork-and-crash", "ended by signal 6 (SIGABRT)"),
    ] {
        let (_machine, set) = given_with(mode, "discover", SHORT);
        let error = set.get("faulty").unwrap().discover().await.unwrap_err();
        says(&error, words);
    }
}

#[tokio::test]
async fn a_crash_is_tried_again_once() {
    for op in OPS.into_iter().filter(|op| *op != "manifest") {
        let machine = Machine::with(&["faulty"]);
        let once = machine.path().join("once");
        let set = machine.plugins(&format!(
            "faulty.mode=crash faulty.op={op} faulty.once={}",
            once.display()
        ));
        let faulty = set.get("faulty").unwrap();
        call(faulty, op)
            .await
            .unwrap_or_else(|e| panic!("{op}: {e}"));
        // Of a plugin that cannot measure other calls expect nothing bad.
        let remembered: &[&str] = if op == "sample" { &[] } else { &[op] };
        let crashes = faulty.crashes().0;
        let during: Vec<&str> = crashes.iter().map(|c| c.during.as_str()).collect();
        assert_eq!(during, remembered, "{op}");
    }
}

#[tokio::test]
async fn a_host_that_is_killed_between_calls_is_replaced() {
    let machine = Machine::with(&["faulty"]);
    let set = machine.plugins("");
    let faulty = set.get("faulty").unwrap();
    let before = faulty.discover().await.unwrap();
    let first = faulty.pid().await.unwrap();
    kill(first);
    assert_eq!(faulty.discover().await.unwrap(), before);
    assert_ne!(faulty.pid().await, Some(first));
    says_text(&faulty.crashes().0[0].reason, "signal 9");
}

/// A wrong answer would be: no device, one device, another call's answer.
#[tokio::test]
async fn five_hundred_kills_at_random_moments_never_give_a_wrong_answer() {
    let machine = Machine::with(&["faulty"]);
    let truth = machine
        .plugins("")
        .get("faulty")
        .unwrap()
        .discover()
        .await
        .unwrap();
    let mut random = Random(0x5eed);
    let (mut kills, mut answers, mut failures) = (0, 0, 0);
    while kills < 500 {
        // A new set and history each time: five crashes would be a quarantine.
        let _ = fs::remove_dir_all(machine.state());
        let set = machine.plugins("faulty.mode=slow faulty.op=discover faulty.ms=1");
        let faulty = set.get("faulty").unwrap();
        faulty.manifest().await.unwrap();
        // The host that runs now, and whatever runs a little later.
        let first = faulty.pid().await.unwrap();
        let (soon, later) = (random.below(2_000), random.below(10_000));
        let folder = machine.plugin_folder();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(soon));
            kill(first);
            std::thread::sleep(Duration::from_micros(later));
            let second = divvy_tests::hosts_of(&folder);
            second.iter().for_each(|pid| kill(*pid));
            1 + second.len()
        });
        let mut last = false;
        loop {
            match faulty.discover().await {
                Ok(found) => {
                    assert_eq!(found, truth, "after {kills} kills");
                    answers += 1;
                }
                Err(error) if error.code() == "plugin_crashed" => failures += 1,
                // Two crashes: it backs off.
                Err(error) => break assert_eq!(error.code(), "plugin_unavailable", "{error}"),
            }
            if last {
                break;
            }
            last = killer.is_finished();
        }
        kills += killer.join().unwrap();
        assert!(!faulty.crashes().0.is_empty(), "a kill went unnoticed");
    }
    println!("{kills} kills: {answers} answers, {failures} failures");
    assert!(
        answers > 250 && failures > 25,
        "{answers} answers, {failures} failures"
    );
}

#[tokio::test]
async fn a_plugin_in_a_crash_loop_disturbs_no_other() {
    let machine = Machine::with(&["cpu", "faulty"]);
    let set = machine.plugins("faulty.mode=crash faulty.op=discover");
    let (before, _) = set.inventory().await;
    let cpu = set.get("cpu").unwrap().pid().await;
    assert!(cpu.is_some());
    for _ in 0..3 {
        let (inventory, failed) = set.inventory().await;
        assert_eq!(inventory.devices, before.devices);
        assert!(
            inventory.devices.iter().all(|d| d.plugin == "cpu") && !inventory.devices.is_empty()
        );
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].0, "faulty");
    }
    assert_eq!(
        set.get("cpu").unwrap().pid().await,
        cpu,
        "cpu's host was never restarted"
    );
}

#[tokio::test]
async fn after_two_crashes_it_is_left_alone_for_a_second() {
    let machine = Machine::with(&["faulty"]);
    let settings = format!(
        "faulty.mode=crash faulty.op=discover faulty.times=2 faulty.once={}",
        machine.path().join("twice").display()
    );
    let set = machine.plugins(&settings);
    let faulty = set.get("faulty").unwrap();
    assert_eq!(
        faulty.discover().await.unwrap_err().code(),
        "plugin_crashed"
    );
    let error = faulty.discover().await.unwrap_err();
    says(
        &error,
        "plugin faulty is backing off: it crashed 2 times of late (last in discover: ",
    );
    // Another `divvy` leaves it alone as well.
    let other = machine.plugins(&settings);
    says(
        &other.get("faulty").unwrap().discover().await.unwrap_err(),
        "backing off",
    );
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(
        ids(&faulty.discover().await.unwrap()).len(),
        2,
        "then it is tried again"
    );
}

#[tokio::test]
async fn five_crashes_are_a_quarantine_that_is_remembered() {
    let machine = Machine::with(&["faulty"]);
    let history = machine.state().join("plugins");
    let at = |seconds: u64| Crash {
        at_ms: now_ms() - seconds * 1_000,
        during: "discover".into(),
        reason: "earlier".into(),
    };
    Crashes(vec![at(400), at(300), at(200), at(100)])
        .save(&history, "faulty")
        .unwrap();
    let settings = "faulty.mode=crash faulty.op=discover";
    let set = machine.plugins(settings);
    let faulty = set.get("faulty").unwrap();
    let error = faulty.discover().await.unwrap_err();
    says(
        &error,
        "five crashes within ten minutes, the last in discover: it was ended by signal 11",
    );
    assert!(matches!(faulty.status().await, Status::Quarantined(_)));
    let anew = machine.plugins(settings);
    let error = anew.get("faulty").unwrap().discover().await.unwrap_err();
    says(&error, "plugin faulty is in quarantine: five crashes");
    says(&error, "it is tried again in ");
    assert_eq!(error.code(), "plugin_unavailable");
    assert_eq!(machine.hosts(), NOBODY, "it is not even started");
}

#[tokio::test]
async fn a_damaged_crash_history_is_no_crash() {
    let machine = Machine::with(&["faulty"]);
    let history = machine.state().join("plugins");
    fs::create_dir_all(&history).unwrap();
    let huge = format!(r#"[{{"at_ms":{},"during":"x","reason":"y"}}]"#, u64::MAX);
    let five = format!("[{}]", [huge.trim_matches(['[', ']']); 5].join(","));
    for text in ["", "{", "[1]", "null", huge.as_str(), five.as_str()] {
        fs::write(history.join("faulty.json"), text).unwrap();
        let set = machine.plugins("");
        // A time in the far future may delay it; it must not end us.
        if let Err(error) = set.get("faulty").unwrap().discover().await {
            assert_eq!(error.code(), "plugin_unavailable", "{text}: {error}");
        }
    }
}
