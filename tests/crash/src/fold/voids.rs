//! What an operator has voided.

use super::Partition;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Which records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Entity(String),
    /// Of a topic by its name.
    Offsets {
        topic: String,
        partition: u32,
        from: u64,
        to: u64,
    },
    /// Those whose field has this text.
    Field(String, String),
}

/// A void, with the offsets that it reaches to, by topic and partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Void {
    pub what: What,
    pub until: BTreeMap<String, Vec<u64>>,
}

impl What {
    /// As the server takes it.
    pub fn asked(&self) -> Value {
        match self {
            What::Entity(entity) => json!({"entity": entity, "reason": "a test"}),
            What::Offsets { topic, partition, from, to } => {
                let offsets = json!({"topic": topic, "partition": partition, "from": from, "to": to});
                json!({"offsets": offsets, "reason": "a test"})
            }
            What::Field(field, text) => json!({"where": format!("event.{field} == '{text}'"), "reason": "a test"}),
        }
    }

    /// As the server shows it; `None`: it shows something else.
    fn shown(void: &Value) -> Option<What> {
        let offsets = &void["offsets"];
        if let Some(topic) = offsets["topic"].as_str() {
            let partition = offsets["partition"].as_u64()? as u32;
            let (from, to) = (offsets["from"].as_u64()?, offsets["to"].as_u64()?);
            return Some(What::Offsets { topic: topic.to_owned(), partition, from, to });
        }
        if let Some(expression) = void["where"].as_str() {
            let (field, text) = expression.strip_prefix("event.")?.split_once(" == '")?;
            return Some(What::Field(field.to_owned(), text.strip_suffix('\'')?.to_owned()));
        }
        Some(What::Entity(void["entity"][0].as_str()?.to_owned()))
    }
}

impl Void {
    /// A void as the server shows it.
    pub fn shown(void: &Value) -> Option<Void> {
        let of_topic = |ends: &Value| ends.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>();
        let until = void["until"].as_object()?.iter().map(|(topic, ends)| Some((topic.clone(), of_topic(ends)?)));
        Some(Void { what: What::shown(void)?, until: until.collect::<Option<_>>()? })
    }

    /// Whether a record is voided, which is of these entities.
    pub fn reaches(&self, topic: &str, partition: u32, offset: u64, event: &Value, entities: &[&Value]) -> bool {
        let until = self.until.get(topic).and_then(|until| until.get(partition as usize));
        until.is_some_and(|until| offset < *until)
            && match &self.what {
                What::Entity(entity) => entities.iter().any(|of| **of == *entity.as_str()),
                What::Offsets { topic: of, partition: p, from, to } => {
                    of == topic && *p == partition && (*from..*to).contains(&offset)
                }
                What::Field(field, text) => event[field] == *text.as_str(),
            }
    }
}

/// The records that are left of a topic: where one is voided there is none. `entities` are the fields that name
/// who has said it.
pub fn left(partitions: &[Partition], topic: &str, voids: &[&Void], entities: &[&str]) -> Vec<Partition> {
    let is_left = |partition: usize, offset: u64, event: &Value| {
        let of: Vec<&Value> = entities.iter().map(|field| &event[*field]).collect();
        !voids.iter().any(|void| void.reaches(topic, partition as u32, offset, event, &of))
    };
    let of_partition = |(partition, events): (usize, &Partition)| {
        let left = events.iter().map(|(offset, event)| {
            (*offset, event.as_ref().filter(|event| is_left(partition, *offset, event)).cloned())
        });
        left.collect()
    };
    partitions.iter().enumerate().map(of_partition).collect()
}
