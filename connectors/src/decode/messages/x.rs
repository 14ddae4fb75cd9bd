//! What both interfaces of X have in common.

use super::fields::{Fields, Read};
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Reject, Value};

/// A text of a post and the hashtags sent with it.
#[derive(Default)]
pub(super) struct Body<'a> {
    pub text: Option<Cow<'a, str>>,
    pub hashtags: Option<Vec<Value<'a>>>,
}

/// Of pairs of fields, a text and its hashtags, the first whose text is there, or else the last. The
/// hashtags are always those of the same text: those of a shortened one end where it was cut off.
pub(super) fn body<'a>(
    fields: &Fields,
    read: &mut Read<'a>,
    pairs: &[(usize, usize)],
    key: &str,
) -> Result<Body<'a>, Reject> {
    let Some(&(text, hashtags)) = pairs.iter().find(|(text, _)| read.has(*text)).or(pairs.last()) else {
        return Ok(Body::default());
    };
    Ok(Body { text: fields.text(read, text)?.map(unescaped), hashtags: fields.hashtags(read, hashtags, key)? })
}

/// The text as it was written: both interfaces send `&`, `<` and `>` as entities, and no others.
fn unescaped(text: Cow<'_, str>) -> Cow<'_, str> {
    if memchr::memchr(b'&', text.as_bytes()).is_none() {
        return text;
    }
    let mut written = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some((before, after)) = rest.split_once('&') {
        written.push_str(before);
        let entity = [("amp;", '&'), ("lt;", '<'), ("gt;", '>')];
        let found = entity.iter().find_map(|(name, c)| Some((after.strip_prefix(name)?, *c)));
        let (after, c) = found.unwrap_or((after, '&'));
        written.push(c);
        rest = after;
    }
    written.push_str(rest);
    Cow::Owned(written)
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn the_three_entities_are_decoded_once_and_no_others() {
        let of = |text: &'static str| unescaped(text.into()).into_owned();
        assert_eq!(of("AT&amp;T &lt;3 &gt;&amp;lt; &quot; & &am"), "AT&T <3 >&lt; &quot; & &am");
        assert!(matches!(unescaped("plain".into()), std::borrow::Cow::Borrowed("plain")));
    }
}
