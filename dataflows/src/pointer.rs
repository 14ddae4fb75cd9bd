//! JSON Pointers (RFC 6901).

use serde::{Deserialize, Serialize};
use std::fmt;

/// A parsed JSON Pointer: the reference tokens, unescaped. Empty: the whole document.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pointer {
    tokens: Vec<String>,
}

impl Pointer {
    /// Parses `""` or `/a/b~1c`. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Pointer::default());
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("{text:?} is no JSON Pointer: it must start with \"/\", like \"/{text}\""));
        };
        rest.split('/').map(unescape).collect::<Result<_, _>>().map(|tokens| Pointer { tokens })
    }

    /// From tokens that are already unescaped.
    pub fn from_tokens(tokens: Vec<String>) -> Self {
        Pointer { tokens }
    }

    /// The reference tokens, unescaped.
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }
}

fn unescape(token: &str) -> Result<String, String> {
    let mut out = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        match c {
            '~' => match chars.next() {
                Some('0') => out.push('~'),
                Some('1') => out.push('/'),
                _ => {
                    return Err(format!(
                        "in a JSON Pointer \"~\" must be written ~0 and \"/\" ~1, but there is {token:?}"
                    ));
                }
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tokens.iter().try_for_each(|t| write!(f, "/{}", t.replace('~', "~0").replace('/', "~1")))
    }
}

impl TryFrom<String> for Pointer {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Pointer::parse(&text)
    }
}

impl From<Pointer> for String {
    fn from(pointer: Pointer) -> String {
        pointer.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Pointer;

    #[test]
    fn a_pointer_reads_and_writes_the_escapes_of_rfc_6901() {
        let p = Pointer::parse("/a~1b/m~0n//0").unwrap();
        assert_eq!(p.tokens(), ["a/b", "m~n", "", "0"]);
        assert_eq!(p.to_string(), "/a~1b/m~0n//0");
        assert!(Pointer::parse("a").unwrap_err().contains("\"/a\""));
        assert!(Pointer::parse("/a~2").is_err());
    }
}
