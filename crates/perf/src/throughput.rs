//! How many messages a second, and at what cost: one publishing thread, one consuming thread, and
//! the main thread with the clock.

use std::{
    io::Write,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Result,
    client::Client,
    error::Context as _,
    layout::{Layout, Shape},
    measure::{Measures, Metric, Timing},
    pace::Pace,
    process::Watched,
    producer::{Producers, Publishing},
    receiver::{Acks, Receiver, Receivers, Stamps},
    script::Script,
    storage::Storage,
    url::Url,
    watch::{self, Counted},
};

/// How long a server may refuse to read before a publisher gives up.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that has sent nothing for so long is not just slow.
const STALLED: Duration = Duration::from_secs(1);

/// How long a consumer that is to stay behind waits before it looks again.
const NAP: Duration = Duration::from_micros(200);

/// What is sent how, as fast as it goes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub shape: Shape,
    pub body_size: usize,
    /// How deliveries are settled; `None`: nobody consumes, and confirms are counted.
    pub acks: Option<Acks>,
    /// Publisher confirms, with at most this many publishes of a connection unconfirmed.
    pub confirm_window: Option<u64>,
    /// Connections that publish to a single queue. More than one makes sense where nobody consumes:
    /// their messages have the same numbers.
    pub producers: u16,
    /// Messages that the consumer leaves in the queue as long as more are published.
    pub behind: u64,
}

impl Load {
    /// One producer and one consumer, who keeps up.
    pub const fn new(shape: Shape, body_size: usize, acks: Acks) -> Self {
        Self {
            shape,
            body_size,
            acks: Some(acks),
            confirm_window: None,
            producers: 1,
            behind: 0,
        }
    }
}

/// One run against one server.
///
/// # Errors
/// When the server refuses or fails, or messages are lost, duplicated, reordered or altered.
pub fn run(
    url: &Url,
    server: Watched,
    load: &Load,
    storage: Storage,
    timing: Timing,
) -> Result<Measures> {
    let mut layout = Layout::declare(url, load.shape, load.body_size, storage)?;
    let (streams, receivers) = connect(url, load, &layout)?;
    let mut receivers = Receivers::new(receivers)?;
    let mut publishers = publishers(load, &mut layout, streams)?;
    let pace = Pace::new(load.body_size, layout.copies);
    let (pace, copies) = (&pace, layout.copies);
    let counted = Counted {
        body_size: load.body_size,
        stored: storage.is_durable(),
    };

    let measured = thread::scope(|scope| {
        let publish = scope.spawn(|| {
            let result = match &mut publishers {
                Publishers::Confirmed(producers) => producers.publish(pace, timing),
                Publishers::Plain(streams, scripts) => publish(streams, scripts, pace, copies),
            };
            pace.finish();
            stop_on_error(pace, result)
        });
        let consume = scope.spawn(|| {
            let consumed = consume(&mut receivers, pace, timing, load.behind, |_stamp| ());
            stop_on_error(pace, consumed)
        });
        let rebind = scope.spawn(|| match load.shape {
            Shape::Topic { rebind: true, .. } => {
                let rebound = Layout::rebind(url, &layout.queues[0], layout.exchange(), pace);
                stop_on_error(pace, rebound)
            }
            _ => Ok(()),
        });
        let measured = watch::measure(server, pace, timing, counted);
        pace.stop();
        join(publish)?;
        join(consume)?;
        join(rebind)?;
        measured
    });

    let mut measures = measured?;
    let left = pace.sent().saturating_sub(pace.received()); // duplicates are for the checkers
    if left > 0 {
        measures.set(Metric::Left, left as f64);
    }
    let sent = publishers.sent();
    if load.acks.is_none() && left == 0 {
        layout.wait_until_ready(sent.iter().sum())?;
    }
    // A fanout has one publisher for all.
    receivers.finish(sent.into_iter().cycle())?;
    if let Publishers::Confirmed(producers) = &publishers
        && let Some(nanos) = producers.latency()
    {
        measures.set_latency(nanos);
    }
    // Publishing connections stay open until here: when one goes, a server may drop what it has
    // read from it and not routed yet.
    drop((publishers, receivers));
    layout.remove()?;
    Ok(measures)
}

/// Opens the connections that publish and those that consume, which for [`Shape::Queues`] without
/// confirms are the same ones.
fn connect(url: &Url, load: &Load, layout: &Layout) -> Result<(Vec<TcpStream>, Vec<Receiver>)> {
    let many = matches!(load.shape, Shape::Queues(_));
    let both = many && load.confirm_window.is_none();
    let mut publishers = Vec::new();
    let mut receivers = Vec::new();
    let consumed = load.acks.iter().flat_map(|&acks| {
        let queues = (0..).zip(&layout.queues);
        queues.map(move |(stamp, queue)| (acks, stamp, queue))
    });
    for (acks, stamp, queue) in consumed {
        let stream = consumer(url, queue, acks)?.into_stream()?;
        if both {
            publishers.push(stream.try_clone().context("share a socket")?);
        }
        let stamps = Stamps::Always(if many { stamp } else { 0 });
        receivers.push(Receiver::new(stream, load.body_size, acks, stamps)?);
    }
    if !both {
        let count = match load.shape {
            Shape::Queues(count) => count,
            _ => load.producers,
        };
        for _ in 0..count {
            publishers.push(publisher(url, load.confirm_window.is_some())?);
        }
    }
    Ok((publishers, receivers))
}

pub(crate) fn consumer(url: &Url, queue: &str, acks: Acks) -> Result<Client> {
    let mut client = Client::connect(url)?;
    if let Acks::Manual { prefetch } = acks {
        client.qos(prefetch)?;
    }
    client.consume(queue, acks == Acks::Auto)?;
    Ok(client)
}

pub(crate) fn publisher(url: &Url, confirms: bool) -> Result<TcpStream> {
    let mut client = Client::connect(url)?;
    if confirms {
        client.confirm_select()?;
    }
    client.into_stream()
}

/// Connections that publish, and what.
enum Publishers {
    Plain(Vec<TcpStream>, Vec<Script>),
    Confirmed(Producers),
}

impl Publishers {
    fn sent(&self) -> Vec<u64> {
        match self {
            Self::Plain(_, scripts) => scripts.iter().map(Script::sent).collect(),
            Self::Confirmed(producers) => producers.sent().collect(),
        }
    }
}

fn publishers(load: &Load, layout: &mut Layout, streams: Vec<TcpStream>) -> Result<Publishers> {
    let scripts = std::mem::take(&mut layout.scripts);
    let scripts = scripts.into_iter().cycle().take(streams.len()).collect();
    let Some(window) = load.confirm_window else {
        return Ok(Publishers::Plain(streams, scripts));
    };
    let publishing = Publishing {
        window,
        copies: layout.copies,
        confirms_count: load.acks.is_none(),
    };
    Producers::new(streams, scripts, publishing).map(Publishers::Confirmed)
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

/// Receives until everything that was sent has arrived, or nothing comes any more, or it comes too
/// slowly. While more is sent, `behind` messages stay where they are.
pub(crate) fn consume(
    receivers: &mut Receivers,
    pace: &Pace,
    timing: Timing,
    behind: u64,
    mut on_stamp: impl FnMut(u64),
) -> Result<()> {
    if receivers.is_empty() {
        return Ok(());
    }
    let mut last_progress = Instant::now();
    loop {
        while !pace.is_finished() && pace.sent().saturating_sub(pace.received()) < behind {
            last_progress = Instant::now(); // nobody is asked for anything
            thread::sleep(NAP);
        }
        let count = receivers.receive(&mut on_stamp)?;
        if count > 0 {
            pace.add_received(count);
            last_progress = Instant::now();
        } else if pace.is_complete() {
            return Ok(());
        }
        match over(last_progress.elapsed(), pace.stopped_for(), timing) {
            None => {}
            // The checkers will say what is missing.
            Some(End::Silence) => return Ok(()),
            Some(End::TooSlow) => {
                receivers.cut_off();
                return Ok(());
            }
        }
    }
}

/// Why what has not come is not waited for any longer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Silence,
    TooSlow,
}

/// Whether to go on waiting for deliveries or confirms that have not come: a server that is slow is not one that loses
/// messages, and has only so much time.
pub(crate) fn over(
    silent_for: Duration,
    stopped_for: Option<Duration>,
    timing: Timing,
) -> Option<End> {
    if silent_for > timing.patience {
        return Some(End::Silence);
    }
    let late = stopped_for.is_some_and(|time| time > timing.drain);
    (late && silent_for < STALLED).then_some(End::TooSlow)
}

/// One thread's failure ends the others' work too.
pub(crate) fn stop_on_error<T>(pace: &Pace, result: Result<T>) -> Result<T> {
    if result.is_err() {
        pace.stop();
    }
    result
}

/// The result of a thread, whose panic becomes ours.
pub(crate) fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_not_silent() {
        let millis = Duration::from_millis;
        let timing = Timing {
            warm_up: millis(0),
            measured: millis(0),
            drain: millis(5_000),
            patience: millis(10_000),
        };
        #[rustfmt::skip]
        let table = [
            // silent  stopped       expected            why this row is here
            (10,       None,         None,               "in the middle"),
            (9_000,    None,         None,               "a pause"),
            (11_000,   None,         Some(End::Silence), "dead"),
            (10,       Some(1_000),  None,               "the rest may come"),
            (10,       Some(6_000),  Some(End::TooSlow), "it comes, but not soon"),
            (1_500,    Some(6_000),  None,               "does not come: may be lost, so wait"),
            (11_000,   Some(16_000), Some(End::Silence), "lost"),
        ];
        for (silent, stopped, expected, why) in table {
            let got = over(millis(silent), stopped.map(millis), timing);
            assert_eq!(got, expected, "{why}");
        }
    }
}
