//! Calls into a plugin host, and the life of one.

use std::error::Error;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::Criterion;
use divvy::plugin::{Client, find};
use divvy_plugin::OpenRequest;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::figures::Figures;
use crate::place::Place;

const ROUND_TRIP: Duration = Duration::from_micros(20);
/// Of GPUs that are not there: what the plugin costs, not what a driver does.
const EIGHT_GPUS: Duration = Duration::from_millis(50);
/// Measuring eight GPUs.
const SAMPLE: Duration = Duration::from_millis(20);
const HOST: Duration = Duration::from_millis(5);

pub(crate) fn bench(
    criterion: &mut Criterion,
    place: &Place,
    figures: &Figures,
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut group = criterion.benchmark_group("plugin");

    let tick = client(place, &place.tick)?;
    group.bench_function("round_trip", |b| {
        b.iter_custom(|n| {
            let samples = runtime.block_on(async {
                let mut samples = Vec::new();
                for _ in 0..n {
                    let begin = Instant::now();
                    tick.sample().await.expect("tick answers");
                    samples.push(begin.elapsed());
                }
                samples
            });
            figures.add("plugin/round_trip", Some(ROUND_TRIP), samples)
        });
    });

    // The physical limit: the same way there and back, with `cat` on the other
    // side. Between two CPUs that sleep it is all but the whole of the above.
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut cat = Command::new("cat")
        .stdin(OwnedFd::from(theirs.try_clone()?))
        .stdout(OwnedFd::from(theirs))
        .spawn()?;
    group.bench_function("bare_socketpair", |b| {
        b.iter_custom(|n| {
            let mut frame = [0; 64];
            let once = |_| {
                let begin = Instant::now();
                let sent = ours.write_all(&frame);
                sent.and_then(|()| ours.read_exact(&mut frame))
                    .expect("cat answers");
                begin.elapsed()
            };
            let samples: Vec<Duration> = (0..n).map(once).collect();
            figures.add("plugin/bare_socketpair", None, samples)
        });
    });
    drop(ours);
    cat.wait()?;

    let cpu = client(place, &place.cpu)?;
    let mut gpus = OpenRequest::default();
    let root = place.gpus.display().to_string();
    gpus.config.insert("root".into(), root);
    let cuda = client_with(place, &place.cuda, gpus)?;
    for (name, client, target) in [
        ("cpu_discover", &cpu, None),
        ("cuda_discover_8", &cuda, Some(EIGHT_GPUS)),
    ] {
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                let samples = runtime.block_on(async {
                    let mut samples = Vec::new();
                    for _ in 0..n {
                        let begin = Instant::now();
                        client.discover().await.expect("the plugin answers");
                        samples.push(begin.elapsed());
                    }
                    samples
                });
                figures.add(&format!("plugin/{name}"), target, samples)
            });
        });
    }

    group.bench_function("cuda_sample_8", |b| {
        b.iter_custom(|n| {
            let samples = runtime.block_on(async {
                let mut samples = Vec::new();
                for _ in 0..n {
                    let begin = Instant::now();
                    let measured = cuda.sample().await.expect("the plugin measures");
                    samples.push(begin.elapsed());
                    assert_eq!(measured.devices.len(), 8);
                }
                samples
            });
            figures.add("plugin/cuda_sample_8", Some(SAMPLE), samples)
        });
    });

    group.sample_size(50);
    group.bench_function("host_start", |b| {
        b.iter_custom(|n| {
            let samples = (0..n)
                .map(|_| runtime.block_on(host_life(place)).expect("a host starts"))
                .collect();
            figures.add("plugin/host_start", Some(HOST), samples)
        });
    });
    group.finish();
    Ok(())
}

/// A client of the one plugin in `folder`; its host starts with the first call.
fn client(place: &Place, folder: &Path) -> Result<Client, Box<dyn Error>> {
    client_with(place, folder, OpenRequest::default())
}

fn client_with(place: &Place, folder: &Path, open: OpenRequest) -> Result<Client, Box<dyn Error>> {
    let file = find(folder)?.pop().ok_or("no plugin")??;
    let deadline = Duration::from_secs(10);
    Ok(Client::new(file, place.divvy.clone(), open, deadline, None))
}

/// From a new client to its first answer, and until its host is gone.
async fn host_life(place: &Place) -> Result<Duration, Box<dyn Error>> {
    let client = client(place, &place.cpu)?;
    let begin = Instant::now();
    client.manifest().await?;
    let pid = client.pid().await.ok_or("no host")?;
    let pid = Pid::from_raw(i32::try_from(pid)?).ok_or("no pid")?;
    let host = pidfd_open(pid, PidfdFlags::empty())?;
    drop(client); // SIGKILL
    poll(&mut [PollFd::new(&host, PollFlags::IN)], None)?;
    let life = begin.elapsed();
    tokio::task::yield_now().await; // reaps it
    Ok(life)
}
