//! Definitions, written to files while the broker runs.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write as _;

use common::{Client, Program, short};
use leveret_codec::{
    BasicPublish, FieldTable, FieldValue, Properties, QueueBind, QueueDeclare, RawTable,
    encode_body, encode_header, encode_method,
};
use serde_json::{Value, json};

fn found<'a>(definitions: &'a Value, list: &str, field: &str, name: &str) -> &'a Value {
    let list = definitions[list].as_array().unwrap();
    let found = list.iter().find(|it| it[field] == name);
    found.unwrap_or_else(|| panic!("no {name} in {definitions:#}"))
}

#[test]
fn definitions_are_written_by_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("leveret.toml");
    let hash = "5ZbXJB3OWQlCzUNybwJ/XcL6ZqJA9zNQvXlwYnWQikQSP3lz"; // foobarbaz
    let text = format!(
        r#"
        [housekeeping]
        definitions_backup = {{ cron = "* * * * * *", path = "a/backup", keep = 2 }}
        [[users]]
        name = "app"
        password_hash = "{hash}"
        tags = ["monitoring"]
        [[permissions]]
        user = "app"
        vhost = "/"
        configure = ""
        write = "^app"
        read = ".*"
        [[users]]
        name = "boss"
        password = "secret"
        [[permissions]]
        user = "boss"
        vhost = "/"
        configure = ".*"
        write = ".*"
        read = ".*"
        "#
    );
    fs::write(&config, text).unwrap();
    let program = Program::start(&["--config", config.to_str().unwrap()]);
    let line = program.line_with("listening for amqp ");
    let address = line.rsplit_once("address=").unwrap().1.trim();
    let mut client = Client::connect(address.parse().unwrap());
    client.log_in("boss", "secret", "/");
    client.open_channel(1);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length", FieldValue::I32(5));
    arguments.insert("x-queue-type", "classic");
    client.send(
        1,
        QueueDeclare {
            queue: short("lasting"),
            durable: true,
            arguments: RawTable::from_table(&arguments),
            ..QueueDeclare::default()
        },
    );
    client.answer();
    client.declare_queue("gone");
    client.send(
        1,
        QueueBind {
            queue: short("lasting"),
            exchange: short("amq.topic"),
            routing_key: short("a.*"),
            ..QueueBind::default()
        },
    );
    client.answer();
    let mut headers = FieldTable::default();
    headers.insert("x-schedule-name", "daily");
    headers.insert("x-schedule-cron", "@daily");
    headers.insert("x-schedule-routing-key", "lasting");
    headers.insert("kept", FieldValue::Bool(true));
    let properties = Properties {
        headers: Some(headers),
        delivery_mode: Some(2),
        ..Properties::default()
    };
    let publish = BasicPublish {
        exchange: short("amq.schedule"),
        ..BasicPublish::default()
    };
    let (mut raw, mut frames) = (Vec::new(), Vec::new());
    let flags = properties.encode(&mut raw);
    encode_method(&mut frames, 1, &publish.into());
    encode_header(&mut frames, 1, 3, flags, &raw);
    encode_body(&mut frames, 1, b"\0ab");
    client.stream.write_all(&frames).unwrap();
    client.declare_queue("gone"); // all before it has been done

    program.line_with("definitions were backed up"); // may have begun before
    let mut file = String::new();
    for _ in 0..3 {
        let line = program.line_with("definitions were backed up");
        file = line.rsplit_once("file=").unwrap().1.trim().to_owned();
    }
    let definitions: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let list = |name: &str| definitions[name].as_array().unwrap().len();
    assert_eq!((list("vhosts"), list("users"), list("queues")), (1, 2, 1));
    assert_eq!((list("exchanges"), list("bindings")), (0, 1));
    let app = json!({
        "name": "app", "password_hash": hash, "tags": ["monitoring"], "limits": {},
        "hashing_algorithm": "rabbit_password_hashing_sha256",
    });
    assert_eq!(found(&definitions, "users", "name", "app"), &app);
    let rights = json!({
        "user": "app", "vhost": "/", "configure": "^$", "write": "^app", "read": ".*",
    });
    assert_eq!(found(&definitions, "permissions", "user", "app"), &rights);
    let queue = json!({
        "name": "lasting", "vhost": "/", "durable": true, "auto_delete": false,
        "arguments": {"x-max-length": 5, "x-queue-type": "classic"},
    });
    assert_eq!(found(&definitions, "queues", "name", "lasting"), &queue);
    let binding = json!({
        "source": "amq.topic", "vhost": "/", "destination": "lasting",
        "destination_type": "queue", "routing_key": "a.*", "arguments": {},
    });
    assert_eq!(definitions["bindings"][0], binding);
    let daily = found(&definitions, "schedules", "name", "daily");
    assert_eq!(daily["vhost"], "/");
    assert_eq!(daily["trigger"]["cron"], "@daily");
    assert_eq!(daily["payload"], "AGFi");
    let properties = json!({"delivery_mode": 2, "headers": {"kept": true}});
    assert_eq!(daily["properties"], properties);
    assert!(!definitions.to_string().contains("secret"));
}
