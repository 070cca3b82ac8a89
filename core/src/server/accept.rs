//! Connections: whose each is, how many one user and all users may hold, and how
//! long half a request may take.
//!
//! A member who opens connections and says nothing must not use up what all
//! others need, the agent's descriptors.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::Resource;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use super::answer::Refusal;
use super::peer::Peer;
use crate::agent::AgentError;

/// Connections that one user may hold at once; root is not counted. A command
/// takes one or two.
const PER_USER: usize = 256;
/// Connections that all others than root may hold together: whoever has
/// subordinate ids is many users. So many at most, and no more than [`OF_EIGHT`]
/// eighths of the descriptors that the agent may have: a job that is attached
/// takes two, and a quarter is left to root and to the agent's work.
const OTHERS: usize = 4096;
const OF_EIGHT: u64 = 3;
/// How long a request's head may take to come, and the next one after it.
const HEAD: Duration = Duration::from_secs(10);
/// When no connection can be taken, because all descriptors are in use.
const PAUSE: Duration = Duration::from_millis(100);
/// So many more are told why they are not served; yet more are not.
const MORE: usize = 16;
/// How long one that is refused may take to ask.
const MOMENT: Duration = Duration::from_secs(1);

/// Serves whoever connects, for ever.
pub(super) async fn serve(listener: UnixListener, app: Router) {
    let count = Count::new(others(rustix::process::getrlimit(Resource::Nofile).current));
    let app = TowerToHyperService::new(app);
    let full = |error: fn(usize) -> AgentError, most: usize| {
        let refuse = async move || Refusal::from(error(most));
        TowerToHyperService::new(Router::new().fallback(refuse))
    };
    let user_is_full = full(AgentError::TooManyConnections, PER_USER);
    let all_are_full = full(AgentError::TooManyOthers, count.others);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a connection cannot be taken: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let peer = Peer::of(&stream);
        // Whom the kernel does not name may nothing, and is nobody in particular.
        let user = peer.uid().unwrap_or(u32::MAX);
        let Some(place) = count.take(user) else {
            continue;
        };
        let (app, head) = match place.over {
            None => (app.clone(), HEAD),
            Some(Over::User) => {
                tracing::info!("user {user} has too many connections open");
                (user_is_full.clone(), MOMENT)
            }
            Some(Over::All) => {
                tracing::warn!("user {user} is refused: others than root hold all connections");
                (all_are_full.clone(), MOMENT)
            }
        };
        let served = place.over.is_none();
        let connection = Connection {
            stream,
            _place: place,
        };
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer.clone()));
            app.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .keep_alive(served)
            .serve_connection(TokioIo::new(connection), service)
            .with_upgrades();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
}

/// How many connections all others than root may have, of an agent that may have
/// so many descriptors.
fn others(descriptors: Option<u64>) -> usize {
    let part = descriptors.map_or(u64::MAX, |all| all / 8 * OF_EIGHT);
    usize::try_from(part).map_or(OTHERS, |part| part.min(OTHERS))
}

/// How many connections each user has, and how many all may.
#[derive(Clone, Debug)]
struct Count {
    held: Arc<Mutex<Held>>,
    others: usize,
}

#[derive(Debug, Default)]
struct Held {
    by: HashMap<u32, usize>,
    all: usize,
}

/// Whose measure is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    User,
    All,
}

/// One user's connection, as long as it is kept.
#[derive(Debug)]
struct Place {
    count: Count,
    user: Option<u32>,
    /// Beyond what may be held: there to be told so.
    over: Option<Over>,
}

impl Count {
    fn new(others: usize) -> Self {
        Self {
            held: Arc::default(),
            others,
        }
    }

    /// A place for one more of this user's, if there is one.
    fn take(&self, user: u32) -> Option<Place> {
        let user = Some(user).filter(|uid| *uid != 0);
        let mut over = None;
        if let Some(uid) = user {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let own = held.by.get(&uid).copied().unwrap_or_default();
            if own >= PER_USER + MORE || held.all >= self.others + MORE {
                return None;
            }
            if own >= PER_USER {
                over = Some(Over::User);
            } else if held.all >= self.others {
                over = Some(Over::All);
            }
            held.by.insert(uid, own + 1);
            held.all += 1;
        }
        Some(Place {
            count: self.clone(),
            user,
            over,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(uid) = self.user else { return };
        let mut held = self
            .count
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        if let Some(own) = held.by.get_mut(&uid) {
            *own -= 1;
            if *own == 0 {
                held.by.remove(&uid);
            }
        }
    }
}

/// A stream that counts until it is closed, also when it has become one of
/// frames.
struct Connection {
    stream: UnixStream,
    _place: Place,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(count: &Count, user: u32, many: usize) -> Vec<Place> {
        (0..many).map(|_| count.take(user).unwrap()).collect()
    }

    #[test]
    fn a_user_has_so_many_places_and_root_has_all() {
        let count = Count::new(OTHERS);
        let mut held = take(&count, 7, PER_USER);
        assert!(held.iter().all(|p| p.over.is_none()));
        let over = take(&count, 7, MORE);
        assert!(over.iter().all(|p| p.over == Some(Over::User)));
        assert!(count.take(7).is_none());
        assert!(count.take(8).unwrap().over.is_none());
        drop(over);
        held.pop();
        held.extend(take(&count, 7, 1));
        held.extend(take(&count, 0, 2 * PER_USER));
        assert!(held.iter().all(|p| p.over.is_none()));
        drop(held);
        let left = count.held.lock().unwrap();
        assert!(left.by.is_empty() && left.all == 0);
    }

    #[test]
    fn many_users_together_leave_root_its_own() {
        let count = Count::new(100);
        let users = |from: u32, many: u32| -> Vec<Place> {
            (from..from + many)
                .map(|u| count.take(u).unwrap())
                .collect()
        };
        let held = users(100_000, 100);
        assert!(held.iter().all(|p| p.over.is_none()));
        let over = users(200_000, u32::try_from(MORE).unwrap());
        assert!(over.iter().all(|p| p.over == Some(Over::All)));
        assert!(count.take(300_000).is_none());
        assert!(take(&count, 0, 1000).iter().all(|p| p.over.is_none()));
        drop(held);
        drop(over);
        assert!(count.take(300_000).unwrap().over.is_none());
    }

    #[test]
    fn an_agent_of_few_descriptors_serves_fewer() {
        assert_eq!(others(Some(1024)), 384);
        assert_eq!(others(Some(65_536)), OTHERS);
        assert_eq!(others(None), OTHERS);
    }
}
