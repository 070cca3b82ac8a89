//! What devices can do: CUDA's attributes, by number.

use cudarc::driver::sys::CUdevice_attribute as A;

use crate::devices::Device;

/// The value of one; `None`: there is no such.
#[allow(clippy::too_many_lines)] // one line for each
pub(crate) fn of(device: &Device, number: u32) -> Option<i32> {
    // Later versions of CUDA have more, of which this driver does not know.
    if number == 0 || number >= A::CU_DEVICE_ATTRIBUTE_MAX as u32 {
        return None;
    }
    let (major, minor) = device.capability;
    let since = |least: i32| i32::from(major >= least);
    let said = &device.said;
    let of_pci = |place: usize| device.pci.get(place).and_then(|&n| i32::try_from(n).ok());
    let kilohertz = |place: usize| {
        let clocks = said.max_clocks.or(said.clocks);
        clocks.and_then(|mhz| i32::try_from(*mhz.get(place)? * 1000).ok())
    };
    // Per multiprocessor, KiB; per block, at most, KiB: the programming guide's table.
    let shared = match (major, minor) {
        (7, 0 | 2) => (96, 96),
        (7, _) => (64, 64),
        (8, 0 | 7) => (164, 163),
        (8, _) | (12, _) => (100, 99),
        (9.., _) => (228, 227),
        _ => (64, 48),
    };
    let blocks = match (major, minor) {
        (8, 0 | 7) | (9..=10, _) => 32,
        (8, 6) | (7, 5) => 16,
        (8, 9) | (12, _) => 24,
        _ => 32,
    };
    let threads = match (major, minor) {
        (7, 5) => 1024,
        (8, 6 | 9) | (12, _) => 1536,
        _ => 2048,
    };
    let l2_mib = match (major, minor) {
        (10, _) => 126,
        (9, _) => 50,
        (8, 9) => 72,
        (8, 0) => 40,
        (12, _) => 96,
        _ => 6,
    };
    let bus = match (major, minor) {
        (10, _) => 8192,
        (9, _) | (8, 0) => 5120,
        (7, 0) => 4096,
        _ => 384,
    };
    let linked = i32::from(!said.nvlink.is_empty());
    Some(match number {
        1 => 1024,
        2 | 3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65_535,
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        11 => i32::MAX,
        12 | 82 => 65_536,
        13 => kilohertz(1).unwrap_or(1_500_000),
        14 => 512,
        15 => 1,
        16 => i32::try_from(device.sms).unwrap_or(i32::MAX),
        17 => 0,
        18 => said.integrated.into(),
        19 => 1,
        20 => match said.compute_mode.as_str() {
            "Prohibited" => 2,
            "Exclusive_Process" => 3,
            _ => 0,
        },
        21 | 22 => 131_072,
        23 => 65_536,
        24..=26 => 16_384,
        27 | 28 | 42 => 32_768,
        29 | 43 => 2048,
        30 => 512,
        31 => 1,
        32 => said.ecc.unwrap_or(false).into(),
        33 => of_pci(1)?,
        34 => of_pci(2)?,
        35 => 0,
        36 => kilohertz(2).unwrap_or(2_600_000),
        37 => bus,
        38 => l2_mib << 20,
        39 => threads,
        40 => {
            if said.integrated {
                1
            } else {
                3
            }
        }
        41 => 1,
        44 => 1,
        45 | 46 => 32_768,
        47..=49 => 8192 * if number == 49 { 4 } else { 1 },
        50 => of_pci(0)?,
        51 => 32,
        52 | 53 => 32_768,
        54 => 2046,
        55 | 57 | 61 | 63 | 64 | 66 | 67 => 32_768,
        56 => 131_072,
        58..=60 => 16_384,
        62 | 65 => 2048,
        68 => 2046,
        69 => 1 << 28,
        70 => 131_072,
        71 => 65_000,
        72 => 2_097_120,
        73 | 74 | 77 => 32_768,
        75 => major,
        76 => minor,
        78..=80 => 1,
        81 => shared.0 << 10,
        83 => 1,
        84 | 85 => 0,
        86 => said.integrated.into(),
        // FP64 in hundreds of a GPU's speed is for data centres only.
        87 => {
            if matches!((major, minor), (7, 0) | (8, 0) | (9, _) | (10, 0)) {
                2
            } else {
                64
            }
        }
        88 | 100 | 101 => said.integrated.into(),
        89 => 1,
        90..=91 => 1,
        92..=94 => 0,
        95 => since(6),
        96 => 0,
        97 => shared.1 << 10,
        98 => 0,
        99 => 1,
        102 | 103 => 1,
        104 | 105 => 0,
        106 => blocks,
        107 => since(8),
        108 => {
            if major >= 8 {
                l2_mib << 19
            } else {
                0
            }
        }
        109 => {
            if major >= 8 {
                134_213_632
            } else {
                0
            }
        }
        110 => i32::from(!said.integrated),
        111 => {
            if major >= 8 {
                1024
            } else {
                0
            }
        }
        112 | 113 | 115 => 1,
        114 => 1,
        116 => i32::from(!said.integrated),
        117 => 1,
        118 => {
            if major >= 9 {
                200
            } else {
                100
            }
        }
        // File descriptors.
        119 => 1,
        120 => since(9),
        121 => 1,
        122 | 123 => 1,
        124 => i32::from(!said.integrated),
        125 => 1,
        126 => {
            if major >= 9 {
                4
            } else {
                1
            }
        }
        127 => since(9),
        128 => i32::from(said.fabric.is_some()),
        129 => 1,
        130 => 0,
        131 => -1,
        132 => i32::from(major >= 9 && linked == 1 && device.gi.is_none()),
        133 => 0,
        134 => said.numa_node.max(0),
        135 | 138 => 0,
        136 => {
            if major >= 10 {
                7
            } else {
                0
            }
        }
        137 => {
            if major >= 10 {
                4 << 20
            } else {
                0
            }
        }
        139 => pci_device(&said.pci_id),
        140 => 0,
        _ => 0,
    })
}

/// The device's and the vendor's number in one.
fn pci_device(text: &str) -> i32 {
    let device = u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0);
    ((device << 16) | 0x10de).cast_signed()
}
