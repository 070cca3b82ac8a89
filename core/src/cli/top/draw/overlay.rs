//! What lies over the screen.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::palette::Palette;
use super::{fitted, put, width_of};
use crate::cli::top::model::Tone;

/// The keys.
pub(super) const HELP: [(&str, &str); 9] = [
    ("↑ ↓  k j", "choose"),
    ("PgUp PgDn  g G", "ten further; the first, the last"),
    ("Tab", "devices or workloads"),
    ("Enter  d", "everything about the chosen one"),
    ("s", "stop the chosen workload, after a question"),
    ("/", "show only what has a text in it; Esc shows all"),
    ("?", "this"),
    ("Ctrl-Z", "wait in the background; fg goes on"),
    ("q  Esc  Ctrl-C", "end; workloads go on"),
];

/// A frame with a title in the middle of the screen, emptied; what is in it.
pub(super) fn frame(
    buffer: &mut Buffer,
    area: Rect,
    (width, height): (u16, u16),
    title: &str,
    palette: Palette,
) -> Rect {
    let width = (width + 4).min(area.width);
    let height = (height + 2).min(area.height);
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    let outer = Rect::new(x, y, width, height);
    for row in outer.y..outer.bottom() {
        for column in outer.x..outer.right() {
            if let Some(cell) = buffer.cell_mut((column, row)) {
                cell.reset();
            }
        }
    }
    let style = palette.head();
    let line = "─".repeat(usize::from(width.saturating_sub(2)));
    put(buffer, x, y, &format!("╭{line}╮"), width, style);
    let last = outer.bottom().saturating_sub(1);
    put(buffer, x, last, &format!("╰{line}╯"), width, style);
    for row in y + 1..last {
        put(buffer, x, row, "│", 1, style);
        put(buffer, outer.right() - 1, row, "│", 1, style);
    }
    let title = fitted(title, usize::from(width.saturating_sub(6)));
    let title = format!(" {title} ");
    put(buffer, x + 2, y, &title, width_of(&title), palette.bold());
    Rect::new(
        x + 2,
        y + 1,
        width.saturating_sub(4),
        height.saturating_sub(2),
    )
}

/// The furthest line that a text of so many lines begins with on a screen of this height.
pub(super) fn furthest(lines: usize, height: u16) -> usize {
    lines.saturating_sub(usize::from(height.saturating_sub(2)))
}

/// Lines, from `from` on where there are more than fit; the last ones at the latest.
pub(super) fn text(
    buffer: &mut Buffer,
    area: Rect,
    title: &str,
    lines: &[String],
    from: usize,
    palette: Palette,
) {
    let widest = lines.iter().map(|line| width_of(line)).max().unwrap_or(0);
    let room = (area.width.saturating_sub(4), area.height.saturating_sub(2));
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let size = (widest.max(40).min(room.0), height.min(room.1));
    let inner = frame(buffer, area, size, title, palette);
    let shown = usize::from(inner.height);
    let from = from.min(lines.len().saturating_sub(shown));
    for (y, line) in (inner.y..inner.bottom()).zip(&lines[from..]) {
        let line = fitted(line, usize::from(inner.width));
        put(buffer, inner.x, y, &line, inner.width, Style::new());
    }
    if lines.len() > shown {
        let end = (from + shown).min(lines.len());
        let place = format!(" {}–{end} of {} ", from + 1, lines.len());
        let width = width_of(&place);
        let x = (inner.right() + 1).saturating_sub(width + 1);
        put(
            buffer,
            x,
            inner.bottom(),
            &place,
            width,
            palette.tone(Tone::Dim),
        );
    }
}

/// The keys.
pub(super) fn help(buffer: &mut Buffer, area: Rect, palette: Palette) {
    let height = u16::try_from(HELP.len()).unwrap_or(0);
    let inner = frame(buffer, area, (64, height), "keys", palette);
    for (y, (keys, what)) in (inner.y..inner.bottom()).zip(HELP) {
        put(buffer, inner.x, y, keys, 15, palette.bold());
        let room = inner.width.saturating_sub(17);
        let what = fitted(what, usize::from(room));
        put(buffer, inner.x + 17, y, &what, room, Style::new());
    }
}

/// The question before a workload is stopped.
pub(super) fn stop(buffer: &mut Buffer, area: Rect, name: &str, palette: Palette) {
    let inner = frame(buffer, area, (58, 3), &format!("stop {name}?"), palette);
    let lines = [
        "Its stop signal, and SIGKILL after 10 seconds.",
        "",
        "y  stop it      n  leave it",
    ];
    for (y, line) in (inner.y..inner.bottom()).zip(lines) {
        let line = fitted(line, usize::from(inner.width));
        put(buffer, inner.x, y, &line, inner.width, Style::new());
    }
}
