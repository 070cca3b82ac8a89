//! Answers that go on: output, logs, events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use futures_util::stream::unfold;
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use super::Server;
use super::answer::Refusal;
use super::peer::Peer;
use crate::agent::AgentError;
use crate::agent::events::Event;
use crate::api::FRAMES;
use crate::monitor::{self, Ask, ExecError, ExecRequest, Log};
use crate::sys;

/// The longest request for another command, bytes.
const EXEC_LIMIT: usize = 2 << 20;

type At = State<Arc<Server>>;
type By = ConnectInfo<Peer>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LogsQuery {
    follow: bool,
}

pub(super) async fn logs(
    State(server): At,
    ConnectInfo(peer): By,
    Path(name): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Refusal> {
    let record = server.find(&peer, &name).await?;
    let log = Log::open(server.agent().folder(&record.id), query.follow)
        .map_err(|e| AgentError::System("its log cannot be read", e))?;
    let lines = unfold(log, async |mut log| match log.line().await {
        Ok(Some(mut line)) => {
            line.push('\n');
            Some((Ok::<_, std::io::Error>(line), log))
        }
        Ok(None) => None,
        Err(error) => Some((Err(error), log)),
    });
    let ndjson = [(CONTENT_TYPE, "application/x-ndjson")];
    Ok((ndjson, Body::from_stream(lines)).into_response())
}

pub(super) async fn attach(
    State(server): At,
    ConnectInfo(peer): By,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let record = server.find(&peer, &name).await?;
    let stream = monitor::open(&server.agent().folder(&record.id), &Ask::Attach)
        .await
        .map_err(|_| AgentError::NotRunning(record.name))?;
    upgrade(request, stream)
}

pub(super) async fn exec(
    State(server): At,
    ConnectInfo(peer): By,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let record = server.find(&peer, &name).await?;
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, EXEC_LIMIT).await;
    let body = body.map_err(|e| AgentError::Unreadable(e.to_string()))?;
    let asked: ExecRequest =
        serde_json::from_slice(&body).map_err(|e| AgentError::Unreadable(e.to_string()))?;
    let stream = monitor::open(&server.agent().folder(&record.id), &Ask::Exec(asked)).await;
    let stream = stream.map_err(|error| match error {
        ExecError::Unreachable(_) => AgentError::NotRunning(record.name),
        refused @ ExecError::Refused { .. } => refused.into(),
    })?;
    upgrade(Request::from_parts(parts, Body::empty()), stream)
}

/// Answers `101` and connects the client with a monitor.
pub(super) fn upgrade(
    mut request: Request,
    mut stream: tokio::net::UnixStream,
) -> Result<Response, Refusal> {
    let asked = request.headers().get(UPGRADE).is_some_and(|u| u == FRAMES);
    let upgrade = request
        .extensions_mut()
        .remove::<hyper::upgrade::OnUpgrade>();
    let (true, Some(upgrade)) = (asked, upgrade) else {
        return Err(AgentError::Unreadable(format!(
            "this operation answers with frames: send the headers Connection: upgrade and Upgrade: {FRAMES}"
        ))
        .into());
    };
    tokio::spawn(async move {
        if let Ok(client) = upgrade.await {
            let mut client = TokioIo::new(client);
            // Until either goes away.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut stream).await;
        }
    });
    let headers = [
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static(FRAMES)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct EventsQuery {
    after: Option<String>,
    follow: bool,
}

impl Default for EventsQuery {
    fn default() -> Self {
        Self {
            after: None,
            follow: true,
        }
    }
}

pub(super) async fn events(
    State(server): At,
    ConnectInfo(peer): By,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> Response {
    let resumed = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let after = resumed.map(str::to_owned).or(query.after);
    let stream = listen(server, peer, after.as_deref(), query.follow);
    Sse::new(stream)
        .keep_alive(KeepAlive::default())
        .into_response()
}

/// The events that a peer may know of, from a place on.
fn listen(
    server: Arc<Server>,
    peer: Peer,
    after: Option<&str>,
    follow: bool,
) -> impl Stream<Item = Result<sse::Event, Infallible>> + use<> {
    let more = server.feed.listen();
    let (place, gap) = server.feed.place(after, sys::now_ms());
    let first: Vec<_> = gap
        .and_then(|gap| written(&server.feed.id(place), &gap))
        .into_iter()
        .collect();
    let state = (
        server,
        peer,
        more,
        place,
        std::collections::VecDeque::from(first),
    );
    unfold(
        state,
        move |(server, peer, mut more, mut place, mut ready)| async move {
            loop {
                if let Some(event) = ready.pop_front() {
                    return Some((Ok(event), (server, peer, more, place, ready)));
                }
                more.mark_unchanged();
                for (number, id, event) in server.feed.after(place) {
                    place = number;
                    let event = shown(&event, &peer, &server);
                    ready.extend(event.and_then(|e| written(&id, &e)));
                }
                if ready.is_empty() && (!follow || more.changed().await.is_err()) {
                    return None;
                }
            }
        },
    )
}

/// An event as this peer may see it.
fn shown(event: &Event, peer: &Peer, server: &Server) -> Option<Event> {
    if peer.is_admin(&server.rules) {
        return Some(event.clone());
    }
    let own = event.owners.iter().any(|uid| peer.owns(*uid));
    if event.kind.starts_with("workload.") && !own {
        return None;
    }
    let mut event = event.clone();
    let all = event.owners.len();
    event.owners.retain(|uid| peer.owns(*uid));
    // Names of theirs alone may stay; which of several are theirs is not said here.
    if event.id.is_none() && event.owners.len() < all {
        event.holders.clear();
    }
    Some(event)
}

fn written(id: &str, event: &Event) -> Option<sse::Event> {
    sse::Event::default().id(id).json_data(event).ok()
}
