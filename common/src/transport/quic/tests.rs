use super::*;
use crate::frame;
use crate::identity::{Role, init_ca, issue};
use bytes::Bytes;
use std::path::Path;
use tempfile::TempDir;

/// Makes transports of one authority.
struct Authority(TempDir);

impl Authority {
    fn new(cluster: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        init_ca(&dir.path().join("ca"), cluster).unwrap();
        Self(dir)
    }

    fn transport(&self, role: Role, id: &str) -> QuicTransport {
        let out: &Path = &self.0.path().join(format!("{role}-{id}-{}", rand::random::<u32>()));
        let paths = issue(&self.0.path().join("ca"), role, id, &["127.0.0.1".into()], out).unwrap();
        QuicTransport::new(Credentials::load(&paths).unwrap()).unwrap()
    }
}

fn any(role: Role) -> Expect {
    Expect { role, id: None }
}

async fn listen(transport: &QuicTransport) -> (Box<dyn Listener>, String) {
    let listener = transport.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_address().to_string();
    (listener, address)
}

async fn pair() -> (Arc<dyn Connection>, Arc<dyn Connection>, Box<dyn Listener>, QuicTransport, QuicTransport)
{
    let ca = Authority::new("c");
    let (server, client) = (ca.transport(Role::DataNode, "1"), ca.transport(Role::Client, "me"));
    let (listener, address) = listen(&server).await;
    let a = client.connect(&address, &any(Role::DataNode)).await.unwrap();
    let b = listener.accept().await.unwrap();
    (a, b, listener, server, client)
}

#[tokio::test]
async fn both_sides_know_each_other_and_bytes_arrive() {
    let (a, b, ..) = pair().await;
    assert_eq!(a.peer().to_string(), "quarry://c/datanode/1");
    assert_eq!(b.peer().to_string(), "quarry://c/client/me");
    let data = Bytes::from(vec![7; 5 << 20]);
    let send = async {
        let mut s = a.open().await.unwrap();
        s.send.write(data.clone()).await.unwrap();
        s.send.finish().unwrap();
        assert_eq!(frame::read_frame::<u64>(s.recv.as_mut()).await.unwrap(), 5 << 20);
    };
    let receive = async {
        let mut s = b.accept().await.unwrap();
        let mut total = 0u64;
        while let Some(part) = s.recv.read(1 << 20).await.unwrap() {
            assert!(part.iter().all(|b| *b == 7));
            total += part.len() as u64;
        }
        frame::write_frame(s.send.as_mut(), &total).await.unwrap();
        s.send.finish().unwrap();
    };
    tokio::join!(send, receive);
}

#[tokio::test]
async fn a_stream_that_was_given_up_does_not_look_complete() {
    let (a, b, ..) = pair().await;
    let mut s = a.open().await.unwrap();
    s.send.write(Bytes::from_static(b"half")).await.unwrap();
    let mut r = b.accept().await.unwrap();
    drop(s);
    let end = loop {
        match r.recv.read(100).await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(end, Err(TransportError::Reset));
}

#[tokio::test]
async fn datagrams_arrive() {
    let (a, b, ..) = pair().await;
    a.send_datagram(Bytes::from(vec![1; 1150])).unwrap();
    assert_eq!(b.recv_datagram().await.unwrap().len(), 1150);
}

#[tokio::test]
async fn a_frame_of_garbage_is_malformed_and_a_huge_one_is_not_allocated() {
    let (a, b, ..) = pair().await;
    for bytes in [vec![0xff; 8], vec![3, 0, 0, 0, 0xff, 0xff, 0xff]] {
        let mut s = a.open().await.unwrap();
        s.send.write(bytes.into()).await.unwrap();
        s.send.finish().unwrap();
        let mut r = b.accept().await.unwrap();
        let got = frame::read_frame::<crate::wire::data::DataRequest>(r.recv.as_mut()).await;
        assert!(matches!(got, Err(TransportError::Malformed(_))), "{got:?}");
    }
}

#[tokio::test]
async fn a_foreign_authority_is_refused_by_both_sides() {
    let (ours, theirs) = (Authority::new("c"), Authority::new("c"));
    let (server, stranger) = (ours.transport(Role::NameNode, "1"), theirs.transport(Role::Client, "x"));
    let (listener, address) = listen(&server).await;
    let error = stranger.connect(&address, &any(Role::NameNode)).await.err().unwrap();
    assert!(matches!(error, TransportError::Untrusted { .. }), "{error}");
    // One who trusts us, but whom we do not trust, learns it when it wants to use the connection.
    let forged = {
        let mut credentials = stranger_with_our_roots(&ours, &theirs);
        credentials = QuicTransport { endpoint: tokio::sync::OnceCell::new(), ..credentials };
        credentials
    };
    let connected = forged.connect(&address, &any(Role::NameNode)).await;
    let error = match connected {
        Err(e) => e,
        Ok(c) => c.closed().await,
    };
    assert!(matches!(error, TransportError::Untrusted { .. }), "{error}");
    assert!(tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.is_err());
}

/// Trusts our authority, but its own certificate is of another.
fn stranger_with_our_roots(ours: &Authority, theirs: &Authority) -> QuicTransport {
    let out = theirs.0.path().join("forged");
    let mut paths = issue(&theirs.0.path().join("ca"), Role::Client, "x", &[], &out).unwrap();
    paths.ca = ours.0.path().join("ca/ca.pem");
    QuicTransport::new(Credentials::load(&paths).unwrap()).unwrap()
}

#[tokio::test]
async fn a_wrong_role_or_id_is_refused() {
    let ca = Authority::new("c");
    let (server, client) = (ca.transport(Role::DataNode, "1"), ca.transport(Role::Client, "x"));
    let (_listener, address) = listen(&server).await;
    let error = client.connect(&address, &any(Role::NameNode)).await.err().unwrap();
    assert!(matches!(error, TransportError::Untrusted { .. }), "{error}");
    let two = Expect { role: Role::DataNode, id: Some("2".into()) };
    let error = client.connect(&address, &two).await.err().unwrap();
    assert!(matches!(error, TransportError::Untrusted { .. }), "{error}");
    let one = Expect { role: Role::DataNode, id: Some("1".into()) };
    assert!(client.connect(&address, &one).await.is_ok());
}

#[tokio::test]
async fn a_port_in_use_and_a_silent_address_are_named() {
    let ca = Authority::new("c");
    let server = ca.transport(Role::DataNode, "1");
    let (_listener, address) = listen(&server).await;
    let error = server.listen(address.parse().unwrap()).await.err().unwrap().to_string();
    assert!(error.contains("another process listens there") && error.contains(&address), "{error}");
    let error = server.connect("no.such.host.invalid:1", &any(Role::DataNode)).await.err().unwrap();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
}
