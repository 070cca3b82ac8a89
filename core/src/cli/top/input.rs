//! Keys: what the user looks at, and wants done. No terminal, no clock.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::View;

/// Which part the keys are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Focus {
    /// Devices.
    Devices,
    /// Workloads.
    #[default]
    Workloads,
}

/// What lies over the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing.
    #[default]
    Nothing,
    /// Everything about the selected, from this line on.
    Describe(usize),
    /// The keys.
    Help,
    /// Shall this workload be stopped?
    Stop {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// A text to filter by is typed.
    Filter,
}

/// What the user looks at.
#[derive(Clone, Debug, Default)]
pub(super) struct Ui {
    /// Which part the keys are for.
    pub(super) focus: Focus,
    /// The selected row of devices, by its key.
    pub(super) device: Option<String>,
    /// The selected workload, by its name.
    pub(super) workload: Option<String>,
    /// What lies over the screen.
    pub(super) over: Over,
    /// What must be in a row for it to be shown.
    pub(super) filter: String,
    /// What was said last.
    pub(super) said: Option<String>,
    /// Has the user gone anywhere yet?
    pub(super) moved: bool,
    /// Where the selected were, for when they are gone.
    pub(super) places: (usize, usize),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Show how things are now.
    Show,
    /// End.
    Quit,
    /// Wait in the background.
    Suspend,
    /// Stop this workload.
    Stop {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
}

impl Ui {
    /// Nobody looks: nothing is selected.
    pub(super) fn nobody() -> Self {
        Self::default()
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: KeyEvent, view: &View) -> Deed {
        if key.kind == KeyEventKind::Release {
            return Deed::Show;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Deed::Quit,
                KeyCode::Char('z') => Deed::Suspend,
                _ => Deed::Show,
            };
        }
        match std::mem::take(&mut self.over) {
            Over::Nothing => return self.on_screen(key.code, view),
            Over::Describe(line) => self.in_description(key.code, line, view),
            Over::Help => {}
            Over::Stop { id, name } => match key.code {
                KeyCode::Char('y' | 'Y') => {
                    self.said = Some(format!("stopping {name} …"));
                    return Deed::Stop { id, name };
                }
                KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => {}
                _ => self.over = Over::Stop { id, name },
            },
            Over::Filter => self.in_filter(key.code),
        }
        Deed::Show
    }

    fn on_screen(&mut self, code: KeyCode, view: &View) -> Deed {
        self.said = None;
        match code {
            KeyCode::Char('q') => return Deed::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Deed::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.over = Over::Help,
            KeyCode::Char('/') => self.over = Over::Filter,
            KeyCode::Tab | KeyCode::BackTab => {
                self.moved = true;
                self.focus = match self.focus {
                    Focus::Devices => Focus::Workloads,
                    Focus::Workloads => Focus::Devices,
                };
            }
            KeyCode::Enter | KeyCode::Char('d') if self.selected(view).is_some() => {
                self.over = Over::Describe(0);
            }
            KeyCode::Char('s') => self.ask_to_stop(view),
            _ => self.go(code, view),
        }
        Deed::Show
    }

    /// Moves the selection.
    fn go(&mut self, code: KeyCode, view: &View) {
        let keys = self.rows(view);
        let Some(last) = keys.len().checked_sub(1) else {
            return;
        };
        let at = self.place(&keys);
        let to = match code {
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => at + 1,
            KeyCode::PageUp => at.saturating_sub(10),
            KeyCode::PageDown => at + 10,
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            _ => return,
        };
        let to = to.min(last);
        self.moved = true;
        let key = Some(keys[to].clone());
        match self.focus {
            Focus::Devices => (self.device, self.places.0) = (key, to),
            Focus::Workloads => (self.workload, self.places.1) = (key, to),
        }
    }

    fn ask_to_stop(&mut self, view: &View) {
        let selected = match self.focus {
            Focus::Workloads => self.workload.as_deref(),
            Focus::Devices => None,
        };
        let mut rows = view.workloads.iter();
        match rows.find(|row| Some(row.name.as_str()) == selected) {
            Some(row) => {
                self.over = Over::Stop {
                    id: row.id.clone(),
                    name: row.name.clone(),
                }
            }
            None => self.said = Some("Tab to the workloads, and choose one to stop".into()),
        }
    }

    fn in_description(&mut self, code: KeyCode, line: usize, view: &View) {
        let line = match code {
            KeyCode::Up | KeyCode::Char('k') => line.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => line + 1,
            KeyCode::PageUp => line.saturating_sub(10),
            KeyCode::PageDown | KeyCode::Char(' ') => line + 10,
            KeyCode::Home | KeyCode::Char('g') => 0,
            // `within` brings it back to the last.
            KeyCode::End | KeyCode::Char('G') => usize::MAX >> 1,
            KeyCode::Char('s') => return self.ask_to_stop(view),
            KeyCode::Char('q' | 'd') | KeyCode::Esc | KeyCode::Enter => return,
            _ => line,
        };
        self.over = Over::Describe(line);
    }

    fn in_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => return,
            KeyCode::Esc => return self.filter.clear(),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) if self.filter.chars().count() < 40 => self.filter.push(c),
            _ => {}
        }
        self.over = Over::Filter;
    }

    /// A description begins with no further line than this.
    pub(super) fn within(&mut self, furthest: usize) {
        if let Over::Describe(line) = &mut self.over {
            *line = (*line).min(furthest);
        }
    }

    /// Something is selected wherever there is something: what was, or what is in its place.
    pub(super) fn settle(&mut self, view: &View) {
        if !self.moved {
            self.focus = match view.workloads.is_empty() {
                true => Focus::Devices,
                false => Focus::Workloads,
            };
        }
        for focus in [Focus::Devices, Focus::Workloads] {
            let keys = rows_of(focus, view);
            let (selected, place) = match focus {
                Focus::Devices => (&mut self.device, &mut self.places.0),
                Focus::Workloads => (&mut self.workload, &mut self.places.1),
            };
            let found = keys.iter().position(|key| Some(key) == selected.as_ref());
            match found {
                Some(at) => *place = at,
                None => {
                    *selected = keys
                        .get((*place).min(keys.len().saturating_sub(1)))
                        .cloned()
                }
            }
        }
        if self.selected(view).is_none() && matches!(self.over, Over::Describe(_)) {
            self.over = Over::Nothing;
        }
        if let Over::Stop { id, .. } = &self.over
            && !view.workloads.iter().any(|row| row.id == *id)
        {
            self.over = Over::Nothing;
        }
    }

    /// The selected row of the part that the keys are for.
    pub(super) fn selected(&self, view: &View) -> Option<String> {
        let selected = match self.focus {
            Focus::Devices => &self.device,
            Focus::Workloads => &self.workload,
        };
        let rows = self.rows(view);
        selected.clone().filter(|key| rows.contains(key))
    }

    fn rows(&self, view: &View) -> Vec<String> {
        rows_of(self.focus, view)
    }

    fn place(&self, keys: &[String]) -> usize {
        let (selected, place) = match self.focus {
            Focus::Devices => (&self.device, self.places.0),
            Focus::Workloads => (&self.workload, self.places.1),
        };
        let found = keys.iter().position(|key| Some(key) == selected.as_ref());
        found.unwrap_or(place)
    }
}

fn rows_of(focus: Focus, view: &View) -> Vec<String> {
    match focus {
        Focus::Devices => {
            let rows = view.groups.iter().flat_map(|group| &group.rows);
            rows.map(|row| row.key.clone()).collect()
        }
        Focus::Workloads => view.workloads.iter().map(|row| row.name.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::example::{NOW, box_of_gpus};

    fn view() -> View {
        box_of_gpus().view(NOW, "")
    }

    /// Types, and looks at what comes of it.
    fn types(ui: &mut Ui, view: &View, keys: &[KeyCode]) -> Deed {
        let mut deed = Deed::Show;
        for code in keys {
            ui.settle(view);
            deed = ui.key(KeyEvent::new(*code, KeyModifiers::NONE), view);
        }
        ui.settle(view);
        deed
    }

    fn char(c: char) -> KeyCode {
        KeyCode::Char(c)
    }

    #[test]
    fn the_end_of_a_description_is_not_left_behind() {
        let view = View::default();
        let mut ui = Ui {
            over: Over::Describe(0),
            ..Ui::default()
        };
        ui.in_description(KeyCode::End, 0, &view);
        ui.within(7);
        assert_eq!(ui.over, Over::Describe(7));
        ui.in_description(KeyCode::Up, 7, &view);
        ui.within(7);
        assert_eq!(ui.over, Over::Describe(6));
    }

    #[test]
    fn the_selection_stays_with_what_is_selected() {
        let (view, mut ui) = (view(), Ui::default());
        types(&mut ui, &view, &[KeyCode::Down, char('j'), char('k')]);
        assert_eq!(ui.workload.as_deref(), Some("eval-nightly"));
        let mut later = view.clone();
        later.workloads.remove(0);
        ui.settle(&later);
        assert_eq!(ui.workload.as_deref(), Some("eval-nightly"));
        // It is gone: what is in its place.
        later.workloads.remove(0);
        ui.settle(&later);
        assert_eq!(ui.workload.as_deref(), Some("nb-alice"));
        types(&mut ui, &later, &[char('G'), KeyCode::Down]);
        assert_eq!(ui.workload.as_deref(), Some("tokenize"));
        types(&mut ui, &later, &[KeyCode::Tab, KeyCode::End]);
        assert_eq!(ui.device.as_deref(), Some("memory"));
        assert_eq!(ui.workload.as_deref(), Some("tokenize"));
    }

    #[test]
    fn nothing_is_stopped_without_a_yes() {
        let (view, mut ui) = (view(), Ui::default());
        let asked = [KeyCode::Down, char('s')];
        types(&mut ui, &view, &asked);
        assert!(matches!(&ui.over, Over::Stop { name, .. } if name == "eval-nightly"));
        for no in [char('n'), char('q'), KeyCode::Esc] {
            assert_eq!(types(&mut ui, &view, &[no]), Deed::Show);
            assert_eq!(ui.over, Over::Nothing);
            types(&mut ui, &view, &[char('s')]);
        }
        for other in [KeyCode::Enter, char('s'), char(' '), KeyCode::Tab] {
            assert_eq!(types(&mut ui, &view, &[other]), Deed::Show);
            assert!(matches!(ui.over, Over::Stop { .. }));
        }
        let deed = types(&mut ui, &view, &[char('y')]);
        assert!(matches!(deed, Deed::Stop { name, .. } if name == "eval-nightly"));
        // One that ended meanwhile is not asked about any longer.
        types(&mut ui, &view, &[char('s')]);
        let mut later = view.clone();
        later.workloads.remove(1);
        ui.settle(&later);
        assert_eq!(ui.over, Over::Nothing);
        // A device is none.
        types(&mut ui, &view, &[KeyCode::Tab, char('s')]);
        assert_eq!(ui.over, Over::Nothing);
        assert!(ui.said.is_some());
    }

    #[test]
    fn a_filter_is_typed_and_taken_back() {
        let (view, mut ui) = (view(), Ui::default());
        types(
            &mut ui,
            &view,
            &[char('/'), char('q'), char('x'), KeyCode::Backspace],
        );
        assert_eq!((&*ui.filter, &ui.over), ("q", &Over::Filter));
        types(&mut ui, &view, &[KeyCode::Enter]);
        assert_eq!((&*ui.filter, &ui.over), ("q", &Over::Nothing));
        assert_eq!(types(&mut ui, &view, &[KeyCode::Esc]), Deed::Show);
        assert_eq!(ui.filter, "");
        assert_eq!(types(&mut ui, &view, &[KeyCode::Esc]), Deed::Quit);
    }

    #[test]
    fn control_keys_work_everywhere() {
        let view = view();
        for over in [Over::Nothing, Over::Filter, Over::Help, Over::Describe(3)] {
            let mut ui = Ui {
                over,
                ..Ui::default()
            };
            let key = |c| KeyEvent::new(char(c), KeyModifiers::CONTROL);
            assert_eq!(ui.key(key('z'), &view), Deed::Suspend);
            assert_eq!(ui.key(key('c'), &view), Deed::Quit);
        }
    }
}
