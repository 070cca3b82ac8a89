//! The way back: a container is gone, its slices become free.

use std::path::Path;

use divvy_plugin::ReleaseRequest;

use super::AgentError;
use crate::failpoint::{Point, hit};
use crate::launch::Folder;
use crate::ledger::Ledger;
use crate::model::{Exit, Record, State};
use crate::plugin::{self, Set};

/// Settles a workload whose container is gone: plugins release, the ledger
/// notes how it ended, its folder is tidied, or removed with its record if it
/// was run so. A plugin that cannot release keeps its slices closed
/// (`releasing`), and is asked again by the next `divvy`.
///
/// # Errors
/// The ledger or the plugin folder; then it is settled by the next `divvy`.
pub async fn settle(
    state: &Path,
    plugins: &plugin::Settings,
    id: &str,
    exit: Exit,
) -> Result<(), AgentError> {
    let ledger = Ledger::new(state);
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
    let Some((record, all)) = found else {
        return Ok(());
    };
    hit(Point::SettleReleasing);
    let released = match Set::open(plugins) {
        Ok(set) => {
            set.set_held(&all);
            release(&set, &record).await
        }
        Err(error) => Err(error.into()),
    };
    released?;
    hit(Point::SettleReleased);
    close(&ledger, &Folder::new(state, id), record)
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

/// The last step: nothing is held any more.
fn close(ledger: &Ledger, folder: &Folder, mut record: Record) -> Result<(), AgentError> {
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
    if record.remove_on_exit {
        folder.remove();
    } else {
        folder.tidy();
        hit(Point::SettleTidied);
        // A copy; the ledger has it.
        let _ = folder.save_record(&record);
    }
    Ok(())
}
