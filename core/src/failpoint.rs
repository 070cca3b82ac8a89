//! Places at which a process can be made to die, so that tests can kill it at
//! each of them: everything between two of them is a `kill -9` at a bad moment.
//!
//! In debug builds, `DIVVY_FAILPOINT=run.reserved,monitor.made:2` with
//! `DIVVY_FAILPOINT_MARKS=FOLDER` makes the process that comes to the point
//! (for the second time) send itself SIGKILL. A file named after the point in
//! that folder says that it happened, and keeps it from happening twice. In
//! release builds there is nothing of this.

/// Defines the points: their names, and what is so at each.
macro_rules! points {
    ($($(#[doc = $about:literal])+ $point:ident = $name:literal,)+) => {
        /// A place at which a process can be made to die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Point {
            $($(#[doc = $about])+ $point,)+
        }

        impl Point {
            /// All of them, in the order in which a workload comes by.
            pub const ALL: &[Self] = &[$(Self::$point),+];

            /// Its name, `ROLE.WHAT`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$point => $name),+ }
            }

            /// What has been done by then, and what has not.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Self::$point => concat!($($about),+).trim_ascii()),+ }
            }
        }
    };
}

points! {
    /// `run`: nothing is done.
    RunBegun = "run.begun",
    /// `run`: all is checked, nothing is taken.
    RunPlanned = "run.planned",
    /// `run`: the folder is made and locked; no record.
    RunFolder = "run.folder",
    /// `run`: the intent is in the ledger; no copy of it.
    RunReserved = "run.reserved",
    /// `run`: the copy is there; no plugin was asked.
    RunCopied = "run.copied",
    /// `run`: plugins have prepared; no bundle.
    RunPrepared = "run.prepared",
    /// `run`: the bundle is there; `container.json` is not.
    RunBundled = "run.bundled",
    /// `run`: `container.json` is there; the monitor's settings are not.
    RunDescribed = "run.described",
    /// `run`: all files are there; no monitor.
    RunReady = "run.ready",
    /// `run`: the monitor is started; both hold the lock.
    RunMonitored = "run.monitored",
    /// `run`: the container exists and waits; it is not proven.
    RunCreated = "run.created",
    /// `run`: it is proven; plugins are not told.
    RunProven = "run.proven",
    /// `run`: plugins are told; the record says `preparing`.
    RunTold = "run.told",
    /// `run`: the copy says `running`; the ledger does not.
    RunCopiedRunning = "run.copied_running",
    /// `run`: the ledger says `running`; no go.
    RunCommitted = "run.committed",
    /// `run`: go is said; no answer.
    RunGo = "run.go",
    /// `run`: the monitor says that it runs.
    RunStarted = "run.started",

    /// A run that failed is undone: nothing is, yet.
    UndoBegun = "undo.begun",
    /// Undo: the container is gone; plugins have not released.
    UndoCleared = "undo.cleared",
    /// Undo: plugins have released; the ledger has the record.
    UndoReleased = "undo.released",
    /// Undo: the ledger has forgotten it; the folder is there.
    UndoForgotten = "undo.forgotten",

    /// Monitor: it has the lock, and has read nothing.
    MonitorBegun = "monitor.begun",
    /// Monitor: its socket is bound.
    MonitorListens = "monitor.listens",
    /// Monitor: the root is mounted, the streams are not made.
    MonitorAssembled = "monitor.assembled",
    /// Monitor: the runtime's `create` runs.
    MonitorCreates = "monitor.creates",
    /// Monitor: the runtime has made the container.
    MonitorCreated = "monitor.created",
    /// Monitor: it follows the container; the command is not told.
    MonitorMade = "monitor.made",
    /// Monitor: the command is told, and has not answered.
    MonitorReported = "monitor.reported",
    /// Monitor: go is heard; the runtime's `start` is not called.
    MonitorGo = "monitor.go",
    /// Monitor: the runtime's `start` runs.
    MonitorStarts = "monitor.starts",
    /// Monitor: the job runs; the command is not told.
    MonitorStarted = "monitor.started",
    /// Monitor: the job runs, the command is told.
    MonitorCarries = "monitor.carries",
    /// Monitor: the command went away before go; the container waits.
    MonitorAbandoned = "monitor.abandoned",
    /// Monitor: the abandoned container is gone; nothing says so.
    MonitorTakenDown = "monitor.taken_down",
    /// Monitor: the job has ended; its output may still flow.
    MonitorEnded = "monitor.ended",
    /// Monitor: all output is read; the container is there.
    MonitorDrained = "monitor.drained",
    /// Monitor: the container is deleted; its root is mounted.
    MonitorDeleted = "monitor.deleted",
    /// Monitor: the root is taken apart; how it ended is not written.
    MonitorDisassembled = "monitor.disassembled",
    /// Monitor: how it ended is written; the ledger says `running`.
    MonitorNoted = "monitor.noted",
    /// Monitor: all is settled; clients are not told.
    MonitorSettled = "monitor.settled",
    /// Monitor: clients are told.
    MonitorTold = "monitor.told",

    /// Settling: the ledger says `releasing`; plugins are not asked.
    SettleReleasing = "settle.releasing",
    /// Settling: plugins have released; the ledger says `releasing`.
    SettleReleased = "settle.released",
    /// Settling: the ledger says `exited`; the folder is not tidied.
    SettleExited = "settle.exited",
    /// Settling: the folder is tidied; its copy says `running`.
    SettleTidied = "settle.tidied",

    /// Recovery: the lock of an abandoned workload is taken.
    RecoverLocked = "recover.locked",
    /// Recovery: it is known what is to be done.
    RecoverJudged = "recover.judged",
    /// Recovery: another monitor is about to be started.
    RecoverAdopts = "recover.adopts",
    /// Recovery: another monitor is started; both hold the lock.
    RecoverAdopted = "recover.adopted",
    /// Recovery: nothing runs any more; plugins have not released.
    RecoverCleared = "recover.cleared",
    /// Recovery: plugins have released an intent; the ledger has it.
    RecoverReleased = "recover.released",
    /// Recovery: the ledger has forgotten an intent; the folder is there.
    RecoverForgotten = "recover.forgotten",
    /// Recovery: a folder of no record is about to be removed.
    RecoverSweeps = "recover.sweeps",

    /// `stop`: the workload is found; its monitor is not asked.
    StopFound = "stop.found",
    /// `stop`: the monitor is asked, and has not answered.
    StopAsked = "stop.asked",
    /// `stop`: it has ended.
    StopEnded = "stop.ended",
    /// `rm`: the ledger has forgotten it; the folder is there.
    RemoveForgotten = "rm.forgotten",

    /// Ledger: the lock is taken; the file is not opened.
    LedgerLocked = "ledger.locked",
    /// Ledger: the file is opened and checked; nothing is read.
    LedgerOpened = "ledger.opened",
    /// Ledger: it is decided; nothing is written.
    LedgerDecided = "ledger.decided",
    /// Ledger: it is written; nothing is committed.
    LedgerWritten = "ledger.written",
    /// Ledger: it is committed; the file is open.
    LedgerCommitted = "ledger.committed",
    /// Rebuilding: the copies are read; nothing is written.
    RebuildRead = "rebuild.read",
    /// Rebuilding: the new ledger is written beside the old one.
    RebuildWritten = "rebuild.written",
    /// Rebuilding: the old ledger has a second name.
    RebuildAside = "rebuild.aside",
    /// Rebuilding: the new ledger has taken its place.
    RebuildReplaced = "rebuild.replaced",

    /// A runtime's trial: its `create` runs.
    ProbeCreates = "probe.creates",
    /// A runtime's trial: the container is made, or not; it is not deleted.
    ProbeMade = "probe.made",
    /// A runtime's trial: the container is deleted; its folder is there.
    ProbeDeleted = "probe.deleted",

    /// Built-in runtime, `create`: the id is taken; there is no process.
    RuntimeClaimed = "runtime.claimed",
    /// Built-in runtime, `create`: the process waits; nothing says so.
    RuntimeBuilt = "runtime.built",
    /// Built-in runtime, `create`: all is noted but the pid file.
    RuntimeRecorded = "runtime.recorded",
    /// Built-in runtime, `start`: the process waits.
    RuntimeStarts = "runtime.starts",
    /// Built-in runtime, `start`: the process runs.
    RuntimeStarted = "runtime.started",
    /// Built-in runtime, `delete`: the first process is dead.
    RuntimeKilled = "runtime.killed",
    /// Built-in runtime, `delete`: the cgroup is gone; the notes are there.
    RuntimeEmptied = "runtime.emptied",
}

/// Dies here, if that was asked for.
#[cfg(debug_assertions)]
pub(crate) fn hit(point: Point) {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};

    static PASSED: Mutex<BTreeMap<Point, u32>> = Mutex::new(BTreeMap::new());
    let (Some(armed), Some(marks)) = (
        std::env::var_os("DIVVY_FAILPOINT"),
        std::env::var_os("DIVVY_FAILPOINT_MARKS"),
    ) else {
        return;
    };
    let armed = armed.to_string_lossy().into_owned();
    let nth = armed.split(',').find_map(|one| {
        let (name, nth) = one.split_once(':').unwrap_or((one, "1"));
        (name == point.name()).then(|| nth.parse::<u32>().ok())?
    });
    let Some(nth) = nth else { return };
    let passed = {
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = passed.entry(point).or_default();
        *passed += 1;
        *passed
    };
    // Whoever makes the file is the one to die.
    let mark = std::path::Path::new(&marks).join(point.name());
    if passed == nth && std::fs::File::create_new(mark).is_ok() {
        let own = rustix::process::getpid();
        let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        // The signal is on its way.
        std::thread::sleep(std::time::Duration::from_secs(10));
    }
}

/// Nothing, in release builds.
#[cfg(not(debug_assertions))]
#[inline]
pub(crate) fn hit(_: Point) {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Point;

    #[test]
    fn each_point_has_a_name_of_its_own_and_says_what_is_so_there() {
        let names: BTreeSet<&str> = Point::ALL.iter().map(|p| p.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        assert!(names.len() >= 40, "only {} points", names.len());
        for point in Point::ALL {
            assert!(
                point.about().ends_with('.'),
                "{}: {:?}",
                point.name(),
                point.about()
            );
        }
    }
}
