//! Everything about the selected: what `divvy describe` says, and what is measured.

use super::model::Model;
use crate::agent::Measures;
use crate::cli::describe::{about, about_device};
use crate::cli::output::printable;

/// About a workload.
pub(super) fn workload(model: &Model, name: &str) -> Vec<String> {
    let devices = model.all().map_or(&[][..], |all| &all.devices);
    let record = model.record(name);
    record.map_or_else(Vec::new, |record| about(record, devices))
}

/// About a row of devices: a device, or all cores, or all memory.
pub(super) fn device(model: &Model, row: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(all) = model.all() else {
        return lines;
    };
    for view in model.views_in(row) {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(about_device(view, all));
        let measures = model.measures(&view.device.plugin, &view.device.device.id);
        lines.extend(measures.into_iter().flat_map(measured));
    }
    lines
}

fn measured(measures: &Measures) -> impl Iterator<Item = String> {
    let all = measures.iter();
    all.map(|(name, amount)| format!("{:<11} {amount}", printable(name)))
}
