//! Colours, as many as the terminal has.

use ratatui::style::{Color, Modifier, Style};

use crate::cli::top::model::Tone;

/// How many colours there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Palette {
    /// 256 or more.
    Many,
    /// The sixteen that every terminal has, by its own taste.
    Sixteen,
    /// None: bold and reversed alone.
    Mono,
    /// Not even these: plain text.
    Plain,
}

/// What is drawn of a holder's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// As others.
    Usual,
    /// It is the selected one's.
    Raised,
}

/// Grounds of parts, usual and raised, in the 256 colours of xterm. Neighbours differ in
/// hue and in lightness, so that they can be told apart by who sees no red or green.
const GROUNDS: [(u8, u8); 8] = [
    (25, 75),
    (173, 216),
    (29, 79),
    (97, 141),
    (136, 221),
    (67, 117),
    (131, 210),
    (65, 114),
];

/// The same where there are sixteen.
const FEW: [(Color, Color); 6] = [
    (Color::Blue, Color::LightBlue),
    (Color::Yellow, Color::LightYellow),
    (Color::Cyan, Color::LightCyan),
    (Color::Magenta, Color::LightMagenta),
    (Color::Green, Color::LightGreen),
    (Color::Red, Color::LightRed),
];

impl Palette {
    /// What the environment says of the terminal.
    pub(in super::super) fn of(
        no_color: Option<&str>,
        colorterm: Option<&str>,
        term: Option<&str>,
    ) -> Self {
        let term = term.unwrap_or_default();
        // https://no-color.org: whatever it says, unless it is empty.
        if no_color.is_some_and(|value| !value.is_empty()) || term == "dumb" {
            return Self::Mono;
        }
        let many = matches!(colorterm, Some("truecolor" | "24bit")) || term.contains("256color");
        if many { Self::Many } else { Self::Sixteen }
    }

    /// Text on a holder's ground.
    pub(super) fn part(self, colour: Option<usize>, weight: Weight) -> Style {
        let raised = weight == Weight::Raised;
        let style = match self {
            Self::Many => {
                let ground = match colour {
                    Some(n) => GROUNDS[n % GROUNDS.len()],
                    None => (240, 250),
                };
                let ground = if raised { ground.1 } else { ground.0 };
                let dark_text = raised || matches!(ground, 173 | 136);
                Style::new()
                    .bg(Color::Indexed(ground))
                    .fg(Color::Indexed(if dark_text { 16 } else { 231 }))
            }
            Self::Sixteen => {
                let ground = match colour {
                    Some(n) => FEW[n % FEW.len()],
                    None => (Color::Gray, Color::White),
                };
                Style::new()
                    .bg(if raised { ground.1 } else { ground.0 })
                    .fg(Color::Black)
            }
            Self::Mono if raised => Style::new().add_modifier(Modifier::REVERSED),
            Self::Mono | Self::Plain => Style::new(),
        };
        if raised && self != Self::Plain {
            style.add_modifier(Modifier::BOLD)
        } else {
            style
        }
    }

    /// A workload's mark: its colour as text.
    pub(super) fn mark(self, colour: Option<usize>) -> Style {
        match (self, self.part(colour, Weight::Usual).bg) {
            (Self::Many | Self::Sixteen, Some(ground)) => Style::new().fg(ground),
            _ => Style::new(),
        }
    }

    /// Are parts told apart by their ground?
    pub(super) fn has_grounds(self) -> bool {
        matches!(self, Self::Many | Self::Sixteen)
    }

    /// Text that is meant so.
    pub(super) fn tone(self, tone: Tone) -> Style {
        match (tone, self) {
            (Tone::Plain, _) | (_, Self::Plain) => Style::new(),
            (Tone::Dim, Self::Many) => Style::new().fg(Color::Indexed(245)),
            (Tone::Dim, Self::Sixteen) => Style::new().fg(Color::DarkGray),
            (Tone::Dim, Self::Mono) => Style::new().add_modifier(Modifier::DIM),
            (Tone::Warn, Self::Many) => Style::new().fg(Color::Indexed(179)),
            (Tone::Warn, Self::Sixteen) => Style::new().fg(Color::Yellow),
            (Tone::Bad, Self::Many) => Style::new().fg(Color::Indexed(203)),
            (Tone::Bad, Self::Sixteen) => Style::new().fg(Color::LightRed),
            (Tone::Warn | Tone::Bad, Self::Mono) => Style::new().add_modifier(Modifier::BOLD),
        }
    }

    /// What nobody holds.
    pub(super) fn free(self) -> Style {
        match self {
            Self::Many => Style::new().fg(Color::Indexed(239)),
            _ => self.tone(Tone::Dim),
        }
    }

    /// The line that is selected.
    pub(super) fn selected(self) -> Style {
        match self {
            Self::Many => Style::new()
                .bg(Color::Indexed(237))
                .add_modifier(Modifier::BOLD),
            Self::Sixteen => Style::new().add_modifier(Modifier::BOLD),
            Self::Mono => Style::new().add_modifier(Modifier::BOLD),
            Self::Plain => Style::new(),
        }
    }

    /// Heads of tables and parts.
    pub(super) fn head(self) -> Style {
        match self {
            Self::Many => Style::new().fg(Color::Indexed(110)),
            Self::Sixteen => Style::new().fg(Color::Cyan),
            Self::Mono => Style::new().add_modifier(Modifier::BOLD),
            Self::Plain => Style::new(),
        }
    }

    pub(super) fn bold(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            _ => Style::new().add_modifier(Modifier::BOLD),
        }
    }
}
