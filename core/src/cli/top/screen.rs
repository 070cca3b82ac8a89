//! The screen's loop, on a thread of its own: it waits for keys, for news and for the
//! next second, and for nothing else. Whoever fetches the news may hang.

use std::time::Duration;

use crossterm::event::{Event, EventStream};
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender};

use super::described;
use super::draw::{Palette, Scene, draw, furthest};
use super::input::{Deed, Focus, Over, Ui};
use super::model::{Model, News, View};
use super::terminal::Screen;
use crate::agent::AgentError;
use crate::cli::terminal::Signals;
use crate::sys::now_ms;

/// The clock and ages go on without news.
const TICK: Duration = Duration::from_secs(1);

/// A workload to stop: its id and name.
pub(super) type Stop = (String, String);

/// Shows the screen until the user has enough; the exit status.
pub(super) fn show(
    model: Model,
    news: Receiver<News>,
    stops: Sender<Stop>,
    palette: Palette,
) -> Result<u8, AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| AgentError::System("cannot start", e))?;
    runtime.block_on(run(model, news, stops, palette))
}

async fn run(
    mut model: Model,
    mut news: Receiver<News>,
    stops: Sender<Stop>,
    palette: Palette,
) -> Result<u8, AgentError> {
    let failed = |e| AgentError::System("signals cannot be waited for", e);
    let mut ends = Signals::of(ENDS)?;
    let mut continues = signal(SignalKind::from_raw(CONT)).map_err(failed)?;
    let mut screen = Screen::take()?;
    let mut events = EventStream::new();
    let mut tick = tokio::time::interval(TICK);
    let mut ui = Ui::default();
    loop {
        let view = model.view(now_ms(), &ui.filter);
        ui.settle(&view);
        let description = describe(&model, &ui, &view);
        ui.within(furthest(&description, screen.height()));
        let scene = Scene {
            view: &view,
            ui: &ui,
            description: &description,
            palette,
            width: screen.width(),
        };
        screen.draw(|buffer| draw(buffer, &scene, true))?;
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) => match ui.key(key, &view) {
                    Deed::Show => {}
                    Deed::Quit => return Ok(0),
                    Deed::Suspend => screen.suspend()?,
                    Deed::Stop { id, name } => {
                        if stops.try_send((id, name)).is_err() {
                            ui.said = Some("busy: try again".into());
                        }
                    }
                },
                Some(Ok(_)) => {}
                // The terminal is gone.
                Some(Err(_)) | None => return Ok(0),
            },
            one = news.recv() => match one {
                Some(one) => {
                    take(&mut model, &mut ui, one);
                    // What came meanwhile is shown with it.
                    while let Ok(one) = news.try_recv() {
                        take(&mut model, &mut ui, one);
                    }
                }
                // Whoever fetched it is gone, and says why.
                None => return Ok(0),
            },
            _ = tick.tick() => {}
            number = ends.next() => return Ok(u8::try_from(128 + number).unwrap_or(1)),
            _ = continues.recv() => screen.resume()?,
        }
    }
}

fn take(model: &mut Model, ui: &mut Ui, news: News) {
    if let News::Said(text) = &news {
        ui.said = Some(text.clone());
    }
    model.take(news, now_ms());
}

/// Everything about the selected, if it is asked for.
fn describe(model: &Model, ui: &Ui, view: &View) -> Vec<String> {
    if !matches!(ui.over, Over::Describe(_)) {
        return vec![];
    }
    match (ui.focus, ui.selected(view)) {
        (Focus::Workloads, Some(name)) => described::workload(model, &name),
        (Focus::Devices, Some(row)) => described::device(model, &row),
        (_, None) => vec![],
    }
}

/// SIGCONT on Linux (signal(7)).
const CONT: i32 = 18;

/// The signals that end this: SIGHUP, SIGINT, SIGTERM.
const ENDS: [i32; 3] = [1, 2, 15];
