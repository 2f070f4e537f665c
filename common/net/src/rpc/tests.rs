use super::*;
use crate::identity::{Credentials, Role, init_ca, issue};
use crate::transport::quic::QuicTransport;
use crate::transport::{Connection, Expect, Listener, Transport};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(10);

/// Numbers there and back.
struct Numbers;

impl Protocol for Numbers {
    const NAME: &'static str = "numbers";
    type Request = u64;
    type Response = u64;
    type Push = u64;

    fn weight(request: &u64) -> Weight {
        if *request == URGENT { Weight::Urgent } else { Weight::Answer(0) }
    }
}

/// The one urgent number.
const URGENT: u64 = 777_777;

/// Speaks of other things.
struct Letters;

impl Protocol for Letters {
    const NAME: &'static str = "letters";
    type Request = String;
    type Response = String;
    type Push = ();
}

/// Answers n with n + 1: odd numbers at once, even ones when the next odd one comes; pushes each number before its answer.
#[derive(Default)]
struct Server {
    waiting: Mutex<Vec<(u64, Replier<Numbers>)>>,
}

impl Service<Numbers> for Server {
    fn handle(&self, peer: &Peer<Numbers>, request: u64, reply: Replier<Numbers>) {
        match request {
            0 => drop(reply),
            1_000_000 => self.waiting.lock().unwrap().push((request, reply)),
            n if n % 2 == 0 => self.waiting.lock().unwrap().push((n, reply)),
            n => {
                peer.pusher().push(n);
                reply.send(n + 1);
                for (n, reply) in self.waiting.lock().unwrap().drain(..) {
                    peer.pusher().push(n);
                    reply.send(n + 1);
                }
            }
        }
    }
}

/// What arrived, in order.
#[derive(Default)]
struct Seen(Mutex<Vec<(&'static str, u64)>>);

impl Observer<Numbers> for Seen {
    fn response(&self, response: &u64, sent_at: Instant) {
        assert!(sent_at <= Instant::now());
        self.0.lock().unwrap().push(("answer", *response));
    }
    fn push(&self, push: u64) {
        self.0.lock().unwrap().push(("push", push));
    }
}

struct Ignore;

impl Observer<Letters> for Ignore {
    fn response(&self, _: &String, _: Instant) {}
    fn push(&self, (): ()) {}
}

struct World {
    connection: Arc<dyn Connection>,
    _parts: (Box<dyn Listener>, QuicTransport, QuicTransport, tempfile::TempDir),
}

async fn world() -> World {
    world_of::<Numbers>(Arc::new(Server::default())).await
}

async fn world_of<P: Protocol>(service: Arc<dyn Service<P>>) -> World {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    init_ca(&ca, "c").unwrap();
    let transport = |role, id| {
        let paths = issue(&ca, role, id, &[], &dir.path().join(id)).unwrap();
        QuicTransport::new(Credentials::load(&paths).unwrap()).unwrap()
    };
    let (server, client) = (transport(Role::NameNode, "1"), transport(Role::Client, "x"));
    let listener = server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_address().to_string();
    let connection = client.connect(&address, &Expect { role: Role::NameNode, id: None }).await.unwrap();
    let served = listener.accept().await.unwrap();
    tokio::spawn(serve::<P>(served, service));
    World { connection, _parts: (listener, server, client, dir) }
}

#[tokio::test]
async fn answers_find_their_callers_and_order_is_kept() {
    let world = world().await;
    let seen = Arc::new(Seen::default());
    let client = RpcClient::<Numbers>::start(world.connection.clone(), seen.clone()).await.unwrap();
    let (a, b, c) =
        tokio::join!(client.call(2, DEADLINE), client.call(4, DEADLINE), client.call(5, DEADLINE));
    assert_eq!((a, b, c), (Ok(3), Ok(5), Ok(6)));
    let order = seen.0.lock().unwrap().clone();
    assert_eq!(order[..2], [("push", 5), ("answer", 6)]);
    // Each push was seen before the answer that was sent after it.
    for pair in order.chunks(2) {
        assert_eq!((pair[0].0, pair[1]), ("push", ("answer", pair[0].1 + 1)));
    }
}

#[tokio::test]
async fn many_calls_at_once() {
    let world = world().await;
    let client =
        RpcClient::<Numbers>::start(world.connection.clone(), Arc::new(Seen::default())).await.unwrap();
    let calls: Vec<_> = (0..2000u64)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.call(n * 2 + 1, DEADLINE).await })
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), Ok(n as u64 * 2 + 2));
    }
}

#[tokio::test]
async fn a_deadline_passes_and_the_late_answer_harms_nobody() {
    let world = world().await;
    let seen = Arc::new(Seen::default());
    let client = RpcClient::<Numbers>::start(world.connection.clone(), seen.clone()).await.unwrap();
    assert_eq!(client.call(1_000_000, Duration::from_millis(50)).await, Err(RpcError::Deadline));
    assert_eq!(client.call(7, DEADLINE).await, Ok(8));
    assert_eq!(client.call(9, DEADLINE).await, Ok(10));
    assert!(seen.0.lock().unwrap().contains(&("answer", 1_000_001)));
}

#[tokio::test]
async fn a_request_that_is_given_up_ends_the_conversation() {
    let world = world().await;
    let client =
        RpcClient::<Numbers>::start(world.connection.clone(), Arc::new(Seen::default())).await.unwrap();
    assert!(matches!(client.call(0, DEADLINE).await, Err(RpcError::Transport(_))));
    assert!(matches!(client.call(1, DEADLINE).await, Err(RpcError::Transport(_))));
}

#[tokio::test]
async fn another_protocol_is_refused_with_its_name() {
    let world = world().await;
    let error = RpcClient::<Letters>::start(world.connection.clone(), Arc::new(Ignore)).await.err().unwrap();
    let text = error.to_string();
    assert!(text.contains("letters") && text.contains("numbers") && text.contains("role"), "{text}");
}

#[test]
fn a_version_from_the_future_is_named() {
    let hello = |version| Hello { version, protocol: "numbers".into() };
    let text = hello(WIRE_VERSION + 1).check::<Numbers>().unwrap_err().to_string();
    assert!(text.contains("update this side"), "{text}");
    let text = hello(WIRE_VERSION - 1).check::<Numbers>().unwrap_err().to_string();
    assert!(text.contains("update the peer"), "{text}");
    assert_eq!(Hello::of::<Numbers>().check::<Numbers>(), Ok(()));
}

#[tokio::test]
async fn a_hello_that_says_more_than_we_know_is_understood() {
    #[derive(Serialize)]
    struct Longer(u16, &'static str, Vec<u64>);
    let world = world().await;
    let mut stream = world.connection.open().await.unwrap();
    let hello = Longer(WIRE_VERSION + 1, "numbers", vec![1, 2]);
    frame::write_frame(stream.send.as_mut(), &hello).await.unwrap();
    // The server says its version before it refuses, so that we can say what does not fit.
    let theirs = Hello::receive(stream.recv.as_mut()).await.unwrap();
    assert_eq!(theirs, Hello::of::<Numbers>());
}

/// What the server does with bytes that are no conversation.
async fn served_with(frames: &[Bytes]) -> String {
    let world = world().await;
    let mut stream = world.connection.open().await.unwrap();
    frame::write_frame(stream.send.as_mut(), &Hello::of::<Numbers>()).await.unwrap();
    for frame in frames {
        stream.send.write(frame.clone()).await.unwrap();
    }
    world.connection.closed().await.to_string()
}

#[tokio::test]
async fn nonsense_ends_the_conversation_with_a_reason() {
    let garbage = Bytes::from_static(&[3, 0, 0, 0, 9, 9, 9]);
    let too_long = Bytes::copy_from_slice(&(FRAME_MAX as u32 + 1).to_le_bytes());
    let answer = encode(Kind::Response, 1, &7u64).unwrap();
    let rest = encode(Kind::Request, 1, &(7u64, 7u64)).unwrap();
    for bad in [garbage, too_long, answer, rest] {
        let why = served_with(&[bad]).await;
        assert!(why.contains("malformed frame"), "{why}");
    }
}

/// Answers nothing, and counts.
#[derive(Default)]
struct Silent {
    waiting: Mutex<Vec<Replier<Numbers>>>,
}

impl Service<Numbers> for Silent {
    fn handle(&self, _: &Peer<Numbers>, _: u64, reply: Replier<Numbers>) {
        self.waiting.lock().unwrap().push(reply);
    }
}

#[tokio::test]
async fn a_server_takes_only_so_many_unanswered_requests() {
    let service = Arc::new(Silent::default());
    let world = world_of::<Numbers>(service.clone()).await;
    let client =
        RpcClient::<Numbers>::start(world.connection.clone(), Arc::new(Seen::default())).await.unwrap();
    let calls: Vec<_> = (0..UNITS_MAX as u64 + 100)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.call(n, DEADLINE).await })
        })
        .collect();
    let mut answered = 0;
    while answered < calls.len() {
        let waiting = std::mem::take(&mut *service.waiting.lock().unwrap());
        assert!(waiting.len() <= UNITS_MAX);
        answered += waiting.len();
        for reply in waiting {
            reply.send(0);
        }
        tokio::task::yield_now().await;
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(0));
    }
}

#[tokio::test]
async fn a_client_that_keeps_no_limit_is_read_no_further() {
    let service = Arc::new(Silent::default());
    let world = world_of::<Numbers>(service.clone()).await;
    let mut stream = world.connection.open().await.unwrap();
    frame::write_frame(stream.send.as_mut(), &Hello::of::<Numbers>()).await.unwrap();
    for id in 0..2 * UNITS_MAX as u64 {
        stream.send.write(encode(Kind::Request, id, &id).unwrap()).await.unwrap();
    }
    let waiting = || service.waiting.lock().unwrap().len();
    while waiting() < UNITS_MAX {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert_eq!(waiting(), UNITS_MAX);
    }
}

/// Answers urgent requests alone.
#[derive(Default)]
struct Busy(Silent);

impl Service<Numbers> for Busy {
    fn handle(&self, peer: &Peer<Numbers>, request: u64, reply: Replier<Numbers>) {
        if request == URGENT { reply.send(1) } else { self.0.handle(peer, request, reply) }
    }
}

#[tokio::test]
async fn urgent_requests_pass_those_that_wait() {
    let service = Arc::new(Busy::default());
    let world = world_of::<Numbers>(service.clone()).await;
    let client =
        RpcClient::<Numbers>::start(world.connection.clone(), Arc::new(Seen::default())).await.unwrap();
    for n in 0..2 * UNITS_MAX as u64 {
        let client = client.clone();
        tokio::spawn(async move { client.call(n, DEADLINE).await });
    }
    while service.0.waiting.lock().unwrap().len() < UNITS_MAX {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(client.call(URGENT, DEADLINE).await, Ok(1));
    assert_eq!(client.call(URGENT, DEADLINE).await, Ok(1));
}

/// Answers of the largest size.
struct Pages;

impl Protocol for Pages {
    const NAME: &'static str = "pages";
    type Request = u64;
    type Response = Bytes;
    type Push = ();

    fn weight(_: &u64) -> Weight {
        Weight::Answer(FRAME_MAX)
    }
}

#[derive(Default)]
struct Printer(AtomicU64);

impl Service<Pages> for Printer {
    fn handle(&self, _: &Peer<Pages>, _: u64, reply: Replier<Pages>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        reply.send(Bytes::from(vec![0; FRAME_MAX - 100]));
    }
}

#[tokio::test]
async fn a_peer_that_takes_no_answers_costs_little_and_is_dropped() {
    let printer = Arc::new(Printer::default());
    let world = world_of::<Pages>(printer.clone()).await;
    let mut stream = world.connection.open().await.unwrap();
    frame::write_frame(stream.send.as_mut(), &Hello::of::<Pages>()).await.unwrap();
    for id in 0..1000 {
        stream.send.write(encode(Kind::Request, id, &id).unwrap()).await.unwrap();
    }
    let why = world.connection.closed().await.to_string();
    assert!(why.contains("do not take your answers"), "{why}");
    // 16 at a time, and what the windows of both sides took away.
    let printed = printer.0.load(Ordering::Relaxed);
    assert!((16..48).contains(&printed), "{printed} answers were made");
}

proptest::proptest! {
    #[test]
    fn frames_of_strangers_never_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
        if let Ok((_, rest)) = split(&body) {
            let _ = frame::decode::<u64>(rest);
        }
        let _ = postcard::take_from_bytes::<Hello>(&body);
    }
}
