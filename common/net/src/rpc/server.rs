//! The answering side.

use super::{
    COUNT_BITS, Header, Hello, Kind, Lanes, Protocol, UNIT, UNITS_MAX, URGENT_MAX, Weight, encode, gather,
    split,
};
use crate::frame;
use crate::identity::Identity;
use crate::transport::{Connection, SendStream, TransportError};
use bytes::Bytes;
use quarry_host::trace::Operation;
use quarry_host::{random, task};
use rand::Rng;
use std::marker::PhantomData;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Units that all large answers of this process may hold, 256 MiB: peers wait for each other then. Answers of one unit, such as
/// those of requests that wait for a lock, do not count: those of all conversations are bounded by their number.
const TOTAL_UNITS: usize = (256 << 20) / UNIT;
/// Answers and pushes that wait to be sent. All answers fit; a peer that reads so slowly that pushes fill it is
/// dropped, as waiting for it would delay others.
const QUEUE: usize = UNITS_MAX + URGENT_MAX + 8192;
/// A peer that takes nothing of its answers for so long is dropped: what it holds is memory that others wait for.
const SEND_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// The peer must say hello within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Carries out requests.
pub trait Service<P: Protocol>: Send + Sync + 'static {
    /// Begins with a request; must not block. The answer may come later, from anywhere.
    fn handle(&self, peer: &Peer<P>, request: P::Request, reply: Replier<P>);
}

/// Who asks.
pub struct Peer<P> {
    connection: Arc<dyn Connection>,
    number: u64,
    pusher: Pusher<P>,
}

impl<P: Protocol> Peer<P> {
    /// Who it is, by its certificate.
    pub fn identity(&self) -> &Identity {
        self.connection.peer()
    }

    /// Tells conversations of this process apart.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// For saying something without being asked.
    pub fn pusher(&self) -> Pusher<P> {
        self.pusher.clone()
    }

    /// The connection below.
    pub fn connection(&self) -> &Arc<dyn Connection> {
        &self.connection
    }
}

/// The units of all conversations' large answers.
static TOTAL: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(TOTAL_UNITS)));

/// What a request holds until its answer has left.
struct Place {
    _of_peer: OwnedSemaphorePermit,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Place {
    async fn take(lanes: &Lanes, weight: Weight) -> Self {
        let of_peer = lanes.enter(weight).await;
        let of_all = match weight.units() {
            1 => None,
            units => {
                let permit = TOTAL.clone().acquire_many_owned(units).await;
                Some(permit.expect("the semaphore is never closed"))
            }
        };
        Self { _of_peer: of_peer, _of_all: of_all }
    }
}

/// An answer or a push that waits to be sent, with the place of its request.
struct Queued {
    frame: Bytes,
    place: Option<Place>,
}

/// Sends frames, in the order of the calls.
struct Outgoing {
    queue: mpsc::Sender<Queued>,
    connection: Arc<dyn Connection>,
}

impl Outgoing {
    fn send(&self, frame: Result<Bytes, TransportError>, place: Option<Place>) {
        match frame.map(|frame| self.queue.try_send(Queued { frame, place })) {
            Ok(Ok(())) => {}
            Ok(Err(mpsc::error::TrySendError::Closed(_))) => {}
            Ok(Err(mpsc::error::TrySendError::Full(_))) => self.connection.close("you read too slowly"),
            Err(error) => {
                tracing::error!(%error, "an answer cannot be sent");
                self.connection.close("an answer cannot be sent");
            }
        }
    }
}

/// Says something to a peer without being asked.
pub struct Pusher<P> {
    outgoing: Arc<Outgoing>,
    protocol: PhantomData<fn(P)>,
}

impl<P> Clone for Pusher<P> {
    fn clone(&self) -> Self {
        Self { outgoing: self.outgoing.clone(), protocol: PhantomData }
    }
}

impl<P: Protocol> Pusher<P> {
    /// Sends it after everything that was handed over before.
    pub fn push(&self, push: P::Push) {
        self.outgoing.send(encode(Kind::Push, 0, &push), None);
    }

    /// Ends the conversation, with a reason for the peer's log.
    pub fn close(&self, reason: &str) {
        self.outgoing.connection.close(reason);
    }
}

/// Is shown an answer when it is given.
type Observer<R> = Box<dyn FnOnce(&R) + Send>;

/// The right and the duty to answer one request. Dropped without an answer, it ends the conversation: the peer then knows that
/// it knows nothing.
pub struct Replier<P: Protocol> {
    outgoing: Arc<Outgoing>,
    id: u64,
    /// Gone with the answer.
    place: Option<Place>,
    observer: Option<Observer<P::Response>>,
    protocol: PhantomData<fn(P)>,
}

impl<P: Protocol> Replier<P> {
    /// The operation for which the client asks.
    pub fn operation(&self) -> Operation {
        Operation::from_number(self.id >> COUNT_BITS)
    }

    /// Shows the answer to `observer` when it is given.
    pub fn observed(mut self, observer: impl FnOnce(&P::Response) + Send + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Answers.
    pub fn send(mut self, response: P::Response) {
        let place = self.place.take();
        if let Some(observer) = self.observer.take() {
            observer(&response);
        }
        self.outgoing.send(encode(Kind::Response, self.id, &response), place);
    }
}

impl<P: Protocol> Drop for Replier<P> {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.outgoing.connection.close("a request was given up");
        }
    }
}

/// Serves one peer until its connection ends.
pub async fn serve<P: Protocol>(connection: Arc<dyn Connection>, service: Arc<dyn Service<P>>) {
    let reason = match converse(&connection, service).await {
        Ok(()) => "done".to_owned(),
        Err(e) => e.to_string(),
    };
    tracing::debug!(peer = %connection.peer(), %reason, "conversation over");
    connection.close(&reason);
}

async fn converse<P: Protocol>(
    connection: &Arc<dyn Connection>,
    service: Arc<dyn Service<P>>,
) -> Result<(), TransportError> {
    let greet = async {
        let mut stream = connection.accept().await?;
        let hello = Hello::receive(stream.recv.as_mut()).await?;
        frame::write_frame(stream.send.as_mut(), &Hello::of::<P>()).await?;
        if let Err(e) = hello.check::<P>() {
            // Our hello tells the peer what is wrong: it must arrive, so the peer is left to close.
            connection.closed().await;
            return Err(e);
        }
        Ok(stream)
    };
    let mut stream = match tokio::time::timeout(HELLO_TIMEOUT, greet).await {
        Ok(greeted) => greeted?,
        Err(_) => return Err(TransportError::Lost("no hello in time".into())),
    };
    let (queue, waiting) = mpsc::channel(QUEUE);
    task::spawn(send(stream.send, waiting, connection.clone()));
    let outgoing = Arc::new(Outgoing { queue, connection: connection.clone() });
    let pusher = Pusher { outgoing: outgoing.clone(), protocol: PhantomData };
    // Not 0, which stands for no connection; two equal numbers of 64 bits do not happen.
    let number = random::rng().random_range(1..=u64::MAX);
    let peer = Peer::<P> { connection: connection.clone(), number, pusher };
    let lanes = Lanes::new();
    loop {
        let body = match frame::read_body(stream.recv.as_mut()).await {
            Ok(body) => body,
            Err(TransportError::EndOfStream) => return Ok(()),
            Err(e) => return Err(e),
        };
        let (Header { kind, id }, body) = split(&body)?;
        if kind != Kind::Request {
            return Err(TransportError::Malformed("a client may only ask".into()));
        }
        let request = frame::decode(body)?;
        let place = tokio::select! {
            place = Place::take(&lanes, P::weight(&request)) => place,
            gone = connection.closed() => return Err(gone),
        };
        let reply = Replier {
            outgoing: outgoing.clone(),
            id,
            place: Some(place),
            observer: None,
            protocol: PhantomData,
        };
        service.handle(&peer, request, reply);
    }
}

async fn send(
    mut stream: Box<dyn SendStream>,
    mut queue: mpsc::Receiver<Queued>,
    connection: Arc<dyn Connection>,
) {
    while let Some(first) = queue.recv().await {
        let mut places = vec![first.place];
        let all = gather(first.frame, || {
            let next = queue.try_recv().ok()?;
            places.push(next.place);
            Some(next.frame)
        });
        match tokio::time::timeout(SEND_TIMEOUT, stream.write(all)).await {
            // The places are free with the memory of the answers, and not before.
            Ok(Ok(())) => drop(places),
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::warn!(peer = %connection.peer(), "dropped: it does not take its answers");
                connection.close("you do not take your answers");
                return;
            }
        }
    }
    let _ = stream.finish();
}
