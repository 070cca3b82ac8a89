//! Well-formed answers that are not true.

use super::*;

#[tokio::test]
async fn a_lie_about_devices_is_not_believed() {
    for (mode, words) in [
        ("duplicate-id", "the device unit-a twice"),
        ("bad-id", "the device id \"unit a\\n\""),
        ("empty-id", "the device id \"\""),
        ("reserved-over-total", "more than there is"),
        ("no-such-parent", "which is not there"),
        ("own-parent", "refers to itself"),
        ("link-to-nowhere", "which is not there"),
        ("too-many-devices", "more than 16384 devices"),
        ("model-escapes", "unprintable or overlong model"),
    ] {
        let (_machine, set) = given(mode, "discover");
        let error = set.get("faulty").unwrap().discover().await.unwrap_err();
        says(
            &error,
            "plugin faulty gave a wrong answer to discover and was not believed: ",
        );
        says(&error, words);
        assert_eq!(error.code(), "plugin_lied");
    }
}

#[tokio::test]
async fn a_lie_about_edits_is_not_believed() {
    for (mode, words) in [
        ("other-device-node", "unit-b, which was not granted"),
        ("other-device-number", "which is no node of unit-a"),
        ("memory-device", "(1:1), which is no node of unit-a"),
        ("block-device", "which is no node of unit-a"),
        ("two-nodes-same", "/dev/faulty-a twice"),
        ("node-outside-dev", "not a path under /dev"),
        ("mount-root", "it mounts \"/\""),
        ("mount-etc", "under /etc"),
        ("mount-docker", "under /run"),
        ("mount-over-proc", "under /proc"),
        ("mount-dots", "not a plain absolute path"),
        ("loader-env", "the loader variable LD_PRELOAD"),
        ("foreign-env", "it sets PATH"),
        ("env-nul", "a text with a NUL"),
        ("env-twice", "FAULTY_UNIT twice"),
        ("gid-0", "the root group"),
        ("memory-too-much", "above the 0 that were granted"),
        ("cpuset-nonsense", "not a kernel list"),
        ("quota-nonsense", "outside what the kernel takes"),
        (
            "annotation-escapes",
            "the annotation faulty/x is unprintable",
        ),
    ] {
        let (_machine, set) = given(mode, "prepare");
        let error = prepare(set.get("faulty").unwrap()).await.unwrap_err();
        says(
            &error,
            "plugin faulty gave a wrong answer to prepare and was not believed: ",
        );
        says(&error, words);
    }
}

#[tokio::test]
async fn a_block_device_is_granted_to_nobody() {
    let (_machine, set) = given("disk-node", "any");
    let error = prepare(set.get("faulty").unwrap()).await.unwrap_err();
    says(&error, "it gives the block device /dev/faulty-a");
}

#[tokio::test]
async fn a_lie_in_the_manifest_is_not_believed() {
    for (mode, words) in [
        (
            "other-name",
            "calls itself \"cpu\" but its file says \"faulty\"",
        ),
        ("bad-name", "its name \"../faulty\""),
        ("no-slots", "it offers no slots"),
        ("foreign-slot", "\"cuda.shares\" is not named faulty."),
        ("zero-quantum", "a quantum of 0"),
        ("no-draws", "draws on nothing"),
        ("slot-twice", "faulty.units twice"),
        ("reserves-everything", "no environment variable"),
        ("setting-escapes", "it has a setting named"),
    ] {
        let (_machine, set) = given(mode, "manifest");
        let error = set.get("faulty").unwrap().manifest().await.unwrap_err();
        says(&error, "plugin faulty cannot be loaded: ");
        says(&error, words);
        assert_eq!(error.code(), "plugin_unloadable");
    }
}

#[tokio::test]
async fn another_plugins_slot_cannot_be_taken() {
    let machine = Machine::with(&["cpu", "faulty"]);
    fs::write(
        machine.plugin_folder().join("faulty.manifest"),
        "slot-of-cpu",
    )
    .unwrap();
    let set = machine.plugins("");
    let (inventory, failed) = set.inventory().await;
    assert!(inventory.devices.iter().all(|d| d.plugin == "cpu"));
    says(
        &failed[0].1,
        "plugin faulty cannot be loaded: another plugin offers the slot cpu already",
    );
}

#[tokio::test]
async fn a_lie_about_measures_is_not_believed() {
    let (_machine, set) = given("sample-escapes", "sample");
    let error = set.get("faulty").unwrap().sample().await.unwrap_err();
    says(&error, "unit-a has a measure named \"load\\n");
    assert_eq!(error.code(), "plugin_lied");
}

#[test]
fn nothing_that_a_plugin_says_moves_the_cursor() {
    requires!(root);
    for (op, mode) in [
        ("manifest", "escapes"),
        ("discover", "error-escapes"),
        ("discover", "attribute-escapes"),
        ("discover", "health-escapes"),
        ("discover", "bad-id"),
        ("discover", "chatty"),
    ] {
        let machine = Machine::with(&["faulty"]);
        let verbs: &[&str] = if op == "manifest" {
            fs::write(machine.plugin_folder().join("faulty.manifest"), mode).unwrap();
            &["-VV plugin list", "devices"]
        } else {
            &["-VV devices", "plugin list", "describe faulty/unit-a"]
        };
        for verb in verbs {
            let mut divvy = machine.divvy(verb);
            if op != "manifest" {
                divvy = divvy.args([
                    format!("--set=faulty.mode={mode}"),
                    format!("--set=faulty.op={op}"),
                ]);
            }
            let output = divvy.run();
            let odd = |c: char| c != '\n' && c.is_control() || c == '\u{202e}';
            let text = format!("{}{}", output.stdout, output.stderr);
            assert!(
                !text.contains(odd),
                "{mode}\n{}",
                format!("{output}").escape_debug()
            );
        }
    }
}
