//! Files that are no plugins, or no safe ones; settings for nobody.

use super::*;

// === files ===

#[tokio::test]
async fn a_file_that_is_no_plugin_is_refused_in_one_clear_line() {
    let machine = Machine::with(&["faulty"]);
    let good = fs::read(machine.plugin_file("faulty")).unwrap();
    machine.install("text", b"#!/bin/sh\necho I am a plugin\n");
    machine.install("empty", b"");
    machine.install("cut", &good[..good.len() / 12]);
    machine.install("header", &good[..64]);
    machine.install("arm", &changed(&good[..], 18, &[0xb7, 0]));
    machine.install("nothing", &fs::read(libc()).unwrap());
    machine.install(
        "layout",
        &replaced(&good, b"manifest;open;", b"manifesT;open;"),
    );
    machine.install(
        "abi",
        &replaced(&good, b"abi stable library", b"ABI stable library"),
    );
    machine.install("impostor", &good);
    let set = machine.plugins("");
    for (name, words) in [
        ("text", "not a shared object that can be loaded here"),
        ("empty", "not a shared object that can be loaded here"),
        ("cut", ""),
        ("header", "not a shared object that can be loaded here"),
        ("arm", "not a shared object that can be loaded here"),
        ("nothing", "it exports no Divvy plugin"),
        ("layout", "its layout differs from generation v1"),
        ("abi", "it was built with an incompatible abi_stable"),
        (
            "impostor",
            "it calls itself \"faulty\" but its file says \"impostor\"",
        ),
    ] {
        let error = set.get(name).unwrap().manifest().await.unwrap_err();
        let text = error.to_string();
        println!("{text}");
        says_text(&text, &format!("plugin {name} "));
        says_text(&text, words);
        assert!(
            text.lines().count() == 1 && text.len() < 300,
            "one short line: {text}"
        );
        if name != "cut" {
            assert_eq!(error.code(), "plugin_unloadable", "{text}");
        }
    }
    assert_eq!(
        ids(&set.get("faulty").unwrap().discover().await.unwrap()).len(),
        2
    );
}

#[tokio::test]
async fn a_file_that_someone_else_could_change_is_not_opened() {
    requires!(root);
    let machine = Machine::with(&["faulty", "cpu"]);
    let plugin = |name| machine.plugin_file(name);
    machine.install("writable", b"");
    fs::set_permissions(plugin("writable"), Permissions::from_mode(0o666)).unwrap();
    machine.install("foreign", b"");
    chown(plugin("foreign"), Some(65_534), None).unwrap();
    symlink(plugin("cpu"), plugin("link")).unwrap();
    fs::create_dir(plugin("folder")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        plugin("pipe"),
        rustix::fs::FileType::Fifo,
        0o644.into(),
        0,
    )
    .unwrap();
    // Not a plugin's name: not even looked at.
    fs::write(machine.plugin_folder().join("README"), "hello").unwrap();

    let set = machine.plugins("");
    let refused: Vec<String> = set.refused().iter().map(ToString::to_string).collect();
    for (name, words) in [
        ("folder", "is a folder, not a regular file"),
        (
            "foreign",
            "belongs to user 65534, who could change it; chown root",
        ),
        ("link", "is a symbolic link, not a regular file"),
        ("pipe", "is a special file, not a regular file"),
        ("writable", "group or others may write to it; chmod go-w"),
    ] {
        let file = plugin(name).display().to_string();
        let said = refused
            .iter()
            .find(|r| r.contains(&file))
            .unwrap_or_else(|| panic!("{refused:?}"));
        says_text(said, words);
    }
    assert_eq!(refused.len(), 5);
    let names: Vec<&str> = set.clients().iter().map(Client::name).collect();
    assert_eq!(names, ["cpu", "faulty"]);
}

#[test]
fn a_folder_that_someone_else_could_change_is_refused() {
    let machine = Machine::with(&["faulty"]);
    fs::set_permissions(machine.plugin_folder(), Permissions::from_mode(0o777)).unwrap();
    let error = machine.try_plugins("").unwrap_err().to_string();
    says_text(
        &error,
        &format!("chmod go-w {}", machine.plugin_folder().display()),
    );
}

#[tokio::test]
async fn a_file_that_is_swapped_after_the_check_is_not_loaded() {
    let machine = Machine::with(&["faulty"]);
    let set = machine.plugins("");
    fs::rename(machine.plugin_file("faulty"), machine.path().join("aside")).unwrap();
    machine.install("faulty", b"something else");
    assert_eq!(
        ids(&set.get("faulty").unwrap().discover().await.unwrap()).len(),
        2
    );
}

// === settings ===

#[tokio::test]
async fn a_setting_for_nobody_is_refused() {
    let machine = Machine::with(&["faulty"]);
    for (settings, words) in [
        ("fualty.mode=crash", "there is no plugin \"fualty\""),
        (
            "faulty.deadline_ms=soon",
            "--set faulty.deadline_ms=soon: not a number of milliseconds",
        ),
        (
            "faulty.deadline_ms=0",
            "not a number of milliseconds from 1 to 600000",
        ),
        (
            "faulty.deadline_ms=600001",
            "not a number of milliseconds from 1 to 600000",
        ),
        ("faulty.deadline_ms=-1", "not a number of milliseconds"),
    ] {
        says_text(
            &machine.try_plugins(settings).unwrap_err().to_string(),
            words,
        );
    }
    let set = machine.plugins("faulty.mdoe=crash");
    let error = set.get("faulty").unwrap().discover().await.unwrap_err();
    says(
        &error,
        "plugin faulty: it has no setting \"mdoe\"; its settings are: mode, op, once, times, ms",
    );
    assert_eq!(machine.hosts(), NOBODY);
}
