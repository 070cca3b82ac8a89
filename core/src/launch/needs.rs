//! What an image says that it needs, by its labels.
//!
//! * `dev.divvy.requires`: `SLOT>=AMOUNT`, several with commas between them;
//! * `ai.backend.resource.min.SLOT`: an amount, as Backend.AI's images have it;
//!   of several slots of one plugin, one is enough;
//! * `ai.backend.accelerators`: the plugins that it is made for; slots of
//!   others are of no use to it.

use std::collections::BTreeMap;

use crate::model::{Amount, format_amount, parse_amount};

const REQUIRES: &str = "dev.divvy.requires";
const MINIMUM: &str = "ai.backend.resource.min.";
const ACCELERATORS: &str = "ai.backend.accelerators";

/// What an image needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Of each of these, one is needed.
    any_of: Vec<BTreeMap<String, Amount>>,
    /// The plugins that it is made for; `None`: any.
    made_for: Option<Vec<String>>,
}

/// What is missing, and the option that asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lack {
    pub(crate) needs: String,
    pub(crate) remedy: String,
}

impl Needs {
    /// Reads labels. One that cannot be read is a mistake of the image, and
    /// said: guessing would start what cannot work.
    pub(crate) fn of(labels: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut needs = Self::default();
        if let Some(text) = labels.get(REQUIRES) {
            for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
                let odd =
                    || format!("its label {REQUIRES} has {part:?}, which is not SLOT>=AMOUNT");
                let (slot, amount) = part.split_once(">=").ok_or_else(odd)?;
                let (slot, amount) = (slot.trim(), amount.trim());
                let amount = parse_amount(amount, slot, unit(slot)).map_err(|_| odd())?;
                needs
                    .any_of
                    .push(BTreeMap::from([(slot.to_owned(), amount)]));
            }
        }
        let mut minima: BTreeMap<&str, BTreeMap<String, Amount>> = BTreeMap::new();
        for (label, text) in labels {
            let Some(slot) = label.strip_prefix(MINIMUM) else {
                continue;
            };
            let amount = parse_amount(&binary(text, slot), slot, unit(slot))
                .map_err(|_| format!("its label {label} has {text:?}, which is no amount"))?;
            if amount > Amount::ZERO {
                let family = slot.split_once('.').map_or(slot, |(plugin, _)| plugin);
                minima
                    .entry(family)
                    .or_default()
                    .insert(slot.to_owned(), amount);
            }
        }
        needs.any_of.extend(minima.into_values());
        needs.made_for = labels.get(ACCELERATORS).and_then(|text| {
            let names = text.split(',').map(|n| n.trim().to_owned());
            let names: Vec<String> = names.filter(|n| !n.is_empty()).collect();
            (!names.is_empty() && names.iter().all(|n| n != "*")).then_some(names)
        });
        Ok(needs)
    }

    /// Is this enough?
    pub(crate) fn check(&self, granted: &BTreeMap<String, Amount>) -> Result<(), Lack> {
        for slots in &self.any_of {
            let is_met = |(slot, least): (&String, &Amount)| {
                granted.get(slot).is_some_and(|has| has >= least)
            };
            if slots.iter().any(is_met) {
                continue;
            }
            let words = slots.iter().map(|(slot, least)| {
                let amount = format_amount(*least, unit(slot));
                format!("at least {amount} of {slot}")
            });
            let option = |(slot, least): (&String, &Amount)| format!("--slot {slot}={least}");
            return Err(Lack {
                needs: words.collect::<Vec<_>>().join(", or "),
                remedy: slots.iter().next().map(option).unwrap_or_default(),
            });
        }
        if let Some(made_for) = &self.made_for {
            let plugins = granted.iter().filter(|(_, amount)| **amount > Amount::ZERO);
            let mut plugins = plugins.filter_map(|(slot, _)| slot.split_once('.'));
            if let Some((plugin, _)) =
                plugins.find(|(plugin, _)| !made_for.iter().any(|m| m == plugin))
            {
                return Err(Lack {
                    needs: format!("accelerators of {}, not of {plugin}", made_for.join(" or ")),
                    remedy: format!("a slot of {}", made_for.join(" or ")),
                });
            }
        }
        Ok(())
    }
}

fn unit(slot: &str) -> &'static str {
    if slot == "mem" || slot.ends_with(".mem") {
        "byte"
    } else {
        ""
    }
}

/// Backend.AI writes `64m` for 64 MiB.
fn binary(text: &str, slot: &str) -> String {
    let text = text.trim();
    if unit(slot).is_empty() {
        return text.to_owned();
    }
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    match text[number.len()..].to_ascii_lowercase().as_str() {
        "k" => format!("{number}KiB"),
        "m" => format!("{number}MiB"),
        "g" => format!("{number}GiB"),
        "t" => format!("{number}TiB"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(labels: &[(&str, &str)]) -> Result<Needs, String> {
        let labels = labels.iter();
        Needs::of(&labels.map(|(k, v)| ((*k).into(), (*v).into())).collect())
    }

    fn granted(slots: &[(&str, &str)]) -> BTreeMap<String, Amount> {
        let slots = slots.iter();
        slots
            .map(|(slot, text)| {
                (
                    (*slot).into(),
                    parse_amount(text, slot, unit(slot)).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn less_than_an_image_needs_is_refused_with_what_it_needs() {
        let needs = needs(&[(REQUIRES, "cuda.shares>=0.5, mem >= 2GiB")]).unwrap();
        let enough = granted(&[("cuda.shares", "0.5"), ("mem", "2GiB"), ("cpu", "1")]);
        assert_eq!(needs.check(&enough), Ok(()));
        let lack = needs.check(&granted(&[("cuda.shares", "0.49"), ("mem", "2GiB")]));
        let lack = lack.unwrap_err();
        assert_eq!(
            (&*lack.needs, &*lack.remedy),
            ("at least 0.5 of cuda.shares", "--slot cuda.shares=0.5")
        );
        let lack = needs.check(&granted(&[("cuda.shares", "1"), ("mem", "1GiB")]));
        assert!(lack.unwrap_err().needs.contains("2 GiB of mem"));
    }

    #[test]
    fn backend_ais_labels_are_understood() {
        let needs = needs(&[
            ("ai.backend.resource.min.cpu", "2"),
            ("ai.backend.resource.min.mem", "64m"),
            ("ai.backend.resource.min.cuda.device", "1"),
            ("ai.backend.resource.min.cuda.shares", "0.1"),
            ("ai.backend.resource.min.rocm.device", "0"),
            (ACCELERATORS, "cuda"),
        ])
        .unwrap();
        let base = [("cpu", "2"), ("mem", "64MiB")];
        let with = |slot, amount| granted(&[base[0], base[1], (slot, amount)]);
        assert_eq!(needs.check(&with("cuda.shares", "0.2")), Ok(()));
        assert_eq!(needs.check(&with("cuda.device", "1")), Ok(()));
        let lack = needs.check(&with("rocm.device", "1")).unwrap_err();
        assert!(lack.needs.contains("cuda.device, or"), "{lack:?}");
        let lack = needs.check(&granted(&[("cpu", "1"), ("mem", "64MiB")]));
        assert!(lack.unwrap_err().needs.contains("2 of cpu"));
    }

    #[test]
    fn accelerators_that_an_image_is_not_made_for_are_refused() {
        let made = needs(&[(ACCELERATORS, "cuda, rocm")]).unwrap();
        assert_eq!(made.check(&granted(&[("cpu", "1")])), Ok(()));
        assert_eq!(made.check(&granted(&[("rocm.shares", "1")])), Ok(()));
        assert!(made.check(&granted(&[("tpu.device", "1")])).is_err());
        for any in ["", "*"] {
            assert_eq!(needs(&[(ACCELERATORS, any)]), Ok(Needs::default()));
        }
    }

    #[test]
    fn labels_that_cannot_be_read_are_said() {
        for labels in [
            [(REQUIRES, "cuda.shares")],
            [(REQUIRES, "mem>=lots")],
            [("ai.backend.resource.min.cpu", "x")],
        ] {
            assert!(needs(&labels).unwrap_err().contains(labels[0].0));
        }
        assert_eq!(needs(&[("org.example", "x")]), Ok(Needs::default()));
    }
}
