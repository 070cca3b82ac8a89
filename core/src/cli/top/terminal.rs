//! The terminal: taken, drawn on, and given back however this ends.
//!
//! While the screen is ours nothing else may write on it: what is said on stderr is kept
//! and said afterwards.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Stdout, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use crossterm::cursor::{Hide, Show};
use crossterm::execute;
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};
use rustix::fs::{MemfdFlags, OFlags, fcntl_getfl, fcntl_setfl, ftruncate, memfd_create};
use rustix::process::{Signal, getpid, kill_process};
use rustix::stdio::dup2_stderr;

use super::draw::Palette;
use crate::agent::AgentError;

/// More than this of what is said on stderr meanwhile is not kept.
const KEPT: u64 = 64 << 10;

/// More than enough for a process to be stopped.
const STOPPING: Duration = Duration::from_millis(300);

/// What is to be put back, for the hook of panics as well.
static TAKEN: Mutex<Option<Aside>> = Mutex::new(None);

/// What is said on stderr meanwhile.
#[derive(Debug)]
struct Aside {
    stderr: OwnedFd,
    kept: File,
}

/// The terminal, while it is ours.
#[derive(Debug)]
pub(super) struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Takes the terminal.
    pub(super) fn take() -> Result<Self, AgentError> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                usual(panic);
            }));
        });
        let failed = |e| AgentError::System("the terminal cannot be set", e);
        match take().and_then(|()| fresh()) {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                give_back();
                Err(failed(error))
            }
        }
    }

    /// Draws.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Buffer)) -> Result<(), AgentError> {
        forget_too_much();
        let drawn = self.0.draw(|frame| draw(frame.buffer_mut()));
        drawn
            .map(drop)
            .map_err(|e| AgentError::System("the terminal cannot be written", e))
    }

    /// How many columns there are.
    pub(super) fn width(&self) -> u16 {
        self.0.size().map_or(80, |size| size.width)
    }

    pub(super) fn height(&self) -> u16 {
        self.0.size().map_or(24, |size| size.height)
    }

    /// Waits in the background until somebody lets this go on.
    pub(super) fn suspend(&mut self) -> Result<(), AgentError> {
        give_back();
        // Our hosts have groups of their own, and go on.
        let _ = kill_process(getpid(), Signal::TSTP);
        // It stops all threads, but not at once; and none where there is no shell.
        std::thread::sleep(STOPPING);
        self.resume()
    }

    /// Takes the terminal again: whoever had it meanwhile has left it otherwise.
    pub(super) fn resume(&mut self) -> Result<(), AgentError> {
        let failed = |e| AgentError::System("the terminal cannot be set", e);
        self.0 = take().and_then(|()| fresh()).map_err(failed)?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// One that knows that nothing is drawn yet.
fn fresh() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    Terminal::new(CrosstermBackend::new(io::stdout()))
}

fn take() -> io::Result<()> {
    set_stderr_aside()?;
    enable_raw_mode()?;
    // Not every terminal has a second screen.
    execute!(
        io::stdout(),
        EnterAlternateScreen,
        Clear(ClearType::All),
        Hide
    )
}

/// Twice is as good as once.
fn give_back() {
    // A terminal that is gone needs no repair.
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let aside = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Aside { stderr, mut kept }) = aside else {
        return;
    };
    let _ = dup2_stderr(&stderr);
    let mut said = Vec::new();
    let _ = kept.seek(SeekFrom::Start(0));
    let _ = kept.read_to_end(&mut said);
    let _ = io::stderr().write_all(&said);
}

fn set_stderr_aside() -> io::Result<()> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if taken.is_some() || !io::stderr().is_terminal() {
        return Ok(());
    }
    let kept = memfd_create("stderr", MemfdFlags::CLOEXEC)?;
    fcntl_setfl(&kept, fcntl_getfl(&kept)? | OFlags::APPEND)?;
    let stderr = rustix::io::fcntl_dupfd_cloexec(io::stderr(), 3)?;
    dup2_stderr(&kept)?;
    *taken = Some(Aside {
        stderr,
        kept: kept.into(),
    });
    Ok(())
}

fn forget_too_much() {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(aside) = taken.as_ref()
        && aside.kept.metadata().is_ok_and(|m| m.len() > KEPT)
    {
        let _ = ftruncate(&aside.kept, 0);
    }
}

/// Prints what was drawn as lines, with colours if there are any.
pub(super) fn print(buffer: &Buffer, palette: Palette) {
    for line in lines(buffer, palette) {
        say!("{line}");
    }
}

/// What was drawn, as lines.
pub(super) fn lines(buffer: &Buffer, palette: Palette) -> Vec<String> {
    let width = usize::from(buffer.area.width).max(1);
    let rows = buffer.content.chunks(width);
    rows.map(|row| {
        let mut line = String::new();
        let mut last = String::new();
        let blank = |cell: &ratatui::buffer::Cell| {
            cell.symbol() == " " && cell.bg == Color::Reset && cell.modifier.is_empty()
        };
        let end = row
            .iter()
            .rposition(|cell| !blank(cell))
            .map_or(0, |n| n + 1);
        for cell in &row[..end] {
            let style = match palette {
                Palette::Plain => String::new(),
                _ => sgr(cell.fg, cell.bg, cell.modifier),
            };
            if style != last {
                line += &format!("\x1b[0{style}m");
                last = style;
            }
            line += cell.symbol();
        }
        if !last.is_empty() {
            line += "\x1b[0m";
        }
        line
    })
    .collect()
}

/// ECMA-48's numbers for a style, each behind a semicolon.
fn sgr(fg: Color, bg: Color, modifier: Modifier) -> String {
    let mut numbers = String::new();
    for (of, number) in [
        (Modifier::BOLD, ";1"),
        (Modifier::DIM, ";2"),
        (Modifier::REVERSED, ";7"),
    ] {
        if modifier.contains(of) {
            numbers += number;
        }
    }
    for (color, base) in [(fg, 30), (bg, 40)] {
        let few = |n: u8| {
            let bright = if n < 8 { base } else { base + 60 - 8 };
            format!(";{}", bright + u16::from(n))
        };
        numbers += &match color {
            Color::Indexed(n) => format!(";{};5;{n}", base + 8),
            color => basic(color).map_or_else(String::new, few),
        };
    }
    numbers
}

/// The number of one of the sixteen colours.
pub(super) fn basic(color: Color) -> Option<u8> {
    const ALL: [Color; 16] = [
        Color::Black,
        Color::Red,
        Color::Green,
        Color::Yellow,
        Color::Blue,
        Color::Magenta,
        Color::Cyan,
        Color::Gray,
        Color::DarkGray,
        Color::LightRed,
        Color::LightGreen,
        Color::LightYellow,
        Color::LightBlue,
        Color::LightMagenta,
        Color::LightCyan,
        Color::White,
    ];
    let found = ALL.iter().position(|c| *c == color)?;
    u8::try_from(found).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    #[test]
    fn lines_have_no_more_than_they_need() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 8, 2));
        let style = Style::new().fg(Color::Indexed(7)).bg(Color::LightBlue);
        buffer.set_string(1, 0, "ab", style.add_modifier(Modifier::BOLD));
        buffer.set_string(3, 0, "c", Style::new());
        assert_eq!(lines(&buffer, Palette::Plain), [" abc", ""]);
        assert_eq!(
            lines(&buffer, Palette::Many),
            [" \x1b[0;1;38;5;7;104mab\x1b[0mc", ""]
        );
    }
}
