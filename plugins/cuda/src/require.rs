//! What an image needs of the driver: `NVIDIA_REQUIRE_CUDA` and its like.
//!
//! The language is that of NVIDIA's container toolkit (libnvidia-container,
//! "Environment variables"): a variable holds alternatives with blanks between them,
//! each of conditions with commas between them: `cuda>=12.4 brand=tesla,driver>=550`.
//! Each variable must hold. Alternatives that name drivers older than the CUDA that is
//! asked for mean *forward compatibility*: the image's own, newer libcuda. The host's is
//! what containers get here, so they hold only within a major version of CUDA.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::discover::Unit;
use crate::error::Error;

/// What conditions are about.
pub(crate) struct Facts<'a> {
    /// The driver's version.
    pub(crate) driver: Option<&'a str>,
    /// The version of CUDA that it serves.
    pub(crate) cuda: Option<&'a str>,
    /// What is granted.
    pub(crate) units: &'a [&'a Unit],
}

/// Checks an image's variables. One that says nothing that can be understood asks
/// for nothing.
pub(crate) fn check(image: &BTreeMap<String, String>, facts: &Facts<'_>) -> Result<(), Error> {
    let off = |v: &String| matches!(v.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True");
    if image.get("NVIDIA_DISABLE_REQUIRE").is_some_and(off) {
        return Ok(());
    }
    for (name, value) in image {
        if !name.starts_with("NVIDIA_REQUIRE_") {
            continue;
        }
        let mut alternatives = value.split_whitespace().peekable();
        if alternatives.peek().is_none() {
            continue;
        }
        if alternatives.any(|all| facts.hold(all)) && !facts.is_behind(value) {
            continue;
        }
        let has = |what: &str, version: Option<&str>| {
            format!(
                "{what} {}",
                version.unwrap_or("of a version that is not known")
            )
        };
        return Err(Error::Requires {
            needs: format!("{name} {value}"),
            has: format!(
                "{}, {}",
                has("driver", facts.driver),
                has("CUDA", facts.cuda)
            ),
            remedy: "take an image for this driver, or a newer driver; --set cuda.require=ignore runs it anyway",
        });
    }
    Ok(())
}

impl Facts<'_> {
    /// Is the driver's CUDA of an older major version than any that is asked for?
    fn is_behind(&self, value: &str) -> bool {
        let major = |version: &str| version.split('.').next()?.parse::<u64>().ok();
        let asked = value
            .split([' ', ','])
            .filter_map(|condition| major(condition.strip_prefix("cuda>=")?))
            .min();
        let have = self.cuda.and_then(major);
        asked.zip(have).is_some_and(|(asked, have)| have < asked)
    }

    fn hold(&self, conditions: &str) -> bool {
        conditions.split(',').all(|condition| self.holds(condition))
    }

    fn holds(&self, condition: &str) -> bool {
        let Some((at, operator)) = OPERATORS
            .iter()
            .filter_map(|operator| Some((condition.find(operator)?, *operator)))
            .min_by_key(|(at, operator)| (*at, std::cmp::Reverse(operator.len())))
        else {
            return true;
        };
        let (name, value) = (&condition[..at], &condition[at + operator.len()..]);
        let attribute = |name: &str| {
            let units = self.units.iter();
            units
                .filter_map(|unit| match &unit.device.attributes.get(name)?.value {
                    divvy_plugin::Value::String(text) | divvy_plugin::Value::Version(text) => {
                        Some(text.to_ascii_lowercase())
                    }
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        let have: Vec<String> = match name {
            "cuda" => self.cuda.into_iter().map(Into::into).collect(),
            "driver" => self.driver.into_iter().map(Into::into).collect(),
            "arch" => attribute("compute_capability"),
            "brand" => attribute("brand"),
            _ => return true,
        };
        have.iter().all(|have| {
            let order = match name {
                // Images write geforcertx.
                "brand" => have.replace(' ', "").cmp(&value.to_ascii_lowercase()),
                _ => versions(have, value),
            };
            match operator {
                ">=" => order != Ordering::Less,
                "<=" => order != Ordering::Greater,
                "!=" => order != Ordering::Equal,
                ">" => order == Ordering::Greater,
                "<" => order == Ordering::Less,
                _ => order == Ordering::Equal,
            }
        })
    }
}

const OPERATORS: [&str; 6] = [">=", "<=", "!=", ">", "<", "="];

/// Compares as far as the second one goes: 470.82.01 is equal to 470.
fn versions(have: &str, want: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split('.')
            .map(|part| part.parse().unwrap_or(0))
            .collect()
    };
    let (mut have, want) = (numbers(have), numbers(want));
    have.resize(want.len(), 0);
    have.cmp(&want)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str) -> bool {
        let facts = Facts {
            driver: Some("535.129.03"),
            cuda: Some("12.2"),
            units: &[],
        };
        check(
            &[("NVIDIA_REQUIRE_CUDA".to_owned(), text.to_owned())].into(),
            &facts,
        )
        .is_ok()
    }

    #[test]
    fn conditions() {
        for text in [
            "",
            "cuda>=12.2",
            "cuda>=11.0",
            "driver>=535",
            "driver=535",
            "driver<536",
            "cuda>=12.4 driver>=470,driver<471 driver>=535,driver<536",
            "cuda>=12.4 brand=geforcertx,driver>=535,driver<536",
            "cuda!=12.3",
            "something=else",
            "nonsense",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in [
            "cuda>=12.4",
            "cuda>12.2",
            "driver>=550",
            "driver<535",
            "cuda>=12.0,driver>=550",
            "cuda>=12.4 brand=tesla,driver>=470,driver<471",
            // Forward compatibility over a major version.
            "cuda>=13.0 driver>=535,driver<536",
        ] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn an_image_may_switch_it_off() {
        let facts = Facts {
            driver: None,
            cuda: Some("12.2"),
            units: &[],
        };
        let mut image =
            BTreeMap::from([("NVIDIA_REQUIRE_CUDA".to_owned(), "cuda>=13.0".to_owned())]);
        assert!(check(&image, &facts).is_err());
        image.insert("NVIDIA_DISABLE_REQUIRE".into(), "true".into());
        assert!(check(&image, &facts).is_ok());
    }
}
