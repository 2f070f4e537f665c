//! Length-prefixed postcard frames on a stream: a 4-byte little-endian length, then so many bytes.

use crate::transport::{RecvStream, SendStream, TransportError};
use bytes::Bytes;
use quarry_common::limits::FRAME_MAX;
use quarry_host::trace::Operation;
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

/// Sends a value as one frame, and after it the number of the operation for which it is sent, if there is one.
///
/// # Errors
/// Those of the stream, or `Malformed` when the value is too large.
pub async fn write_frame_for<T: Serialize + Sync>(
    stream: &mut dyn SendStream,
    value: &T,
    operation: Operation,
) -> Result<(), TransportError> {
    if operation.is_some() {
        write_frame(stream, &(value, operation.number())).await
    } else {
        write_frame(stream, value).await
    }
}

/// A value and the number of an operation that may follow it, from the body of a frame, which must hold nothing else.
///
/// # Errors
/// `Malformed`.
pub fn decode_with_operation<T: DeserializeOwned>(body: &[u8]) -> Result<(T, Operation), TransportError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok((value, Operation::NONE)),
        Ok((value, rest)) => Ok((value, Operation::from_number(decode(rest)?))),
        Err(e) => Err(TransportError::Malformed(e.to_string())),
    }
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

    /// What a peer may send: anything, or bytes so small that decoders take many of them for tags and lengths
    /// and get far.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        use proptest::collection::vec;
        prop_oneof![
            vec(any::<u8>(), 0..400),
            vec(0u8..24, 0..400),
            vec(prop_oneof![0u8..6, Just(0xff)], 0..400)
        ]
    }

    /// Decodes, and if that works encodes: what we understood must be sayable.
    fn survives<T: Serialize + DeserializeOwned>(body: &[u8]) {
        if let Ok(value) = decode::<T>(body) {
            encode(&value).unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn bytes_from_the_network_never_panic(body in hostile()) {
            use crate::rpc::{NodeProtocol, Protocol};
            use quarry_common::wire::{cluster, data, error, fs, session};
            survives::<session::Request>(&body);
            survives::<session::Response>(&body);
            survives::<session::Reply>(&body);
            survives::<session::Push>(&body);
            survives::<cluster::NodeRequest>(&body);
            survives::<<NodeProtocol as Protocol>::Response>(&body);
            survives::<cluster::NodeReply>(&body);
            survives::<cluster::Heartbeat>(&body);
            survives::<cluster::Placement>(&body);
            survives::<cluster::ClusterStatus>(&body);
            survives::<cluster::FsckProgress>(&body);
            survives::<data::DataRequest>(&body);
            survives::<data::DataResponse>(&body);
            survives::<fs::Query>(&body);
            survives::<fs::QueryReply>(&body);
            survives::<fs::Mutation>(&body);
            survives::<fs::MutationReply>(&body);
            survives::<error::ServiceError>(&body);
        }

        #[test]
        fn the_operation_comes_back_or_is_missing(value: u64, number in 1u64..1 << 40) {
            let with = encode(&(value, number)).unwrap();
            let operation = Operation::from_number(number);
            prop_assert_eq!(decode_with_operation::<u64>(&with[PREFIX..]).unwrap(), (value, operation));
            let without = encode(&value).unwrap();
            prop_assert_eq!(decode_with_operation::<u64>(&without[PREFIX..]).unwrap(), (value, Operation::NONE));
            let longer = encode(&(value, number, 0u8)).unwrap();
            prop_assert!(decode_with_operation::<u64>(&longer[PREFIX..]).is_err());
        }

        #[test]
        fn what_is_encoded_comes_back(id: u64, offset: u32, length: u32) {
            let request = quarry_common::wire::data::DataRequest::Read { id: quarry_common::ids::ChunkId(id), offset, length };
            let frame = encode(&request).unwrap();
            prop_assert_eq!(decode::<quarry_common::wire::data::DataRequest>(&frame[PREFIX..]).unwrap(), request);
        }
    }
}
