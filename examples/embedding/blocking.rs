//! The same without an async runtime: what fits is run, what does not says why.

use divvy::agent::{AgentError, RunRequest};
use divvy::blocking::Divvy;
use divvy::model::Request;

fn main() -> Result<(), AgentError> {
    divvy::init(); // Divvy starts this program again as its helpers.
    let state = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "/var/lib/divvy".into());
    let plugins = std::env::args()
        .nth(2)
        .unwrap_or_else(|| "/usr/lib/divvy/plugins".into());
    let divvy = Divvy::build(divvy::Divvy::builder().state(state).plugin_dir(plugins))?;
    let fits = divvy.fit(&Request::of(&[("cpu", "0.25"), ("mem", "64MiB")])?)?;
    println!("it fits: {}", fits.why.join("; "));
    if let Err(why) = divvy.fit(&Request::of(&[("cpu", "100000")])?) {
        println!("it does not [{}]: {why}", why.code());
    }
    let mut job = divvy.run(RunRequest {
        resources: Request::of(&[("cpu", "0.25"), ("mem", "64MiB")])?,
        command: vec!["sh".into(), "-c".into(), "echo working; exit 3".into()],
        remove_on_exit: true,
        ..RunRequest::default()
    })?;
    let exit = job.run(|output| print!("{}", String::from_utf8_lossy(output)))?;
    println!("it ended with {:?}", exit.and_then(|e| e.code));
    Ok(())
}
