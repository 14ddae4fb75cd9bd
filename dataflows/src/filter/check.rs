//! What an expression may contain, and which fields of the event it reads.

use super::{BUILT_MAX, COMPREHENSIONS_DEEP_MAX, PATTERN_BYTES_MAX};
use crate::pointer::Pointer;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use regex::Regex;

/// Functions of CEL's standard library that an expression may call.
const FUNCTIONS: [&str; 12] =
    ["bool", "bytes", "contains", "double", "dyn", "endsWith", "int", "size", "startsWith", "string", "type", "uint"];

/// Names of types, as `type(event.x) == int` compares with.
const TYPES: [&str; 11] =
    ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint"];

const OPERATORS: [&str; 18] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::IN,
];

/// What [`check`] found out.
#[derive(Default)]
pub(super) struct Findings {
    /// What the expression reads; none of them leads into another.
    pub pointers: Vec<Pointer>,
    /// The patterns of `matches`, compiled: call `i` is now a call of [`pattern_name`]`(i)`.
    pub patterns: Vec<Regex>,
    /// How the cost of an evaluation grows with the event.
    pub cost: Cost,
}

/// How the cost of an evaluation grows with what it reads of the event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cost {
    /// Each value is looked at a few times.
    #[default]
    Linear,
    /// For each element of a list the event is looked at again.
    Square,
    /// A macro over a list stands in another.
    Nested,
}

/// The function that stands for `matches` with the pattern `i`; no expression can spell it.
pub(super) fn pattern_name(i: usize) -> String {
    format!("@matches_{i}")
}

/// How many levels an expression has, counted no further than `max` + 1.
pub(super) fn depth(expr: &IdedExpr, max: usize) -> usize {
    if max == 0 {
        return 1;
    }
    let deepest = |parts: &mut dyn Iterator<Item = &IdedExpr>| parts.map(|e| depth(e, max - 1)).max().unwrap_or(0);
    1 + match &expr.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => 0,
        Expr::Call(call) => deepest(&mut call.args.iter().chain(call.target.as_deref())),
        Expr::List(list) => deepest(&mut list.elements.iter()),
        Expr::Select(select) => deepest(&mut std::iter::once(&*select.operand)),
        Expr::Map(map) => deepest(&mut map.entries.iter().flat_map(|e| entry_parts(&e.expr)).flatten()),
        Expr::Struct(s) => deepest(&mut s.entries.iter().flat_map(|e| entry_parts(&e.expr)).flatten()),
        Expr::Comprehension(c) => {
            deepest(&mut [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result].into_iter())
        }
    }
}

fn entry_parts(entry: &EntryExpr) -> [Option<&IdedExpr>; 2] {
    match entry {
        EntryExpr::StructField(field) => [Some(&field.value), None],
        EntryExpr::MapEntry(entry) => [Some(&entry.key), Some(&entry.value)],
    }
}

/// Checks an expression whose [`depth`] is bounded, and rewrites its calls of `matches`. The error is
/// a sentence's end: "... calls foo(), which there is not".
pub(super) fn check(expr: &mut IdedExpr) -> Result<Findings, String> {
    let mut walk = Walk::default();
    walk.visit(expr, 0)?;
    let mut pointers = walk.pointers;
    pointers.sort();
    pointers.dedup();
    // Sorted, a pointer comes right before all that it leads to.
    let mut kept: Vec<Pointer> = Vec::with_capacity(pointers.len());
    for pointer in pointers {
        if !kept.last().is_some_and(|above| pointer.tokens().starts_with(above.tokens())) {
            kept.push(pointer);
        }
    }
    walk.findings.pointers = kept;
    if walk.loops && walk.built > BUILT_MAX {
        return Err(format!(
            "goes through a list and has more than {BUILT_MAX} of \"+\" and of computed elements of lists and maps"
        ));
    }
    Ok(walk.findings)
}

#[derive(Default)]
struct Walk {
    findings: Findings,
    pointers: Vec<Pointer>,
    /// Variables of the macros around, innermost last.
    scope: Vec<String>,
    /// Whether there is a macro over a list.
    loops: bool,
    /// How many parts make a value larger than those it is made of.
    built: usize,
}

impl Walk {
    fn visit(&mut self, expr: &mut IdedExpr, loops: usize) -> Result<(), String> {
        if let Some(tokens) = self.chain(expr) {
            return self.read(tokens, loops);
        }
        match &mut expr.expr {
            Expr::Unspecified => Err("is not a whole expression".into()),
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => {
                if self.scope.iter().any(|v| v == name) || TYPES.contains(&name.as_str()) {
                    Ok(())
                } else {
                    Err(format!("refers to {name:?}; only \"event\" and its fields can be named, like event.{name}"))
                }
            }
            Expr::Select(select) => {
                if select.test
                    && let Some(tokens) = self.chain(&select.operand)
                {
                    // has(event.a) needs the field; has(event.a.b) must tell a missing a, which is an
                    // error in CEL, from a missing b: it needs all of a.
                    return self.read(if tokens.is_empty() { vec![select.field.clone()] } else { tokens }, loops);
                }
                self.visit(&mut select.operand, loops)
            }
            Expr::List(list) => list.elements.iter_mut().try_for_each(|e| self.element(e, loops)),
            Expr::Map(map) => map.entries.iter_mut().try_for_each(|entry| match &mut entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.element(&mut entry.key, loops)?;
                    self.element(&mut entry.value, loops)
                }
                EntryExpr::StructField(field) => self.element(&mut field.value, loops),
            }),
            Expr::Struct(s) => Err(format!("makes a {:?}, but there are no message types", s.type_name)),
            Expr::Comprehension(c) => self.comprehension(c, loops + 1),
            Expr::Call(call) => self.call(call, loops),
        }
    }

    fn element(&mut self, expr: &mut IdedExpr, loops: usize) -> Result<(), String> {
        self.built += usize::from(!matches!(expr.expr, Expr::Literal(_)));
        self.visit(expr, loops)
    }

    /// A macro over a list: `all`, `exists`, `exists_one` or `filter`, `loops` deep. None of them makes
    /// anything larger than its range, and a range is a list that stands somewhere: `map`, or a range
    /// put together with `+`, could grow with each step.
    fn comprehension(&mut self, c: &mut ComprehensionExpr, loops: usize) -> Result<(), String> {
        if loops > COMPREHENSIONS_DEEP_MAX {
            return Err(format!(
                "has more than {COMPREHENSIONS_DEEP_MAX} of all, exists, exists_one and filter within one another"
            ));
        }
        if !self.is_range(&c.iter_range) {
            return Err(
                "goes through something computed; all, exists, exists_one and filter take a list as it stands, \
                        like event.tags"
                    .into(),
            );
        }
        let filters = appended(&c.loop_step, &c.accu_var);
        if filters.is_some_and(|e| !matches!(&e.expr, Expr::Ident(name) if *name == c.iter_var)) {
            return Err("calls map, which is not possible here; there are all, exists, exists_one and filter".into());
        }
        self.loops = true;
        if loops > 1 {
            self.findings.cost = Cost::Nested;
        }
        let filters = filters.is_some();
        // The range is gone through once, before the body: it is not within it.
        self.visit(&mut c.iter_range, loops - 1)?;
        let outer = self.scope.len();
        self.scope.push(c.iter_var.clone());
        self.scope.extend(c.iter_var2.clone());
        self.scope.push(c.accu_var.clone());
        let done = match &mut c.loop_step.expr {
            // Of `condition ? kept + [x] : kept` only the condition is the person's own.
            Expr::Call(step) if filters && step.args.len() == 3 => self.visit(&mut step.args[0], loops),
            _ => [&mut c.accu_init, &mut c.loop_cond, &mut c.loop_step, &mut c.result]
                .into_iter()
                .try_for_each(|e| self.visit(e, loops)),
        };
        self.scope.truncate(outer);
        done
    }

    fn is_range(&self, expr: &IdedExpr) -> bool {
        match &expr.expr {
            Expr::Ident(_) | Expr::List(_) => true,
            Expr::Select(select) => !select.test && self.is_range(&select.operand),
            Expr::Call(call) => {
                call.func_name == operators::INDEX && call.args.first().is_some_and(|list| self.is_range(list))
            }
            Expr::Comprehension(c) => appended(&c.loop_step, &c.accu_var).is_some(),
            _ => false,
        }
    }

    fn call(&mut self, call: &mut CallExpr, loops: usize) -> Result<(), String> {
        if call.func_name == "matches" {
            self.take_pattern(call)?;
        } else if !OPERATORS.contains(&call.func_name.as_str())
            && call.func_name != operators::NOT_STRICTLY_FALSE
            && !FUNCTIONS.contains(&call.func_name.as_str())
        {
            return Err(format!(
                "calls {}(), which there is not; there are {}, matches, has, all, exists, exists_one and filter",
                call.func_name,
                FUNCTIONS.join(", ")
            ));
        }
        let number = |e: &IdedExpr| {
            matches!(e.expr, Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_)))
        };
        self.built += usize::from(call.func_name == operators::ADD && !call.args.iter().any(number));
        if let Some(target) = &mut call.target {
            self.visit(target, loops)?;
        }
        call.args.iter_mut().try_for_each(|e| self.visit(e, loops))
    }

    /// Compiles the pattern of a call of `matches` once, where CEL would compile it for every event. A
    /// pattern must be written out: one that came from an event could cost whatever its sender likes.
    fn take_pattern(&mut self, call: &mut CallExpr) -> Result<(), String> {
        let wanted = "matches takes a text and a pattern in quotes, like event.name.matches('^a')";
        let pattern = match call.args.last().map(|e| &e.expr) {
            Some(Expr::Literal(LiteralValue::String(pattern))) => pattern.inner().to_string(),
            _ => return Err(format!("has a pattern that is not written out; {wanted}")),
        };
        call.args.pop();
        call.args.extend(call.target.take().map(|t| *t));
        if call.args.len() != 1 {
            return Err(format!("calls matches with a wrong number of arguments; {wanted}"));
        }
        let regex = regex::RegexBuilder::new(&pattern)
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_BYTES_MAX)
            .build()
            .map_err(|e| match e {
                regex::Error::CompiledTooBig(_) => format!("has a pattern that is too large: {pattern:?}"),
                _ => format!("has a pattern that is no regular expression: {pattern:?}"),
            })?;
        call.func_name = pattern_name(self.findings.patterns.len());
        self.findings.patterns.push(regex);
        Ok(())
    }

    /// The tokens of `event`, `event.a.b` or `event['a'].b`; `None` for anything else.
    fn chain(&self, expr: &IdedExpr) -> Option<Vec<String>> {
        let mut tokens = Vec::new();
        let mut at = expr;
        loop {
            match &at.expr {
                Expr::Ident(name) if name == ".event" => break,
                Expr::Ident(name) if name == "event" && !self.scope.contains(name) => break,
                Expr::Select(select) if !select.test => {
                    tokens.push(select.field.clone());
                    at = &select.operand;
                }
                Expr::Call(call) if call.func_name == operators::INDEX && call.target.is_none() => {
                    let [operand, key] = call.args.as_slice() else { return None };
                    let Expr::Literal(LiteralValue::String(key)) = &key.expr else { return None };
                    tokens.push(key.inner().to_string());
                    at = operand;
                }
                _ => return None,
            }
        }
        tokens.reverse();
        Some(tokens)
    }

    fn read(&mut self, mut tokens: Vec<String>, loops: usize) -> Result<(), String> {
        if loops > 0 {
            self.findings.cost = self.findings.cost.max(Cost::Square);
        }
        // In a pointer "0" also leads into an array, in CEL it does not: what holds it is read instead.
        if let Some(at) = tokens.iter().position(|t| t.bytes().all(|b| b.is_ascii_digit())) {
            tokens.truncate(at);
        }
        self.pointers.push(Pointer::from_tokens(tokens));
        Ok(())
    }
}

/// What a step of a macro puts into its list: `kept + [x]`, with a condition or without.
fn appended<'a>(step: &'a IdedExpr, accu: &str) -> Option<&'a IdedExpr> {
    let Expr::Call(call) = &step.expr else { return None };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::CONDITIONAL, [_, yes, _]) => appended(yes, accu),
        (operators::ADD, [kept, more]) => match (&kept.expr, &more.expr) {
            (Expr::Ident(name), Expr::List(list)) if name == accu => list.elements.first(),
            _ => None,
        },
        _ => None,
    }
}
