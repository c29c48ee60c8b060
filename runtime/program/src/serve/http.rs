//! HTTP/1.1: `POST /v1/run`, `GET /v1/tasks`, `/health` and `/metrics`.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::connections::Connection;
use super::failure::{Code, Failure};
use super::link::Link;
use super::server::{Held, Reply, Server};

/// Bytes that the head of a request may have.
const MAX_HEAD: usize = 16 << 10;

const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers the requests of a connection until its end.
pub(super) async fn serve<S>(server: &Arc<Server>, connection: &Arc<Connection>, stream: Link<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = |request| {
        let (server, connection) = (Arc::clone(server), Arc::clone(connection));
        async move { Ok::<_, Infallible>(answer(&server, &connection, request).await) }
    };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(server.limits.idle_timeout).max_buf_size(MAX_HEAD);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service_fn(answer)));
    let mut stopping = server.stopping();
    // How a connection ends is its client's business; what was wrong with a request was said.
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = connection.closed() => return,
        () = async { drop(stopping.wait_for(|stops| *stops).await) } => {
            if !connection.has_asked() {
                // It would be waited for.
                return;
            }
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        log::debug!("a connection ended: {error}");
    }
}

async fn answer(server: &Server, connection: &Arc<Connection>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (path, method) = (request.uri().path().to_owned(), request.method().clone());
    connection.asks();
    let reads = method == Method::GET || method == Method::HEAD;
    match (path.as_str(), reads) {
        ("/v1/run", _) if method == Method::POST => run(server, connection, request).await,
        ("/v1/tasks", true) => reply(StatusCode::OK, JSON, tasks(server)),
        ("/health", true) => health(server),
        ("/metrics", true) => reply(StatusCode::OK, PROMETHEUS, server.metrics.text(&server.now()).into_bytes()),
        ("/v1/run", _) => not_allowed(server, "POST"),
        ("/v1/tasks" | "/health" | "/metrics", false) => not_allowed(server, "GET, HEAD"),
        _ => {
            let message = "there are `POST /v1/run`, `GET /v1/tasks`, `GET /health` and `GET /metrics`";
            failed(server.failed(None, &Failure::new(Code::NotFound, message)))
        }
    }
}

fn reply(status: StatusCode, kind: &'static str, mut bytes: Vec<u8>) -> Response<Full<Bytes>> {
    if kind == JSON {
        bytes.push(b'\n');
    }
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn failed(Reply { failed, bytes }: Reply) -> Response<Full<Bytes>> {
    let status = failed.map_or(Ok(StatusCode::OK), |code| StatusCode::from_u16(code.status()));
    let mut response = reply(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), JSON, bytes);
    if failed == Some(Code::Overloaded) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn not_allowed(server: &Server, allowed: &'static str) -> Response<Full<Bytes>> {
    let message = format!("this takes {allowed} alone");
    let mut response = failed(server.failed(None, &Failure::new(Code::MethodNotAllowed, message)));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

async fn run(server: &Server, connection: &Arc<Connection>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let mut held = server.held();
    let read = timeout(server.limits.io_timeout, read(server, request.into_body(), &mut held)).await;
    let late = || Err(Failure::new(Code::TooSlow, "the request's body did not come in time (--io-timeout)"));
    let mut pending = match read.unwrap_or_else(|_| late()) {
        Ok(bytes) => server.ask(connection, &bytes, held),
        Err(failure) => server.refuse(connection, failure),
    };
    failed(pending.reply(server).await)
}

/// The bytes of a body, no more than it may have.
async fn read(server: &Server, mut body: Incoming, held: &mut Held) -> Result<Vec<u8>, Failure> {
    let max = server.limits.max_body;
    let mut bytes = Vec::new();
    if body.size_hint().lower() > max as u64 {
        return Err(Failure::too_large(max));
    }
    while let Some(frame) = body.frame().await {
        let broken = |error: hyper::Error| Failure::new(Code::BadRequest, format!("the body cannot be read: {error}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        let length = bytes.len() + data.len();
        if length > max {
            return Err(Failure::too_large(max));
        }
        held.grow(length)?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// A task that is listed.
#[derive(Serialize)]
struct TaskReport<'a> {
    name: &'a str,
    revision: u64,
    sha256: &'a str,
    base_id: &'a str,
    #[serde(flatten)]
    state: State<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum State<'a> {
    Answers {
        kind: &'static str,
        labels: &'a [String],
        pair: bool,
        max_tokens: usize,
        engine: String,
        precision: &'static str,
    },
    Fails {
        error: &'a str,
    },
}

fn tasks(server: &Server) -> Vec<u8> {
    #[derive(Serialize)]
    struct Tasks<'a> {
        generation: u64,
        tasks: Vec<TaskReport<'a>>,
    }
    let table = server.active.now();
    let tasks = table.tasks.iter().map(|(name, listed)| {
        let state = match &listed.loaded {
            Ok(loaded) => {
                let (task, info) = (loaded.task(), loaded.info());
                State::Answers {
                    kind: task.kind().name(),
                    labels: task.labels(),
                    pair: task.text().pair,
                    max_tokens: task.text().max_tokens,
                    engine: info.engine.to_string(),
                    precision: info.precision.name(),
                }
            }
            Err(error) => State::Fails { error },
        };
        let entry = &listed.entry;
        TaskReport { name, revision: entry.revision, sha256: &entry.sha256, base_id: &entry.base_id, state }
    });
    // Nothing in it cannot be JSON.
    overmask_cli::json(&Tasks { generation: table.generation, tasks: tasks.collect() }).unwrap_or_default()
}

fn health(server: &Server) -> Response<Full<Bytes>> {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
        generation: u64,
        tasks: usize,
        unavailable: usize,
    }
    let (now, stops) = (server.now(), server.is_stopping());
    let status = if stops { "stopping" } else { "ok" };
    let health = Health { status, generation: now.generation, tasks: now.tasks, unavailable: now.unavailable };
    let code = if stops { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    reply(code, JSON, overmask_cli::json(&health).unwrap_or_default())
}
