//! The program's command line and configuration file, as an operator meets them.

#![allow(clippy::unwrap_used)] // also in helpers

mod common;

use std::fs;
use std::process::Output;

use common::Program;

fn run(arguments: &[&str]) -> Output {
    common::command().args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn what_is_wrong_is_one_line_and_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("leveret.toml");
    fs::write(&file, "frame_maximum = 1\n").unwrap();
    let file = file.to_str().unwrap();
    let missing = directory.path().join("missing.toml");
    let missing = missing.to_str().unwrap();
    #[rustfmt::skip]
    let table = [
        (&["--config", file][..],                          format!("{file}: unknown key 'frame_maximum'")),
        (&["--config", missing],                           format!("cannot read the configuration file {missing}: No such file or directory (os error 2)")),
        (&["--frame-max", "1KiB"],                         "--frame-max: '1KiB' is not between 4KiB and 16MiB".to_owned()),
        (&["--frame-maximum", "1"],                        "unexpected argument '--frame-maximum' found (see 'leveret --help')".to_owned()),
        (&["--amqps-listen", "[::]:0"],                    "amqps_listen needs tls_certificate and tls_key".to_owned()),
        (&["--data-dir", "/dev/null/x"],                   "cannot use the data directory /dev/null/x: Not a directory (os error 20)".to_owned()),
    ];
    for (arguments, line) in table {
        let output = run(arguments);
        assert_eq!(err(&output), format!("leveret: {line}\n"), "{arguments:?}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn version_help_and_completions() {
    let version = run(&["--version"]);
    assert_eq!(
        out(&version),
        format!("leveret {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = run(&["--help"]);
    assert!(out(&help).contains("--amqp-listen") && help.status.success());
    let completions = run(&["completions", "bash"]);
    assert!(out(&completions).contains("--amqp-listen") && completions.status.success());
}

#[test]
fn the_effective_configuration_is_printed_and_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("leveret.toml");
    let printed = common::command()
        .args(["config", "--channel-max", "7"])
        .env("LEVERET_HEARTBEAT", "5s")
        .env("LEVERET_DEFAULT_USER", "boss")
        .env("LEVERET_DEFAULT_PASS", "hidden")
        .output()
        .unwrap();
    let text = out(&printed);
    assert!(
        text.contains("channel_max = \"7\"\n") && text.contains("heartbeat = \"5s\"\n"),
        "{text}"
    );
    assert!(!text.contains("hidden"), "{text}");
    fs::write(&file, text.replace("default_user = \"boss\"\n", "")).unwrap();
    let again = out(&run(&["config", "--config", file.to_str().unwrap()]));
    assert!(
        again.contains("channel_max = \"7\"\n") && again.contains("heartbeat = \"5s\"\n"),
        "{again}"
    );
}

#[test]
fn health_says_how_a_broker_is() {
    let program = Program::start(&["--log-format", "json"]);
    let listening = program.line_with("listening for http");
    program.line_with("ready to accept connections");
    let address = listening
        .split("\"address\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let well = run(&["health", "--url", &format!("http://{address}/health/ready")]);
    assert_eq!(
        (well.status.code(), out(&well)),
        (Some(0), "{\"status\":\"ok\"}\n".to_owned())
    );
    drop(program);
    let gone = run(&["health", "--http-listen", address]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(err(&gone).starts_with("leveret: http://"), "{}", err(&gone));
}
