//! A link that a test can cut: datagrams between one client and one server, passed on by a thread of the test.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Larger than any datagram that QUIC sends here.
const DATAGRAM_MAX: usize = 64 << 10;
/// How often the threads look whether the relay is dropped.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Passes datagrams on between whoever sends to [`address`](Self::address) and a server. Dropped, it ends.
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    over: AtomicBool,
}

impl Relay {
    /// A relay to a server, for one client after another: answers go to the last one that sent.
    ///
    /// # Panics
    /// When there is no port for it.
    pub fn to(server: &str) -> Self {
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("bind a port"));
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("bind a port"));
        inside.connect(server).expect("the server's address");
        for socket in [&outside, &inside] {
            socket.set_read_timeout(Some(LOOK_EVERY)).expect("a socket has a time-out");
        }
        let address = outside.local_addr().expect("it is bound");
        let state = Arc::<State>::default();
        let client = Arc::new(std::sync::Mutex::new(None));
        let there = {
            let (from, to, last) = (outside.clone(), inside.clone(), client.clone());
            pass_on(state.clone(), from, move |data, sender| {
                *last.lock().expect("no panic with the lock") = Some(sender);
                to.send(data)
            })
        };
        let back = pass_on(state.clone(), inside, move |data, _| {
            match *client.lock().expect("no panic with the lock") {
                Some(client) => outside.send_to(data, client),
                None => Ok(0),
            }
        });
        Self { address, state, threads: vec![there, back] }
    }

    /// Where the client sends to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on every datagram is lost, in both directions.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::Relaxed);
    }

    /// From now on datagrams pass again.
    pub fn mend(&self) {
        self.state.cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn pass_on(
    state: Arc<State>,
    from: Arc<UdpSocket>,
    to: impl Fn(&[u8], SocketAddr) -> io::Result<usize> + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut data = vec![0; DATAGRAM_MAX];
        while !state.over.load(Ordering::Relaxed) {
            // Errors are those of a time-out, or of a server that is away at the moment.
            let Ok((length, sender)) = from.recv_from(&mut data) else { continue };
            if !state.cut.load(Ordering::Relaxed) {
                let _ = to(&data[..length], sender);
            }
        }
    })
}
