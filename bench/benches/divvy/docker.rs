//! `divvy run IMAGE true` against create, start and wait of the same container
//! by the Engine API, on an engine of our own.
//!
//! As in `launch`: interleaved, the bare way twice.

use std::error::Error;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use divvy_tests::{dockerd::Dockerd, needs};
use serde_json::{Value, json};

use crate::figures::{Figures, quantile};
use crate::place::Place;

pub(crate) const NAME: &str = "launch/docker";
/// What a run of ours may add to the engine's own.
const LIMIT_MS: f64 = 50.0;
const ROUNDS: usize = 30;
const WARM_UP: usize = 3;

type Way<'a> = &'a dyn Fn() -> Result<Duration, Box<dyn Error>>;

/// Measures; returns the comparison in words, or `None` where it cannot be
/// made.
pub(crate) fn bench(place: &Place, figures: &Figures) -> Result<Option<String>, Box<dyn Error>> {
    if let Err(remedy) = needs::root().and_then(|()| needs::dockerd()) {
        println!("\n{NAME} is left out: {remedy}");
        return Ok(None);
    }
    let engine = Dockerd::start();
    engine.image(&json!({}), |_| {});
    let state = place.folder("docker-state")?;
    let divvy = || -> Result<Duration, Box<dyn Error>> {
        let mut command = Command::new(&place.divvy);
        command.arg("run").arg("--state").arg(&state);
        command.arg("--plugin-dir").arg(&place.cpu);
        command.arg("--docker-socket").arg(engine.socket());
        command.args(["--rm", "--mem", "64MiB", "app:1", "true"]);
        let begin = Instant::now();
        let output = command.stdin(Stdio::null()).output()?;
        let time = begin.elapsed();
        if output.status.success() {
            return Ok(time);
        }
        Err(String::from_utf8_lossy(&output.stderr).into())
    };
    let bare = || by_the_api(&engine);
    let ways: [(&str, Way<'_>); 3] = [
        ("launch/engine_api", &bare),
        ("launch/divvy_docker", &divvy),
        ("launch/engine_api_again", &bare),
    ];
    println!("\n{NAME}: {ROUNDS} rounds of {} ways", ways.len());
    let mut times: [Vec<Duration>; 3] = Default::default();
    for round in 0..WARM_UP + ROUNDS {
        for turn in 0..ways.len() {
            let way = (round + turn) % ways.len();
            let time = ways[way].1()?;
            if round >= WARM_UP {
                times[way].push(time);
            }
        }
    }
    for ((name, _), times) in ways.iter().zip(&times) {
        figures.add(name, None, times.clone());
    }
    let [bare, ours, again] = &times;
    let added = added(bare, ours);
    let met = if added <= LIMIT_MS { "met" } else { "NOT met" };
    Ok(Some(format!(
        "divvy run adds {added:.1} ms to create, start and wait by the Engine API \
         (limit {LIMIT_MS} ms: {met}); A/A noise {:.1} ms",
        self::added(bare, again).abs(),
    )))
}

/// What anyone does who has no Divvy; the container is removed after the time
/// is taken.
fn by_the_api(engine: &Dockerd) -> Result<Duration, Box<dyn Error>> {
    let ask = |method: &str, path: &str, body: &Value| -> Result<Value, Box<dyn Error>> {
        // A body that nobody reads would be a reset connection.
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let answer = engine.ask(method, path, body.as_bytes());
        let (code, said) = answer.ok_or("the engine does not answer")?;
        if code >= 400 {
            return Err(format!("{path}: {code} {}", String::from_utf8_lossy(&said)).into());
        }
        Ok(serde_json::from_slice(&said).unwrap_or_default())
    };
    let body = json!({
        "Image": "app:1", "Cmd": ["true"],
        "HostConfig": { "NetworkMode": "none", "Memory": 64 << 20 },
    });
    let begin = Instant::now();
    let made = ask("POST", "/containers/create", &body)?;
    let id = made["Id"].as_str().ok_or("no id")?.to_owned();
    ask("POST", &format!("/containers/{id}/start"), &Value::Null)?;
    let ended = ask("POST", &format!("/containers/{id}/wait"), &Value::Null)?;
    let time = begin.elapsed();
    ask("DELETE", &format!("/containers/{id}?force=1"), &Value::Null)?;
    if ended["StatusCode"] != 0 {
        return Err(format!("it ended so: {ended}").into());
    }
    Ok(time)
}

/// The median over rounds of how much longer `b` took than `a`, ms.
fn added(a: &[Duration], b: &[Duration]) -> f64 {
    let nanos = |d: &Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    let differences: Vec<i64> = a.iter().zip(b).map(|(a, b)| nanos(b) - nanos(a)).collect();
    quantile(&differences, 50) as f64 / 1e6
}
