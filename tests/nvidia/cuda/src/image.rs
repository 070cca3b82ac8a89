//! What is in a program for the device: names of functions and variables.

use std::ffi::{CStr, c_void};

use crate::code::{Done, INVALID_VALUE};

/// What an image has, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    /// The functions; `None`: it is machine code, which is not looked into, and has any.
    pub(crate) functions: Option<Vec<String>>,
    /// The variables, and their bytes.
    pub(crate) variables: Vec<(String, u64)>,
}

/// What machine code, alone or in collections, begins with.
const BINARY: [[u8; 4]; 3] = [
    *b"\x7fELF",
    [0x50, 0xed, 0x55, 0xba],
    [0xb1, 0x43, 0x62, 0x46],
];

impl Image {
    /// Reads one in memory.
    ///
    /// # Safety
    /// It is null, or an image as `cuModuleLoadData` takes them.
    pub(crate) unsafe fn at(image: *const c_void) -> Done<Self> {
        if image.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: machine code is longer than this, and a text ends at its zero.
        let text = unsafe { CStr::from_ptr(image.cast()) };
        Ok(Self::of(text.to_bytes()))
    }

    /// Reads one.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        if BINARY.iter().any(|begin| bytes.starts_with(begin)) || !text.contains(".version") {
            return Self::default();
        }
        let mut functions = Vec::new();
        let mut variables = Vec::new();
        for line in text
            .lines()
            .map(|line| line.split("//").next().unwrap_or(line).trim())
        {
            let mut words = line.split_whitespace().skip_while(|word| *word != ".entry");
            if let (Some(_), Some(name)) = (words.next(), words.next()) {
                functions.push(name.split('(').next().unwrap_or(name).to_owned());
            } else if let Some(variable) = variable(line) {
                variables.push(variable);
            }
        }
        Self {
            functions: Some(functions),
            variables,
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        match &self.functions {
            Some(functions) => functions.iter().any(|known| known == name),
            None => !name.is_empty(),
        }
    }
}

/// `.visible .global .align 4 .b8 name[256];`
fn variable(line: &str) -> Option<(String, u64)> {
    let declared = line.split(['=', ';']).next()?;
    let words: Vec<&str> = declared.split_whitespace().collect();
    if !words.contains(&".global") && !words.contains(&".const") || words.contains(&".extern") {
        return None;
    }
    let last = words.last()?;
    let (name, dimensions) = last.split_at(last.find('[').unwrap_or(last.len()));
    let mut bytes = words.iter().find_map(|word| {
        let bits = word
            .strip_prefix('.')?
            .trim_start_matches(['b', 'u', 's', 'f']);
        let bits: u64 = bits.parse().ok()?;
        matches!(bits, 8 | 16 | 32 | 64 | 128).then_some(bits / 8)
    })?;
    if words.contains(&".v2") {
        bytes *= 2;
    } else if words.contains(&".v4") {
        bytes *= 4;
    }
    for dimension in dimensions.split(['[', ']']).filter(|part| !part.is_empty()) {
        bytes = bytes.checked_mul(dimension.parse().ok()?)?;
    }
    Some((name.to_owned(), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_names_what_it_has() {
        let image = Image::of(
            b".version 8.0\n.target sm_90\n// .entry no(\n.visible .global .align 4 .b8 table[256];\n\
              .global .u32 one = 1;\n.visible .entry add(\n.param .u64 a)\n{ ret; }\n.entry two() {}",
        );
        assert_eq!(image.functions, Some(vec!["add".into(), "two".into()]));
        assert_eq!(image.variables, [("table".into(), 256), ("one".into(), 4)]);
        assert!(image.has("add") && !image.has("no"));
    }

    #[test]
    fn machine_code_has_anything() {
        assert!(Image::of(b"\x7fELF\x02").has("anything"));
    }
}
