//! The text of a status written in HTML.

use html5gum::{Token, Tokenizer};

/// Elements that begin on a line of their own. Mastodon writes `p` alone; others federate the rest.
const BLOCKS: [&[u8]; 13] =
    [b"p", b"div", b"blockquote", b"pre", b"ul", b"ol", b"li", b"h1", b"h2", b"h3", b"h4", b"h5", b"h6"];

/// The text without its tags: blocks and `br` end lines, entities are decoded, white space stays. Spans
/// that a browser hides are kept, since they hold the rest of a shortened link.
pub(super) fn text_of(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    for Ok(token) in Tokenizer::new(html) {
        match token {
            Token::String(string) => text.push_str(&String::from_utf8_lossy(&string)),
            Token::StartTag(tag) if tag.name.as_slice() == b"br" => text.push('\n'),
            Token::StartTag(tag) if BLOCKS.contains(&tag.name.as_slice()) => end_line(&mut text),
            Token::EndTag(tag) if BLOCKS.contains(&tag.name.as_slice()) => end_line(&mut text),
            _ => {}
        }
    }
    text.truncate(text.trim_end_matches('\n').len());
    text
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::text_of;

    #[test]
    fn tags_are_dropped_and_blocks_and_breaks_end_lines() {
        assert_eq!(text_of("<p>one<br>two<br/>three</p><p>four</p>"), "one\ntwo\nthree\nfour");
        assert_eq!(text_of("<ul><li>a</li><li>b</li></ul>c"), "a\nb\nc");
        assert_eq!(text_of("plain  text"), "plain  text");
        assert_eq!(text_of(""), "");
    }

    #[test]
    fn entities_are_decoded_once() {
        assert_eq!(text_of("AT&amp;T &lt;3 &#39;&#x1F600;&quot;&nbsp;&amp;lt;"), "AT&T <3 '😀\"\u{a0}&lt;");
    }

    #[test]
    fn a_link_is_whole_though_a_browser_hides_parts_of_it() {
        let html = r#"<a href="https://example.org/page"><span class="invisible">https://</span><span class="ellipsis">example.org/p</span><span class="invisible">age</span></a>"#;
        assert_eq!(text_of(html), "https://example.org/page");
        let tag = r#"<a href="https://example.org/tags/vote" class="mention hashtag" rel="tag">#<span>vote</span></a>"#;
        assert_eq!(text_of(tag), "#vote");
    }

    #[test]
    fn broken_html_has_a_text_too() {
        assert_eq!(text_of("<p>a <b>b</p> & c < d <"), "a b\n & c < d <");
        assert_eq!(text_of("a<!-- x --><!doctype y><unclosed"), "a");
    }
}
