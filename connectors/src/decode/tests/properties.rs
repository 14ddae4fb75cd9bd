//! The decoder against `serde_json`: the same values by plain walks over `serde_json::Value`, and the
//! same verdict on any bytes. Documented limit of `serde_json`: a number beyond a double is an error
//! there, here it is text; such records are left out of the comparison.

use super::{decode, decode_any, written};
use proptest::prelude::*;
use serde_json::Value;
use tallyflow_dataflows::decode::Needs;
use tallyflow_dataflows::pointer::Pointer;

/// Few names, so that pointers hit and names repeat; some need escapes.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "id", "0", "1", "", "a/b", "~", "é", "\"", "hashtags", "text"]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

/// A JSON text, with repeated names, white space and escapes, as no serializer would write it.
fn json() -> impl Strategy<Value = String> {
    let text = prop_oneof![any::<String>(), "[a-z#\\\\\"\u{0}-\u{20}😀]{0,12}"];
    let leaf = prop_oneof![
        prop::sample::select(vec![
            "null",
            "true",
            "false",
            "0",
            "-0",
            "1.50",
            "-12e-3",
            "1E+2",
            "12345678901234567890"
        ])
        .prop_map(str::to_owned),
        text.prop_map(|t| quoted(&t, false)),
        any::<String>().prop_map(|t| quoted(&t, true)),
    ];
    let value = leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|v| format!("[{}]", v.join(" ,"))),
            members(inner)
        ]
    });
    members(value)
}

fn members(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let member = (name(), any::<bool>(), value).prop_map(|(n, escape, v)| format!("{}:{v}", quoted(&n, escape)));
    (prop::collection::vec(member, 0..24), prop::sample::select(vec!["", " ", "\n\t"]))
        .prop_map(|(m, space)| format!("{space}{{{space}{}{space}}}{space}", m.join(&format!("{space},{space}"))))
}

/// The text as a JSON string, every unit of it escaped or only where it must be.
fn quoted(text: &str, escape_all: bool) -> String {
    if escape_all {
        format!("\"{}\"", text.encode_utf16().map(|u| format!("\\u{u:04X}")).collect::<String>())
    } else {
        serde_json::to_string(text).unwrap()
    }
}

fn pointers() -> impl Strategy<Value = Vec<Pointer>> {
    let pointer =
        prop::collection::vec(prop_oneof![3 => name(), 1 => Just("2".to_owned())], 0..4).prop_map(Pointer::from_tokens);
    prop::collection::vec(pointer, 0..7)
}

fn needs(pointers: &[Pointer]) -> Needs {
    let mut needs = Needs::default();
    pointers.iter().for_each(|p| {
        needs.slot(p);
    });
    needs
}

/// `serde_json` with numbers brought to one form, as our text is read by it again.
fn normal(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Whether `serde_json` takes it; `None` where it only minds a number's size.
fn serde_accepts(bytes: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => Some(value.is_object()),
        Err(e) if e.to_string().starts_with("number out of range") => None,
        Err(_) => Some(false),
    }
}

fn same_verdict(bytes: &[u8], pointers: &[Pointer]) -> Result<(), TestCaseError> {
    let needs = needs(pointers);
    let verdict = decode("json", &needs, bytes);
    if let Some(accepted) = serde_accepts(bytes) {
        prop_assert_eq!(verdict.is_ok(), accepted, "{:?} of {:?}", verdict, String::from_utf8_lossy(bytes));
    }
    // These may mind the ids and hashtags, too; they must not panic.
    let _ = decode_any("post", &needs, bytes);
    let _ = decode("vote", &needs, bytes);
    Ok(())
}

proptest! {
    #[test]
    fn every_slot_is_what_a_plain_walk_finds(text in json(), pointers in pointers()) {
        let needs = needs(&pointers);
        let event = decode("json", &needs, text.as_bytes()).unwrap();
        let whole = normal(&text);
        for (slot, pointer) in event.slots.iter().zip(needs.pointers()) {
            let found = slot.as_ref().map(|v| normal(&written(v)));
            prop_assert_eq!(found.as_ref(), whole.pointer(&pointer.to_string()), "{} in {}", pointer, text);
        }
    }

    #[test]
    fn mutated_records_are_taken_exactly_where_serde_json_takes_them(
        text in json(), pointers in pointers(), edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 1..4)
    ) {
        let mut bytes = text.into_bytes();
        for (at, kind, byte) in edits {
            let at = at.index(bytes.len().max(1)).min(bytes.len());
            match kind {
                0 if at < bytes.len() => bytes[at] = byte,
                1 => bytes.insert(at, br#"{}[]",:\u0-.eE+ dD8t"#[byte as usize % 20]),
                2 if at < bytes.len() => { bytes.remove(at); }
                _ => bytes.truncate(at),
            }
        }
        same_verdict(&bytes, &pointers)?;
    }

    #[test]
    fn any_bytes_are_taken_exactly_where_serde_json_takes_them(bytes in prop::collection::vec(any::<u8>(), 0..64), pointers in pointers()) {
        same_verdict(&bytes, &pointers)?;
        let braced = [b"{\"a\":", &bytes[..], b"}"].concat();
        same_verdict(&braced, &pointers)?;
    }

    #[test]
    fn json_like_noise_is_taken_exactly_where_serde_json_takes_it(
        text in r#"\{"a":("(\\u[dD][89abcdef89][0-9a-f]{2}|\\[bnu"\\/x]|[a ])*"|-?[0-9]{0,3}\.?[0-9]{0,2}([eE][+-]?[0-9]{0,2})?|\[*\]*)\}"#,
        pointers in pointers()
    ) {
        same_verdict(text.as_bytes(), &pointers)?;
    }

    #[test]
    fn hashtags_of_any_text_lie_in_it_in_order(text in "[a-z#＃ ./:?_0-9é\u{fe0f}日&😀]{0,40}") {
        let mut end = 0;
        for tag in super::super::hashtags::extract(&text) {
            prop_assert!(tag.start >= end && tag.word_start < tag.end);
            prop_assert!(["#", "＃"].contains(&&text[tag.start..tag.word_start]));
            end = tag.end;
        }
    }
}
