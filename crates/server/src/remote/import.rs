//! `leveret schedule import`: each job of a crontab becomes a schedule.

use serde_json::{Value, json};

use super::client::{Client, Failure, part};
use super::crontab::{self, Entry, Line};
use super::{EXIT_REFUSED, EXIT_UNREACHABLE, Request, Told, json_line, table};

/// What is read, and what is made of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Import {
    /// For messages about a line.
    pub(super) file: String,
    pub(super) text: String,
    /// Names are this and the number of the line.
    pub(super) prefix: String,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    /// Nothing is sent.
    pub(super) dry_run: bool,
}

/// Goes through all lines; one that is refused does not keep the others from being taken.
pub(super) fn run(import: &Import, client: &Client, vhost: &str, json: bool) -> Told {
    let mut told = Told::default();
    let mut made = Vec::new();
    for (number, line) in crontab::parse(&import.text) {
        let place = format!("{}:{number}", import.file);
        match line {
            Line::Ignored(name) => {
                told.err += &format!("{place}: note: {name} means nothing here\n");
            }
            Line::Wrong(why) => told.complain(&place, &why),
            Line::Entry(entry) => match take(import, client, vhost, number, &entry) {
                Ok(one) => made.push(one),
                Err(Failure::Refused(why)) => told.complain(&place, &why),
                Err(Failure::Unreachable(why)) => {
                    told.complain(&place, &why);
                    told.code = EXIT_UNREACHABLE;
                    break;
                }
            },
        }
    }
    told.out = if json {
        json_line(&Value::Array(made))
    } else {
        show(&made)
    };
    told
}

impl Told {
    fn complain(&mut self, place: &str, why: &str) {
        self.err += &format!("leveret: {place}: {}\n", table::clean(why));
        self.code = EXIT_REFUSED;
    }
}

fn take(
    import: &Import,
    client: &Client,
    vhost: &str,
    number: usize,
    entry: &Entry,
) -> Result<Value, Failure> {
    let name = format!("{}{number}", import.prefix);
    let mut body = json!({
        "cron": entry.cron,
        "exchange": import.exchange,
        "routing_key": import.routing_key,
        "payload": entry.command,
        "properties": {"delivery_mode": 2, "content_type": "text/plain"},
    });
    if let Some(zone) = &entry.timezone {
        body["timezone"] = json!(zone);
    }
    let mut one = json!({"line": number, "name": name, "cron": entry.cron,
                         "timezone": entry.timezone, "payload": entry.command});
    if !import.dry_run {
        let answer = client.ask(&Request {
            method: "PUT",
            path: format!("/api/schedules/{}/{}", part(vhost), part(&name)),
            body,
        })?;
        one["next"] = answer.get("next").cloned().unwrap_or(Value::Null);
    }
    Ok(one)
}

fn show(made: &[Value]) -> String {
    let text = |one: &Value, field: &str| {
        let value = one.get(field);
        let value = value.map(|value| match value.as_array() {
            Some(items) => items.first().cloned().unwrap_or(Value::Null),
            None => value.clone(),
        });
        match value {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        }
    };
    let heads = ["LINE", "NAME", "CRON", "ZONE", "NEXT RUN", "PAYLOAD"];
    let fields = ["line", "name", "cron", "timezone", "next", "payload"];
    let row = |one: &Value| fields.iter().map(|field| text(one, field)).collect();
    let rows: Vec<_> = made.iter().map(row).collect();
    table::render(&heads, &rows)
}
