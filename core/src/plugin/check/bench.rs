//! One plugin on the bench: hosts of it, and what was said to them.
//!
//! Unlike [`Client`](crate::plugin::Client) this tries nothing twice, counts no
//! crash and knows no quarantine: a check wants to see the plugin itself. It
//! needs no ledger and no state folder; the plugin's own is a passing one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use divvy_plugin::{
    Edits, ErrorCode, OpenRequest, PluginError, PrepareRequest, ReleaseRequest, Slice,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::to_raw_value;

use super::survey::Survey;
use crate::model::new_allocation_id;
use crate::plugin::client::{LOAD, SAMPLE};
use crate::plugin::find::PluginFile;
use crate::plugin::process::{Broken, End, Process};
use crate::plugin::set::{self, OpenError};
use crate::plugin::validate::Lie;
use crate::plugin::wire::{Answer, Op, Outcome};
use crate::sys;

/// What is kept of a document, bytes.
const KEPT: usize = 600;

/// Why a check did not pass.
#[derive(Clone, Debug)]
pub(in crate::plugin) enum Stop {
    /// The rule is broken, and how; with the call that shows it, if that is not
    /// the last one.
    Failed(String, Option<Exchange>),
    /// It cannot be looked at here, and why.
    Skipped(String),
}

/// What becomes of a check, or of a step of one.
pub(in crate::plugin) type Checked<T = ()> = Result<T, Stop>;

/// The rule is broken.
pub(super) fn failed<T>(why: impl Into<String>) -> Checked<T> {
    Err(Stop::Failed(why.into(), None))
}

/// It cannot be looked at.
pub(super) fn skipped<T>(why: impl Into<String>) -> Checked<T> {
    Err(Stop::Skipped(why.into()))
}

/// What was not believed, and the call.
pub(super) type Lied = (Lie, Option<Exchange>);

/// One call and its answer, shortened.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Exchange {
    /// The operation.
    pub(crate) op: &'static str,
    /// The request document.
    pub(crate) request: String,
    /// The reply document, or what came instead.
    pub(crate) reply: String,
    /// How long it took.
    pub(crate) ms: u64,
}

/// What a host answered.
#[derive(Debug)]
pub(in crate::plugin) enum Reply {
    /// A document.
    Yes(String),
    /// The plugin's no.
    No(PluginError),
    /// No document, no plugin, or the end of the host; in words.
    Nothing(String),
    /// The deadline passed; the host was killed.
    Late(Duration),
}

/// Everything that was said, over all hosts.
#[derive(Debug, Default)]
struct Talk {
    exchanges: Vec<Exchange>,
    refusals: Vec<(Op, PluginError)>,
    /// Operations that did not answer in time: they are not waited for again.
    late: Vec<Op>,
}

/// A plugin and how to start it.
#[derive(Debug)]
pub(crate) struct Subject {
    /// The file, opened and checked.
    pub(crate) file: PluginFile,
    /// The `divvy` executable, which is started as plugin host.
    pub(crate) exe: PathBuf,
    /// Its settings.
    pub(crate) config: BTreeMap<String, String>,
    /// The time for a call.
    pub(crate) deadline: Duration,
}

impl Subject {
    /// A plugin with these settings, among which `deadline_ms` is ours.
    ///
    /// # Errors
    /// That one is no number.
    pub(crate) fn new(
        file: PluginFile,
        exe: PathBuf,
        mut config: BTreeMap<String, String>,
    ) -> Result<Self, OpenError> {
        let deadline = set::deadline(&file.name(), config.remove("deadline_ms"))?;
        Ok(Self {
            file,
            exe,
            config,
            deadline,
        })
    }
}

/// The bench.
#[derive(Debug)]
pub(in crate::plugin) struct Bench {
    pub(in crate::plugin) subject: Subject,
    talk: Rc<RefCell<Talk>>,
    survey: Option<Rc<Survey>>,
    /// What validation said of edits, and of measures; asked once.
    believed: Vec<(Op, Rc<Checked<Vec<Lied>>>)>,
    /// What was prepared and not yet given back.
    prepared: Vec<(String, Vec<Slice>)>,
    allocations: u32,
    scratch: Option<Scratch>,
}

/// The folder that all hosts of the bench are given as the plugin's own.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Option<Self> {
        let name = format!("divvy-check-{}", new_allocation_id(sys::random().ok()?));
        let folder = std::env::temp_dir().join(name);
        // It must be new: others can make folders there too.
        let made = fs::DirBuilder::new().mode(0o700).create(&folder);
        made.ok().map(|()| Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A passing folder of the machine's, which clears them.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Bench {
    pub(in crate::plugin) fn new(subject: Subject) -> Self {
        Self {
            subject,
            talk: Rc::default(),
            survey: None,
            believed: vec![],
            prepared: vec![],
            allocations: 0,
            scratch: Scratch::new(),
        }
    }

    /// A host in which nothing is loaded yet.
    pub(in crate::plugin) fn bare(&self) -> Checked<Host> {
        let Subject { file, exe, .. } = &self.subject;
        match Process::spawn(exe, &file.name(), &file.fd) {
            Ok(process) => Ok(Host {
                process: Some(process),
                deadline: self.subject.deadline,
                talk: Rc::clone(&self.talk),
            }),
            Err(e) => skipped(format!("a plugin host could not be started: {e}")),
        }
    }

    /// A host with the plugin loaded.
    pub(super) async fn loaded(&self) -> Checked<Host> {
        let mut host = self.bare()?;
        let _: serde_json::Value = host.ask(Op::Manifest, &()).await?;
        Ok(host)
    }

    /// A host with the plugin opened.
    pub(in crate::plugin) async fn host(&self) -> Checked<Host> {
        let mut host = self.loaded().await?;
        let () = host.ask(Op::Open, &self.open_request()).await?;
        Ok(host)
    }

    pub(in crate::plugin) fn open_request(&self) -> OpenRequest {
        OpenRequest {
            config: self.subject.config.clone(),
            state: self.scratch.as_ref().map(|s| s.0.display().to_string()),
        }
    }

    /// What the plugin says of itself and the machine; asked once.
    pub(in crate::plugin) async fn survey(&mut self) -> Rc<Survey> {
        if let Some(survey) = &self.survey {
            return Rc::clone(survey);
        }
        let survey = Rc::new(Survey::take(self).await);
        self.survey = Some(Rc::clone(&survey));
        survey
    }

    /// What validation says of the replies to an operation.
    pub(super) async fn lies(&mut self, op: Op) -> Rc<Checked<Vec<Lied>>> {
        if let Some((_, known)) = self.believed.iter().find(|(asked, _)| *asked == op) {
            return Rc::clone(known);
        }
        let lies = match op {
            Op::Prepare => super::prepare::lies(self).await,
            Op::Sample => super::sample::lies(self).await,
            Op::Watch => super::watch::lies(self).await,
            _ => self.survey().await.lies_in(op),
        };
        let lies = Rc::new(lies);
        self.believed.push((op, Rc::clone(&lies)));
        lies
    }

    // === allocations ===

    /// An allocation's id that was not used before, here or by an agent.
    pub(in crate::plugin) fn allocation(&mut self) -> String {
        self.allocations += 1;
        // As long as an agent's, and of the same digits.
        format!("c{:07x}{:04x}", std::process::id(), self.allocations)
    }

    /// Has slices prepared, for a new allocation that is given back in the end.
    pub(super) async fn prepare(
        &mut self,
        host: &mut Host,
        slices: &[Slice],
    ) -> Checked<(PrepareRequest, Edits)> {
        let request = PrepareRequest::new(self.allocation(), slices.to_vec());
        self.will_release(&request);
        let edits = host.ask(Op::Prepare, &request).await?;
        Ok((request, edits))
    }

    /// Notes an allocation that may have to be given back.
    pub(in crate::plugin) fn will_release(&mut self, request: &PrepareRequest) {
        self.prepared
            .push((request.allocation.clone(), request.slices.clone()));
    }

    /// Gives back what a check has left prepared.
    pub(in crate::plugin) async fn tidy(&mut self) {
        let left = std::mem::take(&mut self.prepared);
        if left.is_empty() || self.is_late(Op::Release) {
            return;
        }
        let Ok(mut host) = self.host().await else {
            return;
        };
        for (allocation, slices) in left {
            // What was released already is a success; what cannot be is said
            // by the checks of release.
            let _ = host
                .say(Op::Release, &ReleaseRequest { allocation, slices })
                .await;
        }
    }

    // === what was said ===

    /// Forgets the exchanges so far: another check begins.
    pub(super) fn begin(&mut self) {
        self.talk.borrow_mut().exchanges.clear();
    }

    /// The last exchange.
    pub(in crate::plugin) fn last(&self) -> Option<Exchange> {
        self.talk.borrow().exchanges.last().cloned()
    }

    /// All refusals so far.
    pub(super) fn refusals(&self) -> Vec<(Op, PluginError)> {
        self.talk.borrow().refusals.clone()
    }

    fn is_late(&self, op: Op) -> bool {
        self.talk.borrow().late.contains(&op)
    }
}

/// A plugin host on the bench. What it says is kept.
#[derive(Debug)]
pub(in crate::plugin) struct Host {
    process: Option<Process>,
    deadline: Duration,
    talk: Rc<RefCell<Talk>>,
}

impl Host {
    /// Its process id, while it lives.
    pub(in crate::plugin) fn pid(&self) -> Option<u32> {
        self.process.as_ref()?.pid()
    }

    /// Its process, for what is no call.
    pub(super) fn process(&self) -> Checked<&Process> {
        match &self.process {
            Some(process) => Ok(process),
            None => skipped("its host has ended"),
        }
    }

    /// Lets it end by itself.
    pub(super) async fn part(&mut self, patience: Duration) -> bool {
        match self.process.take() {
            Some(process) => process.part(patience).await,
            None => true,
        }
    }

    /// Ends it with SIGKILL, as an accident would.
    pub(in crate::plugin) async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill("as a check").await;
        }
    }

    /// One call, whatever comes back.
    pub(in crate::plugin) async fn say(
        &mut self,
        op: Op,
        argument: &(impl Serialize + Sync),
    ) -> Reply {
        let deadline = match op {
            Op::Manifest => LOAD.min(self.deadline),
            Op::Sample => SAMPLE.min(self.deadline),
            _ => self.deadline,
        };
        self.say_within(op, argument, deadline).await
    }

    /// As [`say`](Self::say), with another deadline.
    pub(in crate::plugin) async fn say_within(
        &mut self,
        op: Op,
        argument: &(impl Serialize + Sync),
        deadline: Duration,
    ) -> Reply {
        let Ok(argument) = to_raw_value(argument) else {
            return Reply::Nothing("the request cannot be written".into());
        };
        let Some(process) = &mut self.process else {
            return Reply::Nothing("its host has ended".into());
        };
        let began = Instant::now();
        let reply = match process.call(op, &argument, deadline).await {
            Ok(frame) => read(&frame),
            Err(broken) => match self.bury(&broken).await {
                why if matches!(broken, Broken::Late(_)) => {
                    self.talk.borrow_mut().late.push(op);
                    tracing::debug!("{why}");
                    Reply::Late(deadline)
                }
                why => Reply::Nothing(why),
            },
        };
        let mut talk = self.talk.borrow_mut();
        talk.exchanges.push(Exchange {
            op: op.name(),
            request: shortened(argument.get(), KEPT),
            reply: match &reply {
                Reply::Yes(document) => shortened(document, KEPT),
                Reply::No(error) => format!("no, {}: {}", code(error.code), error.message),
                Reply::Nothing(why) => why.clone(),
                Reply::Late(after) => format!("nothing within {} ms", after.as_millis()),
            },
            ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        if let Reply::No(error) = &reply {
            talk.refusals.push((op, error.clone()));
        }
        reply
    }

    async fn bury(&mut self, broken: &Broken) -> String {
        match self.process.take() {
            Some(process) => match process.end(broken).await {
                End::Gone(why) => why,
                End::Stuck(_) => "its host does not die: a driver holds it in the kernel".into(),
            },
            None => "its host has ended".into(),
        }
    }

    /// One call that must be answered with a document.
    pub(in crate::plugin) async fn ask<T: DeserializeOwned>(
        &mut self,
        op: Op,
        argument: &(impl Serialize + Sync),
    ) -> Checked<T> {
        self.is_worth_asking(op)?;
        match self.say(op, argument).await {
            Reply::Yes(document) => serde_json::from_str(&document)
                .or_else(|e| failed(format!("the reply to {} cannot be read: {e}", op.name()))),
            Reply::No(error) if error.code == ErrorCode::Absent && is_beginning(op) => {
                skipped(format!("not here: {}", error.message))
            }
            Reply::No(error) => failed(format!("{} was refused: {}", op.name(), error.message)),
            other => nothing(op, other),
        }
    }

    /// One call that must be refused.
    pub(super) async fn ask_in_vain(
        &mut self,
        op: Op,
        argument: &(impl Serialize + Sync),
    ) -> Checked<PluginError> {
        self.is_worth_asking(op)?;
        match self.say(op, argument).await {
            Reply::No(error) => Ok(error),
            Reply::Yes(_) => failed(format!("{} did as it was asked", op.name())),
            other => nothing(op, other),
        }
    }

    /// One call that must be answered before its deadline, however.
    pub(super) async fn ask_in_time(
        &mut self,
        op: Op,
        argument: &(impl Serialize + Sync),
    ) -> Checked {
        match self.say(op, argument).await {
            late @ Reply::Late(_) => nothing(op, late),
            _ => Ok(()),
        }
    }

    /// An operation that was late once is not waited for again.
    pub(super) fn is_worth_asking(&self, op: Op) -> Checked {
        match self.talk.borrow().late.contains(&op) {
            true => skipped(format!(
                "{0} does not answer in time: see deadline.{0}",
                op.name()
            )),
            false => Ok(()),
        }
    }
}

/// No answer came, which is a failure in these words.
fn nothing<T>(op: Op, reply: Reply) -> Checked<T> {
    match reply {
        Reply::Late(after) => failed(format!(
            "{} did not answer within {} ms",
            op.name(),
            after.as_millis()
        )),
        Reply::Nothing(why) => failed(format!("{} failed: {why}", op.name())),
        Reply::Yes(_) | Reply::No(_) => failed(format!("{} was answered", op.name())),
    }
}

/// May the operation say that there is no such hardware here?
fn is_beginning(op: Op) -> bool {
    matches!(op, Op::Open | Op::Discover | Op::Watch)
}

fn read(frame: &[u8]) -> Reply {
    match serde_json::from_slice::<Answer<'_>>(frame) {
        Ok(Answer { result, .. }) => match result {
            Outcome::Ok(document) => Reply::Yes(document.get().to_owned()),
            Outcome::Refused(error) => Reply::No(error),
            Outcome::Unreadable(why) | Outcome::Unloadable(why) => Reply::Nothing(why),
        },
        Err(error) => Reply::Nothing(format!("its answer cannot be read: {error}")),
    }
}

/// The code as it is in a document.
pub(in crate::plugin) fn code(code: ErrorCode) -> String {
    let word = serde_json::to_value(code).ok();
    word.and_then(|w| Some(w.as_str()?.to_owned()))
        .unwrap_or_default()
}

/// The beginning of a text that is too long, and how much is left out.
pub(crate) fn shortened(text: &str, to: usize) -> String {
    if text.len() <= to {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(to);
    format!("{}… ({} bytes)", &text[..end], text.len())
}
