//! The workloads as a table.
//!
//! Where the screen is narrow, columns give way in this order: owner, age, what is held
//! besides cores and memory, how busy its devices are, their memory.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::table::{Column, GAP, fitting};
use super::{Scene, percent, put, width_of};
use crate::cli::top::input::Focus;
use crate::cli::top::model::{Tone, WorkloadRow, rounded, steady, used_of};
use crate::model::Amount;

/// A selected row's mark, and its colour.
const MARKS: u16 = 4;

/// How many lines there are: a head, and one each.
pub(super) fn count(scene: &Scene<'_>) -> u16 {
    let rows = scene.view.workloads.len().max(1);
    u16::try_from(rows + 1).unwrap_or(u16::MAX)
}

fn columns(scene: &Scene<'_>) -> Vec<(Column, u16)> {
    let rows = &scene.view.workloads;
    let palette = scene.palette;
    let column = |head, right, drop, least, text: &dyn Fn(&WorkloadRow) -> _| Column {
        head,
        right,
        drop,
        least,
        most: 32,
        cells: rows
            .iter()
            .map(|row| {
                let (text, tone): (String, Tone) = text(row);
                let tone = if text == "–" { Tone::Dim } else { tone };
                (text, palette.tone(tone))
            })
            .collect(),
    };
    let plain = |text: String| (text, Tone::Plain);
    let memory = |pair: (Option<Amount>, Option<Amount>)| match pair {
        (None, None) => String::new(),
        (used, of) => used_of(used, of),
    };
    // As if each used all that it has.
    let full = |(_, of): (Option<Amount>, Option<Amount>)| (of, of);
    let widest = |text: &dyn Fn(&WorkloadRow) -> String| {
        let widths = rows.iter().map(|row| width_of(&text(row)));
        widths.max().unwrap_or(0)
    };
    let all = vec![
        column("WORKLOAD", false, 0, 0, &|row| plain(row.name.clone())),
        column("OWNER", false, 5, 0, &|row| (row.owner.clone(), Tone::Dim)),
        column("STATE", false, 0, 9, &|row| {
            (row.state.to_owned(), row.tone)
        }),
        column("HOLDS", false, 3, 0, &|row| plain(row.holds.clone())),
        column(
            "CPU",
            true,
            0,
            widest(&|row| cores(full(row.cores))),
            &|row| plain(cores(row.cores)),
        ),
        column(
            "MEMORY",
            true,
            0,
            widest(&|row| memory(full(row.memory))),
            &|row| plain(memory(row.memory)),
        ),
        column(
            "DEVICE MEMORY",
            true,
            1,
            widest(&|row| memory(full(row.device_memory))),
            &|row| plain(memory(row.device_memory)),
        ),
        column("BUSY", true, 2, 4, &|row| {
            plain(row.busy.map_or_else(String::new, percent))
        }),
        column("AGE", true, 4, 3, &|row| (row.age.clone(), Tone::Dim)),
    ];
    fitting(all, scene.width.saturating_sub(1), MARKS)
}

/// `14.2/16`.
fn cores((used, of): (Option<Amount>, Option<Amount>)) -> String {
    match (used, of) {
        (Some(used), Some(of)) => {
            let decimals = if of < Amount::from_units(10) { 2 } else { 1 };
            format!("{}/{}", steady(used, decimals), rounded(of, 2))
        }
        (Some(used), None) => steady(used, 2),
        (None, Some(of)) => format!("–/{}", rounded(of, 2)),
        (None, None) => "–".into(),
    }
}

/// Draws the head, and the rows from `first` on.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>, first: usize) {
    let palette = scene.palette;
    let rows = &scene.view.workloads;
    if rows.is_empty() {
        let text = match &scene.view.unknown {
            Some(why) => why.as_str(),
            None if scene.view.is_empty => "",
            None if scene.ui.filter.is_empty() => "no workload holds anything",
            None => "no workload is like that",
        };
        put(buffer, area.x + 1, area.y, "WORKLOADS", 9, palette.head());
        let style = palette.tone(Tone::Dim);
        put(
            buffer,
            area.x + 12,
            area.y,
            text,
            area.width.saturating_sub(12),
            style,
        );
        return;
    }
    let columns = columns(scene);
    let mut x = area.x + MARKS;
    for (n, (column, width)) in columns.iter().enumerate() {
        let style = match n {
            0 => palette.head(),
            _ => palette.tone(Tone::Dim),
        };
        // The first begins where other heads do.
        let x_head = if n == 0 { area.x + 1 } else { x };
        let width_head = if n == 0 { *width + MARKS - 1 } else { *width };
        column.write(buffer, (x_head, area.y, width_head), column.head, style);
        x += width + GAP;
    }
    let is_focus = scene.ui.focus == Focus::Workloads;
    for (y, (n, row)) in (area.y + 1..area.bottom()).zip(rows.iter().enumerate().skip(first)) {
        let selected = is_focus && scene.ui.workload.as_ref() == Some(&row.name);
        if selected {
            buffer.set_style(Rect::new(area.x, y, area.width, 1), palette.selected());
            put(buffer, area.x, y, "▸", 1, palette.bold());
        }
        if palette.has_grounds() {
            put(buffer, area.x + 2, y, "■", 1, palette.mark(row.colour));
        }
        let device = scene.ui.device.as_ref().filter(|_| !is_focus);
        let related = device.is_some_and(|device| row.devices.contains(device));
        let mut x = area.x + MARKS;
        for (column, width) in &columns {
            let (text, style) = &column.cells[n];
            let style = match (selected || related) && column.head == "WORKLOAD" {
                true => style.patch(palette.bold()),
                false => *style,
            };
            column.write(buffer, (x, y, *width), text, style);
            x += width + GAP;
        }
        if related && !palette.has_grounds() {
            put(buffer, area.x, y, "*", 1, palette.bold());
        }
    }
}
