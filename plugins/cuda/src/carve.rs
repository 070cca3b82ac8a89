//! Making and unmaking MIG instances, and turning MIG on and off for it.
//!
//! Promises: nothing is made that is not written down before; what one request makes it
//! makes whole or takes back; what it finds half made for the same allocation it takes up.
//! What others made is never unmade, and MIG is never switched while anything runs on a
//! GPU or is held of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use divvy_plugin::{PrepareRequest, Slice};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_IN_USE as IN_USE,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_RESOURCES as FULL,
    nvmlReturn_enum_NVML_ERROR_RESET_REQUIRED as RESET,
};

use crate::discover::{Machine, Unit};
use crate::error::Error;
use crate::ffi;
use crate::journal::{Entry, Made, Part, Turn};
use crate::layout::{self, GpuInstance, Kind};
use crate::manage::Managed;
use crate::mig::by_gpu_instance;
use crate::nvml::{Instance, Memory};
use crate::prepare;
use crate::root::{Root, without_function};
use crate::slots::{is_of_profile, slot_of};
use crate::users;

/// Who keeps MIG from being switched, where no process is on the GPU.
const CLIENT: &str = "it is in use by another client, such as a monitoring daemon or a display; stop that, or leave this GPU out of cuda.mig_gpus";

/// Who may change MIG now, and with what.
pub(crate) struct Carver<'a> {
    /// `None` while it is ended, since a GPU was reset. Ended before the turn is: whoever
    /// has the next one meets no client of ours.
    pub(crate) nvml: Option<Arc<Nvml>>,
    pub(crate) turn: Turn<'a>,
    /// Starts NVML.
    pub(crate) start: &'a dyn Fn() -> Result<Arc<Nvml>, Error>,
    pub(crate) root: &'a Root,
    /// This boot of the machine, and now, ms since it.
    pub(crate) boot: (String, u64),
    pub(crate) is_held: &'a dyn Fn(&Entry) -> bool,
}

/// What was changed, to be taken back.
pub(crate) enum Change {
    /// It was written down, and perhaps made.
    Entry(Box<Entry>),
    /// MIG of this GPU was turned on, or off.
    Mode(Box<Unit>, bool),
}

/// An instance that is asked for.
struct Wanted<'a> {
    slice: &'a Slice,
    unit: &'a Unit,
    managed: &'a Managed,
    kind: &'a Kind,
    start: u32,
}

impl Carver<'_> {
    /// Makes what a request needs; notes each change before the next one.
    ///
    /// # Errors
    /// What was changed until then is to be [taken back](Self::undo).
    pub(crate) fn make(
        &mut self,
        request: &PrepareRequest,
        machine: &Machine,
        changes: &mut Vec<Change>,
    ) -> Result<(), Error> {
        self.tidy(machine)?;
        let (wanted, undivided) = plan(request, machine)?;
        self.reclaim(&request.allocation, &wanted, &undivided)?;
        let mut switched = false;
        for unit in &undivided {
            let entry = self.entry(&request.allocation, unit, None);
            if !self
                .turn
                .of(&request.allocation)
                .iter()
                .any(|e| e.same(&entry))
            {
                self.turn.put(entry.clone())?;
                changes.push(Change::Entry(Box::new(entry)));
            }
            switched |= self.turned(&request.allocation, unit, false, changes)?;
        }
        for wanted in &wanted {
            switched |= self.turned(&request.allocation, wanted.unit, true, changes)?;
        }
        if switched {
            // Ended first: it knows the GPU as it was.
            self.nvml = None;
            self.nvml = Some((self.start)()?);
        }
        for wanted in &wanted {
            self.part(&request.allocation, wanted, changes)?;
        }
        Ok(())
    }

    /// Takes back what was changed, the last thing first. The error, and what is left.
    pub(crate) fn undo(&mut self, changes: Vec<Change>, error: Error) -> Error {
        let mut left = vec![];
        for change in changes.into_iter().rev() {
            let undone = match &change {
                Change::Entry(entry) => self.let_go(entry),
                Change::Mode(unit, on) => self.set_mode(unit, !on),
            };
            left.extend(undone.err().map(|error| error.to_string()));
        }
        match left.is_empty() {
            true => error,
            false => Error::Left {
                error: Box::new(error),
                left: left.join("; "),
            },
        }
    }

    /// Unmakes what was made for an allocation; tries each, whatever becomes of the
    /// others.
    ///
    /// # Errors
    /// One is in use, or what became of it cannot be told.
    pub(crate) fn release(&mut self, allocation: &str) -> Result<(), Error> {
        let mut answer = Ok(());
        for entry in self.turn.of(allocation) {
            answer = answer.and(self.let_go(&entry));
        }
        answer
    }

    /// Unmakes what an entry is about, and forgets it.
    fn let_go(&mut self, entry: &Entry) -> Result<(), Error> {
        self.unmake(entry)?;
        self.turn.retain(|other| !other.same(entry))
    }

    /// Forgets what no reset or restart of the machine has left.
    fn tidy(&mut self, machine: &Machine) -> Result<(), Error> {
        let (boot, is_held) = (&self.boot.0, self.is_held);
        let is_there = |entry: &Entry, part: &Part| {
            let managed = machine.unit(&entry.gpu).and_then(|u| u.managed.as_ref());
            // Of a GPU that cannot be looked at nothing can be said.
            managed.is_none_or(|managed| {
                let mut instances = managed.layout.instances.iter();
                instances.any(|instance| part.is(instance, &[]))
            })
        };
        self.turn.retain(|entry| {
            let there = entry
                .part
                .as_ref()
                .is_some_and(|part| is_there(entry, part));
            entry.boot == *boot && (is_held(entry) || there)
        })
    }

    /// Unmakes what is written down for others where this request is to be. Whoever asks has
    /// the ledger's word that nobody holds anything there: who did was lost, or let go of
    /// it before it was made. What is in use all the same stays.
    fn reclaim(
        &mut self,
        allocation: &str,
        wanted: &[Wanted<'_>],
        undivided: &[&Unit],
    ) -> Result<(), Error> {
        let is_lost = |entry: &&Entry| {
            let cut = |one: &Wanted<'_>| {
                let place = |part: &Part| {
                    part.start < one.start + one.kind.size && one.start < part.start + part.size
                };
                one.unit.device.id == entry.gpu && entry.part.as_ref().is_none_or(place)
            };
            let whole = |unit: &&Unit| unit.device.id == entry.gpu && entry.part.is_some();
            entry.allocation != allocation
                && entry.boot == self.boot.0
                && (wanted.iter().any(cut) || undivided.iter().any(whole))
        };
        let lost: Vec<Entry> = self
            .turn
            .entries()
            .iter()
            .filter(is_lost)
            .cloned()
            .collect();
        for entry in lost {
            self.let_go(&entry)?;
        }
        Ok(())
    }

    fn entry(&self, allocation: &str, unit: &Unit, part: Option<Part>) -> Entry {
        let (boot, at_ms) = self.boot.clone();
        Entry {
            allocation: allocation.to_owned(),
            gpu: unit.device.id.clone(),
            address: unit.address.clone(),
            boot,
            at_ms,
            part,
        }
    }

    /// NVML, which runs.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn nvml(&self) -> Result<Arc<Nvml>, NvmlError> {
        self.nvml.clone().ok_or(NvmlError::Uninitialized)
    }

    // === instances ===

    /// Makes one instance, or takes up what there is of it.
    fn part(
        &mut self,
        allocation: &str,
        wanted: &Wanted<'_>,
        changes: &mut Vec<Change>,
    ) -> Result<(), Error> {
        let Wanted {
            unit, kind, start, ..
        } = *wanted;
        let gpu = &unit.device.id;
        let what = format!("the MIG instance {} at {start}", kind.name);
        let failed = |error: NvmlError| match error {
            NvmlError::InUse => Error::InUse {
                device: gpu.clone(),
                who: "another program that changes MIG".into(),
            },
            error => Error::Carve {
                gpu: gpu.clone(),
                what: what.clone(),
                done: "made",
                why: error.to_string(),
            },
        };
        let kinds = &wanted.managed.layout.kinds;
        let nvml = self.nvml().map_err(failed)?;
        let device = device_of(&nvml, gpu, &unit.address).map_err(failed)?;
        let there = layout::instances(&nvml, &device, kinds).map_err(failed)?;
        let part = Part {
            profile: kind.id,
            start,
            size: kind.size,
            before: there.iter().map(|instance| instance.id).collect(),
            made: None,
        };
        let mut entry = self.entry(allocation, unit, Some(part));
        let is = |known: &&Entry| known.same(&entry) && known.boot == entry.boot;
        let known = self.turn.entries().iter().find(is).cloned();
        let mut gi = None;
        if let Some((known, part)) = known.and_then(|k| k.part.clone().map(|part| (k, part))) {
            gi = self.find(&device, &part, &there);
            if gi.is_some() {
                entry = known;
            }
        }
        let gi = match gi {
            Some(gi) => gi,
            None => {
                if there.iter().any(|other| other.overlaps(start, kind.size)) {
                    return Err(taken(wanted));
                }
                self.turn.put(entry.clone())?;
                changes.push(Change::Entry(Box::new(entry.clone())));
                let place = (start, kind.size);
                match ffi::make_instance(nvml.lib(), &device, kind.id, place) {
                    Ok(gi) => gi,
                    // Nothing was made: what is there is another's, made just now.
                    Err(NvmlError::UnexpectedVariant(code)) if code == FULL => {
                        changes.pop();
                        self.turn.retain(|other| !other.same(&entry))?;
                        return Err(taken(wanted));
                    }
                    Err(error) => return Err(failed(error)),
                }
            }
        };
        let lib = nvml.lib();
        let computes = ffi::computes(lib, &device, gi).map_err(failed)?;
        let ci = match computes.first() {
            Some(ci) => *ci,
            None => ffi::make_compute(lib, &device, gi, kind.slices).map_err(failed)?,
        };
        let devices = mig_devices(&nvml, &device);
        let its = devices.into_iter().find(|its| (its.gi, its.ci) == (gi, ci));
        let uuid = its.and_then(|its| its.uuid);
        let uuid = uuid.ok_or_else(|| failed(NvmlError::NotFound))?;
        if let Some(part) = &mut entry.part {
            part.made = Some(Made { gi, ci, uuid });
        }
        self.turn.put(entry)
    }

    /// Unmakes the instance that an entry is about, if it is there.
    fn unmake(&self, entry: &Entry) -> Result<(), Error> {
        let Some(part) = &entry.part else {
            return Ok(());
        };
        if entry.boot != self.boot.0 {
            return Ok(());
        }
        let gpu = &entry.gpu;
        let what = format!("the MIG instance at {}", part.start);
        let unknown = |error: NvmlError| Error::Unknown {
            gpu: gpu.clone(),
            what: what.clone(),
            why: error.to_string(),
        };
        let nvml = self.nvml().map_err(unknown)?;
        let device = match device_of(&nvml, gpu, &entry.address) {
            Ok(device) => device,
            // Taken out of the machine, and its instances with it.
            Err(NvmlError::NotFound | NvmlError::InvalidArg) if !self.is_known(entry) => {
                return Ok(());
            }
            Err(error) => return Err(unknown(error)),
        };
        match device.mig_mode() {
            Ok(mode) if mode.current == 0 => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(unknown(error)),
        }
        let memory = device.memory_info().ok().map(|memory| Memory {
            total: memory.total,
            reserved: 0,
        });
        let layout = layout::read(&nvml, &device, memory, true).map_err(unknown)?;
        let Some(gi) = self.find(&device, part, &layout.instances) else {
            return Ok(());
        };
        let lib = nvml.lib();
        users::leaving(|| users::of_instance(&device, gi));
        let failed = |error: NvmlError| match error {
            NvmlError::InUse => Error::InUse {
                device: format!("{what} of {gpu}"),
                who: users::names(&users::of_instance(&device, gi)),
            },
            error => Error::Carve {
                gpu: gpu.clone(),
                what: what.clone(),
                done: "removed",
                why: error.to_string(),
            },
        };
        for ci in ffi::computes(lib, &device, gi).map_err(unknown)? {
            ffi::unmake_compute(lib, &device, gi, ci).map_err(failed)?;
        }
        ffi::unmake_instance(lib, &device, gi).map_err(failed)
    }

    /// Which of a GPU's instances it is.
    fn find(&self, device: &Device<'_>, part: &Part, there: &[GpuInstance]) -> Option<u32> {
        let nvml = self.nvml().ok()?;
        let devices = mig_devices(&nvml, device);
        let devices = by_gpu_instance(&devices);
        let is = |instance: &&GpuInstance| {
            let devices = devices.get(&instance.id).map_or(&[][..], |d| d);
            part.is(instance, devices)
        };
        there.iter().find(is).map(|instance| instance.id)
    }

    /// Has the kernel the GPU, whatever NVML says?
    fn is_known(&self, entry: &Entry) -> bool {
        let slot = without_function(&entry.address);
        let known = self.root.known();
        let mut known = known.iter();
        known.any(|(address, gpu)| {
            without_function(address) == slot || gpu.uuid.as_ref() == Some(&entry.gpu)
        })
    }

    // === the mode ===

    /// Has MIG of a GPU on, or off; whether it had to be switched.
    fn turned(
        &mut self,
        allocation: &str,
        unit: &Unit,
        on: bool,
        changes: &mut Vec<Change>,
    ) -> Result<bool, Error> {
        let done = |change: &Change| match change {
            Change::Mode(other, _) => other.device.id == unit.device.id,
            Change::Entry(_) => false,
        };
        let is = unit.managed.as_ref().is_none_or(|managed| managed.on == on);
        if is || changes.iter().any(done) {
            return Ok(false);
        }
        let refuse = |why: String| Err(switch(unit, on, why));
        let holds = |entry: &&Entry| {
            entry.gpu == unit.device.id
                && entry.boot == self.boot.0
                && entry.allocation != allocation
                && (self.is_held)(entry)
        };
        if let Some(other) = self.turn.entries().iter().find(holds) {
            return refuse(format!("{} holds something of it", other.allocation));
        }
        let unknown = |error: NvmlError| switch(unit, on, error.to_string());
        let nvml = self.nvml().map_err(unknown)?;
        let device = device_of(&nvml, &unit.device.id, &unit.address).map_err(unknown)?;
        let there = users::of_gpu(&device).map_err(unknown)?;
        if !there.is_empty() {
            return refuse(format!("it is in use by {}", users::names(&there)));
        }
        self.set_mode(unit, on)?;
        changes.push(Change::Mode(Box::new(unit.clone()), on));
        Ok(true)
    }

    /// Switches it, or leaves it as it was.
    fn set_mode(&self, unit: &Unit, on: bool) -> Result<(), Error> {
        let refuse = |why: String| Err(switch(unit, on, why));
        let unknown = |error: NvmlError| switch(unit, on, error.to_string());
        let nvml = self.nvml().map_err(unknown)?;
        let device = device_of(&nvml, &unit.device.id, &unit.address).map_err(unknown)?;
        let why = |status: u32| {
            match status {
            0 | IN_USE => CLIENT.to_owned(),
            RESET => "it takes a reset that the driver does not make by itself here: nvidia-smi --gpu-reset, or a restart".to_owned(),
            status => format!("NVML's status of the change is {status}"),
        }
        };
        let status = match device.set_mig_mode(on) {
            Ok(status) => status,
            Err(NvmlError::InUse) => return refuse(CLIENT.into()),
            Err(error) => return refuse(error.to_string()),
        };
        let is = device
            .mig_mode()
            .is_ok_and(|mode| (mode.current == 1) == on);
        if status == 0 && is {
            return Ok(());
        }
        // Asked for with the next reset: not for us, who need it now.
        match device.set_mig_mode(!on) {
            Ok(_) => refuse(why(status)),
            Err(error) => refuse(format!(
                "{}; it will be {} after the next reset, and that cannot be taken back: {error}",
                why(status),
                word(on)
            )),
        }
    }
}

/// What is to be cut out, and which managed GPUs are used as a whole or shared.
fn plan<'a>(
    request: &'a PrepareRequest,
    machine: &'a Machine,
) -> Result<(Vec<Wanted<'a>>, Vec<&'a Unit>), Error> {
    let mut wanted: Vec<Wanted<'a>> = vec![];
    let (mut undivided, mut seen) = (vec![], BTreeSet::new());
    for slice in &request.slices {
        let unit = prepare::asked(slice, machine)?;
        let Some(managed) = &unit.managed else {
            continue;
        };
        if !is_of_profile(&slice.slot) {
            // Without the right to switch it, nothing has to be kept in mind.
            if managed.mode && seen.insert(&slice.device) {
                undivided.push(unit);
            }
            continue;
        }
        let mut kinds = managed.layout.kinds.iter();
        let kind = kinds.find(|kind| slot_of(&kind.name).as_ref() == Some(&slice.slot));
        let (kind, start) = kind.zip(slice.start).ok_or_else(|| Error::NotOffered {
            slot: slice.slot.clone(),
            device: slice.device.clone(),
        })?;
        let twice = wanted.iter().any(|other| {
            other.slice.device == slice.device
                && start < other.start + other.kind.size
                && other.start < start + kind.size
        });
        if twice {
            return Err(Error::BadAmount {
                slot: slice.slot.clone(),
                device: slice.device.clone(),
                amount: slice.amount,
            });
        }
        wanted.push(Wanted {
            slice,
            unit,
            managed,
            kind,
            start,
        });
    }
    Ok((wanted, undivided))
}

/// A GPU by its id, which is its address where it has no UUID of its own.
pub(crate) fn device_of<'n>(
    nvml: &'n Nvml,
    gpu: &str,
    address: &str,
) -> Result<Device<'n>, NvmlError> {
    match gpu == address {
        true => nvml.device_by_pci_bus_id(address),
        false => nvml.device_by_uuid(gpu),
    }
}

/// A GPU's MIG devices, of which those are left out about which NVML does not answer.
fn mig_devices(nvml: &Nvml, device: &Device<'_>) -> Vec<Instance> {
    let numbers = 0..device.mig_device_count().unwrap_or(0);
    let devices = numbers.filter_map(|number| device.mig_device_by_index(number).ok());
    let known = devices.filter_map(|mig| {
        let (gi, ci) = ffi::instance(nvml.lib(), &mig).ok()?;
        Some(Instance {
            uuid: mig.uuid().ok(),
            gi,
            ci,
            ..Instance::default()
        })
    });
    known.collect()
}

fn taken(wanted: &Wanted<'_>) -> Error {
    Error::Taken {
        slot: wanted.slice.slot.clone(),
        gpu: wanted.slice.device.clone(),
        start: wanted.start,
    }
}

fn switch(unit: &Unit, on: bool, why: String) -> Error {
    Error::Switch {
        gpu: unit.device.id.clone(),
        to: word(on),
        why,
    }
}

fn word(on: bool) -> &'static str {
    match on {
        true => "on",
        false => "off",
    }
}
