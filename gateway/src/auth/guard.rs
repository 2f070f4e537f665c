//! Requests that a browser was tricked into are refused before anything else looks at them.
//!
//! - DNS rebinding: a foreign page whose name now leads to this address names itself in `Host`. Without authentication only
//!   names of the loopback interface pass.
//! - Cross-site requests: browsers say where a request comes from, in `Sec-Fetch-Site` and `Origin`. Anything but this
//!   page's own origin is refused for every path below `/api` and `/webhdfs`, reads and event streams included. Clients that
//!   are no browsers send neither header.

use axum::http::{HeaderMap, header};

/// Hosts that a request may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Names and addresses of the loopback interface, and the given ones.
    Loopback(Vec<String>),
    /// The given ones only; all if there are none.
    Listed(Vec<String>),
}

impl Hosts {
    /// Whether the `Host` header, or the host of the request's target, may be served.
    pub fn allow(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let listed = |list: &[String]| list.iter().any(|l| l.eq_ignore_ascii_case(&name));
        match self {
            Self::Loopback(more) => is_loopback(&name) || listed(more),
            Self::Listed(list) => list.is_empty() || listed(list),
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn is_loopback(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name.ends_with(".localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
}

/// Whether a request comes from a page of another origin.
pub fn is_cross_site(headers: &HeaderMap, host: &str) -> bool {
    let text = |name| headers.get(name).map(|v: &axum::http::HeaderValue| v.to_str().unwrap_or("?"));
    if text(header::HeaderName::from_static("sec-fetch-site"))
        .is_some_and(|site| site != "same-origin" && site != "none")
    {
        return true;
    }
    text(header::ORIGIN).is_some_and(|origin| {
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        !own.is_some_and(|own| own.eq_ignore_ascii_case(host))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_interface_is_named_without_authentication() {
        let hosts = Hosts::Loopback(vec!["gate.example".into()]);
        for good in ["localhost:80", "LOCALHOST", "127.0.0.1:8080", "127.9.9.9", "[::1]:80", "gate.example:1"]
        {
            assert!(hosts.allow(good), "{good}");
        }
        for bad in
            ["evil.example", "127.0.0.1.evil.example:80", "10.0.0.1:80", "", "[::2]:80", "localhost.evil"]
        {
            assert!(!hosts.allow(bad), "{bad}");
        }
        assert!(Hosts::Listed(vec![]).allow("anything"));
        assert!(!Hosts::Listed(vec!["a".into()]).allow("b"));
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (header::HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    #[test]
    fn pages_of_other_origins_are_recognised() {
        let host = "127.0.0.1:8080";
        for own in [
            &[][..],
            &[("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8080")],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(!is_cross_site(&headers(own), host), "{own:?}");
        }
        for foreign in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[("origin", "http://127.0.0.1:8081")],
            &[("origin", "null")],
            &[("origin", "http://evil.example")],
        ] {
            assert!(is_cross_site(&headers(foreign), host), "{foreign:?}");
        }
    }
}
