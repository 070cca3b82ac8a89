//! `divvy simulate`.

use std::io::Read;
use std::path::Path;

use super::args::Simulate;
use super::output::{Failure, print_json};
use crate::scenario;

/// The longest scenario that is read, bytes.
const MAX_LENGTH: u64 = 64 << 20;

pub(super) fn run(args: &Simulate) -> Result<u8, Failure> {
    let name = args.file.display();
    let unreadable =
        |why: String| Failure::words("invalid_scenario", format!("{name} cannot be read: {why}"));
    let text = read(&args.file).map_err(|e| unreadable(e.to_string()))?;
    if text.len() as u64 > MAX_LENGTH {
        return Err(unreadable(format!("it is longer than {MAX_LENGTH} bytes")));
    }
    let answer = scenario::run(&text)
        .map_err(|e| Failure::words("invalid_scenario", format!("{name}: {e}")))?;
    print_json(&answer);
    Ok(0)
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin()
            .take(MAX_LENGTH + 1)
            .read_to_string(&mut text)?;
    } else {
        let file = std::fs::File::open(file)?;
        file.take(MAX_LENGTH + 1).read_to_string(&mut text)?;
    }
    Ok(text)
}
