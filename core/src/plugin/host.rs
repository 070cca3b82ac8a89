//! The plugin host: the child process in which one plugin lives.
//!
//! It loads the file on descriptor 4, answers calls on descriptor 3, and has
//! nothing else open but the standard streams. It never touches the ledger.
//! It dies with the agent, and the agent outlives anything that it does.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use divvy_plugin::__abi::{LibraryError, RErr, ROk, RStr, lib_header_from_path};
use divvy_plugin::v1::{Instance, PluginV1_Ref, Reply};
use divvy_plugin::{ErrorCode, PluginError};
use serde_json::value::RawValue;

use super::wire::{Answer, CHANNEL_FD, Call, Op, Outcome, PLUGIN_FD};
use crate::{frames, sys};

/// Runs a plugin host until the agent closes the channel. What `divvy
/// plugin-host PARENT` does; not for people.
#[must_use]
pub fn main(args: &[std::ffi::OsString]) -> u8 {
    let channel = match prepare_process(args) {
        Ok(channel) => channel,
        Err(error) => {
            eprintln!("divvy plugin-host is started by the agent, not by hand: {error}");
            return 125;
        }
    };
    match serve(channel) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("the channel to the agent broke: {error}");
            1
        }
    }
}

fn prepare_process(args: &[std::ffi::OsString]) -> io::Result<UnixStream> {
    let parent = args.first().and_then(|a| a.to_str()?.parse().ok());
    sys::die_with_parent(parent.ok_or_else(|| io::Error::other("no parent was named"))?)?;
    sys::close_all_except(&[0, 1, 2, CHANNEL_FD, PLUGIN_FD])?;
    sys::take_socket(CHANNEL_FD)
}

fn serve(channel: UnixStream) -> io::Result<()> {
    let mut replies = channel.try_clone()?;
    let mut calls = BufReader::new(channel);
    let mut module: Option<PluginV1_Ref> = None;
    let mut instance: Option<Instance> = None;

    while let Some(frame) = frames::read(&mut calls)? {
        let call: Call<'_> = serde_json::from_slice(&frame)?;
        let argument = RStr::from_str(call.arg.get());
        if call.op == Op::Manifest {
            match load() {
                Ok(loaded) => {
                    reply(&mut replies, call.id, loaded.manifest()())?;
                    module = Some(loaded);
                }
                Err(why) => send(&mut replies, call.id, Outcome::Unloadable(why))?,
            }
            continue;
        }
        let Some(module) = module else {
            refuse(&mut replies, call.id, "a call before `manifest`")?;
            continue;
        };
        if call.op == Op::Open {
            match module.open()(argument) {
                ROk(opened) => {
                    instance = Some(opened);
                    reply(&mut replies, call.id, ROk("null".into()))?;
                }
                RErr(error) => reply(&mut replies, call.id, RErr(error))?,
            }
            continue;
        }
        let Some(open) = &instance else {
            refuse(&mut replies, call.id, "a call before `open`")?;
            continue;
        };
        let operation = match call.op {
            Op::Discover => module.discover(),
            Op::Watch => module.watch(),
            Op::Prepare => module.prepare(),
            Op::Started => module.started(),
            Op::Release => module.release(),
            Op::Restore => module.restore(),
            Op::Sample => module.sample(),
            Op::Manifest | Op::Open => continue, // handled above
        };
        reply(&mut replies, call.id, operation(open, argument))?;
    }
    Ok(())
}

/// Loads the plugin: newest generation first (there is one so far).
fn load() -> Result<PluginV1_Ref, String> {
    let path = PathBuf::from(format!("/proc/self/fd/{PLUGIN_FD}"));
    let header = lib_header_from_path(&path).map_err(|e| clear(&e))?;
    header
        .init_root_module::<PluginV1_Ref>()
        .map_err(|e| clear(&e))
}

/// abi_stable explains a mismatch over hundreds of lines: those go to the log
/// (stderr), one goes to the user.
fn clear(error: &LibraryError) -> String {
    let all = error.to_string();
    if all.lines().count() > 3 {
        eprintln!("{all}");
    }
    match error {
        LibraryError::OpenError { err, .. } => {
            let text = err.to_string();
            let reason = text.rsplit("/proc/self/fd/4: ").next().unwrap_or(&text);
            format!("it is not a shared object that can be loaded here ({reason})")
        }
        LibraryError::GetSymbolError { .. } => {
            "it exports no Divvy plugin; does it say divvy_plugin::export_plugin!(..) and is its crate-type cdylib?".into()
        }
        LibraryError::InvalidAbiHeader(_) => {
            "it was built with an incompatible abi_stable; rebuild it against divvy-plugin 1.x".into()
        }
        LibraryError::IncompatibleVersionNumber { expected_version, actual_version, .. } => format!(
            "it was built against divvy-plugin {actual_version}, this agent speaks {expected_version}; rebuild it"
        ),
        LibraryError::AbiInstability(_) => {
            "its layout differs from generation v1 of divvy-plugin; rebuild it against divvy-plugin 1.x".into()
        }
        LibraryError::RootModule { err, .. } => {
            format!("its root module could not be made: {}", first_line(&err.to_string()))
        }
        other => first_line(&other.to_string()).to_owned(),
    }
}

fn first_line(text: &str) -> &str {
    text.lines()
        .map(str::trim)
        .find(|l| !l.is_empty())
        .unwrap_or("no reason given")
}

fn reply(to: &mut UnixStream, id: u64, answer: Reply) -> io::Result<()> {
    match answer {
        ROk(text) => match serde_json::from_str::<&RawValue>(&text) {
            Ok(raw) => send(to, id, Outcome::Ok(raw)),
            Err(e) => send(
                to,
                id,
                Outcome::Unreadable(format!("its reply is not JSON: {e}")),
            ),
        },
        RErr(text) => match serde_json::from_str(&text) {
            Ok(error) => send(to, id, Outcome::Refused(error)),
            Err(e) => send(
                to,
                id,
                Outcome::Unreadable(format!("its error is not JSON: {e}")),
            ),
        },
    }
}

fn refuse(to: &mut UnixStream, id: u64, why: &str) -> io::Result<()> {
    send(
        to,
        id,
        Outcome::Refused(PluginError::new(ErrorCode::Invalid, why)),
    )
}

fn send(to: &mut UnixStream, id: u64, result: Outcome<'_>) -> io::Result<()> {
    let frame = frames::json_frame(&Answer { id, result })?;
    to.write_all(&frame)
}
