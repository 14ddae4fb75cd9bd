//! The hashtags of an event: in lower case and without `#`.

use super::hashtags::{self, Hashtag};
use std::borrow::Cow;
use tallyflow_dataflows::decode::Value;

/// Hashtags as a record gives them; `None` if they are not all texts.
pub(super) fn normal(given: Vec<Value<'_>>) -> Option<Vec<Value<'_>>> {
    let tag = |tag| match tag {
        Value::Text(tag) => Some(Value::Text(lower_case(tag))),
        _ => None,
    };
    given.into_iter().map(tag).collect()
}

fn lower_case(tag: Cow<'_, str>) -> Cow<'_, str> {
    match tag {
        Cow::Borrowed(tag) => hashtags::lower_case(strip_sign(tag)),
        Cow::Owned(tag) => Cow::Owned(hashtags::lower_case(strip_sign(&tag)).into_owned()),
    }
}

fn strip_sign(tag: &str) -> &str {
    tag.strip_prefix(['#', '＃']).unwrap_or(tag)
}

/// The hashtags in a text.
pub(super) fn of_text<'a>(text: &Cow<'a, str>) -> Vec<Value<'a>> {
    match text {
        Cow::Borrowed(text) => hashtags::extract(text).map(|tag| Value::Text(tag.lower_case(text))).collect(),
        // The text was unescaped and goes away: its tags are copied.
        Cow::Owned(text) => {
            let copied = |tag: Hashtag| Value::Text(Cow::Owned(tag.lower_case(text).into_owned()));
            hashtags::extract(text).map(copied).collect()
        }
    }
}
