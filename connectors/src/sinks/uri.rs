//! Connection strings: where they are found, and what of them may be shown.

#[cfg(feature = "mongodb")]
use std::path::Path;
use tallyflow_dataflows::spec::Uri;

/// The most that a file with a connection string may hold.
#[cfg(feature = "mongodb")]
const FILE_BYTES_MAX: u64 = 64 << 10;
const HIDDEN: &str = "***";

/// What may be shown of a sink at that address: no password, no option. Of what is found elsewhere only
/// where: it may be no connection string at all.
pub fn shown(uri: &Uri, place: &str) -> String {
    match uri {
        Uri::Text(text) => format!("{}/{place}", address(text)),
        Uri::Env(name) => format!("{place} (uri_env {name})"),
        Uri::File(path) => format!("{place} (uri_file {path})"),
    }
}

/// Scheme, user and hosts.
fn address(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    // An `@` that should have been escaped belongs to the password, and so does all before it.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    let hosts = rest.split(['/', '?']).next().unwrap_or_default();
    let host = |host: &str| match host.rsplit_once(':') {
        // What is no port may be a password whose host is missing.
        Some((_, port)) if !is_port(port) => HIDDEN.to_owned(),
        _ => host.to_owned(),
    };
    let hosts: Vec<String> = hosts.split(',').map(host).collect();
    let user = user.map(|user| match user.split_once(':') {
        Some((name, _)) => format!("{name}:{HIDDEN}@"),
        None => format!("{user}@"),
    });
    format!("{scheme}://{}{}", user.unwrap_or_default(), hosts.join(","))
}

/// Whether what follows a colon is a port, or the end of an IPv6 address.
fn is_port(text: &str) -> bool {
    text.ends_with(']') || text.bytes().all(|b| b.is_ascii_digit())
}

/// Finds the connection string. An error says what is missing where, and nothing of what is there.
#[cfg(feature = "mongodb")]
pub fn find(uri: &Uri, data_dir: &Path) -> Result<String, String> {
    let (text, at) = match uri {
        Uri::Text(text) => (text.clone(), "uri".to_owned()),
        Uri::Env(name) => match std::env::var(name) {
            Ok(text) => (text, format!("the variable {name}")),
            Err(_) => return Err(format!("the variable {name} is not set where the server runs; set it and restart")),
        },
        Uri::File(path) => {
            let path = data_dir.join(path);
            let at = format!("the file {}", path.display());
            let read = std::fs::File::open(&path).and_then(|file| {
                use std::io::Read;
                let mut text = String::new();
                file.take(FILE_BYTES_MAX).read_to_string(&mut text).map(|_| text)
            });
            (read.map_err(|error| format!("{at} with the uri can't be read: {error}"))?, at)
        }
    };
    let text = text.trim();
    if !text.starts_with("mongodb://") && !text.starts_with("mongodb+srv://") {
        return Err(format!("{at} holds nothing that begins with mongodb:// or mongodb+srv://"));
    }
    Ok(text.to_owned())
}

/// What of a connection string stands in no error: longest first.
#[cfg(feature = "mongodb")]
pub fn secrets(text: &str) -> Vec<String> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let mut secrets = Vec::new();
    let (user, hosts) = match rest.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, rest),
    };
    // See `address`.
    let hosts = hosts.split(['/', '?']).next().unwrap_or_default();
    let ports = hosts.split(',').filter_map(|host| Some(host.rsplit_once(':')?.1));
    secrets.extend(ports.filter(|port| !is_port(port)).map(str::to_owned));
    if let Some((_, password)) = user.and_then(|user| user.split_once(':')) {
        secrets.push(password.to_owned());
        secrets.push(unescaped(password));
    }
    if let Some((_, options)) = rest.split_once('?') {
        let values = options.split('&').filter_map(|option| option.split_once('='));
        // Of the options, those that are secrets.
        let is_secret = |key: &str| {
            let key = key.to_ascii_lowercase();
            key.contains("password") || key.contains("properties")
        };
        for (_, value) in values.filter(|(key, _)| is_secret(key)) {
            secrets.push(value.to_owned());
            secrets.push(unescaped(value));
        }
    }
    secrets.retain(|secret| !secret.is_empty());
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

/// A text without them.
#[cfg(feature = "mongodb")]
pub fn without(mut text: String, secrets: &[String]) -> String {
    for secret in secrets {
        text = text.replace(secret, HIDDEN);
    }
    text
}

/// With `%40` and the like read.
#[cfg(feature = "mongodb")]
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten();
        let escaped = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_an_address_holds_no_password_and_no_option() {
        let shown = |text: &str| shown(&Uri::Text(text.into()), "d.c");
        assert_eq!(shown("mongodb://localhost:27017"), "mongodb://localhost:27017/d.c");
        assert_eq!(shown("mongodb://a:1,[::1]:2,b/admin?x=y"), "mongodb://a:1,[::1]:2,b/d.c");
        assert_eq!(shown("mongodb+srv://me:hunter2@h/?tls=true"), "mongodb+srv://me:***@h/d.c");
        assert_eq!(shown("mongodb://me@h"), "mongodb://me@h/d.c");
        for broken in [
            "mongodb://me:hun@ter2@h/d",
            "mongodb://me:hunter2/x?@h",
            "mongodb://me:hunter2",
            "mongodb://me:p/hunter2@h",
            "mongodb://h/?tlsCertificateKeyFilePassword=hunter2",
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:hunter2&x=@h",
        ] {
            assert!(!shown(broken).contains("ter2"), "{broken}: {}", shown(broken));
        }
    }

    #[test]
    #[cfg(feature = "mongodb")]
    fn an_error_is_freed_of_whatever_is_secret_escaped_or_not() {
        let secrets = secrets("mongodb://me:a%40b%2fhunter2@h/?tlsCertificateKeyFilePassword=c%2dd");
        let text = "me:a%40b%2fhunter2 a@b/hunter2 c-d c%2dd host h".to_owned();
        assert_eq!(without(text, &secrets), "me:*** *** *** *** host h");
    }

    #[test]
    #[cfg(feature = "mongodb")]
    fn a_connection_string_is_found_in_a_file_or_the_environment_and_no_error_shows_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = |text: &str| {
            std::fs::write(dir.path().join("uri"), text).unwrap();
            find(&Uri::File("uri".into()), dir.path())
        };
        assert_eq!(file(" mongodb://u:p@h\n").unwrap(), "mongodb://u:p@h");
        let error = file("hunter2").unwrap_err();
        assert!(error.contains("begins with mongodb://") && !error.contains("hunter2"), "{error}");
        let error = find(&Uri::File("none".into()), dir.path()).unwrap_err();
        assert!(error.contains("none") && error.contains("can't be read"), "{error}");
        let error = find(&Uri::Env("TALLYFLOW_TEST_NO_SUCH_VARIABLE".into()), dir.path()).unwrap_err();
        assert!(error.contains("is not set"), "{error}");
        // Cargo sets it, and it is no connection string.
        let error = find(&Uri::Env("CARGO_MANIFEST_DIR".into()), dir.path()).unwrap_err();
        assert!(
            error.contains("CARGO_MANIFEST_DIR") && !error.contains('/') || error.contains("mongodb://"),
            "{error}"
        );
        assert!(!error.contains(env!("CARGO_MANIFEST_DIR")), "{error}");
    }
}
