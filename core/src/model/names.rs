//! Names and ids of workloads.

/// Why a text cannot name a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name {0:?} is not allowed; use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit"
)]
pub struct NameError(pub String);

/// Checks a workload's name: 1 to 63 of `[A-Za-z0-9._-]`, the first a letter
/// or digit (63: a DNS label, since it becomes the host name).
///
/// # Errors
/// [`NameError`] otherwise.
pub fn check_workload_name(name: &str) -> Result<(), NameError> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if first && rest && name.len() <= 63 {
        Ok(())
    } else {
        Err(NameError(name.to_owned()))
    }
}

/// A new allocation id from 6 random bytes: 12 lower-case hexadecimal digits,
/// so that it is also a valid cgroup, host and file name.
#[must_use]
pub fn new_allocation_id(random: [u8; 6]) -> String {
    random.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for good in ["a", "train-7", "0", "A.b_c", &"x".repeat(63)] {
            assert!(check_workload_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".",
            "a/b",
            "a b",
            "ä",
            "a\n",
            &"x".repeat(64),
            "../x",
        ] {
            assert!(check_workload_name(bad).is_err(), "{bad}");
        }
    }
}
