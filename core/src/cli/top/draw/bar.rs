//! A device as a bar: each holder's part in its colour, with its name where it fits.

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Style};

use super::palette::{Palette, Weight};
use super::{fitted, put};
use crate::cli::top::model::{Segment, Tone, WHOLE};

/// What nobody holds.
const FREE: &str = "·";
/// Fills parts where there are no colours, by turns.
const FILLS: [&str; 2] = ["▒", "░"];

/// Where each part lies: cells from, and to which. What is something has a cell, where
/// there is one.
pub(super) fn cells(segments: &[Segment], width: u16) -> Vec<(u16, u16)> {
    let cell = |millionths: u32| {
        let cells = u64::from(millionths) * u64::from(width);
        let rounded = (cells + u64::from(WHOLE / 2)) / u64::from(WHOLE);
        u16::try_from(rounded).unwrap_or(width).min(width)
    };
    let mut end = 0;
    segments
        .iter()
        .map(|segment| {
            let from = cell(segment.from).max(end);
            let mut to = cell(segment.to).max(from);
            if to == from && segment.to > segment.from && to < width {
                to += 1;
            }
            end = to;
            (from, to)
        })
        .collect()
}

/// Draws what can be had.
pub(super) fn free(buffer: &mut Buffer, (x, y, width): (u16, u16, u16), palette: Palette) {
    for at in 0..width {
        put(buffer, x + at, y, FREE, 1, palette.free());
    }
}

/// Draws what is held.
pub(super) fn bar(
    buffer: &mut Buffer,
    (x, y, width): (u16, u16, u16),
    segments: &[Segment],
    raised: impl Fn(&str) -> bool,
    palette: Palette,
) {
    for (n, (segment, (from, to))) in segments.iter().zip(cells(segments, width)).enumerate() {
        let cells = to - from;
        if cells == 0 {
            continue;
        }
        let holder = segment.holder.as_deref();
        let weight = match holder.is_some_and(&raised) {
            true => Weight::Raised,
            false => Weight::Usual,
        };
        // Whatever was there before.
        let style = Style::reset().patch(palette.part(segment.colour, weight));
        let fill = match palette.has_grounds() {
            true => " ",
            false => FILLS[n % FILLS.len()],
        };
        for at in from..to {
            put(buffer, x + at, y, fill, 1, style);
        }
        // A thin edge between neighbours: they may be one holder's.
        let edge = match palette.has_grounds() {
            true => style.fg(Color::Black),
            false => style,
        };
        let edged = from > 0 && cells > 1;
        if edged || !palette.has_grounds() {
            put(buffer, x + from, y, "▏", 1, edge);
        }
        let room = cells.saturating_sub(1);
        let label = label(holder.unwrap_or("others"), room);
        put(buffer, x + from + 1, y, &label, room, style);
    }
}

/// A name, or its beginning if that says enough.
fn label(name: &str, room: u16) -> String {
    match usize::from(room) {
        room if name.chars().count() <= room => name.to_owned(),
        0..=3 => String::new(),
        room => fitted(name, room),
    }
}

/// Draws words where there is nothing to draw.
pub(super) fn words(
    buffer: &mut Buffer,
    (x, y, width): (u16, u16, u16),
    text: &str,
    tone: Tone,
    palette: Palette,
) {
    let text = fitted(text, usize::from(width));
    put(buffer, x, y, &text, width, palette.tone(tone));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(from: u32, to: u32) -> Segment {
        Segment {
            holder: Some("a-workload".into()),
            colour: Some(0),
            from,
            to,
        }
    }

    #[test]
    fn parts_meet_and_none_vanishes() {
        let third = WHOLE / 3;
        let all = [
            segment(0, third),
            segment(third, third + 1),
            segment(third + 1, WHOLE),
        ];
        assert_eq!(cells(&all, 30), [(0, 10), (10, 11), (11, 30)]);
        assert_eq!(cells(&all, 3), [(0, 1), (1, 2), (2, 3)]);
        // No more than there is room for.
        assert_eq!(
            cells(&[segment(0, WHOLE), segment(WHOLE, WHOLE)], 4),
            [(0, 4), (4, 4)]
        );
        assert_eq!(cells(&[segment(500_000, 750_000)], 8), [(4, 6)]);
    }

    #[test]
    fn a_label_says_enough_or_nothing() {
        assert_eq!(label("train", 5), "train");
        assert_eq!(label("a-workload", 6), "a-wor…");
        assert_eq!(label("a-workload", 3), "");
        assert_eq!(label("nb", 2), "nb");
    }
}
