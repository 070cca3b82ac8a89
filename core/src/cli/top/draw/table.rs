//! Columns that are as wide as what is in them, and give way where there is no room.

use ratatui::buffer::Buffer;
use ratatui::style::Style;

use super::{fitted, put, width_of};

/// Between two columns.
pub(super) const GAP: u16 = 2;

/// A column.
#[derive(Debug)]
pub(super) struct Column {
    /// What stands over it.
    pub(super) head: &'static str,
    /// Is it at the right of its place, as numbers are?
    pub(super) right: bool,
    /// The greater, the sooner it gives way; 0: never.
    pub(super) drop: u8,
    /// The least that it takes: what changes all the while moves nothing else.
    pub(super) least: u16,
    /// The most that it takes.
    pub(super) most: u16,
    /// What is in it, row by row.
    pub(super) cells: Vec<(String, Style)>,
}

impl Column {
    /// As wide as its widest text, within its bounds.
    pub(super) fn width(&self) -> u16 {
        let texts = self.cells.iter().map(|(text, _)| width_of(text));
        let widest = texts.chain([width_of(self.head), self.least]).max();
        widest.unwrap_or(0).min(self.most)
    }

    /// Writes a text into its place.
    pub(super) fn write(
        &self,
        buffer: &mut Buffer,
        (x, y, width): (u16, u16, u16),
        text: &str,
        style: Style,
    ) {
        let text = fitted(text, usize::from(width));
        let indent = match self.right {
            true => width.saturating_sub(width_of(&text)),
            false => 0,
        };
        put(buffer, x + indent, y, &text, width - indent, style);
    }
}

/// Those for which there is room beside `others`, and how wide each is.
pub(super) fn fitting(mut columns: Vec<Column>, room: u16, others: u16) -> Vec<(Column, u16)> {
    // What has nothing in it has nothing to say.
    let is_empty = |c: &Column| c.cells.iter().all(|(text, _)| text.is_empty());
    columns.retain(|column| column.drop == 0 || !is_empty(column));
    loop {
        let all: u32 = columns.iter().map(|c| u32::from(c.width() + GAP)).sum();
        if all + u32::from(others) <= u32::from(room) {
            break;
        }
        let droppable = columns.iter().enumerate().filter(|(_, c)| c.drop > 0);
        let Some((first, _)) = droppable.max_by_key(|(_, c)| c.drop) else {
            break;
        };
        columns.remove(first);
    }
    let with_width = |column: Column| {
        let width = column.width();
        (column, width)
    };
    columns.into_iter().map(with_width).collect()
}
