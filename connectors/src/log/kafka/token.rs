//! Tokens for SASL OAUTHBEARER. They are read from a file that something else keeps fresh: a sidecar, a cron job,
//! a projected service account.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use serde::Deserialize;
use std::fs::File;
use std::io::Read;

/// The property that says which file.
pub(super) const PROPERTY: &str = "sasl.oauthbearer.config";
/// A token has at most this many bytes.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// What is read of a token's claims (RFC 7519, 4.1).
#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// In seconds since 1970, in parts of them too.
    exp: f64,
}

/// Reads the token of a configuration `file=PATH`. Errors say what is wrong, without the token.
pub(super) fn read(config: Option<&str>) -> Result<OAuthToken, String> {
    let path = config.and_then(|config| config.trim().strip_prefix("file="));
    let path = path.filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| format!("{PROPERTY:?} has to be \"file=PATH\", of a file that holds a token"))?;
    let mut token = String::new();
    let read = File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut token));
    let bytes = read.map_err(|error| format!("the token can't be read from {path}: {error}"))?;
    if bytes as u64 > TOKEN_BYTES_MAX {
        return Err(format!("what stands in {path} is longer than a token may be, {TOKEN_BYTES_MAX} bytes"));
    }
    of(token.trim()).ok_or_else(|| format!("what stands in {path} is no JSON Web Token that has \"sub\" and \"exp\""))
}

fn of(token: &str) -> Option<OAuthToken> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let Claims { sub, exp } = serde_json::from_slice(&claims).ok()?;
    Some(OAuthToken { token: token.to_owned(), principal_name: sub, lifetime_ms: (exp * 1e3) as i64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_its_file_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let config = format!("file={}", path.display());
        let encode = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
        let claims = encode(r#"{"sub":"tally","exp":1700000000.5}"#);
        let token = format!("{}.{claims}.c2lnbmVk", encode(r#"{"alg":"RS256"}"#));
        std::fs::write(&path, format!("{token}\n")).unwrap();
        let wrong = || read(Some(&config)).err().unwrap();
        let found = read(Some(&config)).ok().unwrap();
        assert_eq!((found.token, found.principal_name.as_str()), (token, "tally"));
        assert_eq!(found.lifetime_ms, 1_700_000_000_500);
        for (text, what) in [("secret", "JSON Web Token"), (&format!("a.{}.b", encode("{}")), "\"exp\"")] {
            std::fs::write(&path, text).unwrap();
            let error = wrong();
            assert!(error.contains(what) && !error.contains(text), "{error}");
        }
        std::fs::write(&path, "x".repeat(TOKEN_BYTES_MAX as usize + 1)).unwrap();
        assert!(wrong().contains("65536 bytes"));
        std::fs::remove_file(&path).unwrap();
        assert!(wrong().contains("can't be read"));
        assert!(read(Some("principal=me")).is_err_and(|why| why.contains("file=PATH")));
        assert!(read(None).is_err());
    }
}
