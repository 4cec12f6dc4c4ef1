//! How the broker ends, and what it says if it cannot begin.

mod common;

use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use common::{Broker, Client, PATIENCE, Program};
use leveret_codec::{ConnectionCloseOk, Method};
use rustix::process::Signal;

#[test]
fn connections_are_told_and_the_port_is_free_again() {
    let broker = Broker::start(&[]);
    let address = broker.amqp();
    let mut client = broker.client();
    let half_way = Client::connect(address);
    let answering = std::thread::spawn(move || {
        let close = client.answer().method;
        client.send(0, ConnectionCloseOk {});
        assert!(client.rest().unwrap().is_empty());
        close
    });
    broker.stop();
    let Method::ConnectionClose(close) = answering.join().unwrap() else {
        panic!("no close")
    };
    assert_eq!(
        (close.reply_code, &*close.reply_text),
        (
            320,
            "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
        )
    );
    drop(half_way);
    TcpListener::bind(address).unwrap();
}

#[test]
fn sigterm_ends_the_program_well() {
    let mut program = Program::start(&[]);
    let listening = program.line_with("listening for amqp");
    program.line_with("ready to accept connections");
    let address: SocketAddr = listening
        .rsplit_once("address=")
        .unwrap()
        .1
        .trim()
        .parse()
        .unwrap();
    let mut client = Client::connect(address);
    client.log_in("guest", "guest", "/");
    let start = Instant::now();
    program.signal(Signal::TERM);
    let Method::ConnectionClose(close) = client.answer().method else {
        panic!("no close")
    };
    assert_eq!(close.reply_code, 320);
    client.send(0, ConnectionCloseOk {});
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
    assert!(start.elapsed() < PATIENCE);
    let lines = program.lines_left();
    assert!(
        lines.iter().any(|line| line.contains("stopped")),
        "{lines:?}"
    );
    assert!(
        !lines.iter().any(|line| line.contains("did not go")),
        "{lines:?}"
    );
}

#[test]
fn nothing_of_its_memory_is_dumped_into_a_file() {
    let mut program = Program::start(&[]);
    program.line_with("ready to accept connections");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.child.id())).unwrap();
    let core = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"))
        .unwrap();
    let values: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(values, ["0", "0", "bytes"]);
    program.signal(Signal::TERM);
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut program = Program::start(&[]);
    let listening = program.line_with("listening for amqp");
    program.line_with("ready to accept connections");
    let address: SocketAddr = listening
        .rsplit_once("address=")
        .unwrap()
        .1
        .trim()
        .parse()
        .unwrap();
    let mut client = Client::connect(address); // it will not answer
    client.log_in("guest", "guest", "/");
    program.signal(Signal::INT);
    program.line_with("stopping");
    program.signal(Signal::INT);
    assert_eq!(program.child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_port_that_is_taken_is_one_line_and_exit_code_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data_dir = tempfile::tempdir().unwrap();
    let output = common::command()
        .args([
            "--amqp-listen",
            &address,
            "--http-listen",
            "none",
            "--log-level",
            "off",
            "--data-dir",
        ])
        .arg(data_dir.path().join("data"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!(
            "leveret: cannot listen on {address} for amqp: the port is taken by another program\n"
        )
    );
}

#[test]
fn a_data_directory_has_one_broker() {
    let broker = Broker::start(&[]);
    let data_dir = broker.server().node().settings.data_dir.0.clone().unwrap();
    let output = common::command()
        .args([
            "--amqp-listen",
            "127.0.0.1:0",
            "--http-listen",
            "none",
            "--data-dir",
        ])
        .arg(&data_dir)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!(
            "leveret: cannot use the data directory {}: another broker is using it\n",
            data_dir.display()
        )
    );
    broker.stop();
}
