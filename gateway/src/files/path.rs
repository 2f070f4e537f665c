//! Paths within the cluster as clients of the gateway write them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use quarry_common::limits::NAME_MAX;
use quarry_common::wire::error::FsError;
use std::fmt;

/// Longest path in bytes: `PATH_MAX` of Linux without its NUL.
const PATH_MAX: usize = 4095;

/// Unreserved characters of RFC 3986 stay as they are.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An absolute path: names without `.`, `..`, `/` and NUL. No names: the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsPath(Vec<Vec<u8>>);

impl FsPath {
    /// Reads a path of any bytes. Empty names and `.` are skipped.
    ///
    /// # Errors
    /// `Invalid` for `..` and NUL: a path from the network never leaves the directory that it names. `NameTooLong`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FsError> {
        if bytes.len() > PATH_MAX {
            return Err(FsError::NameTooLong);
        }
        let mut names = Vec::new();
        for name in bytes.split(|b| *b == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err(FsError::Invalid),
                name if name.contains(&0) => return Err(FsError::Invalid),
                name if name.len() > NAME_MAX => return Err(FsError::NameTooLong),
                name => names.push(name.to_vec()),
            }
        }
        Ok(Self(names))
    }

    /// Reads a percent-encoded path, as it stands in a URL.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_encoded(text: &str) -> Result<Self, FsError> {
        let bytes: Vec<u8> = percent_decode_str(text).collect();
        Self::parse(&bytes)
    }

    /// From the root down.
    pub fn names(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// The last name and the directory that holds it; `None` for the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        let (name, parents) = self.0.split_last()?;
        Some((Self(parents.to_vec()), name))
    }

    /// The last name; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.0.last().map(Vec::as_slice)
    }

    /// The path of a name in this directory.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut names = self.0.clone();
        names.push(name.to_vec());
        Self(names)
    }

    /// Whether this is the other path or below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// Percent-encoded, for URLs: `/a%20b/c`.
    pub fn encoded(&self) -> String {
        self.write(|name| percent_encode(name, ESCAPED).to_string())
    }

    fn write(&self, show: impl Fn(&[u8]) -> String) -> String {
        if self.0.is_empty() {
            return "/".to_owned();
        }
        self.0.iter().fold(String::new(), |text, name| text + "/" + &show(name))
    }
}

/// For people: bytes that are no UTF-8 are replaced.
impl fmt::Display for FsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.write(|name| String::from_utf8_lossy(name).into_owned()))
    }
}

/// A name, percent-encoded.
pub fn encode_name(name: &[u8]) -> String {
    percent_encode(name, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dots_and_empty_names_are_skipped_and_parents_refused() {
        let path = FsPath::parse(b"//a/./b/").unwrap();
        assert_eq!(path.to_string(), "/a/b");
        assert_eq!(FsPath::parse(b"").unwrap().to_string(), "/");
        for text in ["/..", "/a/../b", "/%2e%2e/b", "/a%2f..%2fb", "/a%00b"] {
            assert_eq!(FsPath::parse_encoded(text), Err(FsError::Invalid), "{text}");
        }
        assert_eq!(FsPath::parse(&[b'a'; 256]), Err(FsError::NameTooLong));
        assert_eq!(FsPath::parse(&b"a/".repeat(3000)), Err(FsError::NameTooLong));
    }

    #[test]
    fn names_of_any_bytes_survive_a_url() {
        let path = FsPath::parse(b"/\xff<\"'\n%/x y").unwrap();
        assert_eq!(path.encoded(), "/%FF%3C%22%27%0A%25/x%20y");
        assert_eq!(FsPath::parse_encoded(&path.encoded()), Ok(path.clone()));
        let (parent, name) = path.split().unwrap();
        assert_eq!((parent.join(name), name), (path.clone(), &b"x y"[..]));
        assert!(path.is_within(&parent) && !parent.is_within(&path));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_again(names in prop::collection::vec(prop::collection::vec(1u8..255, 1..20), 0..6)) {
            let bytes = names.iter().fold(Vec::new(), |mut all, name| { all.push(b'/'); all.extend(name); all });
            if let Ok(path) = FsPath::parse(&bytes) {
                prop_assert_eq!(FsPath::parse_encoded(&path.encoded()), Ok(path));
            }
        }
    }
}
