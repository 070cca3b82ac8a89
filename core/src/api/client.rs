//! Asking an agent: one connection a call, so that nothing of one is in the
//! way of another.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{FRAMES, Failed, Fault};
use crate::agent::AgentError;
use crate::monitor::{Attached, Signalled, joined};

/// An answer longer than this is a fault of the agent, bytes.
const LONGEST: usize = 64 << 20;

/// A client of one agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Of the agent that listens here.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET`: a document.
    ///
    /// # Errors
    /// What the agent says, or [`AgentError::NoAgent`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AgentError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// `POST`: a document for a document.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        document: Option<&impl Serialize>,
    ) -> Result<T, AgentError> {
        self.call(Method::POST, path, document).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, AgentError> {
        self.call(Method::DELETE, path, None::<&()>).await
    }

    /// `GET`: a body that goes on.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn stream(&self, path: &str) -> Result<Body, AgentError> {
        let response = self.send(Method::GET, path, None::<&()>, false).await?;
        Ok(Body {
            incoming: response.into_body(),
            rest: Vec::new(),
        })
    }

    /// An upgrade to frames.
    pub(crate) async fn frames(
        &self,
        path: &str,
        document: Option<&impl Serialize>,
    ) -> Result<(Attached, Signalled), AgentError> {
        let response = self.send(Method::POST, path, document, true).await?;
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|e| self.lost(e))?;
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        Ok(joined(read, write))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        document: Option<&impl Serialize>,
    ) -> Result<T, AgentError> {
        let response = self.send(method, path, document, false).await?;
        let body = self.whole(response.into_body()).await?;
        serde_json::from_slice(&body).map_err(|e| self.lost(format!("answers {e}")))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        document: Option<&impl Serialize>,
        upgrade: bool,
    ) -> Result<Response<Incoming>, AgentError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| self.lost(e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.lost(e))?;
        // Ends with the connection.
        tokio::spawn(connection.with_upgrades());
        let body = match document {
            Some(document) => serde_json::to_vec(document).map_err(io::Error::from),
            None => Ok(Vec::new()),
        };
        let body = body.map_err(|e| AgentError::System("a request cannot be written", e))?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "divvy");
        if document.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if upgrade {
            request = request
                .header(CONNECTION, HeaderValue::from_static("upgrade"))
                .header(UPGRADE, HeaderValue::from_static(FRAMES));
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| AgentError::System("a request cannot be written", io::Error::other(e)))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| self.lost(e))?;
        let good = response.status().is_success()
            || (upgrade && response.status() == StatusCode::SWITCHING_PROTOCOLS);
        if good {
            return Ok(response);
        }
        let status = response.status();
        let body = self.whole(response.into_body()).await?;
        Err(match serde_json::from_slice::<Failed>(&body) {
            Ok(failed) => AgentError::Remote(Box::new(failed.error)),
            Err(_) => AgentError::Remote(Box::new(Fault {
                code: "no_agent".into(),
                message: format!("what listens at {} answers {status}", self.socket.display()),
                refusal: None,
            })),
        })
    }

    async fn whole(&self, body: Incoming) -> Result<Bytes, AgentError> {
        let limited = http_body_util::Limited::new(body, LONGEST);
        let whole = limited.collect().await.map_err(|e| self.lost(e))?;
        Ok(whole.to_bytes())
    }

    fn lost(&self, why: impl std::fmt::Display) -> AgentError {
        AgentError::NoAgent {
            socket: self.socket.display().to_string(),
            why: format!("does not answer: {why}"),
        }
    }
}

/// A body that goes on.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    rest: Vec<u8>,
}

impl Body {
    /// The next line, without its end; `None` at the end.
    ///
    /// # Errors
    /// The agent went away.
    pub async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line = self.rest.drain(..=end).take(end).collect();
                return Ok(Some(String::from_utf8(line).map_err(io::Error::other)?));
            }
            if self.rest.len() > LONGEST {
                return Err(io::Error::other("a line without an end"));
            }
            match self.incoming.frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(io::Error::other(e)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.rest.extend_from_slice(data);
                    }
                }
            }
        }
    }
}
