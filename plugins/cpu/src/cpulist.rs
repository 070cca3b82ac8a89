//! Sets of kernel numbers (CPUs, NUMA nodes), in the kernel's two text forms.
//!
//! *List* (`0-3,8`): `cpulist`, `cpuset.cpus`, `online`. *Mask*
//! (`0000,00fc0000`): `cpumap`, `thread_siblings`; groups of 32 bits, the
//! highest first, and the first one shorter where `NR_CPUS` is no multiple of
//! 32 (48 bits: `0000,00fc0000`). Both may end in NUL bytes in old kernels
//! and in captures; both may be empty.
//! (Kernel: Documentation/core-api/printk-formats.rst, "Bitmap".)

use std::collections::BTreeSet;
use std::collections::btree_set;
use std::fmt;

/// The largest number that is believed. The kernel's own limits are 8,192
/// CPUs and 1,024 nodes; a text such as `0-4294967295` must not fill memory.
const LARGEST: u32 = 65_535;

/// A set of CPU or NUMA node numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(BTreeSet<u32>);

/// Why a text is no set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Not the kernel's syntax.
    #[error("{0:?} is not a list such as 0-3,8 or a mask such as 00ff")]
    Malformed(String),
    /// A range that runs backwards.
    #[error("the range {0:?} runs backwards")]
    Backwards(String),
    /// A number that no kernel has.
    #[error("{0:?} goes beyond CPU or node 65535")]
    TooLarge(String),
}

impl CpuSet {
    /// Reads the list form; an empty text is an empty set.
    ///
    /// # Errors
    /// [`ListError`] on anything else than `N` and `N-M` between commas.
    pub fn parse_list(text: &str) -> Result<Self, ListError> {
        let mut set = BTreeSet::new();
        let text = trim(text);
        if text.is_empty() {
            return Ok(Self(set));
        }
        for part in text.split(',') {
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first, part)?, number(last, part)?);
            if first > last {
                return Err(ListError::Backwards(part.to_owned()));
            }
            set.extend(first..=last);
        }
        Ok(Self(set))
    }

    /// Reads the mask form; an empty text is an empty set.
    ///
    /// # Errors
    /// [`ListError`] on anything else than hexadecimal groups between commas.
    pub fn parse_mask(text: &str) -> Result<Self, ListError> {
        let mut set = BTreeSet::new();
        let text = trim(text);
        if text.is_empty() {
            return Ok(Self(set));
        }
        let mut base = 0;
        for group in text.rsplit(',') {
            let malformed = || ListError::Malformed(text.to_owned());
            if group.len() > 8 || group.starts_with('+') {
                return Err(malformed());
            }
            let bits = u32::from_str_radix(group, 16).map_err(|_| malformed())?;
            if base > LARGEST {
                return Err(ListError::TooLarge(text.to_owned()));
            }
            set.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|b| base + b));
            base += 32;
        }
        Ok(Self(set))
    }

    /// Is the number in the set?
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.0.contains(&number)
    }

    /// Is nothing in the set?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The lowest number.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> std::iter::Copied<btree_set::Iter<'_, u32>> {
        self.0.iter().copied()
    }

    /// What is in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }

    /// What is in this set but not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }

    /// Adds a number.
    pub fn insert(&mut self, number: u32) {
        self.0.insert(number);
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}

impl Extend<u32> for CpuSet {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, numbers: I) {
        self.0.extend(numbers);
    }
}

impl<'a> IntoIterator for &'a CpuSet {
    type Item = u32;
    type IntoIter = std::iter::Copied<btree_set::Iter<'a, u32>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The list form, as the kernel writes it: ranges are joined, `0-1` too.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = numbers.next() {
            let mut last = first;
            while let Some(next) = numbers.next_if_eq(&(last + 1)) {
                last = next;
            }
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0')
}

fn number(digits: &str, part: &str) -> Result<u32, ListError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ListError::Malformed(part.to_owned()));
    }
    match digits.parse() {
        Ok(number) if number <= LARGEST => Ok(number),
        _ => Err(ListError::TooLarge(part.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_of_real_machines() {
        for (text, canonical) in [
            ("", ""),
            ("\n", ""),
            ("0-7\n\0", "0-7"),
            ("\0\0\0", ""),
            ("0,4,8,12\n", "0,4,8,12"),
            ("0-2,33-34,45,72-73\n", "0-2,33-34,45,72-73"),
            ("3,1,2", "1-3"),
        ] {
            assert_eq!(CpuSet::parse_list(text).unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn masks_of_real_machines() {
        for (text, list) in [
            ("1\n", "0"),
            ("00000000,00000101\n", "0,8"),
            ("0000,00fc0000\n", "18-23"),       // NR_CPUS=48
            ("0100,00000000\n", "40"),          // the same, upper part
            ("0000,00000100,00000001", "0,40"), // NR_CPUS=80
            ("", ""),
        ] {
            assert_eq!(CpuSet::parse_mask(text).unwrap().to_string(), list);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "-1",
            "1-",
            "a",
            "1,,2",
            "1 2",
            "+1",
            "4294967296",
            "0-99999",
            "3-1",
        ] {
            assert!(CpuSet::parse_list(text).is_err(), "{text:?}");
        }
        for text in ["g", "123456789", ",", "-1", "+1"] {
            assert!(CpuSet::parse_mask(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn list_text_and_back(numbers in prop::collection::btree_set(0..=LARGEST, 0..200)) {
            let set = CpuSet(numbers);
            prop_assert_eq!(CpuSet::parse_list(&set.to_string()), Ok(set));
        }

        #[test]
        fn mask_text_and_back(numbers in prop::collection::btree_set(0_u32..300, 0..200)) {
            let mut words = [0_u32; 10];
            for n in &numbers {
                words[(n / 32) as usize] |= 1 << (n % 32);
            }
            let text: Vec<_> = words.iter().rev().map(|w| format!("{w:08x}")).collect();
            prop_assert_eq!(CpuSet::parse_mask(&text.join(",")), Ok(CpuSet(numbers)));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = CpuSet::parse_list(&text);
            let _ = CpuSet::parse_mask(&text);
        }

        #[test]
        fn kernel_like_texts_never_panic(text in "[0-9a-f,\\-\n\0 ]{0,60}") {
            let _ = CpuSet::parse_list(&text);
            let _ = CpuSet::parse_mask(&text);
        }
    }
}
