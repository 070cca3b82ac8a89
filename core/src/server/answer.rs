//! Failures as HTTP answers.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::agent::AgentError;
use crate::api::{Failed, Fault};
use crate::ledger::LedgerError;

/// A failure on its way out.
#[derive(Debug)]
pub(super) struct Refusal(AgentError);

impl<E: Into<AgentError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = Fault::from(&self.0);
        (status(&self.0), Json(Failed { error })).into_response()
    }
}

/// The nearest that HTTP has; the code says more.
fn status(error: &AgentError) -> StatusCode {
    use AgentError as E;
    match error {
        E::NoSuchWorkload(_) | E::NoSuchDevice(_) => StatusCode::NOT_FOUND,
        E::Denied(_) => StatusCode::FORBIDDEN,
        E::TooManyConnections(_) | E::TooManyOthers(_) => StatusCode::TOO_MANY_REQUESTS,
        E::Refused { .. }
        | E::NameTaken { .. }
        | E::StillThere(_)
        | E::NotRunning(_)
        | E::NotReleased(_)
        | E::Ambiguous(_)
        | E::AmbiguousDevice(..)
        | E::NothingGranted => StatusCode::CONFLICT,
        E::Amount(_)
        | E::Name(_)
        | E::ReservedEnv(_)
        | E::Env(_)
        | E::NoCommand
        | E::Unreadable(_)
        | E::Root(_)
        | E::TooLittleMemory(_)
        | E::Mount(_)
        | E::Image(_) => StatusCode::UNPROCESSABLE_ENTITY,
        E::Plugin { .. } | E::PluginGone(_) | E::NoLimits(..) => StatusCode::SERVICE_UNAVAILABLE,
        E::Ledger(LedgerError::Locked(_)) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
