//! Gives the shared object the name by which programs ask for it, and keeps it loaded once it
//! is: it counts the calls of a process, and Rust's libraries are not made to be unloaded.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnvidia-ml.so.1,-z,nodelete");
}
