//! Makes a machine's folder: `cargo run -p divvy-nvidia-machine --example stage -- DESCRIPTION NVML CUDA FOLDER`.

use std::error::Error;

use divvy_nvidia_machine::{Description, Libraries, stage};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().ok_or("DESCRIPTION NVML CUDA FOLDER");
    let description = Description::parse(&std::fs::read_to_string(next()?)?)?;
    let libraries = Libraries {
        nvml: next()?.into(),
        cuda: next()?.into(),
    };
    stage(&description, &libraries, next()?.as_ref())?;
    Ok(())
}
