//! Connections themselves: how fast they come and go, and what one costs that does nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use crate::{
    Error, Result,
    client::Client,
    layout::unique_name,
    measure::{Measures, Timing},
    memory,
    pace::Pace,
    process::{self, Watched},
    script::Template,
    throughput::{join, stop_on_error},
    url::Url,
    watch::{self, Counted},
};

/// Threads that connect, one connection at a time each. More would only queue for the processors.
const THREADS: usize = 4;

/// Open files that 10,000 connections and everything else need, here and in the server. RabbitMQ
/// keeps a tenth of them for other things than sockets.
pub const OPEN_FILES: u64 = 16_000;

/// One in so many idle connections is asked at the end whether it is still there.
const ASK_EVERY: usize = 100;

const BODY_BYTES: usize = 100;

/// Connects, opens a channel, declares an exclusive queue, publishes one message to it and closes,
/// over and over. The figure is cycles per second.
///
/// # Errors
/// When the server refuses or fails.
pub fn cycles(url: &Url, server: Watched, timing: Timing) -> Result<Measures> {
    let pace = Pace::new(BODY_BYTES, 1);
    let prefix = unique_name();
    let number = AtomicU64::new(0);
    let work = || {
        while !pace.is_stopped() {
            let queue = format!("{prefix}.{}", number.fetch_add(1, Ordering::Relaxed));
            cycle(url, queue)?;
            pace.add_received(1);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| scope.spawn(|| stop_on_error(&pace, work())));
        let measured = watch::measure(server, &pace, timing, Counted::default());
        pace.stop();
        for thread in threads {
            join(thread)?;
        }
        measured
    })
}

fn cycle(url: &Url, queue: String) -> Result<()> {
    let mut client = Client::connect(url)?;
    client.queue_declare_exclusive(&queue)?;
    let template = Template {
        routing_key: queue,
        body_size: BODY_BYTES,
        ..Template::default()
    };
    client.send(&template.encoded(0)?)?;
    client.close()
}

/// Opens `count` connections with a channel each and reads what they added to the server's memory.
///
/// # Errors
/// When the server refuses or fails, or loses one meanwhile.
pub fn idle(url: &Url, server: Watched, count: usize, timing: Timing) -> Result<Measures> {
    process::raise_open_files(OPEN_FILES)?;
    thread::sleep(timing.settle());
    let before = server.rss();
    let mut clients = open(url, count)?;
    thread::sleep(timing.settle());
    let after = server.rss();

    for client in clients.iter_mut().step_by(ASK_EVERY) {
        client.qos(1)?;
    }
    Ok(memory::added(before, after, clients.len() as f64))
}

fn open(url: &Url, count: usize) -> Result<Vec<Client>> {
    let share = |thread: usize| count / THREADS + usize::from(thread < count % THREADS);
    let clients = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    (0..share(thread))
                        .map(|_| Client::connect(url))
                        .collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let clients: Vec<Client> = clients.into_iter().flatten().collect();
    if clients.is_empty() {
        return Err(Error::Setup("no connections to measure".into()));
    }
    Ok(clients)
}
