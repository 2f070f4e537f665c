//! Logs for a process that has no terminal and no log file: the host's syslog, which on most hosts is the journal.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where syslog listens.
const SOCKET: &str = "/dev/log";
/// The facility `daemon` of RFC 5424, in its place.
const DAEMON: u8 = 3 << 3;

/// Sends each event as a message.
#[derive(Debug)]
pub(crate) struct Syslog {
    name: &'static str,
    socket: PathBuf,
}

/// One event.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    syslog: &'a Syslog,
    severity: u8,
}

impl Syslog {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, socket: SOCKET.into() }
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Message<'a>;

    fn make_writer(&'a self) -> Message<'a> {
        Message { syslog: self, severity: severity(Level::INFO) }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Message<'a> {
        Message { syslog: self, severity: severity(*metadata.level()) }
    }
}

impl Write for Message<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut message =
            format!("<{}>{}[{}]: ", DAEMON | self.severity, self.syslog.name, std::process::id())
                .into_bytes();
        message.extend_from_slice(text.trim_ascii_end());
        // The socket is looked up each time, since the service behind it may be started again. Without one the event is lost.
        UnixDatagram::unbound()?.send_to(&message, &self.syslog.socket)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Of RFC 5424.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_message_with_facility_severity_name_and_process() {
        let dir = tempfile::tempdir().unwrap();
        let syslog = Syslog { name: "quarry-mount", socket: dir.path().join("log") };
        let listener = UnixDatagram::bind(&syslog.socket).unwrap();
        let mut message = Message { syslog: &syslog, severity: severity(Level::ERROR) };
        message.write_all(b"ERROR the mount is gone\n").unwrap();
        let mut buffer = [0; 100];
        let length = listener.recv(&mut buffer).unwrap();
        let expected = format!("<27>quarry-mount[{}]: ERROR the mount is gone", std::process::id());
        assert_eq!(String::from_utf8_lossy(&buffer[..length]), expected);
        drop(listener);
        assert!(message.write_all(b"lost").is_err());
    }
}
