//! The kernel's log, `dev/kmsg`: a plain file of the records that the driver would have had
//! the kernel keep. Records are only ever added.
//!
//! A record is as one reads it from the real one: `PRIORITY,NUMBER,MICROSECONDS,-;TEXT`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use crate::description::{Description, Gpu, Xid};
use crate::machine::Error;
use crate::pci::Address;

/// Where it is below the root.
pub(crate) const FILE: &str = "dev/kmsg";

/// What the driver prints without saying how important it is: a warning of the kernel.
const PRIORITY: u32 = 4;

/// XID 79: the GPU has fallen off the bus.
const FALLEN: u64 = 79;

/// What the driver says when one description becomes another: each XID that came, and that
/// a GPU is gone, if nothing said so yet.
pub(crate) fn news(before: &Description, after: &Description) -> Vec<String> {
    let mut news = Vec::new();
    for (name, gpu) in &after.gpu {
        let known = before.gpu.get(name);
        let told = known.map_or(0, |known| known.xid.len());
        let new = gpu.xid.get(told..).unwrap_or_default();
        news.extend(new.iter().map(|xid| line(gpu, xid)));
        let gone = |gpu: &Gpu| gpu.lost || !gpu.present;
        let was_gone = known.is_none_or(gone);
        if gone(gpu) && !was_gone && gpu.xid.iter().all(|xid| xid.code != FALLEN) {
            news.push(line(gpu, &Xid::of(FALLEN)));
        }
    }
    news
}

fn line(gpu: &Gpu, xid: &Xid) -> String {
    let pci = match Address::parse(&gpu.pci) {
        Some(at) => format!("{:04x}:{:02x}:{:02x}", at.domain, at.bus, at.device),
        None => gpu.pci.clone(),
    };
    let instance = match (xid.gi, xid.ci) {
        (Some(gi), Some(ci)) => format!(" GPU-I:{gi:02} GPU-CI:{ci:02}"),
        (Some(gi), None) => format!(" GPU-I:{gi:02}"),
        (None, _) => String::new(),
    };
    let pid = xid.pid.map_or("'<unknown>'".into(), |pid| pid.to_string());
    let name = xid.name.as_deref().unwrap_or("<unknown>");
    let code = xid.code;
    let text = text(code);
    format!("NVRM: Xid (PCI:{pci}{instance}): {code}, pid={pid}, name={name}, {text}")
}

/// What the driver says about an XID.
fn text(code: u64) -> &'static str {
    match code {
        13 => {
            "Graphics Exception: ESR 0x504648=0x10e 0x504650=0x20 0x504644=0xd3eff2 0x50464c=0x17f"
        }
        31 => {
            "MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ 0x7f10_00000000. \
             Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ"
        }
        43 => "Ch 00000008",
        45 => "Ch 00000008",
        48 => {
            "An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer."
        }
        63 => "Row Remapper: New row marked for remapping, reset gpu to activate.",
        64 => "Row Remapper: Remapping of a row failed.",
        74 => "NVLink: fatal error detected on link 0(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)",
        FALLEN => "GPU has fallen off the bus.",
        92 => "High single-bit ECC error rate",
        94 => "Contained: SM (0x1). RST: No, D-RST: No",
        95 => "Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No",
        119 => "Timeout after 6s of waiting for RPC response from GPU0 GSP!",
        _ => "errors were reported",
    }
}

/// Adds records. Who calls this is the only one that does; a machine without the file keeps
/// no log.
///
/// # Errors
/// It cannot be read or written.
pub(crate) fn add(root: &Path, texts: &[String]) -> Result<(), Error> {
    if texts.is_empty() {
        return Ok(());
    }
    let path = root.join(FILE);
    let open = OpenOptions::new().read(true).append(true).open(&path);
    let mut file = match open {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        open => open.map_err(Error::at(&path))?,
    };
    let first = next(&mut file).map_err(Error::at(&path))?;
    let records = (first..).zip(texts).map(|(number, text)| {
        let time = microseconds();
        format!("{PRIORITY},{number},{time},-;{text}\n")
    });
    let records: String = records.collect();
    file.write_all(records.as_bytes()).map_err(Error::at(&path))
}

/// The number of the next record.
fn next(file: &mut File) -> std::io::Result<u64> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let number = |line: &str| line.split(',').nth(1)?.parse::<u64>().ok();
    Ok(text
        .lines()
        .rev()
        .find_map(number)
        .map_or(0, |last| last + 1))
}

/// Since the machine started, as the kernel counts.
fn microseconds() -> u64 {
    // SAFETY: `timespec` is a C struct of integers, for which zeros are a value.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: it points to a `timespec` that outlives the call. It cannot fail: there is such
    // a clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let micros = time.tv_sec * 1_000_000 + time.tv_nsec / 1000;
    u64::try_from(micros).unwrap_or_default()
}
