//! The query of a WebHDFS request.

use crate::error::{Error, Result};
use crate::files::FsPath;

/// Names and values, in order; names are in lower case.
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = form_urlencoded::parse(query.as_bytes());
        Self(pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.into_owned())).collect())
    }

    /// A value; an empty one counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// Every value of a name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    pub(super) fn required(&self, name: &str) -> Result<&str> {
        self.text(name).ok_or_else(|| Error::Bad(format!("the parameter `{name}` is missing")))
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.text(name).map(|v| v.eq_ignore_ascii_case("true"))
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let parse = |v: &str| v.parse().map_err(|_| Error::Bad(format!("`{name}` is no such number: {v}")));
        self.text(name).map(parse).transpose()
    }

    /// Octal permission bits.
    pub(super) fn permission(&self, name: &str) -> Result<Option<u16>> {
        let parse = |v: &str| match u16::from_str_radix(v, 8) {
            Ok(mode) if mode <= 0o1777 => Ok(mode),
            _ => Err(Error::Bad(format!("`{name}` is octal, at most 1777, not {v}"))),
        };
        self.text(name).map(parse).transpose()
    }

    /// An absolute path.
    pub(super) fn path(&self, name: &str) -> Result<FsPath> {
        let text = self.required(name)?;
        if !text.starts_with('/') {
            return Err(Error::Bad(format!("`{name}` must be an absolute path, not {text}")));
        }
        Ok(FsPath::parse(text.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_checked() {
        let p = Params::parse(
            "OP=open&offset=5&path=%2Fa%20b%2Bc&permission=1777&overwrite=TRUE&empty=&xattr.name=a&xattr.name=b",
        );
        assert_eq!(p.text("op"), Some("open"));
        assert_eq!(p.number::<u64>("offset"), Ok(Some(5)));
        assert_eq!(p.path("path").unwrap().to_string(), "/a b+c");
        assert_eq!(p.permission("permission"), Ok(Some(0o1777)));
        assert_eq!((p.flag("overwrite"), p.text("empty")), (Some(true), None));
        assert_eq!(p.all("xattr.name").collect::<Vec<_>>(), ["a", "b"]);
        for query in ["permission=8", "permission=7777", "offset=-1", "path=a", "path=/../a"] {
            let p = Params::parse(query);
            let bad = p.permission("permission").is_err()
                || p.number::<u64>("offset").is_err()
                || p.path("path").is_err();
            assert!(bad, "{query}");
        }
    }
}
