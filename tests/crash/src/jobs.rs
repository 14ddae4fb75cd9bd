//! The jobs under test.

use crate::fold::{Form, Poll};

/// All jobs, with the topics that they read.
pub const JOBS: [(&str, &[usize]); 4] = [("orders", &[0]), ("firsts", &[0]), ("bank", &[1]), ("polls", &[2, 3])];

/// The forms of the job `orders`, one of which is in force.
pub const FORMS: [Form; 3] = [Form::Orders, Form::OrdersByKind, Form::OrdersOfTheWeb];

/// The job file of a form.
pub fn file(form: Form) -> String {
    let orders = |group: &str, condition: &str| {
        format!(
            r#"name = "orders"
dataflow = "tally"
[[input]]
topic = "orders"
format = "json"
[tally]
subject = "/region"
group = {group}
entity = "/order"
keep = "last"
order = "/at"
value = "/amount"
{condition}
aggregates = ["sum", "count", "min", "max", "last", "distinct:/customer"]
[[sink]]
kind = "sqlite"
path = "orders.db"
every = "100ms"
"#
        )
    };
    match form {
        Form::Orders => orders(r#"["/country"]"#, ""),
        Form::OrdersByKind => orders(r#"["/country", "/kind"]"#, ""),
        Form::OrdersOfTheWeb => orders(r#"["/country"]"#, "where = \"event.kind == 'web'\""),
        Form::Firsts => r#"name = "firsts"
dataflow = "tally"
[[input]]
topic = "orders"
format = "json"
[tally]
subject = "/region"
group = "/country"
entity = "/customer"
keep = "first-n"
n = 3
order = "/at"
value = "/amount"
aggregates = ["count", "sum"]
"#
        .to_owned(),
        Form::Bank => r#"name = "bank"
dataflow = "tally"
[[input]]
topic = "transfers"
format = "json"
[tally]
order = "/at"
[[tally.entry]]
group = "/from"
value = "-/amount"
[[tally.entry]]
group = "/to"
value = "/amount"
[[sink]]
kind = "sqlite"
path = "bank.db"
every = "100ms"
"#
        .to_owned(),
    }
}

/// The job of polls.
pub const POLLS: &str = r#"name = "polls"
dataflow = "polls"
[[input]]
topic = "votes"
format = "vote"
[[input]]
topic = "posts"
format = "post"
"#;

/// Polls that are there from the beginning and stay: one of voters, one of messages.
pub fn standing_polls() -> [Poll; 2] {
    [poll("election", &["yes", "no", "maybe"], true), poll("words", &["happy", "sad", "well"], false)]
}

/// The definitions of the poll that comes and goes.
pub fn changing_poll(number: usize) -> Poll {
    match number {
        0 => poll("moods", &["happy", "sad"], true),
        1 => poll("moods", &["happy", "sad", "angry"], true),
        2 => poll("moods", &["angry", "well"], false),
        _ => poll("moods", &["sad"], false),
    }
}

fn poll(id: &str, options: &[&str], of_people: bool) -> Poll {
    Poll { id: id.to_owned(), options: options.iter().map(|&option| option.to_owned()).collect(), of_people }
}

/// A poll's definition as the server takes it; with its id where it is new.
pub fn definition(poll: &Poll, is_new: bool) -> serde_json::Value {
    let entity = poll.of_people.then_some("author");
    let keep = if poll.of_people { "last" } else { "all" };
    let mut definition = serde_json::json!({"options": poll.options, "entity": entity, "keep": keep});
    if is_new {
        definition["id"] = poll.id.clone().into();
        definition["opens"] = "2020-01-01T00:00:00Z".into();
    }
    definition
}
