//! How many messages a second, and at what cost: one publishing thread, one consuming thread, and
//! the main thread with the clock.

use std::{
    io::Write,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Error, Result,
    client::Client,
    confirms,
    error::Context as _,
    layout::{Layout, Shape},
    measure::{Measures, Timing},
    pace::Pace,
    process::Watched,
    receiver::{Acks, Receiver, Receivers, Stamps},
    script::Script,
    url::Url,
    watch,
};

/// How long a server may refuse to read before a publisher gives up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is sent how, as fast as it goes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub shape: Shape,
    pub body_size: usize,
    pub acks: Acks,
    /// Publisher confirms, with at most this many publishes unconfirmed.
    pub confirm_window: Option<u64>,
}

/// One run against one server.
///
/// # Errors
/// When the server refuses or fails, or messages are lost, duplicated, reordered or altered.
pub fn run(url: &Url, server: Watched, load: &Load, timing: Timing) -> Result<Measures> {
    let mut layout = Layout::declare(url, load.shape, load.body_size)?;
    let (mut publishers, receivers) = connect(url, load, &layout)?;
    let mut receivers = Receivers::new(receivers)?;
    let mut scripts = std::mem::take(&mut layout.scripts);
    let pace = Pace::new(load.body_size, layout.copies);
    let (pace, copies) = (&pace, layout.copies);

    let measured = thread::scope(|scope| {
        let publish = scope.spawn(|| {
            let result = match load.confirm_window {
                Some(window) => {
                    let stream = publishers.first_mut().ok_or_else(no_publisher)?;
                    confirms::publish(stream, &mut scripts[0], window, pace, copies)
                }
                None => publish(&mut publishers, &mut scripts, pace, copies),
            };
            pace.finish();
            stop_on_error(pace, result)
        });
        let consume = scope.spawn(|| {
            stop_on_error(
                pace,
                consume(&mut receivers, pace, timing.patience, |_stamp| ()),
            )
        });
        let rebind = scope.spawn(|| match load.shape {
            Shape::Topic { rebind: true, .. } => {
                let rebound = Layout::rebind(url, &layout.queues[0], layout.exchange(), pace);
                stop_on_error(pace, rebound)
            }
            _ => Ok(()),
        });
        let measured = watch::measure(server, pace, timing, load.body_size);
        pace.stop();
        join(publish)?;
        join(consume)?;
        join(rebind)?;
        measured
    })?;

    for (index, receiver) in receivers.list().iter().enumerate() {
        let script = scripts.get(index).unwrap_or(&scripts[0]); // fanout: one for all
        receiver.finish(script.sent())?;
    }
    // Publishing connections stay open until here: when one goes, a server may drop what it has
    // read from it and not routed yet.
    drop((publishers, receivers));
    layout.remove()?;
    Ok(measured)
}

/// Opens the connections that publish and those that consume, which for [`Shape::Queues`] are the
/// same ones.
fn connect(url: &Url, load: &Load, layout: &Layout) -> Result<(Vec<TcpStream>, Vec<Receiver>)> {
    let both = matches!(load.shape, Shape::Queues(_));
    let mut publishers = Vec::new();
    let mut receivers = Vec::new();
    for (stamp, queue) in (0..).zip(&layout.queues) {
        let mut client = Client::connect(url)?;
        if let Acks::Manual { prefetch } = load.acks {
            client.qos(prefetch)?;
        }
        client.consume(queue, load.acks == Acks::Auto)?;
        let stream = client.into_stream()?;
        if both {
            publishers.push(stream.try_clone().context("share a socket")?);
        }
        let stamp = if both { stamp } else { 0 };
        let stamps = Stamps::Always(stamp);
        receivers.push(Receiver::new(stream, load.body_size, load.acks, stamps)?);
    }
    if !both {
        let mut client = Client::connect(url)?;
        if load.confirm_window.is_some() {
            client.confirm_select()?;
        }
        publishers.push(client.into_stream()?);
    }
    Ok((publishers, receivers))
}

/// Publishes until told to stop, on all connections in turn.
fn publish(
    streams: &mut [TcpStream],
    scripts: &mut [Script],
    pace: &Pace,
    copies: u64,
) -> Result<()> {
    for stream in &*streams {
        stream
            .set_write_timeout(Some(WRITE_TIMEOUT))
            .context("set a write timeout")?;
    }
    loop {
        for (stream, script) in streams.iter_mut().zip(&mut *scripts) {
            let Some(room) = pace.wait_for_room() else {
                return Ok(());
            };
            let batch = script.take(room / copies);
            pace.add_sent(batch.count * copies);
            stream.write_all(batch.bytes).context("publish")?;
        }
    }
}

/// Receives until everything that was sent has arrived, or nothing comes any more.
pub(crate) fn consume(
    receivers: &mut Receivers,
    pace: &Pace,
    patience: Duration,
    mut on_stamp: impl FnMut(u64),
) -> Result<()> {
    let mut last_progress = Instant::now();
    loop {
        let count = receivers.receive(&mut on_stamp)?;
        if count > 0 {
            pace.add_received(count);
            last_progress = Instant::now();
            continue;
        }
        // Silence: the end, if nothing is missing. Else the checkers will say what is.
        if pace.is_complete() || last_progress.elapsed() > patience {
            return Ok(());
        }
    }
}

/// One thread's failure ends the others' work too.
pub(crate) fn stop_on_error<T>(pace: &Pace, result: Result<T>) -> Result<T> {
    if result.is_err() {
        pace.stop();
    }
    result
}

fn no_publisher() -> Error {
    Error::Setup("confirms need one publishing connection".into())
}

/// The result of a thread, whose panic becomes ours.
pub(crate) fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
