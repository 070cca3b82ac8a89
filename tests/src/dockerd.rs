//! A container engine of a test's own: its own data, state, process file and
//! socket in one folder; no bridge, no firewall rules.
//!
//! It is spoken to in plain HTTP/1.0, so that what the tests see of it does not
//! pass the client that is tested.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::machine::kill;
use crate::rootfs::{self, processes};
use crate::{Divvy, Machine, eventually};

/// How long an engine may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// An engine that runs.
#[derive(Debug)]
pub struct Dockerd {
    child: Option<Child>,
    options: Vec<String>,
    folder: TempDir,
}

impl Dockerd {
    /// Starts one.
    ///
    /// # Panics
    /// It does not start; its log says why.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with more options.
    ///
    /// # Panics
    /// It does not start; its log says why.
    #[must_use]
    pub fn with(options: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("divvy-dockerd-")
            .tempdir_in("/tmp");
        let mut engine = Self {
            child: None,
            options: options.iter().map(|&o| o.to_owned()).collect(),
            folder: folder.expect("a folder in /tmp"),
        };
        engine.up();
        engine
    }

    /// Starts it (again).
    ///
    /// # Panics
    /// It does not start; its log says why.
    pub fn up(&mut self) {
        let at = |name: &str| self.folder.path().join(name);
        let log = File::options()
            .append(true)
            .create(true)
            .open(at("log"))
            .expect("a file");
        // What an engine that was killed has left: it takes any process of that
        // number for the one it started, a dead one too.
        for left in ["pid", "exec/containerd/containerd.pid"] {
            let _ = fs::remove_file(at(left));
        }
        let mut command = Command::new("dockerd");
        command
            .env("PATH", path())
            .env_remove("DOCKER_HOST")
            .arg("--config-file")
            .arg(at("no-such-file.json"))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log);
        fs::write(at("no-such-file.json"), "{}").expect("a file");
        self.child = Some(command.spawn().expect("dockerd"));
        let end = Instant::now() + PATIENCE;
        while self
            .ask("GET", "/_ping", &[])
            .is_none_or(|(code, _)| code != 200)
        {
            let ended = self.child.as_mut().map(|c| c.try_wait().expect("a child"));
            assert!(
                Instant::now() < end && matches!(ended, Some(None)),
                "dockerd does not start:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Kills it with SIGKILL; its containers live on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be gone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it, as the service manager would.
    ///
    /// # Panics
    /// It does not stop.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::TERM));
        let end = Instant::now() + PATIENCE;
        while child.try_wait().expect("a child").is_none() {
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                panic!("dockerd does not stop:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives it an image: what `docker save` writes.
    ///
    /// # Panics
    /// It does not take it.
    #[track_caller]
    pub fn load(&self, archive: &Path) {
        let bytes = fs::read(archive).expect("an archive");
        let (code, said) = self
            .ask("POST", "/images/load?quiet=1", &bytes)
            .expect("an engine");
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(code == 200 && !said.contains("error"), "{code} {said}");
    }

    /// Gives it an image: the archive of a root filesystem.
    ///
    /// # Panics
    /// It does not take it.
    #[track_caller]
    pub fn import(&self, archive: &Path, name: &str) {
        let bytes = fs::read(archive).expect("an archive");
        let path = format!("/images/create?fromSrc=-&repo={name}&tag=1");
        let (code, said) = self.ask("POST", &path, &bytes).expect("an engine");
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(code == 200 && !said.contains("error"), "{code} {said}");
    }

    /// Gives it an image of busybox with this configuration: `app:1`. `edit`
    /// may change its root first.
    ///
    /// # Panics
    /// It does not take it.
    #[track_caller]
    pub fn image(&self, config: &Value, edit: impl FnOnce(&Path)) {
        self.load(&rootfs::image(self.folder.path(), config, edit));
    }

    /// A document of its.
    ///
    /// # Panics
    /// It has none such.
    #[track_caller]
    #[must_use]
    pub fn get(&self, path: &str) -> Value {
        let (code, said) = self.ask("GET", path, &[]).expect("an engine");
        assert_eq!(code, 200, "{path}: {}", String::from_utf8_lossy(&said));
        serde_json::from_slice(&said).expect("a document")
    }

    /// The names of its containers, those that have ended as well.
    ///
    /// # Panics
    /// It does not answer.
    #[track_caller]
    #[must_use]
    pub fn containers(&self) -> Vec<String> {
        let all = self.get("/containers/json?all=1");
        let all = all.as_array().expect("a list").iter();
        all.map(|c| {
            rootfs::text(&c["Names"][0])
                .trim_start_matches('/')
                .to_owned()
        })
        .collect()
    }

    /// Asks it something; `None` if it does not answer.
    #[must_use]
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let kind = if path.starts_with("/images/") {
            "application/x-tar"
        } else {
            "application/json"
        };
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .ok()?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let code = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((code, answer[end..].to_vec()))
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = i32::try_from(child.id())
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::TERM));
            let stopped = eventually(|| matches!(child.try_wait(), Ok(Some(_))))
                || eventually(|| matches!(child.try_wait(), Ok(Some(_))));
            if !stopped {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        // What outlived an engine that was killed: shims, and their containers.
        let here = self.folder.path().display().to_string();
        let _ = eventually(|| {
            let left = processes(&here);
            left.iter().for_each(|(pid, _)| kill(*pid));
            left.is_empty()
        });
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().rev().filter_map(|l| l.split(' ').nth(1));
        for point in points.filter(|p| p.starts_with(&here)) {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A root shell's `PATH` may lack the folders of root's programs.
fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

/// A machine with the CPU plugin and an engine of its own, which has the image
/// `app:1`: busybox, without a command.
#[derive(Debug)]
pub struct Docked {
    /// The machine. Dropped first: what it started needs the engine to end.
    pub machine: Machine,
    /// The engine.
    pub engine: Dockerd,
}

impl Docked {
    /// A machine and a plain engine.
    #[must_use]
    pub fn new() -> Self {
        Self::on(Dockerd::start())
    }

    /// A machine and this engine.
    #[must_use]
    pub fn on(engine: Dockerd) -> Self {
        engine.image(&serde_json::json!({}), |_| {});
        let mut machine = rootfs::machine();
        machine.use_engine(engine.socket());
        Self { machine, engine }
    }

    /// A command on the machine, which uses the engine.
    #[must_use]
    pub fn divvy(&self, words: &str) -> Divvy {
        self.machine.divvy(words)
    }

    /// `divvy run OPTIONS app:1 sh -c SCRIPT`, small unless the options say
    /// otherwise.
    #[must_use]
    pub fn job(&self, options: &str, script: &str) -> Divvy {
        self.run(options).args(["app:1", "sh", "-c", script])
    }

    /// `divvy run OPTIONS`, small unless the options say otherwise: the image
    /// and its command come behind it.
    #[must_use]
    pub fn run(&self, options: &str) -> Divvy {
        let asks = |what: &str| options.split([' ', '=']).any(|word| word == what);
        let mut words = vec!["--launcher", "docker"];
        words.extend((!asks("--cpu")).then_some("--cpu=0.25"));
        words.extend((!asks("--mem")).then_some("--mem=64MiB"));
        words.extend(options.split_whitespace());
        self.divvy("run").args(words)
    }

    /// What the engine says of a workload's container.
    ///
    /// # Panics
    /// It has none.
    #[track_caller]
    #[must_use]
    pub fn container(&self, name: &str) -> Value {
        let record = rootfs::record(&self.machine, name);
        let id = rootfs::text(&record["id"]);
        self.engine.get(&format!("/containers/divvy-{id}/json"))
    }

    /// Nothing is held, nothing runs, and the engine has no container left.
    ///
    /// # Panics
    /// Something is.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        rootfs::nothing_is_left(&self.machine);
        // Whoever waits for an end is told before the engine has removed it.
        let gone = || self.engine.containers().is_empty();
        assert!(eventually(gone), "{:?}", self.engine.containers());
    }
}

impl Default for Docked {
    fn default() -> Self {
        Self::new()
    }
}
