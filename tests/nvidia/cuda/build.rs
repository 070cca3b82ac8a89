//! Gives the shared object the name by which programs ask for it, and binds it to itself.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    // The table of its functions means its own, whatever the file exports later.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
