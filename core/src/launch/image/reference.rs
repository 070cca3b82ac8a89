//! Compares the names of images as people and tools write them.

/// Whether `asked` means the image called `name`.
///
/// Equal text matches; else both are read as Docker does: `docker.io/library/` in front
/// and `:latest` behind may be left out.
pub(super) fn matches(asked: &str, name: &str) -> bool {
    asked == name || full(asked) == full(name)
}

fn full(name: &str) -> String {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || last.contains('@') {
        return name.to_owned();
    }
    format!("{name}:latest")
}

/// The choices for a message.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    /// More are cut: the message must fit a terminal.
    const MOST: usize = 20;
    let mut all: Vec<&str> = names.collect();
    all.sort_unstable();
    all.dedup();
    let rest = all.len().saturating_sub(MOST);
    let mut text = all
        .iter()
        .take(MOST)
        .map(|name| {
            if name.bytes().all(|b| b.is_ascii_graphic()) && name.len() <= 160 {
                (*name).to_owned()
            } else {
                super::error::shown(name.as_bytes())
            }
        })
        .collect::<Vec<_>>()
        .join(", ");
    if rest > 0 {
        text.push_str(&format!(" and {rest} more"));
    }
    text
}
