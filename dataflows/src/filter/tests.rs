use super::*;
use proptest::prelude::*;
use std::borrow::Cow;

/// A decoder's work, plainly: what a pointer leads to in a JSON document.
fn lookup<'a>(value: &Value<'a>, pointer: &Pointer) -> Option<Value<'a>> {
    pointer
        .tokens()
        .iter()
        .try_fold(value, |at, token| match at {
            Value::Object(members) => members.iter().find(|(name, _)| name == token).map(|(_, v)| v),
            Value::Array(elements) => token.parse::<usize>().ok().and_then(|i| elements.get(i)),
            _ => None,
        })
        .cloned()
}

fn value(json: &serde_json::Value) -> Value<'static> {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(*b),
        serde_json::Value::Number(n) => Value::Number(Cow::Owned(n.to_string())),
        serde_json::Value::String(s) => Value::Text(Cow::Owned(s.clone())),
        serde_json::Value::Array(a) => Value::Array(a.iter().map(value).collect()),
        serde_json::Value::Object(o) => {
            Value::Object(o.iter().map(|(k, v)| (Cow::Owned(k.clone()), value(v))).collect())
        }
    }
}

fn passes(source: &str, event: &str) -> Result<bool, String> {
    let filter = Filter::compile(source).unwrap();
    let event = value(&serde_json::from_str(event).unwrap());
    let slots: Vec<_> = filter.pointers().iter().map(|p| lookup(&event, p)).collect();
    filter.matches(&slots)
}

fn reads(source: &str) -> Vec<String> {
    Filter::compile(source).unwrap().pointers().iter().map(ToString::to_string).collect()
}

#[test]
fn an_expression_passes_or_drops_an_event() {
    assert_eq!(passes("event.status == 'paid'", r#"{"status": "paid"}"#), Ok(true));
    assert_eq!(passes("event.status == 'paid'", r#"{"status": "open"}"#), Ok(false));
    assert_eq!(passes("event.a.b > 2 && 'x' in event.tags", r#"{"a": {"b": 3}, "tags": ["x"]}"#), Ok(true));
    assert_eq!(passes("event.tags.exists(t, t.startsWith('#'))", r##"{"tags": ["a", "#b"]}"##), Ok(true));
    assert_eq!(passes("event.name.matches('^[a-c]+$')", r#"{"name": "abc"}"#), Ok(true));
    assert_eq!(passes("matches(event.name, '^[a-c]+$')", r#"{"name": "abd"}"#), Ok(false));
    assert_eq!(passes("size(event) == 2", r#"{"a": 1, "b": 2}"#), Ok(true));
    assert_eq!(passes("true", "{}"), Ok(true));
    assert_eq!(passes("type(event.n) == int", r#"{"n": 1}"#), Ok(true));
}

#[test]
fn whole_numbers_and_others_compare_by_value() {
    for (source, event) in [
        ("event.n == 2", r#"{"n": 2.0}"#),
        ("event.n > 2", r#"{"n": 2.5}"#),
        ("event.n >= 1.5", r#"{"n": 2}"#),
        ("event.n < 10000000000000000000.0", r#"{"n": 9223372036854775807}"#),
        ("event.n > 9223372036854775807", r#"{"n": 18446744073709551615}"#),
        ("event.n == -7", r#"{"n": -7}"#),
    ] {
        assert_eq!(passes(source, event), Ok(true), "{source} of {event}");
    }
}

#[test]
fn a_missing_field_fails_and_has_asks_for_it() {
    assert!(passes("event.x == 1", "{}").unwrap_err().contains("No such key"));
    assert!(passes("event.x.y == 1", r#"{"x": {}}"#).unwrap_err().contains("No such key"));
    assert_eq!(passes("has(event.x)", "{}"), Ok(false));
    assert_eq!(passes("has(event.x)", r#"{"x": 1}"#), Ok(true));
    assert_eq!(passes("has(event.x.y)", r#"{"x": {}}"#), Ok(false));
    assert_eq!(passes("has(event.x.y)", r#"{"x": {"y": 0}}"#), Ok(true));
    assert!(passes("has(event.x.y)", "{}").is_err());
    assert_eq!(passes("has(event.x) && event.x == 1", "{}"), Ok(false));
    assert_eq!(passes("event.x == 1 || event.y == 2", r#"{"y": 2}"#), Ok(true));
}

#[test]
fn null_is_a_value_that_is_there() {
    assert_eq!(passes("event.x == null", r#"{"x": null}"#), Ok(true));
    assert_eq!(passes("has(event.x)", r#"{"x": null}"#), Ok(true));
    assert_eq!(passes("event.x != null", r#"{"x": 1}"#), Ok(true));
}

#[test]
fn a_result_that_is_neither_true_nor_false_is_a_reason() {
    assert_eq!(passes("event.x", r#"{"x": 1}"#), Err("where gave a number, not true or false".into()));
    assert_eq!(passes("event.x", r#"{"x": true}"#), Ok(true));
    assert!(passes("event.x + 1 > 0", r#"{"x": "a"}"#).is_err());
    assert!(passes("event.x / 0 > 0", r#"{"x": 1}"#).is_err());
    assert!(passes("event.x + 9223372036854775807 > 0", r#"{"x": 1}"#).is_err());
}

#[test]
fn an_expression_names_the_fields_that_it_reads() {
    assert_eq!(reads("event.a.b == event['c'].d && has(event.e)"), ["/a/b", "/c/d", "/e"]);
    assert_eq!(reads("event.a.b == 1 && event.a == 2"), ["/a"]);
    assert_eq!(reads("has(event.a.b)"), ["/a"]);
    assert_eq!(reads("event.list[0] == 1"), ["/list"]);
    assert_eq!(reads("event.list['0'] == 1"), ["/list"]);
    assert_eq!(reads("event['a/b~c'] == 1"), ["/a~1b~0c"]);
    assert_eq!(reads("event.a[event.b] == 1"), ["/a", "/b"]);
    assert_eq!(reads("size(event) > 1 && event.a == 2"), [""]);
    assert_eq!(reads("event.a.exists(event, event.b == 1)"), ["/a"]);
    assert_eq!(reads("event.a.exists(x, x == event.b)"), ["/a", "/b"]);
    assert_eq!(reads("event.a == 1 && event.ab == 2"), ["/a", "/ab"]);
    assert!(reads("1 == 1").is_empty());
}

#[test]
fn what_an_expression_may_not_hold_is_refused_with_a_reason() {
    for (source, reason) in [
        ("", "no CEL"),
        ("event.", "no CEL"),
        ("status == 'paid'", "like event.status"),
        ("foo(event.a)", "calls foo()"),
        ("event.a.frob()", "calls frob()"),
        ("timestamp(event.a) > timestamp('2020-01-01T00:00:00Z')", "calls timestamp()"),
        ("event.a.matches(event.b)", "not written out"),
        ("event.a.matches('(')", "no regular expression"),
        ("event.a.matches('((a{100}){100}){100}')", "too large"),
        ("event.a.all(x, event.a.all(y, event.a.all(z, x == y)))", "more than 2"),
        ("event.a.all(x, event.all(y, event.b + [y].all(z, z)))", "more than 2"),
        ("Foo{a: 1} == 2", "no message types"),
    ] {
        let error = Filter::compile(source).err().unwrap_or_default();
        assert!(error.contains(reason), "{source}: {error}");
    }
    assert!(Filter::compile(&format!("event.a == '{}'", "x".repeat(5_000))).err().unwrap().contains("5013 bytes"));
}

#[test]
fn deep_and_long_expressions_are_refused_and_never_overflow_the_stack() {
    for source in [
        "(".repeat(4_096),
        format!("{}1{} == 1", "(".repeat(2_000), ")".repeat(2_000)),
        "!".repeat(4_096),
        format!("{}true", "!(".repeat(2_000)),
        format!("{}1{} == 1", "-(".repeat(1_300), ")".repeat(1_300)),
        "[".repeat(4_096),
        format!("event{} == 1", ".a".repeat(2_000)),
        format!("1{} == 1", "+1".repeat(2_000)),
        format!("true{}", "?true:true".repeat(400)),
        format!("event{}", "[0]".repeat(1_300)),
        "{".repeat(4_096),
        "a?".repeat(2_000),
    ] {
        let error = Filter::compile(&source).err().unwrap_or_default();
        assert!(error.starts_with("the expression") && error.len() < 300 && !error.contains("OtherError"), "{error}");
    }
    // Two negations are none to the parser, however many follow one another.
    assert_eq!(passes(&format!("{}true", "!".repeat(4_000)), "{}"), Ok(true));
    // Many terms of && and || are balanced by the parser and stay possible.
    assert!(Filter::compile(&vec!["event.a == 1"; 200].join(" || ")).is_ok());
}

fn ones(n: usize) -> String {
    format!(r#"{{"a": [{}]}}"#, vec!["1"; n].join(","))
}

#[test]
fn a_large_or_deep_event_is_a_reason_not_a_burden() {
    for (source, at_most) in [
        ("event.a.all(x, x == 1)", VALUES_MAX),
        ("event.a.all(x, x in event.a)", VALUES_SQUARE_MAX),
        ("event.a.all(x, event.a.all(y, x == y))", VALUES_NESTED_MAX),
    ] {
        // The list is a value too.
        assert_eq!(passes(source, &ones(at_most - 1)), Ok(true), "{source}");
        assert!(passes(source, &ones(at_most)).unwrap_err().contains("holds too much"), "{source}");
    }
    let text = format!(r#"{{"a": "{}"}}"#, "x".repeat(64 * VALUES_MAX));
    assert!(passes("event.a == ''", &text).unwrap_err().contains("holds too much"));
    let deep = format!(r#"{{"a": {}1{}}}"#, "[".repeat(100), "]".repeat(100));
    assert!(passes("event.a == 1", &deep).unwrap_err().contains("nested"));
}

#[test]
fn nothing_in_an_expression_grows_beyond_what_the_event_holds() {
    for (source, reason) in [
        ("event.a.map(x, x + 1) == [1]", "calls map"),
        ("event.a.map(x, x > 1, [x]) == [1]", "calls map"),
        ("(event.a + event.a).all(x, x == 1)", "something computed"),
        ("event.a.all(x, (true ? event.a : event.a).all(y, x == y))", "something computed"),
        ("event.a.all(x, x+x+x+x+x+x+x+x+x+x == x)", "more than 8"),
        ("event.a.all(x, [x,x,x,x,x,x,x,x,x] == x)", "more than 8"),
    ] {
        let error = Filter::compile(source).err().unwrap_or_default();
        assert!(error.contains(reason), "{source}: {error}");
    }
    assert_eq!(passes("event.a.filter(x, x > 1).exists(x, x == 3)", r#"{"a": [1, 3]}"#), Ok(true));
    assert_eq!(passes("size(event.a.filter(x, x > 1)) == 1", r#"{"a": [1, 3]}"#), Ok(true));
    assert_eq!(passes("event.a.exists_one(x, x == 1)", r#"{"a": [1, 3]}"#), Ok(true));
    assert_eq!(passes("['a', 'b'].exists(x, x in event.a)", r#"{"a": ["b"]}"#), Ok(true));
    assert_eq!(passes("event.a.all(x, x.b.exists(y, y == 1))", r#"{"a": [{"b": [1]}]}"#), Ok(true));
}

#[test]
fn the_worst_event_that_is_let_through_takes_a_bounded_time() {
    for (source, n) in [
        ("event.a.all(x, event.a.all(y, [event.a + event.a + event.a] == [event.a + event.a]))", VALUES_NESTED_MAX - 1),
        ("event.a.all(x, event.a.all(y, x in event.a || event.a == [y]))", VALUES_NESTED_MAX - 1),
        ("event.a.filter(x, event.a == event.a && 2 in event.a).all(x, x == 1)", VALUES_SQUARE_MAX - 1),
    ] {
        let started = std::time::Instant::now();
        let _ = passes(source, &ones(n));
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "{source}: {:?}", started.elapsed());
    }
}

proptest! {
    #[test]
    fn any_text_compiles_or_not_but_never_panics(source in "[a-e0-9 .()\\[\\]{}'\"&|!<>=+*/?:,x-]{0,60}") {
        let _ = Filter::compile(&source);
    }

    #[test]
    fn any_event_gets_an_answer(
        source in prop::sample::select(vec![
            "event.a == event.b", "event.a < event.b", "event.a + event.b == 1", "event.a in event.b",
            "event.a[event.b]", "event.a.exists(x, x == event.b)", "size(event.a) > 0", "int(event.a) > 0",
            "event.a.matches('a+')", "event.a % event.b == 0", "-event.a > 0", "string(event.a) == event.b",
        ]),
        a in any_json(), b in any_json(),
    ) {
        let filter = Filter::compile(source).unwrap();
        let event = value(&serde_json::json!({"a": a, "b": b}));
        let slots: Vec<_> = filter.pointers().iter().map(|p| lookup(&event, p)).collect();
        let _ = filter.matches(&slots);
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        ".{0,5}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(3, 10, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}
