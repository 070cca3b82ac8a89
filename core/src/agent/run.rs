//! From a request to a running container.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use divvy_plugin::{Device, PrepareRequest, StartedRequest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::decide::{self, decide};
use super::{Agent, AgentError, RootRequest, RunRequest, settle};
use crate::failpoint::{Point, hit};
use crate::launch::docker::Prepared;
use crate::launch::{
    self, BindMount, By, Container, FileId, Folder, Identity, Job, Lack, LaunchError, Needs,
    Network, Oci, Reserved, Root, Source, image, merge,
};
use crate::model::{
    Edits, EnforcementLevel, Inventory, Record, Request, State, check_workload_name,
    new_allocation_id,
};
use crate::{frames, monitor, sys};

/// How long a monitor may take to make or start a container: the runtime's
/// own limit and a little.
const MONITOR: Duration = Duration::from_secs(70);

/// A workload that is proven and waits for its go.
#[derive(Debug)]
pub struct Started {
    /// What the ledger says.
    pub record: Record,
    /// Its folder.
    pub folder: Folder,
    /// Things to tell the user.
    pub notes: Vec<String>,
    control: UnixStream,
}

impl Started {
    /// Lets it run. Attach before this, so that nothing is missed.
    ///
    /// # Errors
    /// The runtime could not start it; the monitor has settled it.
    pub async fn go(&mut self) -> Result<(), AgentError> {
        let gone = |why: String| LaunchError::Container {
            step: "started",
            why,
        };
        frames::send_json(&mut self.control, &monitor::Order::Go)
            .await
            .map_err(|e| gone(format!("its monitor is gone: {e}")))?;
        hit(Point::RunGo);
        match report(&mut self.control).await? {
            monitor::Report::Started => {
                hit(Point::RunStarted);
                Ok(())
            }
            _ => Err(gone("its monitor lost its place".into()).into()),
        }
    }
}

/// Environment variables, by name.
pub(super) type Variables = Vec<(String, String)>;

/// What is known of a workload before anything is taken.
struct Plan {
    name: String,
    job: Job,
    root_name: String,
    how: How,
    needs: Needs,
    notes: Vec<String>,
}

/// By which launcher.
enum How {
    Oci(Oci),
    Engine(Box<Prepared>),
}

impl How {
    /// The launcher's name, and the runtime's, for people.
    fn names(&self) -> (String, String) {
        match self {
            Self::Oci(oci) => ("oci".into(), oci.runtime.name.clone()),
            Self::Engine(on) => (on.engine.facts.kind.word().into(), on.engine.name()),
        }
    }
}

impl Agent {
    /// Allocates, makes and proves a workload. The caller attaches, if it
    /// wants its output, and then lets it [`go`](Started::go).
    ///
    /// # Errors
    /// Any [`AgentError`]; nothing is then held and nothing runs.
    pub async fn run(&self, request: RunRequest) -> Result<Started, AgentError> {
        if !sys::is_root() {
            return Err(AgentError::NeedsRoot("run"));
        }
        hit(Point::RunBegun);
        self.recover().await?;
        let (inventory, failed) = self.inventory().await;
        let failed = self.needed(&inventory, failed)?;
        let id = new_id()?;
        let plan = self.plan(&id, &request, &inventory).await?;
        hit(Point::RunPlanned);
        let folder = self.folder(&id);
        let lock = folder.create()?;
        hit(Point::RunFolder);
        let taken = self.intent(&id, &plan, &request).and_then(|intent| {
            self.take(intent, &request.resources, &plan.needs, &inventory, failed)
        });
        let record = match taken {
            Ok(record) => record,
            Err(error) => {
                folder.remove();
                return Err(error);
            }
        };
        match self
            .launch(&folder, &lock, plan, record.clone(), &inventory)
            .await
        {
            Ok(started) => Ok(started),
            Err(error) => Err(self.failed(&folder, record, error).await),
        }
    }

    /// Undoes an intent; the error, with what became of it.
    async fn failed(&self, folder: &Folder, record: Record, error: AgentError) -> AgentError {
        let undone = self.undo(folder, &record).await;
        match error {
            error if !undone => AgentError::NotUndone {
                error: Box::new(error),
                name: record.name,
            },
            AgentError::Plugin { error, .. } => AgentError::Plugin {
                error,
                undone: true,
            },
            other => other,
        }
    }

    /// What a monitor needs to settle an end.
    pub(super) fn monitor_settings(&self) -> monitor::Settings {
        monitor::Settings {
            state: self.settings.state.clone(),
            plugins: self.settings.plugins.clone(),
        }
    }

    /// Checks all that can be checked without taking anything.
    async fn plan(
        &self,
        id: &str,
        request: &RunRequest,
        inventory: &Inventory,
    ) -> Result<Plan, AgentError> {
        let name = named(id, request.name.as_ref())?;
        let state = &self.settings.state;
        let reserved = Reserved::of(inventory);
        let mut notes = Vec::new();
        let mut job = Job {
            id: id.to_owned(),
            name: name.clone(),
            command: request.command.clone(),
            env: user_env(request, &reserved)?,
            image_env: BTreeMap::new(),
            workdir: "/".into(),
            user: request.caller.clone(),
            mounts: request.mounts.clone(),
            hidden: vec![],
            masked: vec![],
            tty: request.tty,
            stdin: request.stdin,
            network: request.network,
            shm_bytes: request.shm_bytes.unwrap_or(launch::SHM_BYTES),
            stop_signal: "SIGTERM".into(),
        };
        // Whatever launches it: a user's mount never shows the engine's socket,
        // nor ours, to whom root in a container is root.
        let engine = self.engine_socket().ok();
        for socket in engine.iter().chain(&self.settings.agent_socket) {
            for mount in &request.mounts {
                launch::check_socket(&mount.source, mount.id, socket)
                    .map_err(|why| LaunchError::Forbidden(format!("-v: {why}")))?;
            }
            // On the host's root /run is empty; one that lies elsewhere is masked.
            let hidden = socket.canonicalize().ok();
            if matches!(request.root, RootRequest::Host { .. })
                && let Some(hidden) = hidden.filter(|s| !s.starts_with("/run"))
            {
                job.masked.push(hidden.display().to_string());
            }
        }
        let mut needs = Needs::default();
        let label = |why: String| AgentError::Root(format!("the image cannot be used: {why}"));
        let on_engine = matches!(request.root, RootRequest::Engine { .. });
        if job.network == Network::Bridge && !on_engine {
            return Err(AgentError::Launcher(
                "--net bridge needs a container engine, which makes the bridge: take an image with --launcher docker, or --net host".into(),
            ));
        }
        let mut image_user = None;
        let mut root_id = None;
        let (root, root_name) = match &request.root {
            RootRequest::Engine { image } => {
                let on = self.on_engine(image, request, &mut job, &reserved).await?;
                let (prepared, config) = on;
                finish_job(&mut job, request)?;
                return Ok(Plan {
                    name,
                    job,
                    root_name: image.clone(),
                    how: How::Engine(Box::new(prepared)),
                    needs: Needs::of(&config.labels).map_err(label)?,
                    notes,
                });
            }
            RootRequest::Host { current } => {
                notes.extend(on_host_root(&mut job, current, request.root_id, state)?);
                (Root::Host, "host".to_owned())
            }
            RootRequest::Folder(path) => {
                let seen = Source::look(path).ok().filter(Source::is_folder);
                let seen = seen.ok_or_else(|| {
                    AgentError::Root(format!(
                        "--rootfs {}: there is no such folder",
                        path.display()
                    ))
                })?;
                root_id = Some(same(&seen, request.root_id)?);
                let real = seen.path;
                if !["bin", "usr", "lib", "sbin"]
                    .iter()
                    .any(|d| real.join(d).is_dir())
                {
                    return Err(AgentError::Root(format!(
                        "--rootfs {} is no root filesystem: it has neither bin, sbin, usr nor lib",
                        path.display()
                    )));
                }
                job.user = Identity::default();
                (Root::Folder(real.clone()), real.display().to_string())
            }
            RootRequest::Image { path, reference } => {
                let (id, store) = (request.root_id, state.join("images"));
                let opened = image::open_same(path, id, reference.as_deref(), &store)?;
                notes.extend(opened.notes.clone());
                apply_image(&mut job, &opened.config, &reserved);
                needs = Needs::of(&opened.config.labels).map_err(label)?;
                image_user = Some(opened.config.user).filter(|u| !u.is_empty());
                (Root::Layers(opened.layers), path.display().to_string())
            }
        };
        let runtime = launch::pick(&request.runtime, &self.settings.exe, state)?;
        finish_job(&mut job, request)?;
        job.mounts = launch::visible(&job.mounts);
        if let Some(user) = request.user.clone().or(image_user) {
            job.user = identity(&user, &root)?;
        }
        Ok(Plan {
            name,
            job,
            root_name,
            how: How::Oci(Oci {
                runtime,
                root,
                root_id,
            }),
            needs,
            notes,
        })
    }

    /// The intent of a workload, not yet decided.
    fn intent(&self, id: &str, plan: &Plan, request: &RunRequest) -> Result<Record, AgentError> {
        let (launcher, runtime) = plan.how.names();
        Ok(Record {
            remove_on_exit: request.remove_on_exit,
            launcher,
            runtime,
            root: plan.root_name.clone(),
            command: plan.job.command.clone(),
            ..blank(id, &plan.name, request.caller.uid)?
        })
    }

    /// Decides and writes the intent, in one transaction.
    pub(super) fn take(
        &self,
        mut intent: Record,
        request: &Request,
        needs: &Needs,
        inventory: &Inventory,
        failed: Vec<(String, crate::plugin::CallError)>,
    ) -> Result<Record, AgentError> {
        self.ledger.transact(|t| {
            if let Some(other) = t.records().iter().find(|r| r.name == intent.name) {
                return Err(AgentError::NameTaken {
                    name: other.name.clone(),
                    state: other.state.word(),
                });
            }
            let held: Vec<&Record> = t.records().iter().filter(|r| r.holds()).collect();
            let decision = decide(inventory, &held, request)
                .map_err(|error| decide::blame(error, inventory, failed))?;
            needs
                .check(&decision.granted)
                .map_err(|Lack { needs, remedy }| AgentError::ImageNeeds {
                    image: intent.root.clone(),
                    needs,
                    remedy,
                })?;
            intent.asked = decision.granted;
            intent.slices = decision.slices;
            intent.why = decision.why;
            t.put(intent.clone());
            Ok(intent)
        })
    }

    /// From the intent to a proven container.
    async fn launch(
        &self,
        folder: &Folder,
        lock: &File,
        plan: Plan,
        mut record: Record,
        inventory: &Inventory,
    ) -> Result<Started, AgentError> {
        hit(Point::RunReserved);
        folder.save_record(&record)?;
        hit(Point::RunCopied);
        let (by_plugin, edits) = self
            .prepare(&record, inventory, &plan.job.image_env)
            .await?;
        record.edits = by_plugin;

        not_hidden(&plan.job, &edits)?;
        let init = launch::write_init(&self.settings.state)?;
        let container = |by: By| Container {
            id: record.id.clone(),
            tty: plan.job.tty,
            stdin: plan.job.stdin,
            stop_signal: plan.job.stop_signal.clone(),
            workdir: plan.job.workdir.clone(),
            mounts: plan.job.mounts.clone(),
            library_paths: edits.library_paths.clone(),
            reserved: Reserved::of(inventory),
            by,
        };
        let container = match &plan.how {
            How::Oci(oci) => {
                let spec = launch::render(&plan.job, &edits, &folder.rootfs(), &init)?;
                folder.save_bundle(&spec)?;
                container(By::Oci(oci.clone()))
            }
            How::Engine(on) => {
                let container = container(By::Engine(on.place()));
                on.save(folder, &plan.job, &edits, &record, &container, &init)?;
                container
            }
        };
        hit(Point::RunBundled);
        folder.save_container(&container)?;
        hit(Point::RunDescribed);
        folder.save_settings(&self.monitor_settings())?;
        hit(Point::RunReady);

        // Both hold it until this is proven and written; then the monitor does.
        let shared = lock
            .try_clone()
            .map_err(LaunchError::file("cannot lock", &folder.path))?;
        let control = monitor::spawn(&self.settings.exe, folder, shared, false)?;
        hit(Point::RunMonitored);
        control
            .set_nonblocking(true)
            .map_err(|e| AgentError::System("the monitor's socket", e))?;
        let mut control = UnixStream::from_std(control)
            .map_err(|e| AgentError::System("the monitor's socket", e))?;
        match self
            .prove_and_commit(&mut control, folder, &edits, record, plan.job.network)
            .await
        {
            Ok(record) => Ok(Started {
                notes: with_advice(plan.notes, &record),
                record,
                folder: folder.clone(),
                control,
            }),
            Err(error) => {
                // The monitor deletes the container when we hang up; wait for
                // it, so that the slices are not free before that.
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut control).await;
                let _ = timeout(MONITOR, async {
                    while let Ok(Some(_)) = frames::receive(&mut control).await {}
                })
                .await;
                Err(error)
            }
        }
    }

    /// Has the plugins turn a record's slices into edits: each plugin's, and all
    /// as one, checked. Each learns what the image says of its own variables.
    pub(super) async fn prepare(
        &self,
        record: &Record,
        inventory: &Inventory,
        image_env: &BTreeMap<String, String>,
    ) -> Result<(BTreeMap<String, Edits>, Edits), AgentError> {
        let mut all = BTreeMap::new();
        for name in record.plugins() {
            let Some(client) = self.plugins.get(name) else {
                continue;
            };
            let devices: BTreeMap<&str, &Device> = inventory
                .devices
                .iter()
                .filter(|d| d.plugin == name)
                .map(|d| (d.device.id.as_str(), &d.device))
                .collect();
            let reserved = inventory
                .plugins
                .get(name)
                .map(|m| m.reserved_env.as_slice());
            let request = PrepareRequest {
                allocation: record.id.clone(),
                slices: record.slices_of(name),
                image_env: launch::held_back(image_env, reserved.unwrap_or_default()),
            };
            all.insert(name.to_owned(), client.prepare(&request, &devices).await?);
        }
        hit(Point::RunPrepared);
        let merged = merge(&all)?;
        launch::check_plugin_mounts(&merged, &self.settings.state)?;
        Ok((all, merged))
    }

    async fn prove_and_commit(
        &self,
        control: &mut UnixStream,
        folder: &Folder,
        edits: &Edits,
        mut record: Record,
        network: Network,
    ) -> Result<Record, AgentError> {
        let (pid, container_id) = match report(control).await? {
            monitor::Report::Created { pid, container_id } => (pid, container_id),
            _ => {
                let why = "its monitor lost its place".into();
                return Err(LaunchError::Container { step: "made", why }.into());
            }
        };
        hit(Point::RunCreated);
        launch::prove(pid, edits)?;
        if container_id.is_some() {
            // Ours is in its specification; an engine's is its own.
            launch::prove_confined(pid, network)?;
        }
        hit(Point::RunProven);
        for name in record.plugins() {
            let Some(client) = self.plugins.get(name) else {
                continue;
            };
            client
                .started(&StartedRequest {
                    allocation: record.id.clone(),
                    pid,
                })
                .await?;
        }
        hit(Point::RunTold);
        record.state = State::Running;
        record.pid = Some(pid);
        record.container_id = container_id;
        folder.save_record(&record)?;
        hit(Point::RunCopiedRunning);
        self.ledger.transact(|t| match t.get(&record.id) {
            Some(_) => {
                t.put(record.clone());
                Ok(())
            }
            // The ledger was rebuilt meanwhile, and what this holds may be
            // another's.
            None => Err(AgentError::IntentLost(record.name.clone())),
        })?;
        hit(Point::RunCommitted);
        Ok(record)
    }

    /// Takes back an intent. What cannot be taken back now stays closed and
    /// is tried again by [`recover`](Agent::recover); false then.
    async fn undo(&self, folder: &Folder, record: &Record) -> bool {
        let undone = async {
            hit(Point::UndoBegun);
            if let Ok(container) = folder.container() {
                // The monitor may have been killed while a runtime made it.
                launch::clear(&container).await?;
            }
            hit(Point::UndoCleared);
            settle::release(&self.plugins, record).await?;
            hit(Point::UndoReleased);
            self.ledger.transact(|t| {
                t.remove(&record.id);
                Ok::<_, AgentError>(())
            })
        };
        match undone.await {
            Ok(()) => {
                hit(Point::UndoForgotten);
                folder.leave();
                true
            }
            Err(error) => {
                tracing::info!("{}: cannot be undone yet: {error}", record.name);
                false
            }
        }
    }
}

/// An id that nobody has.
pub(super) fn new_id() -> Result<String, AgentError> {
    let random = sys::random().map_err(|e| AgentError::System("no random numbers", e))?;
    Ok(new_allocation_id(random))
}

/// The name that was wanted, or one of the id.
pub(super) fn named(id: &str, wanted: Option<&String>) -> Result<String, AgentError> {
    let name = wanted.cloned().unwrap_or_else(|| format!("w-{}", &id[..6]));
    check_workload_name(&name)?;
    Ok(name)
}

/// A record of which nothing is decided, of now.
pub(super) fn blank(id: &str, name: &str, owner: u32) -> Result<Record, AgentError> {
    Ok(Record {
        id: id.to_owned(),
        name: name.to_owned(),
        state: State::Preparing,
        remove_on_exit: true,
        owner,
        boot_id: sys::boot_id().map_err(|e| AgentError::System("cannot read the boot id", e))?,
        created_ms: sys::now_ms(),
        asked: BTreeMap::new(),
        slices: vec![],
        why: vec![],
        edits: BTreeMap::new(),
        launcher: String::new(),
        runtime: String::new(),
        root: String::new(),
        command: vec![],
        pid: None,
        container_id: None,
        exit: None,
    })
}

async fn report(control: &mut UnixStream) -> Result<monitor::Report, AgentError> {
    let failed = |step, why: String| AgentError::Launch(LaunchError::Container { step, why });
    let received = timeout(MONITOR, frames::receive_json::<monitor::Report>(control)).await;
    match received {
        Err(_) => Err(failed("made", "its monitor does not answer".into())),
        Ok(Ok(Some(monitor::Report::Failed { step, why }))) if step == monitor::REPLACED => {
            Err(LaunchError::Replaced(why.into()).into())
        }
        Ok(Ok(Some(monitor::Report::Failed { step, why }))) => Err(failed(
            if step == "started" { "started" } else { "made" },
            why,
        )),
        Ok(Ok(Some(report))) => Ok(report),
        Ok(Ok(None) | Err(_)) => Err(failed("made", "its monitor ended; see monitor.log".into())),
    }
}

/// `USER[:GROUP]` as the root filesystem knows them.
fn identity(user: &str, root: &Root) -> Result<Identity, AgentError> {
    let base = match root {
        Root::Host => PathBuf::from("/"),
        Root::Folder(folder) => folder.clone(),
        // Layers are merged by the kernel only later; the topmost that has the
        // file is what the merged view will show.
        Root::Layers(layers) => passwd_layer(layers),
    };
    let found = image::lookup_user(&base, user)?;
    Ok(Identity {
        uid: found.uid,
        gid: found.gid,
        groups: found.additional_gids,
    })
}

/// The user's own variables: what was inherited, less what is reserved, then
/// `-e`, of which a reserved one is an error.
fn user_env(request: &RunRequest, reserved: &Reserved) -> Result<Variables, AgentError> {
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &request.inherited {
        if reserved.lets(name) && !value.contains('\0') {
            env.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in &request.env {
        reserved
            .check(name, value)
            .map_err(|fault| AgentError::variable(fault, name, value))?;
        env.insert(name.clone(), value.clone());
    }
    Ok(env.into_iter().collect())
}

/// The host's own root: the job runs as the caller in the current folder,
/// which is bound read-write; other file systems read-only; sockets in /run
/// and Divvy's state are not there.
fn on_host_root(
    job: &mut Job,
    current: &std::path::Path,
    looked_at: Option<FileId>,
    state: &std::path::Path,
) -> Result<Option<String>, AgentError> {
    let system = |e| AgentError::System("cannot read the mounts of this machine", e);
    let mut mounts = launch::host_mounts(state).map_err(system)?;
    job.workdir = current.display().to_string();
    job.hidden.push("/run".into());
    // Its own state, and where those of others usually are: variables are secrets.
    let usual = [crate::config::STATE, crate::embed::STATES].map(std::path::Path::new);
    for folder in usual
        .into_iter()
        .chain([state])
        .filter(|folder| folder.exists())
    {
        let folder = folder.display().to_string();
        if !job.masked.contains(&folder) {
            job.masked.push(folder);
        }
    }
    let mut note = None;
    let machine = ["/proc", "/sys", "/dev", "/run"]
        .iter()
        .any(|r| current.starts_with(r));
    if current == std::path::Path::new("/") || machine {
        note = Some(format!(
            "{} is not bound: what the job writes there is discarded",
            current.display()
        ));
    } else {
        let seen = Source::look(current)
            .map_err(|e| AgentError::System("cannot look at the current folder", e))?;
        mounts.push(BindMount {
            id: Some(same(&seen, looked_at)?),
            source: seen.path,
            target: job.workdir.clone(),
            read_only: seen.read_only,
        });
    }
    // Names must resolve on the host's network, wherever the file really is.
    let resolv = std::path::Path::new("/etc/resolv.conf");
    if job.network == Network::Host
        && let Ok(real) = resolv.canonicalize()
        && real.starts_with("/run")
    {
        let target = real.display().to_string();
        mounts.push(BindMount {
            source: real,
            target,
            read_only: true,
            // Written anew, as another file, whenever the network changes.
            id: None,
        });
    }
    mounts.append(&mut job.mounts);
    job.mounts = mounts;
    Ok(note)
}

/// Is it still what was looked at as the caller, if it was?
fn same(seen: &Source, looked_at: Option<FileId>) -> Result<FileId, LaunchError> {
    match looked_at {
        Some(id) if id != seen.id => Err(LaunchError::Replaced(seen.path.clone())),
        _ => Ok(seen.id),
    }
}

/// What the user says over the image's head, and the rules for both; and
/// whether there is a place for each mount.
fn finish_job(job: &mut Job, request: &RunRequest) -> Result<(), AgentError> {
    if job.command.is_empty() {
        return Err(AgentError::NoCommand);
    }
    if job.command.iter().any(|word| word.contains('\0')) {
        return Err(AgentError::Root("the command holds a NUL character".into()));
    }
    if let Some(workdir) = &request.workdir {
        job.workdir.clone_from(workdir);
    }
    launch::check_workdir(&job.workdir)?;
    let users = job.mounts.len() - request.mounts.len();
    let mounts = job.mounts.split_at(users);
    Ok(launch::check_mount_points(mounts, &request.caller)?)
}

/// What plugins mount must be seen: a user's mount neither over it nor in it.
fn not_hidden(job: &Job, edits: &Edits) -> Result<(), AgentError> {
    for mount in &job.mounts {
        let target = std::path::Path::new(&mount.target);
        let over = |theirs: &&crate::model::Mount| {
            let theirs = std::path::Path::new(&theirs.target);
            theirs.starts_with(target) || target.starts_with(theirs)
        };
        // The host's own mounts come before plugins', which lie on them.
        if mount.read_only && mount.source == target {
            continue;
        }
        if let Some(theirs) = edits.mounts.iter().find(over) {
            return Err(AgentError::Mount(crate::launch::MountError::Forbidden {
                source_path: format!("{}:{}", mount.source.display(), mount.target),
                why: format!("it would hide {}, which a device needs", theirs.target),
            }));
        }
    }
    Ok(())
}

/// Says of what nothing but good will holds the job to its part.
fn with_advice(mut notes: Vec<String>, record: &Record) -> Vec<String> {
    for slice in &record.slices {
        if slice.level == Some(EnforcementLevel::Advisory) {
            notes.push(format!(
                "{} is advisory: the job is told its part of {}, and nothing holds it to that; --min-level hardware takes a partition that is enough, or refuses",
                slice.part.slot,
                slice.device()
            ));
        }
    }
    notes
}

/// What an image says, where the user did not; never a reserved variable.
pub(super) fn apply_image(job: &mut Job, config: &image::ImageConfig, reserved: &Reserved) {
    let (mut env, held): (BTreeMap<String, String>, BTreeMap<String, String>) = config
        .env
        .iter()
        .cloned()
        .partition(|(name, _)| reserved.lets(name));
    job.image_env = held;
    env.extend(std::mem::take(&mut job.env));
    job.env = env.into_iter().collect();
    let command = if job.command.is_empty() {
        config.cmd.clone()
    } else {
        job.command.clone()
    };
    job.command = config.entrypoint.iter().cloned().chain(command).collect();
    if !config.working_dir.is_empty() {
        job.workdir.clone_from(&config.working_dir);
    }
    if let Some(signal) = &config.stop_signal {
        job.stop_signal.clone_from(signal);
    }
    job.user = Identity::default();
}

/// The topmost layer that has a passwd file.
fn passwd_layer(layers: &[PathBuf]) -> PathBuf {
    let with = layers.iter().rev().find(|l| l.join("etc/passwd").is_file());
    with.or(layers.last())
        .cloned()
        .unwrap_or_else(|| "/nonexistent".into())
}
