//! `divvy top`: who holds and who uses what, live.
//!
//! * `fetch`: documents come from an agent, or from one in this process;
//! * [`model`]: what they mean, with rates and ages; pure;
//! * [`input`]: keys; pure;
//! * [`draw`]: cells; pure;
//! * `screen`: the loop, on a thread of its own, so that nothing that is fetched keeps a
//!   key waiting;
//! * `terminal`: taken and given back.

mod described;
mod draw;
#[cfg(test)]
mod example;
mod fetch;
mod input;
mod model;
#[cfg(test)]
mod picture;
mod screen;
mod terminal;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::args::{Global, Top};
use super::open;
use super::output::{Failure, print_json, printable};
use super::terminal::Terminal;
use crate::embed::Divvy;
use crate::sys::now_ms;
use draw::{Palette, Scene};
use input::Ui;
use model::{Model, News};

/// The grace of a workload that is stopped here.
const GRACE: Duration = Duration::from_secs(10);
/// News that wait to be shown.
const NEWS: usize = 64;
/// With `--once`: rates take two measurements, and a plugin that hangs is not waited for.
const PATIENCE: Duration = Duration::from_secs(4);
/// With `--once`: between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// As wide is what is printed where nobody says how wide it may be.
const WIDTH: u16 = 120;

pub(super) async fn run(global: &Global, args: &Top) -> Result<u8, Failure> {
    if global.json && !args.once {
        return Err(Failure::words(
            "needs_once",
            "--json goes with --once: divvy top --once --json; again and again: GET /v1/samples"
                .into(),
        ));
    }
    let divvy = open(global).await?;
    if global.json {
        print_json(&divvy.samples().await?);
        return Ok(0);
    }
    let model = Model::new(host(global)?, users());
    if args.once || !Terminal::is_there() {
        return once(&divvy, model).await;
    }
    let (news, come) = mpsc::channel(NEWS);
    let (stops, mut to_stop) = mpsc::channel(NEWS);
    let (ended, end) = oneshot::channel();
    let screen = std::thread::spawn(move || {
        let result = screen::show(model, come, stops, palette());
        let _ = ended.send(());
        result
    });
    let stopping = async {
        let mut asked = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some((id, name)) = to_stop.recv() => {
                    let divvy = &divvy;
                    asked.push(async move { stop(divvy, &id, &name).await });
                }
                Some(said) = asked.next() => drop(news.send(News::Said(said)).await),
                else => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        () = fetch::fetch(&divvy, args.interval, &news) => {}
        () = stopping => {}
        _ = end => {}
    }
    match screen.join() {
        Ok(result) => Ok(result?),
        // It has said why.
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Stops a workload; what became of it, in words.
async fn stop(divvy: &Divvy, id: &str, name: &str) -> String {
    match divvy.stop(id, GRACE).await {
        Ok(exit) => match exit.and_then(|exit| exit.code) {
            Some(code) => format!("{name} has ended with {code}"),
            None => format!("{name} has ended"),
        },
        Err(error) => printable(&format!("{error} [{}]", error.code())),
    }
}

/// Prints one screen.
async fn once(divvy: &Divvy, mut model: Model) -> Result<u8, Failure> {
    let (news, mut come) = mpsc::channel(NEWS);
    let complete = async {
        while let Some(news) = come.recv().await {
            model.take(news, now_ms());
            if model.is_complete() {
                break;
            }
        }
    };
    tokio::select! {
        () = fetch::fetch(divvy, LOOK, &news) => {}
        _ = timeout(PATIENCE, complete) => {}
    }
    let mut view = model.view(now_ms(), "");
    if view.is_empty {
        // It says why, or what it takes longer for.
        model.take(News::Devices(Ok(divvy.devices().await?)), now_ms());
        view = model.view(now_ms(), "");
    }
    let on_terminal = std::io::stdout().is_terminal();
    let palette = if on_terminal {
        palette()
    } else {
        Palette::Plain
    };
    let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    let width = match Terminal::size() {
        Some((columns, _)) if on_terminal => columns,
        _ => columns.unwrap_or(WIDTH),
    };
    let scene = Scene {
        view: &view,
        ui: &Ui::nobody(),
        description: &[],
        palette,
        width: width.clamp(60, 250),
    };
    let area = Rect::new(0, 0, scene.width, draw::height(&scene));
    let mut buffer = Buffer::empty(area);
    draw::draw(&mut buffer, &scene, false);
    terminal::print(&buffer, palette);
    Ok(0)
}

fn palette() -> Palette {
    let variable = |name| std::env::var(name).ok();
    Palette::of(
        variable("NO_COLOR").as_deref(),
        variable("COLORTERM").as_deref(),
        variable("TERM").as_deref(),
    )
}

/// What the machine is called.
fn host(global: &Global) -> Result<String, Failure> {
    if let Some(machine) = global.simulated()? {
        return Ok(format!("{} (simulated)", machine.name));
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(printable(name.trim()))
}

/// Users' names. Whom only a directory service knows stays a number.
fn users() -> BTreeMap<u32, String> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    // Of two with one number the first counts, as for the C library.
    text.lines().rev().filter_map(user).collect()
}

/// Time between two looks, from 0.2 to 60 seconds.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<crate::model::Amount>().ok();
    let nanos = seconds.and_then(|s| u64::try_from(s.nanos()).ok());
    nanos
        .map(Duration::from_nanos)
        .filter(|d| (Duration::from_millis(200)..=Duration::from_secs(60)).contains(d))
        .ok_or_else(|| "seconds from 0.2 to 60, such as 2 or 0.5".into())
}
