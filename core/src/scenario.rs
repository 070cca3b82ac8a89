//! Scenarios: devices, and steps that place, allocate and release; what the
//! allocator answers to each. For trying out, teaching and replaying; pure, and
//! decided by the same code as `divvy run`.
//!
//! The format is `divvy-scenario/1`, described in `docs/allocation.md`. A file
//! that does not follow it is refused as a whole ([`ScenarioError`]); a request
//! that cannot be granted is an answer like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::allocate::{
    Book, Choices, DeviceIx, DeviceMask, Limits, MAX_MODES, Machine, Refusal, RefusalCode, Rules,
    SlotIx, Snapshot, explain, select,
};
use crate::model::{
    Amount, Capacity, Device, DeviceRef, Draw, EnforcementLevel, Inventory, Manifest, Near,
    NumaNode, Policy, Request, Shape, Slice, Slot,
};

/// The format that is read.
const FORMAT: &str = "divvy-scenario/1";
/// The format that is written.
const RESULT_FORMAT: &str = "divvy-scenario-result/1";
/// Devices in one scenario, at most.
const MAX_DEVICES: usize = 16_384;
/// Slots in one scenario, at most.
const MAX_SLOTS: usize = 256;

/// Why a text is no scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no {FORMAT} file: {0}")]
pub struct ScenarioError(String);

fn malformed<T>(why: impl Into<String>) -> Result<T, ScenarioError> {
    Err(ScenarioError(why.into()))
}

// === the file ===

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    #[serde(default)]
    slots: BTreeMap<String, SlotRules>,
    #[serde(default)]
    exclusive: Vec<Vec<String>>,
    devices: Value,
    #[serde(default)]
    steps: Vec<Step>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotRules {
    /// 1 if it is not said.
    quantum: Option<Amount>,
    policy: Option<Policy>,
    #[serde(default)]
    unique: bool,
}

#[derive(Debug)]
enum Devices {
    Listed(Vec<Listed>),
    /// What `divvy devices --json` prints.
    Machine(Box<MachineFile>),
}

impl Devices {
    fn read(value: Value) -> Result<Self, ScenarioError> {
        let whole = |value: &Value| value.get("plugin").is_some();
        let read = match value {
            Value::Array(devices) if devices.iter().any(whole) => {
                return malformed(
                    "\"devices\" is a list of whole devices; give all that `divvy devices --json` prints",
                );
            }
            Value::Array(_) => serde_json::from_value(value).map(Self::Listed),
            _ => serde_json::from_value(value).map(Self::Machine),
        };
        read.map_err(|e| ScenarioError(format!("\"devices\": {e}")))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    id: String,
    #[serde(default)]
    numa_node: Option<i64>,
    capacity: BTreeMap<String, Amount>,
}

#[derive(Debug, Deserialize)]
struct MachineFile {
    devices: Vec<Device>,
    slots: Vec<OfferedSlot>,
    #[serde(default)]
    numa_nodes: BTreeMap<u32, NumaNode>,
    /// Who holds what now.
    #[serde(default)]
    held: Vec<HeldFile>,
}

#[derive(Debug, Deserialize)]
struct OfferedSlot {
    plugin: String,
    slot: Slot,
}

#[derive(Debug, Deserialize)]
struct HeldFile {
    name: String,
    slices: Vec<Slice>,
}

/// One step. Amounts are read when its turn comes: a bad one is an answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    place: Option<BTreeMap<String, BTreeMap<String, Value>>>,
    allocate: Option<BTreeMap<String, Value>>,
    release: Option<String>,
    #[serde(rename = "as")]
    name: Option<String>,
    split: Option<bool>,
    policy: Option<Policy>,
    near: Option<Near>,
    select: Option<String>,
    min_level: Option<EnforcementLevel>,
    #[serde(default)]
    apart_from: Vec<String>,
    #[serde(default)]
    fallbacks: Vec<BTreeMap<String, Value>>,
}

// === the answer ===

/// What came of a scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    format: &'static str,
    steps: Vec<StepAnswer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct StepAnswer {
    #[serde(flatten)]
    outcome: Outcome,
    usage: Amounts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok(Amounts),
    Error { code: &'static str, message: String },
}

/// Amounts by slot and device.
type Amounts = BTreeMap<String, BTreeMap<String, Amount>>;

/// Reads a scenario and walks through it.
///
/// # Errors
/// The text is no scenario; nothing was tried.
pub fn run(text: &str) -> Result<Answer, ScenarioError> {
    let file: File = serde_json::from_str(text).map_err(|e| ScenarioError(e.to_string()))?;
    if file.format != FORMAT {
        return malformed(format!("its format is {:?}", file.format));
    }
    for (i, step) in file.steps.iter().enumerate() {
        let kinds = [
            step.place.is_some(),
            step.allocate.is_some(),
            step.release.is_some(),
        ];
        if kinds.iter().filter(|is| **is).count() != 1 {
            return malformed(format!(
                "step {i} is not one of `place`, `allocate` and `release`"
            ));
        }
    }
    let devices = Devices::read(file.devices)?;
    let mut walk = Walk::new(file.slots, &file.exclusive, devices)?;
    let steps = file.steps.into_iter().map(|step| walk.step(step)).collect();
    Ok(Answer {
        format: RESULT_FORMAT,
        steps,
    })
}

// === the walk ===

/// The state between steps.
struct Walk {
    inventory: Inventory,
    machine: Arc<Machine>,
    book: Book,
    usage: Amounts,
    /// Are devices named as a list named them, without a plugin?
    listed: bool,
    /// Allocations without a name, which nobody can release.
    unnamed: usize,
}

impl Walk {
    fn new(
        rules: BTreeMap<String, SlotRules>,
        exclusive: &[Vec<String>],
        devices: Devices,
    ) -> Result<Self, ScenarioError> {
        let listed = matches!(devices, Devices::Listed(_));
        let (inventory, held) = match devices {
            Devices::Listed(devices) => (inventory_of(&rules, devices)?, vec![]),
            Devices::Machine(file) => {
                let unknown = rules
                    .keys()
                    .find(|name| file.slots.iter().all(|s| s.slot.name != **name));
                if let Some(name) = unknown {
                    return malformed(format!(
                        "it has rules for {name:?}, which the machine does not offer"
                    ));
                }
                machine_of(&rules, *file)?
            }
        };
        let names: Vec<&str> = inventory.slots().map(|(_, s)| s.name.as_str()).collect();
        let machine = Machine::with(
            &inventory,
            &Rules {
                policies: rules
                    .iter()
                    .filter_map(|(name, r)| Some((name.clone(), r.policy?)))
                    .collect(),
                unique: rules
                    .iter()
                    .filter(|(_, r)| r.unique)
                    .map(|(name, _)| name.clone())
                    .collect(),
                exclusive: modes(exclusive, &names)?,
                ..Rules::default()
            },
        );
        let machine = Arc::new(machine);
        let usage = inventory
            .slots()
            .map(|(_, slot)| (slot.name.clone(), offering(&inventory, slot, listed)))
            .collect();
        let mut walk = Self {
            book: Book::new(Snapshot::of(Arc::clone(&machine))),
            inventory,
            machine,
            usage,
            listed,
            unnamed: 0,
        };
        for HeldFile { name, slices } in held {
            if let Some(problem) = walk.book.restore(&name, &slices).first() {
                return malformed(format!("{name} holds what is not there: {problem}"));
            }
            walk.count(&slices, Amount::checked_add);
        }
        Ok(walk)
    }

    fn step(&mut self, step: Step) -> StepAnswer {
        let outcome = self.outcome(step).unwrap_or_else(|refusal| Outcome::Error {
            code: refusal.code.as_str(),
            message: refusal.message.clone(),
        });
        StepAnswer {
            outcome,
            usage: self.usage.clone(),
        }
    }

    fn outcome(&mut self, step: Step) -> Result<Outcome, Box<Refusal>> {
        if let Some(name) = &step.release {
            return self.release(name);
        }
        let name = step.name.clone().unwrap_or_else(|| {
            self.unnamed += 1;
            format!("\0{}", self.unnamed)
        });
        if self.book.contains(&name) {
            return Err(refuse(
                RefusalCode::NameTaken,
                &name,
                format!("{name} holds something already; release it first, or choose another name"),
            ));
        }
        match &step.place {
            Some(amounts) => self.place(&name, amounts),
            None => self.allocate(&name, &step),
        }
    }

    fn release(&mut self, name: &str) -> Result<Outcome, Box<Refusal>> {
        let slices = self.book.slices(name);
        if !self.book.release(name) {
            return Err(refuse(
                RefusalCode::UnknownAllocation,
                name,
                format!("{name} holds nothing"),
            ));
        }
        self.count(&slices, |a, b| Some(a.saturating_sub(b)));
        Ok(Outcome::Ok(Amounts::new()))
    }

    fn place(
        &mut self,
        name: &str,
        amounts: &BTreeMap<String, BTreeMap<String, Value>>,
    ) -> Result<Outcome, Box<Refusal>> {
        let mut claims: Vec<(&str, &str, Amount)> = Vec::new();
        for (slot, devices) in amounts {
            for (device, value) in devices {
                claims.push((slot, device, amount(slot, value)?));
            }
        }
        let mut known: Vec<(SlotIx, DeviceIx, Amount)> = Vec::new();
        for (slot, device, amount) in claims {
            let ix = self
                .machine
                .slot(slot)
                .ok_or_else(|| self.unknown_slot(slot))?;
            let device = self.device(device).ok_or_else(|| {
                refuse(
                    RefusalCode::UnknownDevice,
                    slot,
                    format!("{device}: there is no such device"),
                )
            })?;
            known.push((ix, device, amount));
        }
        self.book.place(name, &known)?;
        self.count(&self.book.slices(name), Amount::checked_add);
        Ok(Outcome::Ok(Amounts::new()))
    }

    fn allocate(&mut self, name: &str, step: &Step) -> Result<Outcome, Box<Refusal>> {
        let read = |amounts: &BTreeMap<String, Value>| {
            let read = |(slot, value): (&String, &Value)| Ok((slot.clone(), amount(slot, value)?));
            amounts
                .iter()
                .map(read)
                .collect::<Result<BTreeMap<_, _>, Box<Refusal>>>()
        };
        // A step that is neither `place` nor `release` is this.
        let asked = step
            .allocate
            .as_ref()
            .map(read)
            .transpose()?
            .unwrap_or_default();
        let request = Request {
            slots: asked,
            fallbacks: step.fallbacks.iter().map(read).collect::<Result<_, _>>()?,
            select: step.select.clone(),
            policy: step.policy,
            unsplit: step.split == Some(false),
            near: step.near.unwrap_or_default(),
            apart_from: vec![],
            min_level: step.min_level,
        };
        let limits = Limits {
            selected: match &request.select {
                Some(expression) => Some(select(expression, &self.inventory)?),
                None => None,
            },
            avoided: self.avoided(&step.apart_from)?,
        };
        let choices = Choices::resolve(&self.machine, &request, &limits)?;
        if self.book.allocate(name, &choices).is_none() {
            return Err(explain::refusal(self.book.snapshot(), &choices));
        }
        let slices = self.book.slices(name);
        self.count(&slices, Amount::checked_add);
        let mut granted = Amounts::new();
        for slice in &slices {
            let device = self.name(&slice.device());
            let slot = granted.entry(slice.part.slot.clone()).or_default();
            let sum = slot.entry(device).or_default();
            *sum = sum.checked_add(slice.part.amount).unwrap_or(Amount::MAX);
        }
        Ok(Outcome::Ok(granted))
    }

    fn avoided(&self, names: &[String]) -> Result<Option<DeviceMask>, Box<Refusal>> {
        let mut devices = BTreeSet::new();
        for name in names {
            if !self.book.contains(name) {
                return Err(refuse(
                    RefusalCode::UnknownAllocation,
                    name,
                    format!("{name} holds nothing to stay apart from"),
                ));
            }
            devices.extend(self.book.slices(name).iter().map(Slice::device));
        }
        let mask = self
            .inventory
            .devices
            .iter()
            .map(|d| devices.contains(&d.name()));
        Ok((!names.is_empty()).then(|| mask.collect()))
    }

    /// Enters slices into what is shown as used, or takes them out.
    fn count(&mut self, slices: &[Slice], with: impl Fn(Amount, Amount) -> Option<Amount>) {
        for slice in slices {
            let device = self.name(&slice.device());
            let slot = self.usage.entry(slice.part.slot.clone()).or_default();
            let used = slot.entry(device).or_default();
            *used = with(*used, slice.part.amount).unwrap_or(Amount::MAX);
        }
    }

    fn name(&self, device: &DeviceRef) -> String {
        written(device, self.listed)
    }

    fn device(&self, name: &str) -> Option<DeviceIx> {
        let (plugin, id) = if self.listed {
            ("", name)
        } else {
            name.split_once('/')?
        };
        self.machine.device(plugin, id)
    }

    fn unknown_slot(&self, name: &str) -> Box<Refusal> {
        let known: Vec<&str> = self.usage.keys().map(String::as_str).collect();
        refuse(
            RefusalCode::UnknownSlot,
            name,
            format!(
                "{name}: there is no such slot; the slots are: {}",
                known.join(", ")
            ),
        )
    }
}

fn written(device: &DeviceRef, listed: bool) -> String {
    if listed {
        device.id.clone()
    } else {
        device.to_string()
    }
}

fn refuse(code: RefusalCode, slot: &str, message: String) -> Box<Refusal> {
    Box::new(Refusal::new(code, slot, message))
}

fn amount(slot: &str, value: &Value) -> Result<Amount, Box<Refusal>> {
    let wrong = |why: String| refuse(RefusalCode::InvalidAmount, slot, format!("{slot}: {why}"));
    match value {
        Value::String(text) => text.parse().map_err(|e| wrong(format!("{text:?} {e}"))),
        other => Err(wrong(format!(
            "{other} is no amount; write it as a text, such as \"0.5\""
        ))),
    }
}

/// The devices of a list: each capacity is what its slot draws on.
fn inventory_of(
    rules: &BTreeMap<String, SlotRules>,
    listed: Vec<Listed>,
) -> Result<Inventory, ScenarioError> {
    if listed.len() > MAX_DEVICES || rules.len() > MAX_SLOTS {
        return malformed(format!(
            "there are more than {MAX_DEVICES} devices or {MAX_SLOTS} slots"
        ));
    }
    let quantum = |rules: &SlotRules| rules.quantum.unwrap_or(Amount::ONE);
    let mut ids = BTreeSet::new();
    for device in &listed {
        let id = &device.id;
        if !ids.insert(id) {
            return malformed(format!("there are two devices {id:?}"));
        }
        for (slot, amount) in &device.capacity {
            let Some(rules) = rules.get(slot) else {
                return malformed(format!(
                    "{id} has a capacity of {slot:?}, which is not among the slots; add it to \"slots\""
                ));
            };
            if amount.nanos() / quantum(rules).nanos().max(1) > u128::from(u64::MAX / 4) {
                return malformed(format!("{id} has too many quanta of {slot}"));
            }
        }
    }
    let mut slots = Vec::new();
    for (name, rules) in rules {
        if quantum(rules).is_zero() {
            return malformed(format!("the slot {name} has a quantum of 0"));
        }
        slots.push(Slot {
            quantum: quantum(rules),
            draws: vec![Draw::unit(name.clone())],
            ..Slot::new(
                name.clone(),
                "unit",
                Shape::Divisible,
                EnforcementLevel::Advisory,
            )
        });
    }
    let manifest = Manifest {
        name: String::new(),
        version: String::new(),
        summary: String::new(),
        slots,
        reserved_env: vec![],
        config: vec![],
    };
    let devices = listed.into_iter().map(|listed| Device {
        plugin: String::new(),
        device: divvy_plugin::Device {
            // −1 is the kernel's word for none.
            numa_node: listed.numa_node.and_then(|n| u32::try_from(n).ok()),
            capacities: listed
                .capacity
                .into_iter()
                .filter(|(_, amount)| !amount.is_zero())
                .map(|(slot, amount)| (slot, Capacity::of(amount)))
                .collect(),
            ..divvy_plugin::Device::new(listed.id, "", "")
        },
    });
    Ok(Inventory {
        devices: devices.collect(),
        plugins: [(String::new(), manifest)].into(),
        ..Inventory::default()
    })
}

/// A machine as `divvy devices --json` says it, with changed quanta.
fn machine_of(
    rules: &BTreeMap<String, SlotRules>,
    file: MachineFile,
) -> Result<(Inventory, Vec<HeldFile>), ScenarioError> {
    let mut inventory = Inventory {
        devices: file.devices,
        numa_nodes: file.numa_nodes,
        ..Inventory::default()
    };
    for OfferedSlot { plugin, mut slot } in file.slots {
        if let Some(quantum) = rules.get(&slot.name).and_then(|r| r.quantum) {
            slot.quantum = quantum;
        }
        let manifest = inventory
            .plugins
            .entry(plugin.clone())
            .or_insert_with(|| Manifest {
                name: plugin,
                version: String::new(),
                summary: String::new(),
                slots: vec![],
                reserved_env: vec![],
                config: vec![],
            });
        manifest.slots.push(slot);
    }
    // The same rules as for what plugins say: nothing else is safe to reckon with.
    crate::plugin::validate::inventory(&inventory)
        .map_err(|lie| ScenarioError(format!("its machine is impossible: {lie}")))?;
    Ok((inventory, file.held))
}

/// The devices that offer a slot, with nothing used.
fn offering(inventory: &Inventory, slot: &Slot, listed: bool) -> BTreeMap<String, Amount> {
    let offers = |d: &&Device| {
        let has = |name: &String| d.device.capacities.contains_key(name);
        let cuts = d.device.partitioning.iter().flat_map(|p| &p.profiles);
        match slot.shape {
            Shape::Partition => cuts.into_iter().any(|p| p.slot == slot.name),
            _ => slot.draws.iter().all(|draw| has(&draw.capacity)),
        }
    };
    let devices = inventory.devices.iter().filter(offers);
    devices
        .map(|d| (written(&d.name(), listed), Amount::ZERO))
        .collect()
}

/// Sets of names and patterns to sets of modes.
fn modes(exclusive: &[Vec<String>], names: &[&str]) -> Result<Vec<Vec<Vec<usize>>>, ScenarioError> {
    let sets: Vec<Vec<Vec<usize>>> = exclusive
        .iter()
        .map(|set| {
            let mut seen = BTreeSet::new();
            set.iter()
                .map(|pattern| {
                    let matching = (0..names.len()).filter(|&i| glob(pattern, names[i]));
                    matching.filter(|i| seen.insert(*i)).collect()
                })
                .collect()
        })
        .collect();
    if sets.iter().flatten().count() > MAX_MODES {
        return malformed(format!("\"exclusive\" has more than {MAX_MODES} entries"));
    }
    Ok(sets)
}

/// Does a name match a pattern, in which `*` stands for any text?
fn glob(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut rest) = name.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = tail.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answers(scenario: &Value) -> Vec<Value> {
        let answer = run(&scenario.to_string()).unwrap();
        let value = serde_json::to_value(answer).unwrap();
        assert_eq!(value["format"], RESULT_FORMAT);
        value["steps"].as_array().unwrap().clone()
    }

    fn scenario(steps: &Value) -> Value {
        json!({
            "format": FORMAT,
            "slots": {
                "cuda.shares": { "quantum": "0.01", "policy": "fill" },
                "cuda.device": { "policy": "fill" },
                "cuda.mig-3g": { "policy": "evenly", "unique": true },
            },
            "exclusive": [["cuda.device", "cuda.shares", "cuda.mig-*"]],
            "devices": [
                { "id": "gpu0", "numa_node": 0, "capacity": { "cuda.shares": "1", "cuda.device": "1" } },
                { "id": "gpu1", "numa_node": -1, "capacity": { "cuda.shares": "1", "cuda.device": "1", "cuda.mig-3g": "2" } },
            ],
            "steps": steps,
        })
    }

    fn codes(steps: &Value) -> Vec<String> {
        let code = |answer: &Value| answer["error"]["code"].as_str().unwrap_or("ok").to_owned();
        answers(&scenario(steps)).iter().map(code).collect()
    }

    #[test]
    fn a_scenario_is_answered_step_by_step() {
        let answers = answers(&scenario(&json!([
            { "place": { "cuda.shares": { "gpu0": "0.25" } }, "as": "tenant" },
            { "allocate": { "cuda.shares": "0.5" }, "as": "a", "split": false },
            { "release": "a" },
            { "release": "a" },
        ])));
        assert_eq!(answers[0]["ok"], json!({}));
        assert_eq!(
            answers[1]["ok"],
            json!({ "cuda.shares": { "gpu1": "0.5" } })
        );
        assert_eq!(
            answers[1]["usage"]["cuda.shares"],
            json!({ "gpu0": "0.25", "gpu1": "0.5" })
        );
        assert_eq!(
            answers[2]["usage"]["cuda.shares"],
            json!({ "gpu0": "0.25", "gpu1": "0" })
        );
        assert_eq!(answers[3]["error"]["code"], "unknown_allocation");
    }

    #[test]
    fn checks_come_in_the_stated_order() {
        assert_eq!(
            codes(&json!([
                { "allocate": { "nothing": "-1", "cuda.device": "1" } },
                { "allocate": { "nothing": "1", "cuda.device": "1", "cuda.shares": "1" } },
                { "allocate": { "cuda.mig-3g": "2", "cuda.shares": "0.5" } },
                { "allocate": { "cuda.mig-3g": "2" } },
                { "allocate": { "cuda.shares": "0.005" } },
                { "allocate": { "cuda.shares": "2.5" } },
                { "allocate": { "cuda.shares": 1 } },
                { "allocate": { "cuda.shares": "0", "cuda.device": "0" } },
                { "place": { "cuda.shares": { "gpu7": "0.5" } } },
                { "place": { "nothing": { "gpu0": "0.5" } } },
                { "place": { "cuda.shares": { "gpu0": "1.5" } } },
                { "place": { "cuda.mig-3g": { "gpu0": "1" } } },
                { "place": { "cuda.shares": { "gpu0": "x" } } },
            ])),
            [
                "invalid_amount",
                "unknown_slot",
                "exclusive_conflict",
                "invalid_amount",
                "not_multiple_of_quantum",
                "insufficient",
                "invalid_amount",
                "ok",
                "unknown_device",
                "unknown_slot",
                "over_capacity",
                "over_capacity",
                "invalid_amount",
            ]
        );
    }

    #[test]
    fn a_device_serves_one_of_an_exclusive_set_at_a_time() {
        let steps = json!([
            { "allocate": { "cuda.shares": "0.5" }, "as": "a" },
            { "allocate": { "cuda.device": "1" }, "as": "b" },
            { "allocate": { "cuda.device": "1" }, "as": "c" },
            { "place": { "cuda.device": { "gpu0": "1" } } },
            { "release": "a" },
            { "allocate": { "cuda.device": "1" }, "as": "c" },
        ]);
        assert_eq!(
            codes(&steps),
            ["ok", "ok", "insufficient", "exclusive_conflict", "ok", "ok"]
        );
    }

    #[test]
    fn what_exists_is_entered_exactly_even_off_the_quantum() {
        let answers = answers(&scenario(&json!([
            { "place": { "cuda.shares": { "gpu0": "0.005", "gpu1": "0.9" } }, "as": "old" },
            { "allocate": { "cuda.shares": "1" }, "as": "a", "split": false },
            { "allocate": { "cuda.shares": "0.99" }, "as": "a", "split": false },
        ])));
        assert_eq!(answers[1]["error"]["code"], "fragmented");
        assert_eq!(answers[2]["usage"]["cuda.shares"]["gpu0"], "0.995");
    }

    #[test]
    fn a_failed_step_changes_nothing() {
        let answers = answers(&scenario(&json!([
            { "allocate": { "cuda.shares": "0.5" }, "as": "a" },
            { "allocate": { "cuda.shares": "0.5" }, "as": "a" },
            { "place": { "cuda.shares": { "gpu1": "0.5", "gpu0": "0.6" } }, "as": "b" },
        ])));
        assert_eq!(answers[1]["error"]["code"], "name_taken");
        assert_eq!(answers[2]["error"]["code"], "over_capacity");
        assert_eq!(answers[0]["usage"], answers[2]["usage"]);
    }

    #[test]
    fn what_is_no_scenario_is_refused_whole() {
        let base = scenario(&json!([]));
        let with = |key: &str, value: Value| {
            let mut changed = base.clone();
            changed[key] = value;
            run(&changed.to_string()).unwrap_err().to_string()
        };
        for (error, words) in [
            (run("{").unwrap_err().to_string(), "EOF"),
            (
                with("format", json!("divvy-scenario/2")),
                "divvy-scenario/2",
            ),
            (with("odd", json!(1)), "odd"),
            (with("steps", json!([{}])), "step 0 is not one of"),
            (
                with("steps", json!([{ "release": "a", "allocate": {} }])),
                "step 0",
            ),
            (
                with("slots", json!({ "cuda.shares": { "quantum": "0" } })),
                "not among the slots",
            ),
            (
                with("devices", json!([{ "id": "a", "capacity": { "x": "1" } }])),
                "\"x\"",
            ),
            (
                with(
                    "devices",
                    json!([{ "id": "a", "capacity": {} }, { "id": "a", "capacity": {} }]),
                ),
                "two devices \"a\"",
            ),
            (
                with("slots", json!({ "cuda.shares": { "policy": "best" } })),
                "best",
            ),
        ] {
            assert!(
                error.starts_with("this is no divvy-scenario/1 file: "),
                "{error}"
            );
            assert!(error.contains(words), "{error}");
        }
    }

    /// What `divvy devices --json` prints says what partitions serve.
    #[test]
    fn a_part_at_a_level_is_the_partition_that_serves_it() {
        let slot = |name: &str, class: &str, unit: &str, shape: &str, level: &str, draws: Value| {
            json!({ "plugin": "acme", "slot": {
                "name": name, "summary": "", "class": class, "unit": unit, "quantum": "1",
                "shape": shape, "level": level, "draws": draws } })
        };
        let profile = |slot: &str, size: u32, starts: &[u32], bytes: &str| {
            json!({ "slot": slot, "size": size, "starts": starts, "capacities": {},
                "serves": { "gpu.mem": bytes } })
        };
        let ask =
            |bytes: &str| json!({ "allocate": { "gpu.mem": bytes }, "min_level": "hardware" });
        let draws = json!([{ "capacity": "memory", "per_unit": "1" }]);
        let steps = answers(&json!({
            "format": "divvy-scenario/1",
            "devices": {
                "slots": [
                    slot("acme.mem", "gpu.mem", "byte", "single", "advisory", draws),
                    slot("acme.half", "gpu.partition", "partition", "partition", "hardware", json!([])),
                    slot("acme.quarter", "gpu.partition", "partition", "partition", "hardware", json!([])),
                ],
                "devices": [{
                    "plugin": "acme", "id": "g0", "kind": "gpu", "model": "",
                    "health": { "state": "healthy" }, "capacities": { "memory": { "total": "80" } },
                    "partitioning": { "positions": 4, "profiles": [
                        profile("acme.half", 2, &[0, 2], "39"),
                        profile("acme.quarter", 1, &[0, 1, 2, 3], "19"),
                    ] } }] },
            "steps": [ask("19"), ask("20"), ask("20"), ask("40")] }));
        assert_eq!(
            steps[0]["ok"],
            json!({ "acme.quarter": { "acme/g0": "1" } })
        );
        assert_eq!(steps[1]["ok"], json!({ "acme.half": { "acme/g0": "1" } }));
        let message = |step: &Value| step["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(
            message(&steps[2]),
            "acme.half: 1 asked, 0 free of 2; nothing of it can be granted now; one is what 20 B of gpu.mem take; a smaller one would fit: acme.quarter has 19 B of gpu.mem (20 B asked)"
        );
        assert_eq!(
            message(&steps[3]),
            "acme.mem: its limit is advisory, below the hardware that was asked for; no partition here is enough: the largest of that level, acme.half, has 39 B of gpu.mem (40 B asked); ask for less, or for a lower --min-level"
        );
    }

    #[test]
    fn patterns() {
        for (pattern, name, matches) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("a*a", "a", false),
            ("A*", "ab", false),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, name), matches, "{pattern} {name}");
        }
    }
}
