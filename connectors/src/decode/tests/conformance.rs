//! The conformance cases of twitter-text, where `TALLYFLOW_TEST_DATA` says that they lie.

use super::super::hashtags::extract;
use serde_json::Value;
use std::path::PathBuf;

pub(super) fn data() -> Option<PathBuf> {
    let data = std::env::var_os("TALLYFLOW_TEST_DATA").map(PathBuf::from);
    if data.is_none() {
        eprintln!("skipped: TALLYFLOW_TEST_DATA does not name the folder of the test data");
    }
    data
}

fn words(text: &str) -> Vec<&str> {
    extract(text).map(|tag| &text[tag.word()]).collect()
}

#[test]
fn hashtags_are_those_that_twitter_text_expects() {
    let Some(data) = data() else { return };
    let read = |path: &str| std::fs::read_to_string(data.join(path)).unwrap();
    let cases: Value = serde_yaml_ng::from_str(&read("hashtags/twitter-text/extract.yml")).unwrap();
    let counts: Value = serde_json::from_str(&read("expected.json")).unwrap();
    for (kind, indices) in [("hashtags", false), ("hashtags_from_astral", false), ("hashtags_with_indices", true)] {
        let cases = cases["tests"][kind].as_array().unwrap();
        let mut items = 0;
        for case in cases {
            let (text, expected) = (case["text"].as_str().unwrap(), case["expected"].as_array().unwrap());
            items += expected.len();
            let say = format!("{kind}: {}: {text:?}", case["description"]);
            if indices {
                // Places are counted in characters there.
                let at = |bytes: usize| text[..bytes].chars().count() as u64;
                let found: Vec<_> =
                    extract(text).map(|t| (text[t.word()].to_owned(), at(t.start), at(t.end))).collect();
                let index = |item: &Value, i: usize| item["indices"][i].as_u64().unwrap();
                let item = |e: &Value| (e["hashtag"].as_str().unwrap().to_owned(), index(e, 0), index(e, 1));
                assert_eq!(found, expected.iter().map(item).collect::<Vec<_>>(), "{say}");
            } else {
                assert_eq!(words(text), expected.iter().map(|e| e.as_str().unwrap()).collect::<Vec<_>>(), "{say}");
            }
        }
        assert_eq!(cases.len() as u64, counts["twitter_text"][kind]["cases"].as_u64().unwrap());
        assert_eq!(items as u64, counts["twitter_text"][kind]["expected_items"].as_u64().unwrap());
    }
}

#[test]
fn a_keycap_or_an_emoji_made_of_the_sign_is_no_hashtag() {
    assert_eq!(words("#\u{fe0f}\u{20e3}a #\u{20e3}b #\u{fe0f}c #d\u{fe0f}"), ["d\u{fe0f}"]);
}

#[test]
fn what_may_stand_before_the_sign_and_after_the_word_is_observed() {
    assert_eq!(words("&#x a#b #c#d ##e _#f \u{200d}#g 1#h -#i"), ["e", "i"]);
    assert_eq!(words("#tag://x #ok:/ #好＃b"), ["ok"]);
    assert_eq!(words("＃"), [""; 0]);
    assert_eq!(words("ü ｼ \u{ff3c}#x"), ["x"], "half of a wide sign is none");
}

#[test]
fn a_sign_within_a_url_makes_no_hashtag() {
    for url in [
        "http://example.com/#a",
        "see https://example.com/b/?q=1&r=#a",
        "example.com?q=(#a)",
        "HTTP://Example.COM:8080/!#a",
        "https://müller.de/x/#a",
        "(http://example.co.uk/#a)",
        "「http://example.com/#a",
        "http://xn--e1afmkfd.xn--p1ai/#a",
    ] {
        assert_eq!(words(url), [""; 0], "{url}");
    }
    for text in
        ["either/#a", "no.suchtopleveldomain/#a", "example.com #a", "http://example.com/、#a", "user@example.com/#a"]
    {
        assert_eq!(words(text), ["a"], "{text}");
    }
}
