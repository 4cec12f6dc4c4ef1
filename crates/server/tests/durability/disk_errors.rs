//! A disk that fails, or takes its time. `strace` makes system calls do so.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use leveret_codec::{BasicConsume, ConfirmSelect, Method};
use rustix::process::Pid;

use crate::common::{PATIENCE, Program, short};
use crate::files::{body, publish_confirmed};
use crate::link::{How, Link, durable_queue, existing_queue};
use crate::process::{Place, Process, arguments};

/// What meddles with the system calls of a process until this is dropped.
struct Tracer(Child);

impl Tracer {
    /// None if that is impossible here.
    fn attach(pid: Pid, inject: &str) -> Option<Self> {
        let mut child = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"])
            .arg(format!("inject=fdatasync:{inject}"))
            .args(["-p", &pid.as_raw_nonzero().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut said = BufReader::new(child.stderr.take()?).lines();
        let tracer = Self(child);
        // Ends without having said so if it may not.
        while let Some(Ok(line)) = said.next() {
            if line.contains(" attached") {
                // Somebody has to go on listening.
                std::thread::spawn(move || said.count());
                return Some(tracer);
            }
        }
        None
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill(); // has ended already if the process has
        let _ = self.0.wait();
    }
}

fn left_out(name: &str) {
    eprintln!("left out: {name} (no strace, or it may not be used)");
}

/// Numbers of the messages in `q`, in order.
fn drain(data: &Path) -> Vec<u32> {
    let process = Process::start(data);
    let mut link = process.link();
    let Method::QueueDeclareOk(declared) = link.call(existing_queue("q")).unwrap() else {
        panic!("no queue")
    };
    consume(&mut link, "q");
    let numbers = (0..declared.message_count).map(|_| {
        let octets = link.answer().unwrap().body;
        let n = u32::from_be_bytes(octets[..4].try_into().unwrap());
        assert!(octets == body(n), "octets as they were");
        n
    });
    let numbers = numbers.collect();
    drop(link);
    process.stop();
    numbers
}

fn consume(link: &mut Link, queue: &str) {
    let consume = BasicConsume {
        queue: short(queue),
        no_ack: true,
        ..BasicConsume::default()
    };
    link.call(consume).unwrap();
}

#[test]
fn a_sync_that_fails_ends_the_broker_and_confirms_nothing() {
    for fails in [1, 2, 10] {
        let place = Place::new();
        let mut process = Process::start(&place.data());
        let mut link = process.link();
        let mut bystander = process.link();
        publish_confirmed(&mut link, 0..5);
        let inject = format!("error=EIO:when={fails}");
        let Some(_tracer) = Tracer::attach(process.pid(), &inject) else {
            return left_out("a_sync_that_fails_ends_the_broker_and_confirms_nothing");
        };
        let mut confirmed = 5;
        let close = loop {
            link.publish("", "q", How::Persistent, &body(confirmed));
            link.flush().unwrap();
            match link.answer().unwrap().method {
                Method::BasicAck(_) => confirmed += 1,
                other => break other,
            }
        };
        assert!(confirmed < 5 + fails, "{confirmed} confirmed");
        for close in [close, bystander.answer().unwrap().method] {
            let Method::ConnectionClose(close) = close else {
                panic!("{close:?}")
            };
            assert_eq!(close.reply_code, 541);
        }
        let (code, lines) = process.wait();
        assert_eq!(code, Some(2), "{lines:#?}");
        assert!(
            lines.iter().any(|line| line.contains("the log has failed")),
            "{lines:#?}"
        );
        let numbers = drain(&place.data());
        // The one that failed may be there: nobody was told anything.
        let expected: Vec<u32> = (0..numbers.len() as u32).collect();
        assert_eq!(numbers, expected);
        assert!((confirmed..=confirmed + 1).contains(&(numbers.len() as u32)));
    }
}

#[test]
fn a_sync_that_fails_at_the_start_is_one_line() {
    let place = Place::new();
    let process = Process::start(&place.data());
    publish_confirmed(&mut process.link(), 0..3);
    process.kill();
    let output = Command::new("strace")
        .args(["-D", "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"])
        .arg("inject=fdatasync:error=EIO:when=1")
        .arg(env!("CARGO_BIN_EXE_leveret"))
        .args(arguments(&place.data()))
        .output();
    let Ok(output) = output else {
        return left_out("a_sync_that_fails_at_the_start_is_one_line");
    };
    let text = String::from_utf8(output.stderr).unwrap();
    if text.contains("strace: ") {
        return left_out("a_sync_that_fails_at_the_start_is_one_line");
    }
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("cannot read the log in "), "{text}");
    assert_eq!(drain(&place.data()), [0, 1, 2]);
}

#[test]
fn a_sync_that_takes_long_delays_confirms_and_nothing_else() {
    let place = Place::new();
    let process = Process::start(&place.data());
    let mut publisher = process.link();
    publisher.call(durable_queue("q")).unwrap();
    publisher.call(ConfirmSelect::default()).unwrap();
    let mut other = process.link();
    let transient = leveret_codec::QueueDeclare {
        queue: short("transient"),
        exclusive: true,
        ..leveret_codec::QueueDeclare::default()
    };
    other.call(transient).unwrap();
    consume(&mut other, "transient");
    let mut idle = Link::open_with(process.address(), 1).unwrap();
    let Some(tracer) = Tracer::attach(process.pid(), "delay_enter=3000000") else {
        return left_out("a_sync_that_takes_long_delays_confirms_and_nothing_else");
    };
    publisher.publish("", "q", How::Persistent, &body(0));
    publisher.flush().unwrap();
    for n in 0..100 {
        other.publish("", "transient", How::Transient, &body(n));
        other.flush().unwrap();
        assert!(other.answer().unwrap().body == body(n));
    }
    idle.heartbeat().unwrap();
    assert!(
        publisher.answer_if_there().unwrap().is_none(),
        "the disk is not done, but all that is done"
    );
    let confirm = publisher.answer().unwrap().method;
    assert!(matches!(confirm, Method::BasicAck(_)), "{confirm:?}");
    drop(tracer);
    drop((publisher, other, idle));
    process.stop();
}

#[test]
fn an_order_that_waits_for_the_log_when_it_fails_is_503() {
    let program = Program::start(&[]);
    let line = program.line_with("listening for http ");
    let address = line.rsplit_once("address=").unwrap().1.trim().to_owned();
    program.line_with("ready to accept connections");
    let ask = |method: &str, path: &str, body: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let body = r#"{"every": "1000h", "routing_key": "q"}"#;
    let made = ask("PUT", "/api/schedules/%2F/a", body);
    assert!(made.starts_with("HTTP/1.1 200 "), "{made}");
    let pid = Pid::from_child(&program.child);
    let Some(_tracer) = Tracer::attach(pid, "error=EIO:when=1") else {
        return left_out("an_order_that_waits_for_the_log_when_it_fails_is_503");
    };
    // Nobody else is connected: the process may not be gone before the answer is.
    let answer = ask("PUT", "/api/schedules/%2F/b", body);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let reason = "the broker has stopped before it was known whether this is safe";
    assert!(answer.contains(r#""error":"unavailable""#) && answer.contains(reason));
}
