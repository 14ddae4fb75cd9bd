//! `where`: a CEL expression over an event.
//!
//! An expression is compiled once. It names the fields of the event that it reads, as pointers, so
//! that a decoder need not build the rest; and it is evaluated on what those pointers lead to.
//!
//! What an event's JSON is to CEL: objects are maps, arrays lists, texts strings. A whole number within
//! 64 bits (`7`, not `7.0` and not `7e0`) is an `int`, any other number a `double`; CEL compares the two
//! with one another by value, but adds them only after `double(..)`. `null` is `null`: a field that is
//! null is there (`has` says true). A field that is not there makes the expression fail with "no such
//! key", unless what stands beside it in `||` or `&&` decides; `has(event.x)` asks for it.
//!
//! There are the operators, `has`, `all`, `exists`, `exists_one`, `filter`, `matches` with a pattern in
//! quotes, `size`, `contains`, `startsWith`, `endsWith`, `type` and the conversions. There is no `map`
//! and no arithmetic on lists that a macro goes through: they could make a value that grows with each
//! step. Bounds keep an evaluation short whatever the event holds: see the constants here.

mod check;
#[cfg(test)]
mod tests;

use crate::decode::Value;
use crate::pointer::Pointer;
use cel::common::ast::IdedExpr;
use cel::objects::{Key, Map};
use cel::{Context, Env};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 4 * 1024;
/// How many levels an expression has at most: evaluation recurses.
const EXPRESSION_DEEP_MAX: usize = 64;
/// How deep macros over lists stand in one another at most.
const COMPREHENSIONS_DEEP_MAX: usize = 2;
/// How much an event may hold in the fields that an expression reads: each JSON value is one, and each
/// 64 bytes of a text one more.
const VALUES_MAX: usize = 100_000;
/// The same where the event is looked at again for each element of a list.
const VALUES_SQUARE_MAX: usize = 2_000;
/// The same where macros over lists stand in one another.
const VALUES_NESTED_MAX: usize = 300;
/// How often an expression that goes through lists may put values together into larger ones.
const BUILT_MAX: usize = 8;
/// How deep the values of an event are nested at most.
const VALUES_DEEP_MAX: usize = 64;
/// The compiled size of a regular expression, and its cache, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// The longest reason an evaluation gives, in characters.
const REASON_CHARS_MAX: usize = 200;
/// Parsing and dropping recurse before the depth is known, about 2 KiB a level without optimisation.
const COMPILE_STACK_BYTES: usize = 64 << 20;

/// A compiled expression. `Send`, for a worker of its own each.
pub struct Filter {
    expr: IdedExpr,
    context: Context<'static, 'static>,
    pointers: Vec<Pointer>,
    plan: Plan,
    values_max: usize,
}

/// How `event` is put together from the slots.
enum Plan {
    Slot(usize),
    Fields(BTreeMap<String, Plan>),
}

impl Filter {
    /// Compiles an expression. The error says what is wrong in one sentence.
    pub fn compile(source: &str) -> Result<Filter, String> {
        if source.len() > EXPRESSION_BYTES_MAX {
            return Err(format!(
                "the expression has {} bytes, more than the {EXPRESSION_BYTES_MAX} that one may have",
                source.len()
            ));
        }
        // A thread of its own has a stack for the worst that fits into the bytes, and turns a panic of
        // the parser into an error.
        let parsed = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("cel-compile".into())
                .stack_size(COMPILE_STACK_BYTES)
                .spawn_scoped(scope, || parse(source))
                .map_err(|e| format!("no thread could be started to compile the expression: {e}"))?
                .join()
                .unwrap_or_else(|_| Err("the expression can't be parsed".into()))
        });
        let mut expr = parsed?;
        let findings = check::check(&mut expr).map_err(|what| format!("the expression {what}"))?;
        let env = Env::default().with_optional_support(false).with_stdlib();
        let mut context = Context::with_env(Arc::new(env));
        for (i, regex) in findings.patterns.into_iter().enumerate() {
            context
                .add_function(&check::pattern_name(i), move |text: Arc<String>| regex.is_match(&text))
                .map_err(|e| format!("the expression can't be compiled: {e}"))?;
        }
        Ok(Filter {
            expr,
            context,
            plan: plan(&findings.pointers),
            pointers: findings.pointers,
            values_max: match findings.cost {
                check::Cost::Linear => VALUES_MAX,
                check::Cost::Square => VALUES_SQUARE_MAX,
                check::Cost::Nested => VALUES_NESTED_MAX,
            },
        })
    }

    /// What the expression reads of an event.
    pub fn pointers(&self) -> &[Pointer] {
        &self.pointers
    }

    /// Whether an event passes; `slots` are what [`Filter::pointers`] lead to, in their order. The
    /// error is the reason for which the record is rejected: the expression failed on it.
    pub fn matches(&self, slots: &[Option<Value<'_>>]) -> Result<bool, String> {
        self.matches_with(|slot| slots.get(slot).and_then(Option::as_ref))
    }

    /// As [`Filter::matches`], of slots that lie elsewhere: `slot(i)` is what pointer `i` leads to.
    pub fn matches_with<'e>(&self, slot: impl Fn(usize) -> Option<&'e Value<'e>>) -> Result<bool, String> {
        let mut budget = self.values_max;
        let event = build(&self.plan, &|i| slot(i), &mut budget)?;
        let mut context = self.context.new_inner_scope();
        context.add_variable_from_value("event", event.unwrap_or_else(|| object(HashMap::new())));
        match cel::Value::resolve(&self.expr, &context) {
            Ok(cel::Value::Bool(passes)) => Ok(passes),
            Ok(other) => Err(format!("where gave {}, not true or false", kind(&other))),
            Err(e) => Err(shortened(&format!("where failed: {e}"))),
        }
    }
}

fn parse(source: &str) -> Result<IdedExpr, String> {
    let parser = cel::parser::Parser::new().max_recursion_depth(EXPRESSION_DEEP_MAX as u16);
    let expr = parser.parse(source).map_err(|errors| match errors.errors.first() {
        Some(e) if e.msg.contains("ecursion limit") => too_deep(),
        Some(e) => {
            // After "expecting" come all the tokens of the grammar, of no use to anybody.
            let what = e.msg.split(" expecting ").next().unwrap_or_default().replace('\n', " ");
            let what = shortened(what.trim_start_matches("Syntax error: "));
            format!("the expression is no CEL: {what} (line {}, column {})", e.pos.0, e.pos.1)
        }
        None => "the expression is no CEL".into(),
    })?;
    // What is too deep is dropped here, where the stack is large.
    if check::depth(&expr, EXPRESSION_DEEP_MAX) > EXPRESSION_DEEP_MAX {
        return Err(too_deep());
    }
    Ok(expr)
}

fn too_deep() -> String {
    format!("the expression is nested more than {EXPRESSION_DEEP_MAX} levels deep")
}

fn plan(pointers: &[Pointer]) -> Plan {
    let mut root = Plan::Fields(BTreeMap::new());
    for (slot, pointer) in pointers.iter().enumerate() {
        let mut at = &mut root;
        for token in pointer.tokens() {
            // No pointer leads into another, so that a slot is never on the way.
            if let Plan::Fields(fields) = at {
                at = fields.entry(token.clone()).or_insert_with(|| Plan::Fields(BTreeMap::new()));
            }
        }
        *at = Plan::Slot(slot);
    }
    root
}

fn build<'e>(
    plan: &Plan,
    slot: &dyn Fn(usize) -> Option<&'e Value<'e>>,
    budget: &mut usize,
) -> Result<Option<cel::Value>, String> {
    match plan {
        Plan::Slot(i) => slot(*i).map(|v| convert(v, VALUES_DEEP_MAX, budget)).transpose(),
        Plan::Fields(fields) => {
            let mut map = HashMap::new();
            for (name, plan) in fields {
                if let Some(value) = build(plan, slot, budget)? {
                    map.insert(Key::from(name.as_str()), value);
                }
            }
            Ok((!map.is_empty()).then(|| object(map)))
        }
    }
}

fn object(map: HashMap<Key, cel::Value>) -> cel::Value {
    cel::Value::Map(Map { map: Arc::new(map) })
}

fn convert(value: &Value<'_>, deep: usize, budget: &mut usize) -> Result<cel::Value, String> {
    if deep == 0 {
        return Err(format!("where failed: the event is nested more than {VALUES_DEEP_MAX} levels deep"));
    }
    let size = match value {
        Value::Text(text) => 1 + text.len() / 64,
        _ => 1,
    };
    *budget = budget
        .checked_sub(size)
        .ok_or_else(|| "where failed: the event holds too much in the fields that it reads".to_string())?;
    Ok(match value {
        Value::Null => cel::Value::Null,
        Value::Bool(b) => cel::Value::Bool(*b),
        Value::Text(text) => cel::Value::String(Arc::new(text.clone().into_owned())),
        Value::Number(text) => match text.parse::<i64>() {
            Ok(n) => cel::Value::Int(n),
            Err(_) => cel::Value::Float(text.parse().map_err(|_| "where failed: a number can't be read".to_string())?),
        },
        Value::Array(elements) => {
            let elements: Result<Vec<_>, _> = elements.iter().map(|e| convert(e, deep - 1, budget)).collect();
            cel::Value::List(Arc::new(elements?))
        }
        Value::Object(members) => {
            let mut map = HashMap::with_capacity(members.len().min(*budget));
            for (name, value) in members {
                map.insert(Key::from(name.as_ref()), convert(value, deep - 1, budget)?);
            }
            object(map)
        }
    })
}

fn kind(value: &cel::Value) -> &'static str {
    match value {
        cel::Value::Null => "null",
        cel::Value::Int(_) | cel::Value::UInt(_) | cel::Value::Float(_) => "a number",
        cel::Value::String(_) => "a text",
        cel::Value::List(_) => "a list",
        cel::Value::Map(_) => "an object",
        _ => "something else",
    }
}

fn shortened(reason: &str) -> String {
    match reason.char_indices().nth(REASON_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &reason[..at]),
        None => reason.to_string(),
    }
}
