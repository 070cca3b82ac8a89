//! The agent as a process that lives long: `divvy agent`.
//!
//! It answers on a unix socket, from what the plugins said last and what the
//! ledger says now, so a plugin that hangs holds up nobody who only looks. It
//! picks up what others left at its start and every half minute, and follows
//! the plugin folder. It holds no state that matters: killed at any moment, it
//! loses nothing, and no container notices.
//!
//! * `accept`: connections; [`peer`](self): who asks, and what they may;
//! * `routes`: the operations; `streams`: the answers that go on;
//! * `feed`: what happened; `metrics`: what is counted;
//!
//! Operations that take or free something run on threads of their own
//! (`Server::work`): the state machine waits for processes and for the disk.
//! Those threads never end: a plugin host dies with the thread that started
//! it (`PR_SET_PDEATHSIG`, prctl(2)).

mod accept;
mod answer;
mod feed;
mod metrics;
mod peer;
mod routes;
mod streams;

use std::collections::HashMap;
use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

use crate::agent::events::{Look, differences};
use crate::agent::{self, Agent, AgentError, Samples, Started, Watched};
use crate::config::Config;
use crate::launch::image::lookup_user;
use crate::ledger::Ledger;
use crate::model::Record;
use crate::sys::now_ms;
use feed::Feed;
use metrics::Counters;
use peer::Rules;

/// How often is looked whether somebody wrote to the ledger or a plugin said
/// something: what lasts less may be missed among the events.
const LOOK: Duration = Duration::from_millis(20);
/// How often ledger, containers and plugins are compared.
const RECONCILE: Duration = Duration::from_secs(30);
/// How often the plugin folder is looked at.
const RESCAN: Duration = Duration::from_secs(2);
/// How long a workload may wait for its start.
const WAITING: Duration = Duration::from_secs(60);
/// How long the first answers of the plugins are waited for.
const FIRST: Duration = Duration::from_secs(15);
/// Threads for what waits.
const THREADS: usize = 64;
/// Operations at once; more wait for their turn. Fewer than threads: an
/// operation may need another one for a moment.
const OPERATIONS: usize = 40;
/// Threads that start processes must not end before them.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The long-lived agent.
#[derive(Debug)]
pub(crate) struct Server {
    settings: agent::Settings,
    ledger: Ledger,
    rules: Rules,
    feed: Feed,
    counters: Counters,
    started_ms: u64,
    /// Replaced as a whole when the plugin files change.
    agent: RwLock<Arc<Agent>>,
    /// One for each operation that may begin.
    turns: Semaphore,
    /// How often that happened.
    reloads: AtomicU64,
    /// Has every plugin answered, or failed to?
    ready: watch::Sender<bool>,
    /// Workloads that are proven and wait for their start.
    waiting: Mutex<HashMap<String, (Started, Instant)>>,
}

/// Runs the agent until it is told to end.
///
/// # Errors
/// It cannot begin: its socket, its state folder, its plugin folder.
pub fn main(settings: agent::Settings, config: &Config, socket: PathBuf) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(THREADS)
        .thread_keep_alive(FOREVER)
        .enable_all()
        .build()
        .map_err(|e| AgentError::System("cannot start", e))?;
    let result = runtime.block_on(serve(settings, config, &socket));
    // Operations that still run are on their own: what they leave is picked up.
    runtime.shutdown_background();
    result
}

async fn serve(
    settings: agent::Settings,
    config: &Config,
    socket: &Path,
) -> Result<(), AgentError> {
    let rules = Rules {
        admin_gid: group(config.agent.admin_group.as_deref())?,
        host_network: config.agent.host_network.unwrap_or(false),
    };
    let gid = group(config.agent.group.as_deref())?;
    let _only_one = only_one(&settings.state)?;
    let ledger = Ledger::grouped(&settings.state);
    let agent = Agent::resident(settings.clone(), ledger.clone())?;
    let server = Arc::new(Server {
        ledger,
        rules,
        feed: Feed::new(now_ms()),
        counters: Counters::default(),
        started_ms: now_ms(),
        agent: RwLock::new(Arc::new(agent)),
        turns: Semaphore::new(OPERATIONS),
        reloads: AtomicU64::new(0),
        ready: watch::Sender::new(false),
        waiting: Mutex::default(),
        settings,
    });
    let (listener, own) = listen(socket, gid)?;
    let app = routes::router(Arc::clone(&server));
    let metrics = match config.agent.metrics {
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener
                .map_err(|e| AgentError::System("agent.metrics cannot be listened on", e))?;
            Some(metrics::serve(listener, Arc::clone(&server)))
        }
        None => None,
    };
    tracing::info!("listening at {}", socket.display());
    let mut ended = [SignalKind::terminate(), SignalKind::interrupt()]
        .into_iter()
        .filter_map(|kind| signal(kind).ok())
        .collect::<Vec<_>>();
    let told = futures_util::future::select_all(ended.iter_mut().map(|s| Box::pin(s.recv())));
    let loops = Box::pin(async {
        tokio::join!(
            server.follow_plugins(),
            server.observe(),
            server.reconcile_for_ever(),
            server.give_up_waiting(),
            server.tell_readiness(),
        );
    });
    tokio::select! {
        () = accept::serve(listener, app) => {}
        () = async { match metrics { Some(m) => m.await, None => std::future::pending().await } } => {}
        () = loops => {}
        _ = told => tracing::info!("told to end; workloads go on"),
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    // Not what somebody put in its place.
    if std::fs::symlink_metadata(socket).is_ok_and(|now| same(&now, &own)) {
        let _ = std::fs::remove_file(socket);
    }
    Ok(())
}

/// The group of this name.
fn group(name: Option<&str>) -> Result<Option<u32>, AgentError> {
    let Some(name) = name else { return Ok(None) };
    let found = lookup_user(Path::new("/"), &format!("0:{name}"));
    found.map(|u| Some(u.gid)).map_err(|_| {
        AgentError::Denied(format!(
            "the configuration names the group {name:?}, which does not exist: groupadd --system {name}"
        ))
    })
}

/// One agent a state folder: the lock ends with this process.
fn only_one(state: &Path) -> Result<File, AgentError> {
    let failed = |e| AgentError::System("the state folder cannot be used", e);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(failed)?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(state.join("agent.lock"))
        .map_err(failed)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        AgentError::Denied(format!(
            "an agent for {} runs already: divvy doctor says where",
            state.display()
        ))
    })?;
    Ok(lock)
}

/// Are these the same file?
fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Listens, for root and the members of a group; the socket's file too.
fn listen(socket: &Path, gid: Option<u32>) -> Result<(UnixListener, Metadata), AgentError> {
    let failed = |e| AgentError::System("the agent's socket cannot be made", e);
    let folder = socket.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(folder)
            .map_err(failed)?;
        // Whatever the umask.
        std::fs::set_permissions(folder, Permissions::from_mode(0o750)).map_err(failed)?;
        std::os::unix::fs::chown(folder, None, gid).map_err(failed)?;
    }
    make_way(socket)?;
    let listener = UnixListener::bind(socket).map_err(failed)?;
    let mode = if gid.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(socket, Permissions::from_mode(mode)).map_err(failed)?;
    std::os::unix::fs::chown(socket, None, gid).map_err(failed)?;
    let own = std::fs::symlink_metadata(socket).map_err(failed)?;
    Ok((listener, own))
}

/// Removes the socket that an agent which was killed left, and nothing else.
fn make_way(socket: &Path) -> Result<(), AgentError> {
    let taken = |by| Err(AgentError::SocketTaken(socket.display().to_string(), by));
    let Ok(there) = std::fs::symlink_metadata(socket) else {
        return Ok(());
    };
    if !there.file_type().is_socket() {
        return taken("something that is no socket");
    }
    // Others may use it: of this state folder no agent runs.
    match std::os::unix::net::UnixStream::connect(socket) {
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => std::fs::remove_file(socket)
            .map_err(|e| AgentError::System("the agent's socket cannot be made", e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        _ => taken("a process that listens there"),
    }
}

impl Server {
    /// The agent as of now.
    fn agent(&self) -> Arc<Agent> {
        let agent = self.agent.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&agent)
    }

    /// Waits until the plugins have been heard.
    async fn known(&self) {
        let mut ready = self.ready.subscribe();
        // One that never answers must not keep the others from being used.
        let _ = timeout(FIRST, ready.wait_for(|ready| *ready)).await;
    }

    /// Looks at what was seen last. No plugin is asked.
    fn seen<T: Default>(&self, look: impl FnOnce(&Agent, &Watched) -> T) -> T {
        let agent = self.agent();
        // Ours always is.
        agent.watched().map(|w| look(&agent, w)).unwrap_or_default()
    }

    /// Runs something of the state machine on a thread of its own.
    async fn work<T: Send + 'static, F: Future<Output = Result<T, AgentError>>>(
        &self,
        work: impl FnOnce(Arc<Agent>) -> F + Send + 'static,
    ) -> Result<T, AgentError> {
        // Never closed.
        let _turn = self.turns.acquire().await;
        let agent = self.agent();
        let handle = Handle::current();
        let span = tracing::Span::current();
        let thread = tokio::task::spawn_blocking(move || {
            let _inside = span.enter();
            handle.block_on(work(agent))
        });
        thread.await.unwrap_or_else(|e| {
            self.counters.invariant_violated();
            Err(AgentError::Panicked(e.to_string()))
        })
    }

    /// All records, as of now.
    async fn records(&self) -> Result<Arc<Vec<Record>>, AgentError> {
        let ledger = self.ledger.clone();
        let thread = tokio::task::spawn_blocking(move || ledger.shared_records());
        match thread.await {
            Ok(records) => Ok(records?),
            Err(e) => Err(AgentError::Panicked(e.to_string())),
        }
    }

    /// What is used, as of now: no plugin is waited for longer than a moment.
    async fn samples(&self, records: &[Record]) -> Samples {
        let agent = self.agent();
        agent.want_samples().await;
        block_in_place(|| agent.describe_samples(Some(records)))
    }

    fn keep_waiting(&self, started: Started) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(started.record.id.clone(), (started, Instant::now()));
    }

    fn take_waiting(&self, id: &str) -> Option<Started> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(id).map(|(started, _)| started)
    }

    /// Whoever asked for it is gone: its monitor takes it down.
    async fn give_up_waiting(&self) {
        loop {
            sleep(Duration::from_secs(1)).await;
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain(|_, (_, since)| since.elapsed() < WAITING);
        }
    }

    /// Follows the plugins' watch streams; anew, with another agent, when the
    /// plugin files change.
    async fn follow_plugins(&self) {
        loop {
            let agent = self.agent();
            let changed = async {
                loop {
                    sleep(RESCAN).await;
                    if !agent.plugins().is_current() {
                        return;
                    }
                }
            };
            let follow = agent.follow(|| {
                self.ready.send_replace(true);
            });
            tokio::select! {
                () = follow => return,
                () = changed => {}
            }
            match Agent::resident(self.settings.clone(), self.ledger.clone()) {
                Ok(agent) => {
                    tracing::info!("the plugin files have changed; they are loaded anew");
                    self.ready.send_replace(false);
                    let mut place = self.agent.write().unwrap_or_else(PoisonError::into_inner);
                    *place = Arc::new(agent);
                    self.reloads.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => tracing::warn!("the plugin folder has changed, but {error}"),
            }
        }
    }

    /// Reads events off the ledger and the inventory.
    async fn observe(&self) {
        let mut seen = None;
        let mut before: Option<Look> = None;
        loop {
            sleep(LOOK).await;
            if !*self.ready.borrow() {
                continue;
            }
            let changes = self.seen(|_, watched| *watched.changes().borrow());
            let reloads = self.reloads.load(Ordering::Relaxed);
            let now = Some((self.ledger.generation(), reloads, changes));
            if seen == now {
                continue;
            }
            let Ok(records) = self.records().await else {
                continue;
            };
            seen = now;
            let (inventory, failed) = self.seen(|_, watched| watched.inventory());
            let down = failed
                .iter()
                .filter(|(_, e)| !e.is_absent())
                .map(|(plugin, e)| (plugin.clone(), e.to_string()))
                .collect();
            let now = Look {
                records,
                inventory,
                down,
            };
            // A host that is started anew is told what is held now.
            self.agent().plugins().set_held(&now.records);
            self.counters.look(&now);
            let told = self.seen(|_, watched| watched.told());
            let happened = told
                .iter()
                .map(|told| told.event(&now.records, &now.inventory));
            self.feed.publish(happened.collect());
            // Of the first look everything is new, and nothing happened.
            if let Some(before) = &before {
                self.feed.publish(differences(before, &now, now_ms()));
            }
            before = Some(now);
        }
    }

    /// Every half minute, and as soon as the ledger's file is gone.
    async fn reconcile_for_ever(&self) {
        // What a lost workload may hold is known when the plugins are.
        self.known().await;
        loop {
            self.reconcile().await;
            let next = Instant::now() + RECONCILE;
            while Instant::now() < next && !self.ledger.is_missing() {
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Picks up what others left behind.
    async fn reconcile(&self) {
        let recovered = self.work(|agent| async move {
            let rebuilt = agent.rebuild_if_lost().await?;
            Ok((rebuilt, agent.recover().await?))
        });
        match recovered.await {
            Ok((None, found)) => self.counters.drifted(found),
            Ok((Some(rebuilt), found)) => {
                self.counters.drifted(found + 1);
                tracing::warn!(
                    "the ledger was lost and is made anew from {} workloads' copies; {} could not be read",
                    rebuilt.records.len(),
                    rebuilt.unreadable.len()
                );
            }
            Err(error) => {
                tracing::warn!("what others left cannot be picked up: {error}");
                // Tried again, and not at once.
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn tell_readiness(&self) {
        self.known().await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        std::future::pending::<()>().await;
    }
}
