//! A machine of its own for each test: plugins and state in one folder.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use divvy::plugin::{OpenError, Set, Settings};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::command::{Divvy, Output, Running};

/// A folder with plugins and a state, on the real machine. When it is dropped
/// its workloads are removed, and its plugin hosts are gone.
#[derive(Debug)]
pub struct Machine {
    folder: TempDir,
    /// The socket of the container engine that its commands use.
    engine: Option<PathBuf>,
}

impl Machine {
    /// A machine without plugins.
    ///
    /// # Panics
    /// `/tmp` cannot be written.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("divvy-test-")
            .tempdir_in("/tmp");
        let machine = Self {
            folder: folder.expect("a folder in /tmp"),
            engine: None,
        };
        set_mode(machine.folder.path(), 0o755);
        fs::write(machine.config(), "").expect("a file");
        fs::create_dir(machine.plugin_folder()).expect("a folder");
        set_mode(&machine.plugin_folder(), 0o755);
        machine
    }

    /// A machine with these plugins, by their file names' words: `cpu`.
    #[must_use]
    pub fn with(plugins: &[&str]) -> Self {
        let machine = Self::new();
        for plugin in plugins {
            machine.add(plugin);
        }
        machine
    }

    /// Installs one more of these plugins.
    pub fn add(&self, plugin: &str) {
        self.install(plugin, &built_plugin(plugin));
    }

    /// Its folder, for what else a test needs.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where its plugins are.
    #[must_use]
    pub fn plugin_folder(&self) -> PathBuf {
        self.path().join("plugins")
    }

    /// The file of a plugin.
    #[must_use]
    pub fn plugin_file(&self, name: &str) -> PathBuf {
        self.plugin_folder()
            .join(format!("libdivvy_plugin_{name}.so"))
    }

    /// Its configuration file: empty, so that the developer's own is not read.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path().join("config.toml")
    }

    /// Where its agent listens, once one [runs](Self::agent).
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path().join("run/agent.sock")
    }

    /// Starts an agent with these lines in the `[agent]` table of its
    /// configuration, and waits until it answers.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    #[must_use]
    pub fn agent(&self, lines: &str) -> Agent {
        self.agent_with(lines, |divvy| divvy)
    }

    /// As [`agent`](Self::agent), whose command is changed before it is started.
    ///
    /// # Panics
    /// It does not answer.
    #[track_caller]
    #[must_use]
    pub fn agent_with(&self, lines: &str, change: impl FnOnce(Divvy) -> Divvy) -> Agent {
        let socket = self.socket();
        let text = format!(
            "[agent]\nsocket = {:?}\n{lines}\n",
            socket.display().to_string()
        );
        self.start_agent(socket, &text, change)
    }

    /// Starts an agent that listens where one of this state folder is looked
    /// for by whoever knows of no configuration.
    ///
    /// # Panics
    /// It does not answer.
    #[track_caller]
    #[must_use]
    pub fn default_agent(&self) -> Agent {
        self.start_agent(self.state().join("run/agent.sock"), "", |divvy| divvy)
    }

    #[track_caller]
    fn start_agent(
        &self,
        socket: PathBuf,
        config: &str,
        change: impl FnOnce(Divvy) -> Divvy,
    ) -> Agent {
        fs::write(self.config(), config).expect("a file");
        let running = change(self.divvy("agent")).spawn();
        let agent = Agent { running, socket };
        if !eventually(|| std::os::unix::net::UnixStream::connect(&agent.socket).is_ok()) {
            panic!("the agent does not listen\n{}", agent.end());
        }
        agent
    }

    /// As [`divvy`](Self::divvy), but another user's: a copy of the executable
    /// that everybody can reach, and a folder of its own.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn divvy_as(&self, uid: u32, gid: u32, words: &str) -> Divvy {
        let copy = self.path().join("divvy");
        if !copy.exists() {
            fs::copy(executable(), &copy).expect("a copy of the executable");
            set_mode(&copy, 0o755);
        }
        let home = self.path().join(format!("home-{uid}"));
        fs::create_dir_all(&home).expect("a folder");
        std::os::unix::fs::chown(&home, Some(uid), Some(gid)).expect("a folder of theirs");
        let mut command = self.command(Command::new(copy), words);
        std::os::unix::process::CommandExt::uid(&mut command, uid);
        std::os::unix::process::CommandExt::gid(&mut command, gid);
        Divvy::new(command).folder(home)
    }

    /// Has all its commands use this container engine.
    pub fn use_engine(&mut self, socket: PathBuf) {
        self.engine = Some(socket);
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Installs bytes as a plugin.
    ///
    /// # Panics
    /// The disk is full.
    pub fn install(&self, name: &str, bytes: &[u8]) {
        fs::write(self.plugin_file(name), bytes).expect("a plugin file");
        set_mode(&self.plugin_file(name), 0o644);
    }

    /// A command on this machine: `machine.divvy("ps -a")`. Words with spaces
    /// are added with [`Divvy::arg`].
    #[must_use]
    pub fn divvy(&self, words: &str) -> Divvy {
        Divvy::new(self.command(Command::new(executable()), words))
    }

    fn command(&self, mut command: Command, words: &str) -> Command {
        command
            .arg("--state")
            .arg(self.state())
            .arg("--plugin-dir")
            .arg(self.plugin_folder());
        command.args(words.split_whitespace());
        // What the developer has set is not the tests'.
        for variable in [
            "DIVVY_STATE",
            "DIVVY_PLUGIN_DIR",
            "DIVVY_LOG",
            "DIVVY_DOCKER_SOCKET",
            "DOCKER_HOST",
            "DIVVY_SOCKET",
        ] {
            command.env_remove(variable);
        }
        command.env("DIVVY_CONFIG", self.config());
        if let Some(socket) = &self.engine {
            command.env("DIVVY_DOCKER_SOCKET", socket);
        }
        command
    }

    /// Its plugins, as the library sees them, with these settings:
    /// `machine.plugins("faulty.mode=crash faulty.op=open")`.
    ///
    /// # Panics
    /// They cannot be found.
    #[track_caller]
    #[must_use]
    pub fn plugins(&self, settings: &str) -> Set {
        self.try_plugins(settings).expect("a set of plugins")
    }

    /// As [`plugins`](Self::plugins).
    ///
    /// # Errors
    /// They cannot be found, or a setting is for nobody.
    ///
    /// # Panics
    /// A setting is none.
    #[track_caller]
    pub fn try_plugins(&self, settings: &str) -> Result<Set, OpenError> {
        let mut set: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for setting in settings.split_whitespace() {
            let (path, value) = setting.split_once('=').expect("PLUGIN.KEY=VALUE");
            let (plugin, key) = path.split_once('.').expect("PLUGIN.KEY=VALUE");
            set.entry(plugin.into())
                .or_default()
                .insert(key.into(), value.into());
        }
        Set::open(&Settings {
            folder: Some(self.plugin_folder()),
            exe: executable(),
            set,
            history: Some(self.state().join("plugins")),
        })
    }

    /// The processes that have one of this machine's plugins open.
    #[must_use]
    pub fn hosts(&self) -> Vec<u32> {
        hosts_of(&self.plugin_folder())
    }

    /// `divvy plugin-host`, which is not for people.
    #[must_use]
    pub fn host_by_hand(&self) -> Divvy {
        let mut command = Command::new(executable());
        command.arg("plugin-host");
        Divvy::new(command)
    }
}

/// The processes that have a plugin of this folder open.
///
/// # Panics
/// `/proc` is not mounted.
#[must_use]
pub fn hosts_of(folder: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    processes
        .filter_map(|p| p.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            // We have plugin files open ourselves, and so have our children
            // before they become hosts.
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let is_host = words.split(|b| *b == 0).nth(1) == Some(b"plugin-host");
            let file = fs::read_link(format!("/proc/{pid}/fd/4"));
            is_host && file.is_ok_and(|f| f.starts_with(folder))
        })
        .collect()
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let workloads = fs::read_dir(self.state().join("workloads"));
        if workloads.is_ok_and(|mut w| w.next().is_some()) {
            let names = self.divvy("ps -a -q").run().stdout;
            let names: Vec<&str> = names.split_whitespace().collect();
            if !names.is_empty() {
                let removed = self.divvy("rm -f").args(&names).run();
                if removed.code != 0 && !std::thread::panicking() {
                    panic!("the machine's workloads cannot be removed\n{removed}");
                }
            }
        }
        for pid in self.hosts() {
            kill(pid);
        }
    }
}

/// A running agent; ended with its machine.
#[derive(Debug)]
pub struct Agent {
    running: Running,
    socket: PathBuf,
}

impl Agent {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client of its API.
    #[must_use]
    pub fn client(&self) -> divvy::api::Client {
        divvy::api::Client::new(&self.socket)
    }

    /// Its metrics, as its socket gives them.
    ///
    /// # Panics
    /// It does not answer.
    #[track_caller]
    #[must_use]
    pub fn metrics(&self) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let mut body = self.client().stream("/metrics").await.expect("an answer");
            let mut page = String::new();
            while let Some(line) = body.line().await.expect("a line") {
                page += &line;
                page.push('\n');
            }
            page
        })
    }

    /// Ends it as systemd would.
    #[track_caller]
    #[must_use]
    pub fn end(self) -> Output {
        self.running.signal(Signal::TERM);
        self.running.output()
    }

    /// Ends it with SIGKILL.
    pub fn kill(self) {
        self.running.kill();
    }
}

/// Ends a process with SIGKILL.
pub(crate) fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // It may be gone.
    let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
}

/// Waits until something is so, at most ten seconds; says whether it was.
#[must_use]
pub fn eventually(mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if so() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The executable under test: `target/PROFILE/divvy-under-test`, beside the
/// folder `deps` that the test itself is in.
///
/// # Panics
/// It is not there.
#[must_use]
pub fn executable() -> PathBuf {
    let exe = test_folder().with_file_name("divvy-under-test");
    assert!(
        exe.is_file(),
        "{} is missing; run the tests with cargo",
        exe.display()
    );
    exe
}

/// A plugin's bytes, as cargo built it for these tests.
fn built_plugin(name: &str) -> Vec<u8> {
    let file = test_folder().join(format!("libdivvy_plugin_{name}.so"));
    fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Cargo's folder of what is built: `target`.
pub(crate) fn target_folder() -> PathBuf {
    let profile = test_folder();
    let target = profile.ancestors().nth(2).expect("target/PROFILE/deps");
    target.to_owned()
}

pub(crate) fn test_folder() -> PathBuf {
    let exe = std::env::current_exe().expect("our own path");
    exe.parent().expect("a folder").to_owned()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a file of ours");
}
