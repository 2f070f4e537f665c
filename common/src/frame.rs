//! Length-prefixed postcard frames on a stream: a 4-byte little-endian length, then so many bytes.

use crate::limits::FRAME_MAX;
use crate::transport::{RecvStream, SendStream, TransportError};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

const PREFIX: usize = 4;

/// A value as a frame.
///
/// # Errors
/// `Malformed` when it is larger than [`FRAME_MAX`].
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, TransportError> {
    let buffer =
        postcard::to_extend(value, vec![0; PREFIX]).map_err(|e| TransportError::Malformed(e.to_string()))?;
    finish(buffer)
}

/// Puts the length before a body that was written behind four spare bytes.
pub(crate) fn finish(mut buffer: Vec<u8>) -> Result<Bytes, TransportError> {
    let length = buffer.len() - PREFIX;
    if length > FRAME_MAX {
        return Err(TransportError::Malformed(format!(
            "a frame of {length} bytes, at most {FRAME_MAX} are allowed"
        )));
    }
    buffer[..PREFIX].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(buffer.into())
}

/// Sends a value as one frame.
///
/// # Errors
/// Those of the stream, or `Malformed` when the value is too large.
pub async fn write_frame<T: Serialize + Sync>(
    stream: &mut dyn SendStream,
    value: &T,
) -> Result<(), TransportError> {
    stream.write(encode(value)?).await
}

/// The body of the next frame. The length is checked before anything is allocated for it.
///
/// # Errors
/// Those of the stream, or `Malformed` when the length is too large.
pub async fn read_body(stream: &mut dyn RecvStream) -> Result<Vec<u8>, TransportError> {
    let mut prefix = [0; PREFIX];
    stream.read_exact(&mut prefix).await?;
    let length = u32::from_le_bytes(prefix) as usize;
    if length > FRAME_MAX {
        return Err(TransportError::Malformed(format!(
            "a frame of {length} bytes, at most {FRAME_MAX} are allowed"
        )));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Receives one frame.
///
/// # Errors
/// Those of the stream, or `Malformed` when it is too large or no `T`.
pub async fn read_frame<T: DeserializeOwned>(stream: &mut dyn RecvStream) -> Result<T, TransportError> {
    decode(&read_body(stream).await?)
}

/// A value from the body of a frame, which must hold nothing else.
///
/// # Errors
/// `Malformed`.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, TransportError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(TransportError::Malformed(format!("{} bytes too many", rest.len()))),
        Err(e) => Err(TransportError::Malformed(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn too_large_is_refused() {
        assert!(encode(&vec![0u8; FRAME_MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn bytes_from_the_network_never_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            use crate::wire::{cluster, data, fs, session};
            let _ = decode::<session::Request>(&body);
            let _ = decode::<session::Response>(&body);
            let _ = decode::<session::Push>(&body);
            let _ = decode::<cluster::NodeRequest>(&body);
            let _ = decode::<cluster::NodeReply>(&body);
            let _ = decode::<cluster::Heartbeat>(&body);
            let _ = decode::<data::DataRequest>(&body);
            let _ = decode::<data::DataResponse>(&body);
            let _ = decode::<fs::Mutation>(&body);
        }

        #[test]
        fn what_is_encoded_comes_back(id: u64, offset: u32, length: u32) {
            let request = crate::wire::data::DataRequest::Read { id: crate::ids::ChunkId(id), offset, length };
            let frame = encode(&request).unwrap();
            prop_assert_eq!(decode::<crate::wire::data::DataRequest>(&frame[PREFIX..]).unwrap(), request);
        }
    }
}
