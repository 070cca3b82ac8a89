//! Hides symbols of a shared object (64 bits, little-endian).

/// `.dynsym`'s section type.
const DYNSYM: u64 = 11;

/// Makes `dlsym` not find these symbols: it looks for a name by its hash and then compares
/// the name, so a name with another first letter is never found.
pub(crate) fn hide(elf: &mut [u8], symbols: &[String]) {
    for at in names(elf).unwrap_or_default() {
        let name = elf.get(at..).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if symbols.iter().any(|symbol| symbol.as_bytes() == name)
            && let Some(first) = elf.get_mut(at)
        {
            *first = b'-';
        }
    }
}

/// Where in the file the names of the dynamic symbols begin.
fn names(elf: &[u8]) -> Option<Vec<usize>> {
    let sections = (
        number(elf, 0x28, 8)?,
        number(elf, 0x3a, 2)?,
        number(elf, 0x3c, 2)?,
    );
    let section = |index: u64| sections.0 + index * sections.1;
    let field = |index: u64, at: u64, bytes| number(elf, section(index) + at, bytes);
    let dynsym = (0..sections.2).find(|index| field(*index, 4, 4) == Some(DYNSYM))?;
    let (start, size, entry) = (
        field(dynsym, 0x18, 8)?,
        field(dynsym, 0x20, 8)?,
        field(dynsym, 0x38, 8)?,
    );
    let strings = field(field(dynsym, 0x28, 4)?, 0x18, 8)?;
    let symbols = 0..size.checked_div(entry)?;
    let name = |symbol: u64| {
        let at = strings + number(elf, start + symbol * entry, 4)?;
        usize::try_from(at).ok()
    };
    symbols.map(name).collect()
}

fn number(elf: &[u8], at: u64, bytes: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = elf.get(at..at.checked_add(bytes)?)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    )
}
