//! Extended attributes with the three encodings of HDFS: `"text"`, `0x` hexadecimal, `0s` base64.

use super::{Call, json};
use crate::auth::hex;
use crate::error::{Error, Result};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::SetXattrMode;
use serde_json::{Value, json};

fn encode(value: &[u8], encoding: &str) -> Result<String> {
    match encoding.to_ascii_lowercase().as_str() {
        "text" => Ok(format!("\"{}\"", String::from_utf8_lossy(value))),
        "hex" => Ok(format!("0x{}", hex(value))),
        "base64" => Ok(format!("0s{}", STANDARD.encode(value))),
        _ => Err(Error::Bad(format!("encoding is text, hex or base64, not {encoding}"))),
    }
}

fn decode(text: &str) -> Result<Vec<u8>> {
    let bad =
        || Error::Bad(format!("xattr.value is \"text\", 0x and hexadecimal, or 0s and base64, not {text}"));
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let pairs = digits.as_bytes().chunks(2);
        let byte = |pair: &[u8]| {
            u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?, 16).ok()
        };
        return pairs.map(byte).collect::<Option<Vec<u8>>>().ok_or_else(bad);
    }
    if let Some(digits) = text.strip_prefix("0s").or_else(|| text.strip_prefix("0S")) {
        return STANDARD.decode(digits).map_err(|_| bad());
    }
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    Ok(inner.as_bytes().to_vec())
}

/// HDFS writes the namespace in any case.
fn full_name(name: &str) -> Result<Vec<u8>> {
    let (namespace, rest) =
        name.split_once('.').ok_or_else(|| Error::Bad(format!("{name} has no namespace")))?;
    Ok(format!("{}.{rest}", namespace.to_ascii_lowercase()).into_bytes())
}

impl Call {
    pub(super) async fn xattrs(&self) -> Result<Response> {
        let encoding = self.params.text("encoding").unwrap_or("text");
        let attr = self.fs.stat(&self.path).await?;
        let names: Vec<&str> = self.params.all("xattr.name").collect();
        let all = if names.is_empty() {
            self.fs.xattrs(&attr).await?
        } else {
            let mut some = Vec::with_capacity(names.len());
            for name in names {
                let name = full_name(name)?;
                some.push((name.clone(), self.fs.xattr(&attr, &name).await?));
            }
            some
        };
        let shown = |(name, value): (Vec<u8>, Vec<u8>)| {
            Ok(json!({ "name": String::from_utf8_lossy(&name), "value": encode(&value, encoding)? }))
        };
        let visible = all.into_iter().filter(|(name, _)| !name.starts_with(b"system."));
        Ok(json(json!({ "XAttrs": visible.map(shown).collect::<Result<Vec<Value>>>()? })))
    }

    pub(super) async fn xattr_names(&self) -> Result<Response> {
        let attr = self.fs.stat(&self.path).await?;
        let names: Vec<String> = self
            .fs
            .xattrs(&attr)
            .await?
            .into_iter()
            .filter(|(name, _)| !name.starts_with(b"system."))
            .map(|(name, _)| String::from_utf8_lossy(&name).into_owned())
            .collect();
        // HDFS answers a list within a string.
        Ok(json(json!({ "XAttrNames": Value::from(names).to_string() })))
    }

    pub(super) async fn set_xattr(&self) -> Result<Response> {
        let name = full_name(self.params.required("xattr.name")?)?;
        let value = self.params.text("xattr.value").map(decode).transpose()?.unwrap_or_default();
        let flags = self.params.required("flag")?.to_ascii_uppercase();
        let has = |flag| flags.split(',').any(|f| f.trim() == flag);
        let mode = match (has("CREATE"), has("REPLACE")) {
            (true, true) => SetXattrMode::Either,
            (true, false) => SetXattrMode::Create,
            (false, true) => SetXattrMode::Replace,
            (false, false) => {
                return Err(Error::Bad(format!("flag is CREATE, REPLACE or both, not {flags}")));
            }
        };
        if name.starts_with(b"system.") {
            return Err(FsError::NotPermitted.into());
        }
        let attr = self.fs.stat(&self.path).await?;
        self.fs.set_xattr(&attr, &name, value, mode).await?;
        Ok(().into_response())
    }

    pub(super) async fn remove_xattr(&self) -> Result<Response> {
        let name = full_name(self.params.required("xattr.name")?)?;
        if name.starts_with(b"system.") {
            return Err(FsError::NotPermitted.into());
        }
        let attr = self.fs.stat(&self.path).await?;
        self.fs.remove_xattr(&attr, &name).await?;
        Ok(().into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_in_each_encoding() {
        for encoding in ["text", "hex", "BASE64"] {
            assert_eq!(decode(&encode(b"a\"b", encoding).unwrap()), Ok(b"a\"b".to_vec()), "{encoding}");
        }
        assert_eq!(decode("0xff00"), Ok(vec![255, 0]));
        assert!(decode("0xf").is_err() && decode("0s!").is_err() && encode(b"", "x").is_err());
        assert_eq!(full_name("USER.Key"), Ok(b"user.Key".to_vec()));
    }
}
