//! A request a line, and a reply a line in the same order: on the Unix socket, and on stdin and stdout.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::connections::Connection;
use super::failure::{Code, Failure};
use super::server::{FREE, Held, Pending, Server};

/// Bytes that are asked for at once.
const READ: usize = 8 << 10;

/// Bytes of replies that are written at once, about.
const WRITE: usize = 64 << 10;

/// Answers the lines of a connection until its end; `before` is what was read of it already. Without `patience` its
/// client may take as long as it likes.
pub(super) async fn serve<R, W>(
    server: &Server,
    connection: &Arc<Connection>,
    before: Vec<u8>,
    (mut from, mut to): (R, W),
    patience: Option<Duration>,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut lines = Lines::new(server, before, patience);
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let mut stopping = server.stopping();
    let mut at_end = false;
    while !(at_end && pending.is_empty()) {
        let waits: usize = pending.iter().map(|pending| pending.answers.max(1)).sum();
        let reads = !at_end && waits < server.limits.max_pending;
        tokio::select! {
            biased;
            // Its replies first: who does not take them is not read from.
            reply = first(server, &mut pending), if !pending.is_empty() => {
                let mut out = reply;
                out.push(b'\n');
                pending.pop_front();
                while out.len() < WRITE && pending.front().is_some_and(Pending::is_ready) {
                    out.extend(first(server, &mut pending).await);
                    out.push(b'\n');
                    pending.pop_front();
                }
                write(&mut to, &out, patience).await?;
            }
            line = lines.next(server, &mut from), if reads => match line? {
                Line::Request(bytes, held) => pending.push_back(server.ask(connection, &bytes, held)),
                Line::Failed(failure) => {
                    at_end = failure.code == Code::TooSlow;
                    pending.push_back(server.refuse(connection, failure));
                }
                Line::End => at_end = true,
            },
            () = async { drop(stopping.wait_for(|stops| *stops).await) }, if !at_end => at_end = true,
            () = connection.closed(), if pending.is_empty() => return Ok(()),
        }
    }
    Ok(())
}

/// The reply to the first request that waits.
async fn first(server: &Server, pending: &mut VecDeque<Pending>) -> Vec<u8> {
    match pending.front_mut() {
        Some(first) => first.reply(server).await.bytes,
        None => std::future::pending().await,
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], patience: Option<Duration>) -> io::Result<()> {
    let write = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    match patience {
        Some(patience) => timeout(patience, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        None => write.await,
    }
}

/// Lines of a bounded length, as they arrive.
struct Lines {
    max: usize,
    patience: Option<Duration>,
    buffer: Vec<u8>,
    /// Where the next line begins in the buffer.
    start: usize,
    /// What was looked at without finding an end.
    seen: usize,
    held: Held,
    /// Why the rest of the line is passed over.
    skips: bool,
    /// When the line must be there whose beginning is.
    due: Option<Instant>,
}

enum Line {
    Request(Vec<u8>, Held),
    Failed(Failure),
    End,
}

impl Lines {
    fn new(server: &Server, before: Vec<u8>, patience: Option<Duration>) -> Self {
        let (max, held) = (server.limits.max_body, server.held());
        Lines { max, patience, buffer: before, start: 0, seen: 0, held, skips: false, due: None }
    }

    /// The next line that is not blank. Who gives up and calls again misses nothing.
    async fn next(&mut self, server: &Server, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Line> {
        loop {
            while let Some(length) = self.buffer[self.seen..].iter().position(|byte| *byte == b'\n') {
                let end = self.seen + length;
                if let Some(line) = self.take(server, end, end + 1) {
                    return Ok(line);
                }
            }
            self.seen = self.buffer.len();
            if let Some(failure) = self.tidy() {
                return Ok(Line::Failed(failure));
            }
            let begun = self.skips || !self.buffer.is_empty();
            self.due = self.patience.filter(|_| begun).map(|patience| self.due.unwrap_or(Instant::now() + patience));
            self.buffer.reserve(READ);
            let read = from.read_buf(&mut self.buffer);
            let read = match self.due {
                Some(due) => timeout_at(due, read).await,
                None => Ok(read.await),
            };
            match read {
                Ok(Err(error)) => return Err(error),
                // The last line may lack its end.
                Ok(Ok(0)) => {
                    let end = self.buffer.len();
                    return Ok(self.take(server, end, end).unwrap_or(Line::End));
                }
                Ok(Ok(_)) => {}
                Err(_) => {
                    let message = "the end of a line did not come in time (--io-timeout)";
                    return Ok(Line::Failed(Failure::new(Code::TooSlow, message)));
                }
            }
        }
    }

    /// Takes the line that ends before `end` out; the next one begins at `next`.
    fn take(&mut self, server: &Server, end: usize, next: usize) -> Option<Line> {
        let line = &self.buffer[self.start..end];
        let is_blank = line.iter().all(u8::is_ascii_whitespace);
        let is_long = line.len() > self.max;
        let line = (!is_blank && !is_long).then(|| line.to_vec());
        (self.start, self.seen, self.due) = (next, next, None);
        let mut held = std::mem::replace(&mut self.held, server.held());
        if std::mem::take(&mut self.skips) {
            return None;
        }
        let line = line.map(|line| match held.grow(line.len()) {
            Ok(()) => Line::Request(line, held),
            Err(failure) => Line::Failed(failure),
        });
        line.or(is_long.then(|| Line::Failed(Failure::too_large(self.max))))
    }

    /// Drops what was taken, and a line that must not grow longer, whose failure is returned.
    fn tidy(&mut self) -> Option<Failure> {
        self.buffer.drain(..std::mem::take(&mut self.start));
        if self.skips {
            self.buffer.clear();
        }
        let failure = match self.buffer.len() {
            length if length > self.max => Some(Failure::too_large(self.max)),
            length => self.held.grow(length).err(),
        };
        if failure.is_some() {
            self.skips = true;
            self.buffer.clear();
        }
        self.seen = self.buffer.len();
        if self.buffer.is_empty() && self.buffer.capacity() > FREE {
            self.buffer = Vec::new();
        }
        failure
    }
}
