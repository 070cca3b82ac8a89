//! Calls that are slow, given up, refused or answered with nonsense.

use super::*;

// === hangs ===

#[tokio::test]
async fn a_hang_ends_at_the_deadline_and_so_does_the_host() {
    // All at once: each takes as long as its deadline.
    join_all(OPS.map(async |op| {
        let mode = if op == "discover" {
            "ignore-sigterm"
        } else {
            "hang"
        };
        let (machine, set) = given_with(mode, op, SHORT);
        let began = Instant::now();
        let error = call(set.get("faulty").unwrap(), op).await.unwrap_err();
        // 1200, and for `watch` what it was to wait.
        says(
            &error,
            &format!("plugin faulty failed in {op}: it did not answer within 120"),
        );
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "{op}: {:?}",
            began.elapsed()
        );
        assert_eq!(machine.hosts(), NOBODY, "{op}");
    }))
    .await;
}

#[tokio::test]
async fn a_plugin_that_spins_is_killed_too() {
    let (machine, set) = given_with("spin", "discover", SHORT);
    says(
        &set.get("faulty").unwrap().discover().await.unwrap_err(),
        "did not answer within 1200 ms",
    );
    assert_eq!(machine.hosts(), NOBODY);
}

#[tokio::test]
async fn a_slow_answer_before_the_deadline_is_an_answer() {
    let machine = Machine::with(&["faulty"]);
    let set = machine
        .plugins("faulty.mode=slow faulty.op=discover faulty.ms=600 faulty.deadline_ms=9000");
    set.get("faulty").unwrap().discover().await.unwrap();
}

#[tokio::test]
async fn a_watch_keeps_nobody_else_waiting() {
    let machine = Machine::with(&["faulty"]);
    let set = machine.plugins("");
    let faulty = set.get("faulty").unwrap();
    let known = faulty.discover().await.unwrap();
    let request = WatchRequest {
        known,
        timeout_ms: 2_000,
        held: vec![],
    };
    let began = Instant::now();
    let (_, others) = tokio::join!(faulty.watch(&request), async {
        tokio::task::yield_now().await;
        let found = faulty.discover().await;
        (found, began.elapsed())
    });
    let (found, took) = others;
    found.unwrap();
    assert!(
        took < Duration::from_millis(1_500),
        "discover waited for {took:?}"
    );
}

#[tokio::test]
async fn a_call_that_is_given_up_does_not_spoil_the_next() {
    let (_machine, set) = given("large-reply", "discover");
    let faulty = set.get("faulty").unwrap();
    let truth = faulty.discover().await.unwrap();
    let mut random = Random(7);
    for round in 0..30 {
        let patience = Duration::from_micros(random.below(40_000));
        let _ = timeout(patience, faulty.discover()).await;
        let found = faulty
            .discover()
            .await
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(found, truth, "round {round}");
    }
    assert_eq!(faulty.crashes().0, [], "it did nothing wrong");
}

#[tokio::test]
async fn a_measurement_has_a_host_of_its_own_and_its_faults_are_nobody_elses() {
    let (machine, set) = given_with("hang", "sample", "faulty.deadline_ms=400");
    let faulty = set.get("faulty").unwrap();
    faulty.discover().await.unwrap();
    let began = Instant::now();
    let (measured, others) = tokio::join!(faulty.sample(), async {
        prepare(faulty).await.unwrap();
        call(faulty, "watch").await.unwrap();
        began.elapsed()
    });
    assert!(others < Duration::from_millis(400), "{others:?}");
    says(&measured.unwrap_err(), "did not answer within 400 ms");
    // However often: it is left alone at last, and still prepares.
    let left_alone = |error: &CallError| error.to_string().contains("backing off");
    let mut errors = vec![];
    for _ in 0..3 {
        errors.push(faulty.sample().await.unwrap_err());
    }
    assert!(errors.iter().any(left_alone), "{errors:?}");
    assert_eq!(faulty.crashes().0, []);
    prepare(faulty).await.unwrap();
    assert_eq!(machine.hosts().len(), 2, "one answers, one watches");
}

#[tokio::test]
async fn the_host_that_measures_goes_when_nobody_wants_it_and_comes_back() {
    let machine = Machine::with(&["faulty"]);
    let set = machine.plugins("");
    let faulty = set.get("faulty").unwrap();
    faulty.discover().await.unwrap();
    for _ in 0..2 {
        assert_eq!(faulty.sample().await.unwrap().devices.len(), 2);
        assert_eq!(machine.hosts().len(), 2);
        faulty.rest().await;
        assert_eq!(machine.hosts().len(), 1);
    }
    assert_eq!((faulty.crashes().0, faulty.restarts()), (vec![], 0));
}

// === refusals ===

#[tokio::test]
async fn a_panic_is_a_refusal_and_the_host_lives() {
    for op in OPS
        .into_iter()
        .filter(|op| *op != "manifest" && *op != "open" && *op != "restore")
    {
        let (machine, set) = given("panic", op);
        let faulty = set.get("faulty").unwrap();
        faulty.manifest().await.unwrap();
        let host = faulty.pid().await;
        let error = call(faulty, op).await.unwrap_err();
        says(&error, "plugin faulty: the plugin panicked: as asked");
        let CallError::Refused { error, .. } = error else {
            panic!("{op}: {error:?}")
        };
        assert_eq!(error.code, ErrorCode::Panicked);
        let hosts = machine.hosts();
        assert!(hosts.contains(&host.unwrap()), "{op}: {hosts:?}");
        // `watch` and `sample` have hosts of their own.
        let own = op == "watch" || op == "sample";
        assert_eq!(hosts.len(), if own { 2 } else { 1 }, "{op}");
        assert_eq!(faulty.crashes().0, [], "{op}");
    }
}

#[tokio::test]
async fn a_panic_at_the_beginning_is_a_refusal() {
    for op in ["manifest", "open", "restore"] {
        let (machine, set) = given("panic", op);
        let error = call(set.get("faulty").unwrap(), op).await.unwrap_err();
        says(&error, "the plugin panicked: as asked");
        assert_eq!(
            machine.hosts(),
            NOBODY,
            "{op}: a host that is of no use is not kept"
        );
    }
}

#[tokio::test]
async fn an_error_is_passed_on_in_its_own_words() {
    let (_machine, set) = given("error", "discover");
    let error = set.get("faulty").unwrap().discover().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "plugin faulty: the driver said no, as asked"
    );
    assert_eq!(error.code(), "plugin_refused");
}

#[tokio::test]
async fn a_plugin_without_its_hardware_is_absent_not_broken() {
    let (_machine, set) = given("absent", "open");
    let faulty = set.get("faulty").unwrap();
    for _ in 0..6 {
        assert!(faulty.discover().await.unwrap_err().is_absent());
    }
    assert_eq!(faulty.crashes().0, []);
}

// === nonsense on the channel ===

#[tokio::test]
async fn garbage_on_the_channel_is_refused_by_name() {
    for (mode, words) in [
        ("channel-garbage", "it broke the protocol ("),
        (
            "channel-length",
            "a message of 4294967295 bytes, over the limit of 16777216",
        ),
        ("channel-half", "it did not answer within"),
        ("answer-to-no-call", "an answer to no call"),
        ("huge-reply", "16 MiB"),
    ] {
        let deadline = if mode == "channel-half" { SHORT } else { "" };
        let (machine, set) = given_with(mode, "discover", deadline);
        let error = set.get("faulty").unwrap().discover().await.unwrap_err();
        says(&error, "plugin faulty failed in discover: ");
        says(&error, words);
        assert_eq!(machine.hosts(), NOBODY, "{mode}");
    }
}

#[tokio::test]
async fn a_reply_that_is_no_document_is_refused_by_name() {
    let machine = Machine::with(&["garbage"]);
    let set = machine.plugins("");
    let garbage = set.get("garbage").unwrap();
    garbage.manifest().await.unwrap();
    let host = garbage.pid().await;
    for (op, words) in [
        ("discover", "not JSON"),
        ("watch", "not JSON"),
        ("prepare", "cannot be read"),
        ("started", "not JSON"),
        ("release", "its error is not JSON"),
        ("sample", "not JSON"),
    ] {
        let error = match op {
            "prepare" => garbage
                .prepare(&request(), &BTreeMap::new())
                .await
                .map(drop)
                .unwrap_err(),
            op => call(garbage, op).await.unwrap_err(),
        };
        says(
            &error,
            &format!("plugin garbage gave a wrong answer to {op} and was not believed: "),
        );
        says(&error, words);
        assert!(error.to_string().len() < 1_000, "{op}: {error}");
    }
    assert_eq!(garbage.pid().await, host, "its host lives");
}

#[tokio::test]
async fn what_a_plugin_prints_blocks_nobody() {
    let (_machine, set) = given("chatty", "discover");
    let faulty = set.get("faulty").unwrap();
    for _ in 0..3 {
        assert_eq!(ids(&faulty.discover().await.unwrap()).len(), 2);
    }
}

#[tokio::test]
async fn a_line_without_end_does_not_fill_the_memory() {
    let machine = Machine::with(&["faulty"]);
    let set = machine.plugins("faulty.mode=endless-line faulty.op=discover");
    let faulty = set.get("faulty").unwrap();
    faulty.manifest().await.unwrap();
    let before = resident_kib();
    faulty.discover().await.unwrap();
    let grown = resident_kib().saturating_sub(before);
    assert!(
        grown < 48 << 10,
        "64 MiB were printed, and {grown} KiB are kept"
    );
}

#[tokio::test]
async fn threads_that_are_left_behind_disturb_nobody() {
    let (machine, set) = given("leak-threads", "discover");
    for _ in 0..3 {
        set.get("faulty").unwrap().discover().await.unwrap();
    }
    drop(set);
    assert!(eventually(|| machine.hosts().is_empty()));
}

#[tokio::test]
async fn processes_that_are_left_behind_end_with_the_host() {
    let (machine, set) = given_with("fork-and-crash", "discover", SHORT);
    set.get("faulty").unwrap().discover().await.unwrap_err();
    drop(set);
    assert!(
        eventually(|| machine.hosts().is_empty()),
        "left behind: {:?}",
        machine.hosts()
    );
}
