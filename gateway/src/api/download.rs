//! Reading files: whole or a range, streamed.

use super::PathOf;
use crate::app::User;
use crate::error::{Error, Result};
use crate::files::{FsPath, encode_name, stream};
use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use quarry_common::wire::fs::Attr;
use serde::Deserialize;
use std::ops::Range;

#[derive(Deserialize)]
pub(super) struct Options {
    /// Present: the browser saves the file instead of showing it.
    download: Option<String>,
}

/// What a `Range` header asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ByteRange {
    /// The whole file: no header, or one of a form that may be ignored (several ranges, other units).
    Whole,
    /// These bytes of it, at least one.
    Part(Range<u64>),
    /// None of its bytes.
    Outside,
}

/// Reads a `Range` header by RFC 9110, section 14.
pub(crate) fn parse_range(header: Option<&str>, size: u64) -> ByteRange {
    let Some(spec) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else { return ByteRange::Whole };
    let Some((first, last)) = spec.split_once('-') else { return ByteRange::Whole };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(first.trim()) || !digits(last.trim()) || (first.trim().is_empty() && last.trim().is_empty()) {
        return ByteRange::Whole;
    }
    // Numbers that do not fit lie behind every file.
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or(u64::MAX);
    let range = match (first.trim(), last.trim()) {
        ("", suffix) => size.saturating_sub(number(suffix))..size,
        (first, "") => number(first)..size,
        (first, last) if number(last) < number(first) => return ByteRange::Whole,
        (first, last) => number(first)..size.min(number(last).saturating_add(1)),
    };
    if range.start < range.end { ByteRange::Part(range) } else { ByteRange::Outside }
}

/// `GET` and `HEAD /files/PATH`
pub(super) async fn get(
    User(fs): User,
    PathOf(path): PathOf,
    Query(options): Query<Options>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    let (attr, file) = fs.open(&path).await?;
    let tag = entity_tag(&attr);
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    if text(header::IF_NONE_MATCH)
        .is_some_and(|tags| tags.split(',').any(|t| t.trim() == tag || t.trim() == "*"))
    {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    // A range of another version of the file would be mixed with what the client has.
    let same = text(header::IF_RANGE).is_none_or(|expected| expected == tag);
    let range = if same { parse_range(text(header::RANGE), attr.size) } else { ByteRange::Whole };
    let (status, range) = match range {
        ByteRange::Whole => (StatusCode::OK, 0..attr.size),
        ByteRange::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        ByteRange::Outside => return Err(Error::Range(attr.size)),
    };
    let body =
        if method == Method::HEAD { Body::empty() } else { Body::from_stream(stream(file, range.clone())) };
    let mut response = (status, body).into_response();
    let out = response.headers_mut();
    let mut set = |name, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            out.insert(name, value);
        }
    };
    set(header::CONTENT_LENGTH, (range.end - range.start).to_string());
    set(header::CONTENT_TYPE, content_type(&path));
    set(header::ETAG, tag);
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    set(header::CONTENT_DISPOSITION, disposition(&path, options.download.is_some()));
    if status == StatusCode::PARTIAL_CONTENT {
        set(header::CONTENT_RANGE, format!("bytes {}-{}/{}", range.start, range.end - 1, attr.size));
    }
    Ok(response)
}

/// Equal tags mean equal contents.
pub(super) fn entity_tag(attr: &Attr) -> String {
    format!("\"{}-{}\"", attr.ino, attr.version)
}

/// By the extension of the name; text is taken to be UTF-8.
fn content_type(path: &FsPath) -> String {
    let name = String::from_utf8_lossy(path.name().unwrap_or_default()).into_owned();
    let guess = mime_guess::from_path(name).first_or_octet_stream();
    match guess.type_() {
        mime_guess::mime::TEXT => format!("{guess}; charset=utf-8"),
        _ => guess.to_string(),
    }
}

/// The name for a file that is saved (RFC 6266): percent-encoded, so that no byte of it ends the header.
pub(super) fn disposition(path: &FsPath, save: bool) -> String {
    let kind = if save { "attachment" } else { "inline" };
    format!("{kind}; filename*=UTF-8''{}", encode_name(path.name().unwrap_or(b"root")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_the_standard_has_it() {
        let part = ByteRange::Part;
        for (header, expected) in [
            (None, ByteRange::Whole),
            (Some("bytes=0-0"), part(0..1)),
            (Some("bytes=5-"), part(5..10)),
            (Some("bytes=5-99"), part(5..10)),
            (Some("bytes=-3"), part(7..10)),
            (Some("bytes=-99"), part(0..10)),
            (Some("bytes=10-"), ByteRange::Outside),
            (Some("bytes=-0"), ByteRange::Outside),
            (Some("bytes=99999999999999999999-"), ByteRange::Outside),
            (Some("bytes=5-4"), ByteRange::Whole),
            (Some("bytes=0-1,3-4"), ByteRange::Whole),
            (Some("lines=0-1"), ByteRange::Whole),
            (Some("bytes=-"), ByteRange::Whole),
            (Some("bytes=a-b"), ByteRange::Whole),
        ] {
            assert_eq!(parse_range(header, 10), expected, "{header:?}");
        }
        assert_eq!(parse_range(Some("bytes=0-"), 0), ByteRange::Outside);
    }

    proptest! {
        #[test]
        fn ranges_of_strangers_stay_within_the_file(header in ".{0,40}", size: u64) {
            if let ByteRange::Part(range) = parse_range(Some(&header), size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }

    #[test]
    fn names_cannot_end_a_header() {
        let path = FsPath::parse(b"/a\r\nSet-Cookie: x\"").unwrap();
        assert_eq!(disposition(&path, true), "attachment; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x%22");
        assert_eq!(content_type(&FsPath::parse(b"/x.TXT").unwrap()), "text/plain; charset=utf-8");
        assert_eq!(content_type(&FsPath::parse(b"/x").unwrap()), "application/octet-stream");
    }
}
