//! Makes the folder of a machine: `stage DESCRIPTION NVML CUDA FOLDER`, where the description is a
//! file, or the name of one in `tests/nvidia/machines`, and NVML and CUDA are the stand-ins as
//! they were built.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use divvy_nvidia_machine::{Description, Libraries, MACHINES, stage};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [description, nvml, cuda, folder] = &arguments[..] else {
        return Err("stage DESCRIPTION NVML CUDA FOLDER".into());
    };
    let named = Path::new(MACHINES).join(format!("{description}.toml"));
    let file = if named.exists() {
        named
    } else {
        PathBuf::from(description)
    };
    let description = Description::parse(&fs::read_to_string(file)?)?;
    let libraries = Libraries {
        nvml: nvml.into(),
        cuda: cuda.into(),
    };
    let machine = stage(&description, &libraries, Path::new(folder))?;
    let libraries = machine.file().parent().unwrap_or(Path::new("/"));
    println!("{}", libraries.display());
    Ok(())
}
