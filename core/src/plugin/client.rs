//! One plugin over the lives of its hosts.
//!
//! The host is started by the first call and kept. When it crashes, misses a
//! deadline or breaks the protocol it is killed and reaped, and the call is
//! made once more in a fresh host: every operation is idempotent by contract.
//! Crashes are counted over processes (in the state folder), so that a plugin
//! in a crash loop is left alone whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use divvy_plugin::{
    Device, Discovery, Edits, ErrorCode, Manifest, OpenRequest, PluginError, PrepareRequest,
    ReleaseRequest, RestoreRequest, Samples, StartedRequest, WatchReply, WatchRequest,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use tokio::process::Child;
use tokio::sync::Mutex;

use super::crashes::{Crash, Crashes};
use super::find::PluginFile;
use super::process::{Broken, End, Process};
use super::validate;
use super::wire::{Answer, Op, Outcome};
use crate::model::Record;
use crate::sys::now_ms;

/// Time for loading a file and reading its manifest.
pub(super) const LOAD: Duration = Duration::from_secs(5);
/// Time for `sample`.
pub(super) const SAMPLE: Duration = Duration::from_secs(2);

/// Why a call to a plugin gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The file cannot be loaded, or its manifest is not acceptable.
    #[error("plugin {plugin} cannot be loaded: {why}")]
    Unloadable {
        /// The plugin.
        plugin: String,
        /// One line.
        why: String,
    },
    /// The plugin itself said no.
    #[error("plugin {plugin}: {error}")]
    Refused {
        /// The plugin.
        plugin: String,
        /// What it said.
        error: PluginError,
    },
    /// It said what cannot be.
    #[error("plugin {plugin} gave a wrong answer to {op} and was not believed: {why}")]
    Lied {
        /// The plugin.
        plugin: String,
        /// The operation.
        op: &'static str,
        /// What was wrong.
        why: String,
    },
    /// Its host crashed or hung, twice for this call or too often of late.
    #[error("plugin {plugin} failed in {op}: {why}")]
    Crashed {
        /// The plugin.
        plugin: String,
        /// The operation.
        op: &'static str,
        /// How, and what was done.
        why: String,
    },
    /// It is not started again for now.
    #[error("plugin {plugin} is {state}: {why}")]
    Unavailable {
        /// The plugin.
        plugin: String,
        /// `in quarantine`, `stuck` or `backing off`.
        state: &'static str,
        /// Why, and until when.
        why: String,
    },
}

impl CallError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unloadable { .. } => "plugin_unloadable",
            Self::Refused { error, .. } if error.code == ErrorCode::Invalid => "invalid_setting",
            Self::Refused { .. } => "plugin_refused",
            Self::Lied { .. } => "plugin_lied",
            Self::Crashed { .. } => "plugin_crashed",
            Self::Unavailable { .. } => "plugin_unavailable",
        }
    }

    /// Does it not begin for a setting that somebody wrote?
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.code() == "invalid_setting"
    }

    /// Is this plugin's hardware or driver simply not on this machine?
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if error.code == ErrorCode::Absent)
    }
}

/// Where a plugin stands, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum Status {
    /// Its host runs.
    Ready,
    /// It has not been called yet.
    Idle,
    /// Its host crashed; the next call starts another.
    Crashed(String),
    /// Too many crashes.
    Quarantined(String),
    /// Its host does not die.
    Stuck(String),
}

/// What is held, for hosts that are started anew: made into a request when one
/// is, which is seldom, and not whenever something is taken.
#[derive(Clone, Debug)]
pub enum Holdings {
    /// Just this.
    Request(RestoreRequest),
    /// What these records hold of the plugin.
    Records(Arc<Vec<Record>>),
}

impl Holdings {
    fn of(&self, plugin: &str) -> RestoreRequest {
        let records = match self {
            Self::Request(request) => return request.clone(),
            Self::Records(records) => records,
        };
        let held = records.iter().filter(|r| r.holds());
        let mine = held.map(|r| divvy_plugin::Held {
            allocation: r.id.clone(),
            slices: r.slices_of(plugin),
            edits: r.edits.get(plugin).cloned().unwrap_or_default(),
        });
        RestoreRequest {
            allocations: mine.filter(|held| !held.slices.is_empty()).collect(),
        }
    }
}

/// A plugin.
#[derive(Debug)]
pub struct Client {
    name: String,
    path: PathBuf,
    file: PluginFile,
    exe: PathBuf,
    open: OpenRequest,
    /// `None`: nobody has said yet what is held.
    held: std::sync::Mutex<Option<Holdings>>,
    deadline: Duration,
    history: Option<PathBuf>,
    /// The host that answers.
    inner: Mutex<Inner>,
    /// The host that watches: a wait, or a driver that hangs in it, keeps
    /// nobody else waiting.
    watching: Mutex<Inner>,
    /// The host that measures, while somebody wants that: a driver that hangs in it
    /// keeps neither of them waiting.
    measuring: Mutex<Inner>,
    crashes: std::sync::Mutex<Crashes>,
    calls: std::sync::Mutex<Calls>,
    restarts: AtomicU64,
}

/// By operation and whether it went well: how many calls, and the time spent
/// in them.
type Calls = BTreeMap<(&'static str, bool), (u64, Duration)>;

#[derive(Debug, Default)]
struct Inner {
    host: Option<(Process, Manifest)>,
    stuck: Option<Child>,
    /// Its crashes, where they are its own: that a plugin measures badly says nothing
    /// of what it prepares. Else the plugin's.
    own: Option<Crashes>,
}

enum Failure {
    /// In this operation, which may be one that came before the caller's.
    Broken(Op, Broken),
    Final(CallError),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Final(error)
    }
}

impl Client {
    /// A plugin that no host runs yet. `exe` is the `divvy` executable,
    /// `history` the folder in which crashes are remembered.
    #[must_use]
    pub fn new(
        file: PluginFile,
        exe: PathBuf,
        open: OpenRequest,
        deadline: Duration,
        history: Option<PathBuf>,
    ) -> Self {
        let name = file.name();
        let crashes = history
            .as_deref()
            .map(|h| Crashes::load(h, &name))
            .unwrap_or_default();
        Self {
            path: file.path.clone(),
            name,
            file,
            exe,
            open,
            held: std::sync::Mutex::default(),
            deadline,
            history,
            inner: Mutex::default(),
            watching: Mutex::default(),
            measuring: Mutex::new(Inner {
                own: Some(Crashes::default()),
                ..Inner::default()
            }),
            crashes: std::sync::Mutex::new(crashes),
            calls: std::sync::Mutex::default(),
            restarts: AtomicU64::new(0),
        }
    }

    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The identity of the plugin's file.
    #[must_use]
    pub fn identity(&self) -> (PathBuf, Option<[i128; 4]>) {
        self.file.identity()
    }

    /// The plugin's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its calls so far: by operation and whether it went well, how many there
    /// were and the time spent in them, waiting for the host included.
    pub fn calls(&self) -> BTreeMap<(&'static str, bool), (u64, Duration)> {
        let calls = self.calls.lock();
        calls
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// How many hosts ended and had to be replaced.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// What every new host is told is held.
    pub fn set_held(&self, held: Holdings) {
        *self
            .held
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(held);
    }

    /// The devices of which something is held, each once.
    pub(crate) fn held_devices(&self) -> Vec<String> {
        let held = self.held().unwrap_or_default();
        let slices = held.allocations.iter().flat_map(|held| &held.slices);
        let devices: BTreeSet<&str> = slices.map(|slice| slice.device.as_str()).collect();
        devices.into_iter().map(Into::into).collect()
    }

    /// What is held, if somebody has said it.
    fn held(&self) -> Option<RestoreRequest> {
        let held = self.held.lock();
        let held = held.unwrap_or_else(std::sync::PoisonError::into_inner);
        held.as_ref().map(|held| held.of(&self.name))
    }

    /// Has somebody said what is held?
    pub(super) fn is_told(&self) -> bool {
        let held = self.held.lock();
        held.unwrap_or_else(std::sync::PoisonError::into_inner)
            .is_some()
    }

    /// Where it stands.
    pub async fn status(&self) -> Status {
        let mut inner = self.inner.lock().await;
        if let Some(why) = still_stuck(&mut inner) {
            return Status::Stuck(why);
        }
        if inner.host.is_some() {
            return Status::Ready;
        }
        let crashes = self.crashes();
        match (crashes.quarantined_until(now_ms()), crashes.last()) {
            (Some(until), Some(last)) => {
                Status::Quarantined(self.quarantine(until, last, self.history.as_deref()))
            }
            (None, Some(last)) => Status::Crashed(format!("in {}: {}", last.during, last.reason)),
            _ => Status::Idle,
        }
    }

    /// Its past crashes, oldest first.
    pub fn crashes(&self) -> Crashes {
        self.history().clone()
    }

    fn quarantine(&self, until_ms: u64, last: &Crash, kept: Option<&Path>) -> String {
        let seconds = until_ms.saturating_sub(now_ms()).div_ceil(1000);
        let mut text = format!(
            "five crashes within ten minutes, the last in {}: {}; it is tried again in {seconds} s",
            last.during, last.reason
        );
        if let Some(folder) = kept {
            let file = folder.join(format!("{}.json", self.name));
            text += &format!(", or at once if {} is removed", file.display());
        }
        text
    }

    fn history(&self) -> std::sync::MutexGuard<'_, Crashes> {
        self.crashes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The process id of its host, if one runs.
    pub async fn pid(&self) -> Option<u32> {
        self.inner
            .lock()
            .await
            .host
            .as_ref()
            .and_then(|(host, _)| host.pid())
    }

    /// What it says of itself; loads it if need be.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn manifest(&self) -> Result<Manifest, CallError> {
        self.with_host(&self.inner, async |_, manifest| Ok(manifest.clone()))
            .await
    }

    /// Its devices, checked.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn discover(&self) -> Result<Discovery, CallError> {
        let found: Discovery = self.call(Op::Discover, &(), self.deadline).await?;
        self.believe(Op::Discover, validate::discovery(&found))?;
        Ok(found)
    }

    /// Waits for a change of its devices.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn watch(&self, request: &WatchRequest) -> Result<WatchReply, CallError> {
        let deadline = Duration::from_millis(request.timeout_ms) + self.deadline;
        let reply: WatchReply = self.call(Op::Watch, request, deadline).await?;
        self.believe(Op::Watch, validate::watch(&reply, &request.known))?;
        Ok(reply)
    }

    /// Edits for slices of `devices`, checked. Partitions may be made only now, and with
    /// them their nodes: what `devices` do not have is looked for anew.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn prepare(
        &self,
        request: &PrepareRequest,
        devices: &BTreeMap<&str, &Device>,
    ) -> Result<Edits, CallError> {
        let with_reserved =
            |edits: Edits, manifest: &Manifest| (edits, manifest.reserved_env.clone());
        let (edits, reserved) = self
            .call_then(Op::Prepare, request, self.deadline, with_reserved)
            .await?;
        let check = |devices: &BTreeMap<&str, &Device>| {
            validate::edits(&edits, &request.slices, devices, &reserved)
        };
        let mut checked = check(devices);
        if checked.is_err() && request.slices.iter().any(|slice| slice.start.is_some()) {
            let now = self.discover().await?;
            checked = check(&now.devices.iter().map(|d| (d.id.as_str(), d)).collect());
        }
        self.believe(Op::Prepare, checked)?;
        Ok(edits)
    }

    /// Tells it that a container runs.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn started(&self, request: &StartedRequest) -> Result<(), CallError> {
        self.call(Op::Started, request, self.deadline).await
    }

    /// Has it undo `prepare`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn release(&self, request: &ReleaseRequest) -> Result<(), CallError> {
        self.call(Op::Release, request, self.deadline).await
    }

    /// Has it measure its devices, in a host of its own that is started for it and
    /// kept until it may [`rest`](Self::rest).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn sample(&self) -> Result<Samples, CallError> {
        let samples = self
            .call(Op::Sample, &(), SAMPLE.min(self.deadline))
            .await?;
        self.believe(Op::Sample, validate::samples(&samples))?;
        Ok(samples)
    }

    /// Ends the host that measures, unless it is at it.
    pub async fn rest(&self) {
        let Ok(mut measuring) = self.measuring.try_lock() else {
            return;
        };
        if let Some((host, _)) = measuring.host.take()
            && let End::Stuck(child) = host.kill("nobody wants it to measure").await
        {
            measuring.stuck = Some(child);
        }
    }

    /// The plugin's own folder, made if need be. Only root can have it: without it the
    /// plugin forgets.
    fn state(&self) -> Option<String> {
        let folder = self.history.as_ref()?.join(&self.name);
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        match made {
            Ok(()) => Some(folder.to_str()?.to_owned()),
            Err(e) => {
                let folder = folder.display();
                tracing::debug!(plugin = self.name, "it has no folder {folder}: {e}");
                None
            }
        }
    }

    fn believe(&self, op: Op, checked: Result<(), validate::Lie>) -> Result<(), CallError> {
        checked.map_err(|lie| self.lied(op, lie.to_string()))
    }

    fn lied(&self, op: Op, why: String) -> CallError {
        CallError::Lied {
            plugin: self.name.clone(),
            op: op.name(),
            why,
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        op: Op,
        argument: &(impl Serialize + Sync),
        deadline: Duration,
    ) -> Result<T, CallError> {
        self.call_then(op, argument, deadline, |answer, _| answer)
            .await
    }

    /// A call, and what is made of its answer with the manifest of the host that
    /// gave it.
    async fn call_then<T: DeserializeOwned, U>(
        &self,
        op: Op,
        argument: &(impl Serialize + Sync),
        deadline: Duration,
        then: impl Fn(T, &Manifest) -> U,
    ) -> Result<U, CallError> {
        let which = match op {
            Op::Watch => &self.watching,
            Op::Sample => &self.measuring,
            _ => &self.inner,
        };
        let began = Instant::now();
        let answer = self
            .with_host(which, async |host: &mut Process, manifest: &Manifest| {
                let answer = self.exchange(host, op, argument, deadline).await?;
                Ok(then(answer, manifest))
            })
            .await;
        let mut calls = self
            .calls
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (count, spent) = calls.entry((op.name(), answer.is_ok())).or_default();
        *count += 1;
        *spent += began.elapsed();
        answer
    }

    /// Runs `work` with a live host; after a crash once more with a new one.
    async fn with_host<T>(
        &self,
        which: &Mutex<Inner>,
        work: impl AsyncFn(&mut Process, &Manifest) -> Result<T, Failure>,
    ) -> Result<T, CallError> {
        let mut inner = which.lock().await;
        let mut retried = false;
        loop {
            let result = match self.host(&mut inner).await {
                Ok((host, manifest)) => work(host, manifest).await,
                Err(failure) => Err(failure),
            };
            let (op, broken) = match result {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Broken(op, broken)) => (op, broken),
            };
            let late = matches!(broken, Broken::Late(_));
            let why = self.bury(&mut inner, op, broken).await;
            // A hang is not tried twice: the caller has waited long enough.
            if retried || late || inner.stuck.is_some() {
                let plugin = self.name.clone();
                return Err(CallError::Crashed {
                    plugin,
                    op: op.name(),
                    why,
                });
            }
            retried = true;
        }
    }

    /// The running host, or a new one: loaded, opened and told what is held.
    async fn host<'a>(
        &self,
        inner: &'a mut Inner,
    ) -> Result<(&'a mut Process, &'a Manifest), Failure> {
        // A caller that gave up half-way left half a frame in the channel.
        if let Some((host, _)) = inner.host.take_if(|(host, _)| host.is_interrupted())
            && let End::Stuck(child) = host.kill("a call was given up").await
        {
            inner.stuck = Some(child);
        }
        if inner.host.is_none() {
            self.may_start(inner)?;
            let plugin = self.name.clone();
            let mut host = Process::spawn(&self.exe, &self.name, &self.file.fd).map_err(|e| {
                let why = format!("its host {} could not be started: {e}", self.exe.display());
                CallError::Unavailable {
                    plugin,
                    state: "not running",
                    why,
                }
            })?;
            match self.begin(&mut host).await {
                Ok(manifest) => inner.host = Some((host, manifest)),
                Err(failure) => {
                    if matches!(failure, Failure::Broken(..)) {
                        // Keep it for `bury`, which reports how it ended.
                        inner.host = Some((host, placeholder()));
                    } else if let End::Stuck(child) = host.kill("it cannot be used").await {
                        inner.stuck = Some(child);
                    }
                    return Err(failure);
                }
            }
        }
        match &mut inner.host {
            Some((host, manifest)) => Ok((host, manifest)),
            None => Err(Failure::Broken(
                Op::Manifest,
                Broken::Channel("no host".into()),
            )),
        }
    }

    async fn begin(&self, host: &mut Process) -> Result<Manifest, Failure> {
        let manifest: Manifest = self
            .exchange(host, Op::Manifest, &(), LOAD.min(self.deadline))
            .await?;
        validate::manifest(&manifest, &self.name).map_err(|lie| CallError::Unloadable {
            plugin: self.name.clone(),
            why: lie.to_string(),
        })?;
        if let Some(message) = unknown_setting(&manifest, &self.open.config) {
            return Err(CallError::Refused {
                plugin: self.name.clone(),
                error: PluginError::new(ErrorCode::Invalid, message),
            }
            .into());
        }
        let open = OpenRequest {
            state: self.state().or_else(|| self.open.state.clone()),
            ..self.open.clone()
        };
        let _: () = self.exchange(host, Op::Open, &open, self.deadline).await?;
        // Also that nothing is: what the plugin remembers of anybody is over then.
        if let Some(held) = self.held() {
            let _: () = self
                .exchange(host, Op::Restore, &held, self.deadline)
                .await?;
        }
        Ok(manifest)
    }

    /// One call on a live host.
    async fn exchange<T: DeserializeOwned>(
        &self,
        host: &mut Process,
        op: Op,
        argument: &(impl Serialize + Sync),
        deadline: Duration,
    ) -> Result<T, Failure> {
        let broken = |what: String| Failure::Broken(op, Broken::Channel(what));
        let argument =
            to_raw_value(argument).map_err(|e| broken(format!("cannot be written: {e}")))?;
        let frame = host
            .call(op, &argument, deadline)
            .await
            .map_err(|broken| Failure::Broken(op, broken))?;
        let plugin = self.name.clone();
        let answer: Answer<'_> =
            serde_json::from_slice(&frame).map_err(|e| broken(e.to_string()))?;
        match answer.result {
            Outcome::Ok(raw) => serde_json::from_str(raw.get()).map_err(|e| {
                self.lied(op, format!("its document cannot be read: {e}"))
                    .into()
            }),
            Outcome::Refused(error) => Err(CallError::Refused { plugin, error }.into()),
            Outcome::Unreadable(why) => Err(self.lied(op, why).into()),
            Outcome::Unloadable(why) => Err(CallError::Unloadable { plugin, why }.into()),
        }
    }

    fn may_start(&self, inner: &mut Inner) -> Result<(), CallError> {
        let refuse = |state, why| {
            Err(CallError::Unavailable {
                plugin: self.name.clone(),
                state,
                why,
            })
        };
        if let Some(why) = still_stuck(inner) {
            return refuse("stuck", why);
        }
        let now = now_ms();
        let kept = self.history.as_deref().filter(|_| inner.own.is_none());
        let crashes = inner.own.clone().unwrap_or_else(|| self.crashes());
        let Some(last) = crashes.last() else {
            return Ok(());
        };
        if let Some(until) = crashes.quarantined_until(now) {
            return refuse("in quarantine", self.quarantine(until, last, kept));
        }
        let wait = crashes.back_off(now);
        if !wait.is_zero() {
            let why = format!(
                "it crashed {} times of late (last in {}: {}); it is started again in {} s",
                crashes.0.len(),
                last.during,
                last.reason,
                wait.as_secs() + 1
            );
            return refuse("backing off", why);
        }
        Ok(())
    }

    /// Ends a broken host and notes the crash.
    async fn bury(&self, inner: &mut Inner, op: Op, broken: Broken) -> String {
        let Some((host, _)) = inner.host.take() else {
            return "it has no host".into();
        };
        self.restarts.fetch_add(1, Ordering::Relaxed);
        let pid = host.pid();
        let reason = match host.end(&broken).await {
            End::Gone(reason) => reason,
            End::Stuck(child) => {
                inner.stuck = Some(child);
                format!(
                    "its host (pid {}) does not die: stuck in the kernel",
                    pid.unwrap_or(0)
                )
            }
        };
        tracing::warn!(
            plugin = self.name,
            op = op.name(),
            "plugin host ended: {reason}"
        );
        let crash = Crash {
            at_ms: now_ms(),
            during: op.name().to_owned(),
            reason: reason.clone(),
        };
        if let Some(own) = &mut inner.own {
            own.push(crash);
            return reason;
        }
        let mut crashes = self.history();
        crashes.push(crash);
        if let Some(folder) = &self.history
            && let Err(e) = crashes.save(folder, &self.name)
        {
            tracing::warn!(plugin = self.name, "its crash history cannot be kept: {e}");
        }
        reason
    }
}

/// What is wrong with a setting that the manifest does not list.
pub(super) fn unknown_setting(
    manifest: &Manifest,
    config: &BTreeMap<String, String>,
) -> Option<String> {
    let known: Vec<&str> = manifest.config.iter().map(|c| c.name.as_str()).collect();
    let key = config.keys().find(|key| !known.contains(&key.as_str()))?;
    Some(match known.is_empty() {
        true => format!("it has no setting {key:?}; it has none"),
        false => format!(
            "it has no setting {key:?}; its settings are: {}",
            known.join(", ")
        ),
    })
}

/// Looks again whether a stuck host has gone.
fn still_stuck(inner: &mut Inner) -> Option<String> {
    let child = inner.stuck.as_mut()?;
    if matches!(child.try_wait(), Ok(None)) {
        let pid = child.id().unwrap_or(0);
        return Some(format!(
            "its host (pid {pid}) was killed and does not die: a driver holds it in the kernel; its devices are closed to new work"
        ));
    }
    inner.stuck = None;
    None
}

fn placeholder() -> Manifest {
    Manifest {
        name: String::new(),
        version: String::new(),
        summary: String::new(),
        slots: vec![],
        reserved_env: vec![],
        config: vec![],
    }
}
