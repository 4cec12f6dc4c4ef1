//! Answers of the broker, for people.
//!
//! A field that is not there is an empty cell: brokers and this program may be of different age.

use serde_json::Value;

use super::table;

/// How an answer is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum View {
    /// Many schedules.
    Schedules,
    /// Times to come.
    Preview,
    /// Runs of a schedule.
    History,
    /// Many messages that wait.
    Messages,
    /// One thing: its fields, one a line.
    Fields,
}

impl View {
    pub(super) fn show(self, answer: &Value) -> String {
        match self {
            Self::Schedules => {
                let heads = [
                    "NAME", "STATE", "WHEN", "ZONE", "NEXT RUN", "LAST RUN", "OUTCOME",
                ];
                let row = |schedule: &Value| {
                    vec![
                        cell(schedule, "name"),
                        cell(schedule, "state"),
                        when(schedule),
                        cell(schedule, "timezone"),
                        cell(schedule, "next_run"),
                        cell(schedule, "last_run"),
                        cell(schedule, "last_outcome"),
                    ]
                };
                list(answer, "schedules", &heads, row)
            }
            Self::Preview => {
                let row = |time: &Value| {
                    vec![
                        cell(time, "nominal"),
                        cell(time, "local"),
                        cell(time, "notes"),
                    ]
                };
                let mut text = list(answer, "next", &["NOMINAL", "LOCAL", "NOTES"], row);
                for note in items(answer, "notes") {
                    text += &format!("note: {}\n", table::clean(&plain(note)));
                }
                text
            }
            Self::History => {
                let heads = [
                    "NUMBER", "NOMINAL", "FIRED", "LATE MS", "QUEUES", "CONSUMER", "OUTCOME",
                ];
                let row = |run: &Value| {
                    let fields = [
                        "number",
                        "nominal",
                        "fired",
                        "late_ms",
                        "queues",
                        "consumer_tag",
                        "outcome",
                    ];
                    fields.iter().map(|field| cell(run, field)).collect()
                };
                list(answer, "runs", &heads, row)
            }
            Self::Messages => {
                let heads = [
                    "ID",
                    "DUE",
                    "EXCHANGE",
                    "ROUTING KEY",
                    "MESSAGE ID",
                    "OCTETS",
                ];
                let row = |message: &Value| {
                    let fields = [
                        "id",
                        "due",
                        "exchange",
                        "routing_key",
                        "message_id",
                        "payload_bytes",
                    ];
                    fields.iter().map(|field| cell(message, field)).collect()
                };
                let mut text = list(answer, "messages", &heads, row);
                let count = answer.get("count").and_then(Value::as_u64);
                let shown = items(answer, "messages").len() as u64;
                if let Some(count) = count.filter(|count| *count > shown) {
                    text += &format!("{shown} of {count}; see --limit\n");
                }
                text
            }
            Self::Fields => fields(answer),
        }
    }
}

fn list(
    answer: &Value,
    field: &str,
    heads: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
) -> String {
    let rows: Vec<_> = items(answer, field).iter().map(row).collect();
    let mut text = table::render(heads, &rows);
    if answer.get("more").and_then(Value::as_bool) == Some(true) {
        text += "there are more; see --limit\n";
    }
    text
}

fn items<'a>(answer: &'a Value, field: &str) -> &'a [Value] {
    let items = answer.get(field).and_then(Value::as_array);
    items.map_or(&[], Vec::as_slice)
}

fn cell(value: &Value, field: &str) -> String {
    value.get(field).map(plain).unwrap_or_default()
}

/// A value without the quotes of JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn when(schedule: &Value) -> String {
    let trigger = schedule.get("trigger").unwrap_or(&Value::Null);
    match ["cron", "at", "every"]
        .iter()
        .find_map(|kind| Some((*kind, trigger.get(kind)?)))
    {
        Some(("cron", text)) => plain(text),
        Some((kind, text)) => format!("{kind} {}", plain(text)),
        None => String::new(),
    }
}

/// Fields of fields are named with a dot in between; there are two levels of them.
fn fields(answer: &Value) -> String {
    let mut rows = Vec::new();
    for (name, value) in answer.as_object().into_iter().flatten() {
        match value {
            Value::Object(inner) => {
                for (second, value) in inner {
                    rows.push(vec![format!("{name}.{second}"), plain(value)]);
                }
            }
            value => rows.push(vec![name.clone(), plain(value)]),
        }
    }
    table::render(&["FIELD", "VALUE"], &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_become_tables() {
        let schedules = json!({"schedules": [
            {"name": "a", "state": "active", "trigger": {"cron": "@daily", "dialect": "robfig"},
             "timezone": "UTC", "next_run": "2030-01-01T00:00:00Z", "last_run": null},
            {"name": "b", "state": "paused", "trigger": {"every": "5m", "anchor": "x"}},
        ], "more": true});
        assert_eq!(
            View::Schedules.show(&schedules),
            "NAME  STATE   WHEN      ZONE  NEXT RUN              LAST RUN  OUTCOME\n\
             a     active  @daily    UTC   2030-01-01T00:00:00Z\n\
             b     paused  every 5m\n\
             there are more; see --limit\n"
        );
        let preview = json!({"next": [{"nominal": "n", "local": "l", "notes": ["x", "y"]}],
                             "notes": ["ends after these"]});
        assert_eq!(
            View::Preview.show(&preview),
            "NOMINAL  LOCAL  NOTES\nn        l      x, y\nnote: ends after these\n"
        );
        let messages = json!({"count": 2, "messages": [{"id": "1", "due": "d"}]});
        assert_eq!(
            View::Messages.show(&messages),
            "ID  DUE  EXCHANGE  ROUTING KEY  MESSAGE ID  OCTETS\n1   d\n1 of 2; see --limit\n"
        );
        let one = json!({"name": "a", "counts": {"acked": 1}, "next": ["t", "u"]});
        assert_eq!(
            View::Fields.show(&one),
            "FIELD         VALUE\ncounts.acked  1\nname          a\nnext          t, u\n"
        );
    }

    #[test]
    fn an_answer_of_another_age_is_no_panic() {
        for view in [
            View::Schedules,
            View::Preview,
            View::History,
            View::Messages,
            View::Fields,
        ] {
            assert!(view.show(&json!([1])).ends_with('\n'));
        }
    }
}
