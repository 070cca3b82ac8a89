//! Divvy in a program of your own: look, run, read, wait.

use divvy::Divvy;
use divvy::agent::{AgentError, RunRequest};
use divvy::model::Request;
use divvy::monitor::Event;

fn main() -> Result<(), AgentError> {
    divvy::init(); // Divvy starts this program again as its helpers.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .map_err(|e| AgentError::System("no runtime", e))?
        .block_on(run())
}

async fn run() -> Result<(), AgentError> {
    let state = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "/var/lib/divvy".into());
    let plugins = std::env::args()
        .nth(2)
        .unwrap_or_else(|| "/usr/lib/divvy/plugins".into());
    let divvy = Divvy::builder()
        .state(state)
        .plugin_dir(plugins)
        .build()
        .await?;
    for view in divvy.devices().await?.devices {
        println!("{} is a {}", view.device.name(), view.device.device.model);
    }
    let mut job = divvy
        .run(RunRequest {
            resources: Request::of(&[("cpu", "0.5"), ("mem", "64MiB")])?,
            command: vec!["echo".into(), "half a core".into()],
            remove_on_exit: true,
            ..RunRequest::default()
        })
        .await?;
    let mut output = job.attach().await?;
    job.start().await?;
    while let Ok(Some(event)) = output.next().await {
        match event {
            Event::Stdout(data) => print!("it says: {}", String::from_utf8_lossy(&data)),
            Event::Exit(exit) => println!("it ended with {:?}", exit.code),
            _ => {}
        }
    }
    Ok(())
}
