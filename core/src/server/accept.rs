//! Connections: whose each is, how many one user may hold, and how long half a
//! request may take.
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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use super::answer::Refusal;
use super::peer::Peer;
use crate::agent::AgentError;

/// Connections that one user may hold at once; root is not counted. A command
/// takes one or two.
const PER_USER: usize = 256;
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
    let count = Count::default();
    let app = TowerToHyperService::new(app);
    let refuse = async || Refusal::from(AgentError::TooManyConnections(PER_USER));
    let full = TowerToHyperService::new(Router::new().fallback(refuse));
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
        let served = !place.is_over;
        let (app, head) = if served {
            (app.clone(), HEAD)
        } else {
            tracing::info!("user {user} has too many connections open");
            (full.clone(), MOMENT)
        };
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

/// How many connections each user has.
#[derive(Clone, Debug, Default)]
struct Count(Arc<Mutex<HashMap<u32, usize>>>);

/// One user's connection, as long as it is kept.
#[derive(Debug)]
struct Place {
    count: Count,
    user: Option<u32>,
    /// Beyond what one may hold: there to be told so.
    is_over: bool,
}

impl Count {
    /// A place for one more of this user's, if there is one.
    fn take(&self, user: u32) -> Option<Place> {
        let user = Some(user).filter(|uid| *uid != 0);
        let mut is_over = false;
        if let Some(uid) = user {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let held = all.entry(uid).or_default();
            if *held >= PER_USER + MORE {
                return None;
            }
            is_over = *held >= PER_USER;
            *held += 1;
        }
        Some(Place {
            count: self.clone(),
            user,
            is_over,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(uid) = self.user else { return };
        let mut all = self.count.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get_mut(&uid) {
            *held -= 1;
            if *held == 0 {
                all.remove(&uid);
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

    #[test]
    fn a_user_has_so_many_places_and_root_has_all() {
        let count = Count::default();
        let take = |user, many: usize| -> Vec<Place> {
            (0..many).map(|_| count.take(user).unwrap()).collect()
        };
        let mut held = take(7, PER_USER);
        assert!(held.iter().all(|p| !p.is_over));
        let over = take(7, MORE);
        assert!(over.iter().all(|p| p.is_over));
        assert!(count.take(7).is_none());
        assert!(!count.take(8).unwrap().is_over);
        drop(over);
        held.pop();
        held.extend(take(7, 1));
        assert!(held.iter().all(|p| !p.is_over));
        assert!(take(0, 2 * PER_USER).iter().all(|p| !p.is_over));
        drop(held);
        assert!(count.0.lock().unwrap().is_empty());
    }
}
