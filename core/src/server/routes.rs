//! Every operation of the table, on the agent. Each first asks who wants it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::task::block_in_place;

use super::answer::Refusal;
use super::peer::Peer;
use super::{Server, streams};
use crate::agent::{
    Agent, AgentError, AllocateRequest, Decision, Devices, Plugins, RunRequest, Samples, Workloads,
    pick,
};
use crate::api::{self, Created, Ended, OPERATIONS, Removed, StopRequest, Version};
use crate::launch::{LaunchError, check_user_mount};
use crate::model::{self, Exit, Record, State as Standing};
use crate::monitor;

/// How often is looked for the monitor of a workload that has none.
const LOOK: Duration = Duration::from_millis(100);

type At = State<Arc<Server>>;
type By = ConnectInfo<Peer>;
type Answer<T> = Result<Json<T>, Refusal>;

/// The router, made from the table: an operation without a function here is a
/// mistake that the first test to start an agent finds.
pub(super) fn router(server: Arc<Server>) -> Router {
    let mut router = Router::new();
    for operation in &OPERATIONS {
        let route: MethodRouter<Arc<Server>> = match operation.id {
            "version" => get(version),
            "openapi" => get(async || Json(api::document())),
            "devices" => get(devices),
            "samples" => get(samples),
            "plugins" => get(plugins),
            "fit" => post(fit),
            "workloads" => get(workloads),
            "run" => post(run),
            "allocate" => post(allocate),
            "prepare" => post(prepare),
            "workload" => get(workload),
            "remove" => delete(remove),
            "start" => post(start),
            "stop" => post(stop),
            "wait" => get(wait),
            "logs" => get(streams::logs),
            "attach" => post(streams::attach),
            "exec" => post(streams::exec),
            "events" => get(streams::events),
            "metrics" => get(metrics),
            other => unreachable!("the operation {other} is served by nobody"),
        };
        router = router.route(operation.path, route);
    }
    router
        .fallback(async || {
            let error = AgentError::Denied(
                "there is no such operation: GET /v1/openapi.json lists them".into(),
            );
            (StatusCode::NOT_FOUND, Refusal::from(error)).into_response()
        })
        .layer(axum::middleware::from_fn(traced))
        .with_state(server)
}

/// Each request has an id, which its log lines carry.
async fn traced(request: Request, next: axum::middleware::Next) -> Response {
    use std::sync::atomic::{AtomicU64, Ordering};
    use tracing::Instrument;
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let span =
        tracing::info_span!("request", id, method = %request.method(), path = request.uri().path());
    let began = Instant::now();
    async move {
        let response = next.run(request).await;
        tracing::debug!(
            status = response.status().as_u16(),
            us = began.elapsed().as_micros(),
            "answered"
        );
        response
    }
    .instrument(span)
    .await
}

async fn version(State(server): At) -> Json<Version> {
    let agent = server.agent();
    Json(Version {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        started_ms: server.started_ms,
        state: server.settings.state.display().to_string(),
        plugin_dir: agent.plugins().folder.display().to_string(),
        machine: server.settings.machine.clone(),
    })
}

async fn devices(State(server): At, ConnectInfo(peer): By) -> Answer<Devices> {
    server.known().await;
    let records = server.records().await?;
    let mut devices = server.seen(|_, watched| watched.devices(&records));
    if !peer.is_admin(&server.rules) {
        // How much is free concerns everybody, whose the rest is does not.
        let own = |name: &String| {
            records
                .iter()
                .any(|r| r.name == *name && peer.owns(r.owner))
        };
        devices.held.retain(|h| own(&h.name));
        for view in &mut devices.devices {
            let all = view.holders.len();
            view.holders.retain(own);
            if view.holders.len() < all {
                view.holders.push("(others)".into());
            }
        }
    }
    Ok(Json(devices))
}

async fn samples(State(server): At, ConnectInfo(peer): By) -> Answer<Samples> {
    let records = server.records().await?;
    let samples = server.samples(&records).await;
    if peer.is_admin(&server.rules) {
        return Ok(Json(samples));
    }
    // Of a device's use everybody may know, of who it is used by nobody else.
    Ok(Json(samples.of_workloads(|w| peer.owns(w.owner))))
}

async fn plugins(State(server): At) -> Json<Plugins> {
    server.known().await;
    Json(server.seen(|agent, watched| watched.plugin_list(agent)))
}

async fn fit(
    State(server): At,
    ConnectInfo(peer): By,
    request: Result<Json<model::Request>, JsonRejection>,
) -> Answer<Decision> {
    let Json(request) = request.map_err(unreadable)?;
    server.known().await;
    let decision = server.work(move |agent| async move { agent.fit(&request).await });
    Ok(Json(decision.await.map_err(|e| server.discreet(&peer, e))?))
}

async fn workloads(State(server): At, ConnectInfo(peer): By) -> Answer<Workloads> {
    let workloads = server.visible(&peer).await?;
    Ok(Json(Workloads { workloads }))
}

async fn workload(
    State(server): At,
    ConnectInfo(peer): By,
    Path(name): Path<String>,
) -> Answer<Record> {
    Ok(Json(server.find(&peer, &name).await?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RunQuery {
    start: bool,
}

async fn run(
    State(server): At,
    ConnectInfo(peer): By,
    Query(query): Query<RunQuery>,
    request: Result<Json<RunRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Created>), Refusal> {
    let Json(mut request) = request.map_err(unreadable)?;
    // A file system of somebody's may keep it waiting.
    block_in_place(|| look(&server, &peer, &mut request))?;
    server.known().await;
    let mut started = server
        .work(move |agent| async move { agent.run(request).await })
        .await
        .map_err(|e| server.discreet(&peer, e))?;
    let created = Created {
        workload: started.record.clone(),
        notes: started.notes.clone(),
    };
    if query.start {
        started.go().await?;
    } else {
        server.keep_waiting(started);
    }
    Ok((StatusCode::CREATED, Json(created)))
}

/// Looks at what of the host is asked for: as the caller, then by the rules.
fn look(server: &Server, peer: &Peer, request: &mut RunRequest) -> Result<(), AgentError> {
    peer.own(&server.rules, request)?;
    for mount in &mut request.mounts {
        let mode = if mount.read_only { "ro" } else { "rw" };
        let text = format!("{}:{}:{mode}", mount.source.display(), mount.target);
        let seen = mount.id;
        *mount = check_user_mount(&text, &server.settings.state)?;
        if seen.is_some() && seen != mount.id {
            return Err(LaunchError::Replaced(mount.source.clone()).into());
        }
    }
    Ok(())
}

async fn allocate(
    State(server): At,
    ConnectInfo(peer): By,
    request: Result<Json<AllocateRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Record>), Refusal> {
    let Json(mut request) = request.map_err(unreadable)?;
    peer.sign(&mut request.owner)?;
    server.known().await;
    let record = server
        .work(move |agent| async move { agent.allocate(&request).await })
        .await
        .map_err(|e| server.discreet(&peer, e))?;
    Ok((StatusCode::CREATED, Json(record)))
}

async fn prepare(
    State(server): At,
    ConnectInfo(peer): By,
    Path(name): Path<String>,
) -> Answer<Record> {
    let id = server.find(&peer, &name).await?.id;
    server.known().await;
    let prepare = move |agent: Arc<Agent>| async move { agent.prepare_held(&id).await };
    Ok(Json(server.work(prepare).await?))
}

async fn start(
    State(server): At,
    ConnectInfo(peer): By,
    Path(name): Path<String>,
) -> Answer<Record> {
    let record = server.find(&peer, &name).await?;
    let Some(mut started) = server.take_waiting(&record.id) else {
        return Err(
            AgentError::Denied(format!("{} does not wait for its start", record.name)).into(),
        );
    };
    started.go().await?;
    Ok(Json(started.record))
}

async fn stop(
    State(server): At,
    ConnectInfo(peer): By,
    Path(name): Path<String>,
    request: Result<Json<StopRequest>, JsonRejection>,
) -> Answer<Ended> {
    let grace = match request {
        Ok(Json(request)) => request,
        Err(JsonRejection::MissingJsonContentType(_)) => StopRequest::default(),
        Err(error) => return Err(unreadable(error).into()),
    };
    let record = server.find(&peer, &name).await?;
    // One that waits for its start has nothing to stop: it is undone.
    drop(server.take_waiting(&record.id));
    let grace = Duration::from_millis(grace.grace_ms);
    // The grace may be long: nobody's thread waits for it.
    let stopped = monitor::stop(&server.agent().folder(&record.id), grace).await;
    let exit = match stopped {
        Ok(exit) => Some(exit),
        Err(_) => {
            let stop = move |agent: Arc<Agent>| async move { agent.stop(&record, grace).await };
            server.work(stop).await?
        }
    };
    Ok(Json(Ended { exit }))
}

async fn wait(State(server): At, ConnectInfo(peer): By, Path(name): Path<String>) -> Answer<Ended> {
    let record = server.find(&peer, &name).await?;
    let exit = server.ended(&record.id).await?;
    Ok(Json(Ended { exit }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RemoveQuery {
    force: bool,
}

async fn remove(
    State(server): At,
    ConnectInfo(peer): By,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Answer<Removed> {
    let record = server.find(&peer, &name).await?;
    drop(server.take_waiting(&record.id));
    let removed = record.name.clone();
    let force = query.force;
    server
        .work(move |agent| async move { agent.forget(&record, force).await })
        .await?;
    Ok(Json(Removed { removed }))
}

async fn metrics(State(server): At, ConnectInfo(peer): By) -> Result<Response, Refusal> {
    if !peer.is_admin(&server.rules) {
        return Err(AgentError::Denied(
            "metrics name everybody's workloads: root and admins may read them".into(),
        )
        .into());
    }
    Ok(server.metrics_page().await)
}

fn unreadable(error: JsonRejection) -> AgentError {
    AgentError::Unreadable(error.body_text())
}

impl Server {
    /// What a peer may know of.
    pub(super) async fn visible(&self, peer: &Peer) -> Result<Vec<Record>, AgentError> {
        let records = self.records().await?;
        let may = |r: &&Record| peer.may(&self.rules, r);
        Ok(records.iter().filter(may).cloned().collect())
    }

    /// One of these; somebody else's does not exist.
    pub(super) async fn find(&self, peer: &Peer, name: &str) -> Result<Record, AgentError> {
        let records = self.records().await?;
        let visible = records.iter().filter(|r| peer.may(&self.rules, r));
        pick(visible, name).cloned()
    }

    /// Waits for a workload's end and the release of its slices.
    async fn ended(&self, id: &str) -> Result<Option<Exit>, AgentError> {
        loop {
            let records = self.records().await?;
            let Some(record) = records.iter().find(|r| r.id == id) else {
                return Ok(None);
            };
            if record.state == Standing::Exited {
                return Ok(record.exit.clone());
            }
            if let Ok(exit) = monitor::wait(&self.agent().folder(id)).await {
                return Ok(Some(exit));
            }
            // It has no monitor, or lost it: another follows.
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A failure without what is not the peer's to know.
    fn discreet(&self, peer: &Peer, error: AgentError) -> AgentError {
        if peer.is_admin(&self.rules) {
            return error;
        }
        match error {
            AgentError::Refused { mut refusal, .. } => {
                refusal.would_fit_without.clear();
                AgentError::Refused {
                    refusal,
                    held_by: None,
                }
            }
            other => other,
        }
    }
}
