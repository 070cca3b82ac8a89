//! The devices: a bar of who holds what, and what is measured.
//!
//! Where the screen is narrow, columns give way in this order: the past of how busy a
//! device is, its power, its temperature, its model, what part is held, what is used.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::table::{Column, GAP, fitting};
use super::{Scene, bar, fitted, percent, put, width_of};
use crate::cli::top::input::Focus;
use crate::cli::top::model::{
    Age, Bar, DeviceRow, Group, Kind, Segment, Tone, rounded, steady, used_of,
};
use crate::model::Amount;

/// A bar is at least so wide where columns can give way to it.
const BAR: u16 = 24;
/// A selected row's mark, and how it stands.
const MARKS: u16 = 4;
/// A wider one says no more; what is left over is for the past.
const WIDE: u16 = 72;
/// Of the past so much is drawn where there is no room to spare, and where there is.
const PAST: u16 = 8;
const MORE_PAST: u16 = 32;
const LEVELS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// A line of the devices.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line<'a> {
    /// What the devices below are.
    Head(&'a Group),
    /// A device; its number among all.
    Device(&'a DeviceRow, usize),
    /// What is to be said of the device above.
    Note(&'a DeviceRow),
    /// Something that is wrong with the machine.
    Problem(&'a str),
    /// Nothing: between kinds, where there is room.
    Blank,
}

/// The lines of all devices; `airy`: with blank ones between kinds.
pub(super) fn lines<'a>(scene: &Scene<'a>, airy: bool) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    let mut n = 0;
    let width = Places::of(scene).bar.1;
    for group in &scene.view.groups {
        if airy && !lines.is_empty() {
            lines.push(Line::Blank);
        }
        lines.push(Line::Head(group));
        for row in &group.rows {
            lines.push(Line::Device(row, n));
            n += 1;
            if !row.notes.is_empty() && !note_is_in_bar(row, width) {
                lines.push(Line::Note(row));
            }
        }
    }
    lines.extend(scene.view.problems.iter().map(|p| Line::Problem(p)));
    lines
}

/// The line of the selected device.
pub(super) fn selected(scene: &Scene<'_>, lines: &[Line<'_>]) -> usize {
    let is_it = |line: &Line<'_>| match line {
        Line::Device(row, _) => Some(&row.key) == scene.ui.device.as_ref(),
        _ => false,
    };
    lines.iter().position(is_it).unwrap_or(0)
}

/// What is wrong is said where the bar would be, if nobody holds a part of it.
fn note_is_in_bar(row: &DeviceRow, width: u16) -> bool {
    let empty = matches!(&row.bar, Bar::Parts(parts) if parts.is_empty());
    empty && row.tone != Tone::Plain && width_of(&note(row)) <= width
}

fn note(row: &DeviceRow) -> String {
    let texts: Vec<&str> = row.notes.iter().map(|(_, text)| text.as_str()).collect();
    texts.join("; ")
}

/// What is where.
#[derive(Debug)]
struct Places {
    /// How wide names are.
    name: u16,
    /// Where bars begin, from the left, and how wide they are.
    bar: (u16, u16),
    /// What follows, and how wide it is.
    columns: Vec<(Column, u16)>,
}

impl Places {
    fn of(scene: &Scene<'_>) -> Self {
        let name = name_width(scene);
        let before = MARKS + name + 1;
        // Nothing stands in the last column, but a sign that there is more.
        let room = scene.width.saturating_sub(1);
        let left = |columns: &[(Column, u16)]| {
            let all: u16 = columns.iter().map(|(_, width)| width + GAP).sum();
            room.saturating_sub(before + all)
        };
        let mut columns = fitting(columns(scene, PAST), room, before + BAR);
        let spare = left(&columns).saturating_sub(WIDE).min(MORE_PAST - PAST);
        if spare > 0 {
            columns = fitting(self::columns(scene, PAST + spare), room, before + BAR);
        }
        Self {
            name,
            bar: (before, left(&columns).max(8)),
            columns,
        }
    }
}

/// The columns beside names and bars, row by row, with so much of the past.
fn columns(scene: &Scene<'_>, how_much: u16) -> Vec<Column> {
    let rows: Vec<&DeviceRow> = scene.view.groups.iter().flat_map(|g| &g.rows).collect();
    let palette = scene.palette;
    let column = |head, drop, least, text: &dyn Fn(&DeviceRow) -> (String, Tone)| Column {
        head,
        right: true,
        drop,
        least,
        most: 40,
        cells: rows
            .iter()
            .map(|row| {
                let (text, tone) = text(row);
                let old = matches!(row.age, Age::Old(_)) && tone == Tone::Plain;
                (text, palette.tone(if old { Tone::Dim } else { tone }))
            })
            .collect(),
    };
    let missing = || ("–".to_owned(), Tone::Dim);
    let fullest = rows.iter().map(|row| width_of(&used_text(row, row.total)));
    let widest = fullest.max().unwrap_or(0);
    let any = |has: &dyn Fn(&DeviceRow) -> bool| rows.iter().any(|row| has(row));
    let has_temperature = any(&|row| row.temperature.is_some());
    let has_power = any(&|row| row.power.is_some());
    let mut all = vec![
        Column {
            right: false,
            ..column("MODEL", 3, 0, &|row| {
                (row.model.clone().unwrap_or_default(), Tone::Plain)
            })
        },
        column("HELD", 2, 4, &|row| match row.held {
            // It has no age: it is what the ledger says.
            Some(held) => (percent(held), Tone::Plain),
            None => missing(),
        }),
        column("", 6, 0, &|row| (past(&row.past, how_much), Tone::Dim)),
        column("BUSY", 0, 4, &|row| match row.busy {
            Some(busy) => (percent(busy), Tone::Plain),
            None => missing(),
        }),
        column("USED", 1, widest, &|row| match (row.used, row.total) {
            (None, None) => missing(),
            (used, _) => (used_text(row, used), Tone::Plain),
        }),
    ];
    if has_temperature {
        all.push(column("TEMP", 4, 5, &|row| match row.temperature {
            Some(t) if row.hot => (format!("{}°C", rounded(t, 0)), Tone::Warn),
            Some(t) => (format!("{}°C", rounded(t, 0)), Tone::Plain),
            None if is_host(row) => (String::new(), Tone::Plain),
            None => missing(),
        }));
    }
    if has_power {
        all.push(column("POWER", 5, 6, &|row| match row.power {
            Some(watts) => (format!("{} W", rounded(watts, 0)), Tone::Plain),
            None if is_host(row) => (String::new(), Tone::Plain),
            None => missing(),
        }));
    }
    // What part is held does not age.
    if let Some(held) = all.iter_mut().find(|c| c.head == "HELD") {
        for (text, style) in &mut held.cells {
            *style = palette.tone(if text == "–" {
                Tone::Dim
            } else {
                Tone::Plain
            });
        }
    }
    all
}

/// So much of a device.
fn used_text(row: &DeviceRow, used: Option<Amount>) -> String {
    match (row.kind, used, row.total) {
        (Kind::Cores, Some(used), Some(of)) => {
            format!("{}/{} cpus", steady(used, 1), rounded(of, 1))
        }
        (Kind::Cores, None, Some(of)) => format!("–/{} cpus", rounded(of, 1)),
        (_, used, of) => used_of(used, of),
    }
}

fn is_host(row: &DeviceRow) -> bool {
    matches!(row.kind, Kind::Cores | Kind::Memory)
}

fn name_width(scene: &Scene<'_>) -> u16 {
    let rows = scene.view.groups.iter().flat_map(|g| &g.rows);
    let names = rows.map(|row| width_of(&row.name) + indent(row));
    names.max().unwrap_or(0).clamp(6, 20)
}

fn indent(row: &DeviceRow) -> u16 {
    match row.kind {
        Kind::Partition => 2,
        _ => 0,
    }
}

/// The last figures as a row of small bars.
fn past(figures: &[u32], how_much: u16) -> String {
    let before = figures.len().saturating_sub(usize::from(how_much));
    let last = figures.iter().skip(before);
    let level = |figure: &u32| {
        let step = u64::from(*figure) * 7 + 500_000;
        LEVELS[usize::try_from(step / 1_000_000).unwrap_or(0).min(7)]
    };
    let drawn: String = last.map(level).collect();
    // As wide from the beginning on as it will be.
    match drawn.is_empty() {
        true => drawn,
        false => format!("{drawn:>width$}", width = usize::from(how_much)),
    }
}

/// Draws these lines.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>, lines: &[Line<'_>]) {
    let Places { name, bar, columns } = Places::of(scene);
    let bars = (area.x + bar.0, bar.1);
    let heads_from = bars.0 + bars.1;
    let mut first = true;
    for (y, line) in (area.y..area.bottom()).zip(lines) {
        match line {
            Line::Head(group) => {
                let room = heads_from.saturating_sub(area.x + 1);
                let room = if first { room } else { area.width - 2 };
                head(buffer, (area.x + 1, y, room), group, scene);
                if first {
                    heads(buffer, (heads_from, y), &columns, scene);
                }
                first = false;
            }
            Line::Device(row, n) => {
                device(buffer, (area.x, y, area.width), row, (name, bars), scene);
                let mut x = heads_from;
                for (column, width) in &columns {
                    let (text, style) = &column.cells[*n];
                    x += GAP;
                    column.write(buffer, (x, y, *width), text, *style);
                    x += width;
                }
            }
            Line::Blank => {}
            Line::Note(row) => {
                let room = (area.right() - 1).saturating_sub(bars.0);
                let text = fitted(&note(row), usize::from(room));
                let tone = row.notes.first().map_or(Tone::Dim, |(tone, _)| *tone);
                put(buffer, bars.0, y, &text, room, scene.palette.tone(tone));
            }
            Line::Problem(text) => {
                let text = fitted(text, usize::from(area.width.saturating_sub(4)));
                put(buffer, area.x + 1, y, "✗", 1, scene.palette.tone(Tone::Bad));
                let style = scene.palette.tone(Tone::Warn);
                put(buffer, area.x + 3, y, &text, area.width - 3, style);
            }
        }
    }
}

/// What the devices are, and why their figures are old.
fn head(buffer: &mut Buffer, (x, y, room): (u16, u16, u16), group: &Group, scene: &Scene<'_>) {
    let palette = scene.palette;
    let mut at = x;
    let mut say = |text: &str, style: Style| {
        let left = (x + room).saturating_sub(at);
        let text = fitted(text, usize::from(left));
        put(buffer, at, y, &text, left, style);
        at += width_of(&text) + 2;
    };
    say(&group.kind.to_uppercase(), palette.head());
    if let Some(model) = &group.model {
        say(model, palette.tone(Tone::Dim));
    }
    if let Some(note) = &group.note {
        say(note, palette.tone(Tone::Warn));
    }
}

fn heads(buffer: &mut Buffer, (x, y): (u16, u16), columns: &[(Column, u16)], scene: &Scene<'_>) {
    let mut x = x;
    for (column, width) in columns {
        x += GAP;
        let style = scene.palette.tone(Tone::Dim);
        column.write(buffer, (x, y, *width), column.head, style);
        x += width;
    }
}

fn device(
    buffer: &mut Buffer,
    (x, y, width): (u16, u16, u16),
    row: &DeviceRow,
    (name_width, bars): (u16, (u16, u16)),
    scene: &Scene<'_>,
) {
    let palette = scene.palette;
    let is_focus = scene.ui.focus == Focus::Devices;
    let selected = is_focus && scene.ui.device.as_ref() == Some(&row.key);
    if selected {
        buffer.set_style(Rect::new(x, y, width, 1), palette.selected());
        put(buffer, x, y, "▸", 1, palette.bold());
    }
    let (sign, tone) = match row.tone {
        Tone::Bad => ("✗", Tone::Bad),
        Tone::Warn => ("▲", Tone::Warn),
        _ => (" ", Tone::Dim),
    };
    put(buffer, x + 2, y, sign, 1, palette.tone(tone));
    let indent = indent(row);
    if indent > 0 {
        put(buffer, x + MARKS, y, "└", 1, palette.free());
    }
    let room = name_width - indent;
    let text = fitted(&row.name, usize::from(room));
    let style = if selected {
        palette.bold()
    } else {
        Style::new()
    };
    put(buffer, x + MARKS + indent, y, &text, room, style);
    let place = (bars.0, y, bars.1);
    match &row.bar {
        _ if note_is_in_bar(row, bars.1) => {
            bar::words(buffer, place, &note(row), row.tone, palette);
        }
        Bar::Unknown => {
            bar::words(
                buffer,
                place,
                "who holds it only root may see",
                Tone::Dim,
                palette,
            );
        }
        Bar::Cut(all, free) => {
            let text = format!("cut into {all}, {free} free");
            bar::words(buffer, place, &text, Tone::Dim, palette);
        }
        Bar::Parts(parts) => parts_of(buffer, place, (parts, row.usable), scene),
    }
}

fn parts_of(
    buffer: &mut Buffer,
    place: (u16, u16, u16),
    (parts, usable): (&[Segment], bool),
    scene: &Scene<'_>,
) {
    let workload = match scene.ui.focus {
        Focus::Workloads => scene.ui.workload.as_deref(),
        Focus::Devices => None,
    };
    let raised = |holder: &str| workload == Some(holder);
    if usable {
        bar::free(buffer, place, scene.palette);
    }
    bar::bar(buffer, place, parts, raised, scene.palette);
}
