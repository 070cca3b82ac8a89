//! The screen, drawn: what is shown and what the user looks at become cells. No terminal.
//!
//! From top to bottom: a line about the machine, devices, workloads, what happened last,
//! the keys. What does not fit is scrolled, each part on its own, so that the selected row
//! is there.

mod bar;
mod devices;
mod overlay;
mod palette;
mod table;
mod workloads;

pub(super) use palette::Palette;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Span;

use super::input::{Focus, Over, Ui};
use super::model::{Agent, Tone, View};

/// Events at the bottom, where there is room.
const EVENTS: u16 = 3;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene<'a> {
    /// What is known.
    pub(super) view: &'a View,
    /// What the user looks at.
    pub(super) ui: &'a Ui,
    /// Everything about the selected, where it is asked for.
    pub(super) description: &'a [String],
    /// The colours.
    pub(super) palette: Palette,
    /// How wide the screen is.
    pub(super) width: u16,
}

/// The furthest line that a description begins with.
pub(super) fn furthest(description: &[String], height: u16) -> usize {
    overlay::furthest(description.len(), height)
}

/// How many lines it takes to show everything.
pub(super) fn height(scene: &Scene<'_>) -> u16 {
    let devices = u16::try_from(devices::lines(scene, true).len()).unwrap_or(u16::MAX);
    let events = u16::try_from(scene.view.events.len())
        .unwrap_or(0)
        .min(EVENTS);
    let events = if events > 0 { events + 1 } else { 0 };
    devices
        .saturating_add(workloads::count(scene))
        .saturating_add(events + 3)
}

/// Draws everything; `keys`: with the line of keys.
pub(super) fn draw(buffer: &mut Buffer, scene: &Scene<'_>, keys: bool) {
    let area = buffer.area;
    if area.width < 20 || area.height < 5 {
        put(
            buffer,
            area.x,
            area.y,
            "too small",
            area.width,
            Style::new(),
        );
        return;
    }
    header(buffer, Rect::new(area.x, area.y, area.width, 2), scene);
    let foot = u16::from(keys);
    let body = Rect::new(area.x, area.y + 2, area.width, area.height - 2 - foot);
    content(buffer, body, scene);
    if keys {
        let line = Rect::new(area.x, area.bottom() - 1, area.width, 1);
        footer(buffer, line, scene);
        over(
            buffer,
            Rect::new(area.x, area.y + 1, area.width, area.height - 2),
            scene,
        );
    }
}

/// The machine in a line; below it why what is shown is not of now, if so.
fn header(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>) {
    let (view, palette) = (scene.view, scene.palette);
    let narrow = area.width < 90;
    let agent = match &view.agent {
        Agent::None => "no agent".into(),
        Agent::Away => "agent away".into(),
        Agent::There(_) if narrow => "agent".into(),
        Agent::There(version) => format!("agent {version}"),
    };
    let zone = if narrow { "" } else { " UTC" };
    let right = format!("{agent}  {}{zone}", view.clock);
    let right_width = width_of(&right);
    let mut x = area.x + 1;
    let end = area.right().saturating_sub(right_width + 3);
    let mut say = |buffer: &mut Buffer, text: &str, style: Style| {
        let text = fitted(text, usize::from(end.saturating_sub(x)));
        put(buffer, x, area.y, &text, end.saturating_sub(x), style);
        x += width_of(&text);
    };
    say(buffer, &view.host, palette.bold());
    // What does not fit whole is left out.
    let mut room = end.saturating_sub(area.x + 1 + width_of(&view.host));
    for (n, text) in view.summary.iter().enumerate() {
        let gap = if n == 0 { "  " } else { " · " };
        room = room.saturating_sub(width_of(gap) + width_of(text));
        if room == 0 {
            break;
        }
        say(buffer, gap, palette.tone(Tone::Dim));
        say(buffer, text, Style::new());
    }
    if let Some(warning) = &view.warning {
        let text = fitted(warning, usize::from(area.width.saturating_sub(2)));
        let style = palette.tone(Tone::Bad);
        put(buffer, area.x + 1, area.y + 1, &text, area.width - 2, style);
    }
    if view.is_empty && view.warning.is_none() {
        say(buffer, "  looking …", palette.tone(Tone::Dim));
    }
    let x = area.right().saturating_sub(right_width + 1);
    put(
        buffer,
        x,
        area.y,
        &right,
        right_width,
        palette.tone(Tone::Dim),
    );
}

fn content(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>) {
    let workloads = workloads::count(scene);
    let count = |lines: &[_]| u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let mut lines = devices::lines(scene, true);
    if count(&lines).saturating_add(workloads) >= area.height {
        lines = devices::lines(scene, false);
    }
    let wanted = count(&lines);
    let events = u16::try_from(scene.view.events.len())
        .unwrap_or(0)
        .min(EVENTS);
    // Events have what the rest leaves, beside two blank lines.
    let needed = wanted.saturating_add(workloads).saturating_add(1);
    let events = events.min(area.height.saturating_sub(needed.saturating_add(1)));
    let room = match events {
        0 => area.height,
        _ => area.height - events - 1,
    };
    let (devices_height, workloads_height) = share(wanted, workloads, room.saturating_sub(1));
    let place = Rect::new(area.x, area.y, area.width, devices_height);
    let selected = devices::selected(scene, &lines);
    let from = scrolled(lines.len(), selected, devices_height);
    devices::draw(buffer, place, scene, &lines[from..]);
    more(buffer, place, scene, (from, lines.len()));
    let y = place.bottom() + 1;
    let place = Rect::new(area.x, y.min(area.bottom()), area.width, workloads_height);
    let rows = &scene.view.workloads;
    let selected = rows
        .iter()
        .position(|r| Some(&r.name) == scene.ui.workload.as_ref());
    let body = workloads_height.saturating_sub(1);
    let from = scrolled(rows.len(), selected.unwrap_or(0), body);
    workloads::draw(buffer, place, scene, from);
    let below = Rect::new(place.x, place.y + 1, place.width, body);
    more(buffer, below, scene, (from, rows.len()));
    let newest = scene
        .view
        .events
        .iter()
        .rev()
        .take(usize::from(events))
        .rev();
    for (y, event) in (area.bottom() - events..).zip(newest) {
        let text = fitted(event, usize::from(area.width.saturating_sub(2)));
        let style = scene.palette.tone(Tone::Dim);
        put(buffer, area.x + 1, y, &text, area.width - 1, style);
    }
}

/// The lines of two parts that want so many: each has at least a third.
fn share(first: u16, second: u16, room: u16) -> (u16, u16) {
    if first.saturating_add(second) <= room {
        return (first, second);
    }
    let second = second.min((room / 3).max(room.saturating_sub(first)));
    (room - second, second)
}

/// From which line on, so that the selected one is among those that fit.
fn scrolled(lines: usize, selected: usize, room: u16) -> usize {
    let room = usize::from(room);
    if lines <= room {
        return 0;
    }
    // Some of what follows stays in sight.
    let ahead = (room / 4).min(3);
    let last = (selected + ahead + 1).min(lines);
    last.saturating_sub(room)
}

/// Says at the right edge that there is more.
fn more(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>, (from, all): (usize, usize)) {
    if area.height == 0 {
        return;
    }
    let x = area.right() - 1;
    let style = scene.palette.tone(Tone::Warn);
    if from > 0 {
        put(buffer, x, area.y, "▲", 1, style);
    }
    if from + usize::from(area.height) < all {
        put(buffer, x, area.bottom() - 1, "▼", 1, style);
    }
}

fn footer(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>) {
    let palette = scene.palette;
    let ui = scene.ui;
    if ui.over == Over::Filter || !ui.filter.is_empty() {
        let typing = ui.over == Over::Filter;
        let text = match typing {
            true => format!("/{}█", ui.filter),
            false => format!("/{}   Esc shows all", ui.filter),
        };
        put(
            buffer,
            area.x + 1,
            area.y,
            &text,
            area.width - 1,
            palette.bold(),
        );
        return;
    }
    if let Some(said) = &ui.said {
        let text = fitted(said, usize::from(area.width - 2));
        put(
            buffer,
            area.x + 1,
            area.y,
            &text,
            area.width - 1,
            palette.bold(),
        );
        return;
    }
    let other = match ui.focus {
        Focus::Devices => "workloads",
        Focus::Workloads => "devices",
    };
    let keys = [
        ("↑↓", "choose"),
        ("Tab", other),
        ("Enter", "describe"),
        ("s", "stop"),
        ("/", "filter"),
        ("?", "help"),
        ("q", "quit"),
    ];
    let mut x = area.x + 1;
    // Help says what there is no room for.
    let short = |key: &str| area.width >= 82 || !matches!(key, "Enter" | "/");
    for (key, what) in keys.into_iter().filter(|(key, _)| short(key)) {
        let width = width_of(key) + 1 + width_of(what);
        put(buffer, x, area.y, key, width, palette.bold());
        let style = palette.tone(Tone::Dim);
        put(buffer, x + width_of(key) + 1, area.y, what, width, style);
        x += width + 3;
    }
}

fn over(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>) {
    match &scene.ui.over {
        Over::Nothing | Over::Filter => {}
        Over::Help => overlay::help(buffer, area, scene.palette),
        Over::Stop { name, .. } => overlay::stop(buffer, area, name, scene.palette),
        Over::Describe(line) => {
            let title = scene.ui.selected(scene.view).unwrap_or_default();
            overlay::text(
                buffer,
                area,
                &title,
                scene.description,
                *line,
                scene.palette,
            );
        }
    }
}

/// Writes a text, `room` cells of it at most.
fn put(buffer: &mut Buffer, x: u16, y: u16, text: &str, room: u16, style: Style) {
    if x < buffer.area.right() && y < buffer.area.bottom() {
        buffer.set_stringn(x, y, text, usize::from(room), style);
    }
}

/// How many cells a text takes.
fn width_of(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// As much of a text as fits, with a sign that there was more.
fn fitted(text: &str, room: usize) -> String {
    if usize::from(width_of(text)) <= room {
        return text.to_owned();
    }
    let mut fitted = String::new();
    for c in text.chars() {
        fitted.push(c);
        if usize::from(width_of(&fitted)) >= room {
            fitted.pop();
            break;
        }
    }
    if room > 0 {
        fitted.push('…');
    }
    fitted
}

/// `97%`.
fn percent(millionths: u32) -> String {
    let percent = (millionths + 5_000) / 10_000;
    match percent {
        // Something is not nothing.
        0 if millionths > 0 => "<1%".into(),
        percent => format!("{percent}%"),
    }
}

#[cfg(test)]
mod tests;
