//! The asking side.

use super::{Header, Hello, Kind, Lanes, Protocol, encode, gather, request_id, split};
use crate::frame;
use crate::transport::{Connection, RecvStream, SendStream, TransportError};
use bytes::Bytes;
use quarry_host::{clock, task, trace};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Requests that wait to be sent: the caller waits when there are more.
const QUEUE: usize = 256;
/// The peer must say hello within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that gives up a stream because it goes says so within this time.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why a call has no answer. The request may or may not have been carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The connection is gone.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// No answer in time.
    #[error("no answer in time")]
    Deadline,
}

/// Sees everything that arrives, in its order, on the task that reads; must not block.
pub trait Observer<P: Protocol>: Send + Sync + 'static {
    /// An answer, before its caller gets it, also if the caller gave up. `sent_at` is when the request was handed over, as a [`clock::boot_instant`].
    fn response(&self, response: &P::Response, sent_at: Instant);
    /// A push.
    fn push(&self, push: P::Push);
}

struct Pending<R> {
    sent_at: Instant,
    caller: oneshot::Sender<R>,
    /// Held until the answer is there, also when the caller gave up: the server holds its own as long.
    _place: OwnedSemaphorePermit,
}

/// Who waits for which answer; `None` once the conversation is over: nobody would answer a new entry.
type Waiting<R> = Mutex<Option<HashMap<u64, Pending<R>>>>;

/// A conversation with a server.
pub struct RpcClient<P: Protocol> {
    connection: Arc<dyn Connection>,
    queue: mpsc::Sender<Bytes>,
    pending: Arc<Waiting<P::Response>>,
    lanes: Lanes,
    next: AtomicU64,
    protocol: PhantomData<P>,
}

impl<P: Protocol> RpcClient<P> {
    /// Opens the conversation on a connection.
    ///
    /// # Errors
    /// When the peer refuses, speaks something else, or the connection breaks.
    pub async fn start(
        connection: Arc<dyn Connection>,
        observer: Arc<dyn Observer<P>>,
    ) -> Result<Arc<Self>, TransportError> {
        let greet = async {
            let mut stream = connection.open().await?;
            frame::write_frame(stream.send.as_mut(), &Hello::of::<P>()).await?;
            Hello::receive(stream.recv.as_mut()).await?.check::<P>()?;
            Ok(stream)
        };
        let stream = match tokio::time::timeout(HELLO_TIMEOUT, greet).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e @ (TransportError::Malformed(_) | TransportError::Incompatible(_)))) => {
                connection.close(&e.to_string());
                return Err(e);
            }
            // The reason for which the peer closes says more than what that does to the stream, and comes a little later.
            Ok(Err(e)) => return Err(tokio::time::timeout(FAREWELL, connection.closed()).await.unwrap_or(e)),
            Err(_) => return Err(TransportError::Lost("the peer did not say hello in time".into())),
        };
        let (queue, waiting) = mpsc::channel(QUEUE);
        let pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let client = Arc::new(Self {
            connection: connection.clone(),
            queue,
            pending: pending.clone(),
            lanes: Lanes::new(),
            next: AtomicU64::new(1),
            protocol: PhantomData,
        });
        task::spawn(send(stream.send, waiting));
        task::spawn(async move {
            let reason = receive::<P>(stream.recv, &pending, observer.as_ref()).await;
            tracing::debug!(%reason, "conversation over");
            pending.lock().expect("no thread panics while it holds the lock").take();
            connection.close(&reason.to_string());
        });
        Ok(client)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn call(&self, request: P::Request, deadline: Duration) -> Result<P::Response, RpcError> {
        match tokio::time::timeout(deadline, self.ask(&request)).await {
            Ok(answer) => answer,
            Err(_) => Err(RpcError::Deadline),
        }
    }

    async fn ask(&self, request: &P::Request) -> Result<P::Response, RpcError> {
        let id = request_id(trace::current(), self.next.fetch_add(1, Ordering::Relaxed));
        let frame = encode(Kind::Request, id, request)?;
        let turn = tokio::select! {
            turn = self.lanes.enter(P::weight(request)) => turn,
            gone = self.connection.closed() => return Err(gone.into()),
        };
        let Ok(place) = self.queue.reserve().await else { return Err(self.gone().await) };
        let (caller, answer) = oneshot::channel();
        let registered = {
            let mut pending = self.pending.lock().expect("no thread panics while it holds the lock");
            let entry = Pending { sent_at: clock::boot_instant(), caller, _place: turn };
            pending.as_mut().map(|map| map.insert(id, entry)).is_some()
        };
        if !registered {
            return Err(self.gone().await);
        }
        place.send(frame);
        match answer.await {
            Ok(response) => Ok(response),
            Err(_) => Err(self.gone().await),
        }
    }

    async fn gone(&self) -> RpcError {
        self.connection.closed().await.into()
    }

    /// Whether the conversation is over.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Waits for the end.
    pub async fn closed(&self) -> TransportError {
        self.connection.closed().await
    }

    /// The connection below.
    pub fn connection(&self) -> &Arc<dyn Connection> {
        &self.connection
    }
}

impl<P: Protocol> Drop for RpcClient<P> {
    fn drop(&mut self) {
        self.connection.close("done");
    }
}

async fn send(mut stream: Box<dyn SendStream>, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(first) = queue.recv().await {
        let all = gather(first, || queue.try_recv().ok());
        if stream.write(all).await.is_err() {
            // The reading side learns it as well, and ends the conversation.
            return;
        }
    }
}

async fn receive<P: Protocol>(
    mut stream: Box<dyn RecvStream>,
    pending: &Waiting<P::Response>,
    observer: &dyn Observer<P>,
) -> TransportError {
    loop {
        let step = async {
            let body = frame::read_body(stream.as_mut()).await?;
            let (Header { kind, id }, body) = split(&body)?;
            match kind {
                Kind::Push => observer.push(frame::decode(body)?),
                Kind::Response => {
                    let mut map = pending.lock().expect("no thread panics while it holds the lock");
                    let waiting = map.as_mut().and_then(|m| m.remove(&id));
                    drop(map);
                    let Some(Pending { sent_at, caller, _place }) = waiting else {
                        return Err(TransportError::Malformed(format!(
                            "an answer to request {id}, which was not asked"
                        )));
                    };
                    let response = frame::decode(body)?;
                    observer.response(&response, sent_at);
                    let _ = caller.send(response);
                }
                Kind::Request => return Err(TransportError::Malformed("a request from a server".into())),
            }
            Ok(())
        };
        if let Err(e) = step.await {
            return e;
        }
    }
}
