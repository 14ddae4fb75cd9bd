//! Whether a place in a text lies within a URL, by the rules of twitter-text.
//!
//! Only as much of its URL rules (`regexp/validUrl*.js` of its JavaScript edition) as bears on hashtags:
//! a `#` can only stand in a path or a query, so a URL is looked for that has one. Its domain ends
//! in a top-level domain of IANA's list or in punycode, and without `http://` or `https://` it is
//! ASCII.

use regex::Regex;
use std::sync::LazyLock;

/// An optional scheme, a domain, an optional port, then a path, a query or both. A path may hold
/// parentheses, nested once, and ends in a character that is no punctuation, unless all of it is
/// `@...` and ends in a slash.
static URL: LazyLock<Regex> = LazyLock::new(|| {
    let general = r"[a-z0-9\p{Cyrillic}\p{Latin}!*';:=+,.$/%#\[\]\-\u{2013}_~@|&]";
    let ending = r"[a-z0-9\p{Cyrillic}\p{Latin}+\-=_#/]";
    let parens = format!(r"\((?:{general}+|{general}*\({general}+\){general}*)\)");
    let path = format!(r"/(?:(?:{general}|{parens})*(?:{ending}|{parens})|@{general}+/)?");
    let query = r"\?[a-z0-9!?*'@();:&=+$/%#\[\]\-_.,~|]*[a-z0-9\-_&=#/]";
    let label = r"[^\p{P}\p{S}\p{Z}\p{C}](?:[^\p{P}\p{S}\p{Z}\p{C}]|[_-])*";
    let url = format!(
        r"(?i)(?P<scheme>https?://)?(?P<domain>(?:{label}\.)+(?P<top>{label}))(?::[0-9]+)?(?:{path}(?:{query})?|{query})"
    );
    // A constant pattern; that it compiles is what the tests show first of all.
    Regex::new(&url).unwrap_or_else(|e| unreachable!("the URL pattern: {e}"))
});

/// Whether the byte at `at` (where a `#` stands) lies within a URL.
pub(super) fn within_url(text: &str, at: usize) -> bool {
    // White space ends a URL on both sides; a slash or a question mark must come before a `#` in one.
    let start = text[..at].rfind(char::is_whitespace).map_or(0, |space| space + width(text, space));
    if memchr::memchr2(b'/', b'?', &text.as_bytes()[start..at]).is_none() {
        return false;
    }
    let word = &text[start..];
    let word = &word[..word.find(char::is_whitespace).unwrap_or(word.len())];
    URL.captures_iter(word).any(|found| {
        let (Some(url), Some(domain), Some(top)) = (found.get(0), found.name("domain"), found.name("top")) else {
            return false;
        };
        let schemed = found.name("scheme").is_some();
        let before = word[..url.start()].chars().next_back();
        url.range().contains(&(at - start))
            && before.is_none_or(|c| may_precede(c, schemed))
            && (schemed || domain.as_str().is_ascii())
            && is_top_level(top.as_str())
    })
}

fn width(text: &str, at: usize) -> usize {
    text[at..].chars().next().map_or(1, char::len_utf8)
}

/// Whether a URL may begin right after `c`; one without a scheme needs more distance.
fn may_precede(c: char, schemed: bool) -> bool {
    !(c.is_ascii_alphanumeric() || matches!(c, '@' | '＠' | '$' | '#' | '＃') || !schemed && "-_./".contains(c))
}

fn is_top_level(label: &str) -> bool {
    label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--")) || tld::exist(&label.to_lowercase())
}
