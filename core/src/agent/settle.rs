//! The way back: a container is gone, its slices become free.

use std::path::Path;
use std::sync::Arc;

use divvy_plugin::ReleaseRequest;

use super::AgentError;
use crate::failpoint::{Point, hit};
use crate::launch::Folder;
use crate::ledger::Ledger;
use crate::model::{Exit, Record, State};
use crate::plugin::{self, Set};

/// Settles a workload whose process has ended: plugins release, the ledger
/// notes how it ended, or forgets it if it was run so. A plugin that cannot
/// release keeps its slices closed (`releasing`), and is asked again by the next
/// `divvy`. The record as it is now; `None`: there is none. Its folder is for
/// [`leave`], once its container is gone too.
///
/// # Errors
/// The ledger or the plugin folder; then it is settled by the next `divvy`.
pub async fn settle(
    state: &Path,
    plugins: &plugin::Settings,
    id: &str,
    exit: Exit,
) -> Result<Option<Record>, AgentError> {
    let ledger = Ledger::new(state);
    let Some((record, all)) = begin(&ledger, id, exit)? else {
        return Ok(None);
    };
    // Started only now: a monitor has no host while its job runs.
    let plugins = Set::open(plugins)?;
    plugins.set_held(&Arc::new(all));
    end(&ledger, &plugins, record).await.map(Some)
}

/// As [`settle`], with plugins that run already.
pub(super) async fn settle_with(
    ledger: &Ledger,
    plugins: &Set,
    id: &str,
    exit: Exit,
) -> Result<Option<Record>, AgentError> {
    match begin(ledger, id, exit)? {
        Some((record, _)) => end(ledger, plugins, record).await.map(Some),
        None => Ok(None),
    }
}

/// The last step, when nothing is mounted any more: the folder of a settled
/// workload is tidied, or goes with its record.
pub fn leave(folder: &Folder, record: &Record) {
    if record.remove_on_exit {
        folder.remove();
    } else {
        folder.tidy();
        hit(Point::SettleTidied);
        // A copy; the ledger has it.
        let _ = folder.save_record(record);
    }
}

/// The ledger says that it is over: its record, and all records.
fn begin(
    ledger: &Ledger,
    id: &str,
    exit: Exit,
) -> Result<Option<(Record, Vec<Record>)>, AgentError> {
    let found = ledger.transact(|t| {
        let Some(record) = t.get(id) else {
            return Ok::<_, AgentError>(None);
        };
        let mut record = record.clone();
        record.state = State::Releasing;
        record.pid = None;
        record.exit.get_or_insert(exit);
        t.put(record.clone());
        Ok(Some((record, t.records().to_vec())))
    })?;
    hit(Point::SettleReleasing);
    Ok(found)
}

/// Plugins release it, and nothing is held any more.
async fn end(ledger: &Ledger, plugins: &Set, mut record: Record) -> Result<Record, AgentError> {
    release(plugins, &record).await?;
    hit(Point::SettleReleased);
    record.state = State::Exited;
    ledger.transact(|t| {
        if record.remove_on_exit {
            t.remove(&record.id);
        } else {
            t.put(record.clone());
        }
        Ok::<_, AgentError>(())
    })?;
    hit(Point::SettleExited);
    Ok(record)
}

/// Has every plugin of a workload release it.
pub(super) async fn release(plugins: &Set, record: &Record) -> Result<(), AgentError> {
    for name in record.plugins() {
        let Some(client) = plugins.get(name) else {
            // Taken away, or refused: what it made for this workload may still
            // be there, and nobody else can tell.
            return Err(AgentError::PluginGone(name.to_owned()));
        };
        let slices = record.slices_of(name);
        client
            .release(&ReleaseRequest {
                allocation: record.id.clone(),
                slices,
            })
            .await?;
    }
    Ok(())
}
