//! What has to hold after each step, and what has to hold when everything has come to rest.

use leveret_core::{Broker, Totals};

use crate::client::{Client, Phase};
use crate::history::History;
use crate::log::Log;
use crate::model::{Checked, Mode, Model};
use crate::network::Link;
use crate::violation;

/// After each step: the core has what the model has, no more and no less.
///
/// # Errors
/// If it has not.
pub fn after_step(broker: &Broker, model: &Model) -> Checked {
    let connections = model.connections.values();
    let channels: Vec<_> = connections
        .flat_map(|c| c.channels.values().flatten())
        .collect();
    let expected = Totals {
        connections: model.connections.len(),
        channels: channels.len(),
        consumers: channels.iter().map(|c| c.consumers.len()).sum(),
        queues: model.queues.len(),
        exchanges: model.topology.exchanges.len(),
        bindings: model.topology.bindings.len(),
        ready: model.queues.values().map(|queue| queue.ready.len()).sum(),
        unacked: channels.iter().map(|c| c.unacked.len()).sum(),
        delayed: 0,
        retrying: 0,
        ready_bytes: broker.totals().ready_bytes,
    };
    let totals = broker.totals();
    if totals != expected {
        return Err(violation!(
            "the broker has {totals:?}, the model {expected:?}"
        ));
    }
    let all_here = broker.metrics().paged_out == 0 && !model.tally.contains_key("restarts");
    memory(totals.ready_bytes, all_here, model)?;
    prefetches(model)
}

/// A message costs what it is made of, and little more; nothing if it is away.
fn memory(ready_bytes: usize, all_here: bool, model: &Model) -> Checked {
    let ready = model.queues.values().flat_map(|queue| &queue.ready);
    let (mut least, mut count) = (0, 0);
    for published in ready.filter_map(|item| model.content_of(item)) {
        least += published.body_len
            + published.raw.len()
            + published.exchange.len()
            + published.keys.first().map_or(0, String::len);
        count += 1;
    }
    let most = least + count * 64;
    if !all_here {
        least = 0;
    }
    if (least..=most).contains(&ready_bytes) {
        Ok(())
    } else {
        Err(violation!(
            "{ready_bytes} octets for messages of {least} to {most}"
        ))
    }
}

/// No consumer and no channel holds more than it asked for.
fn prefetches(model: &Model) -> Checked {
    for (id, connection) in &model.connections {
        for (number, channel) in &connection.channels {
            let Some(channel) = channel else { continue };
            for (tag, consumer) in &channel.consumers {
                let held = channel
                    .held()
                    .filter(|u| u.consumer == Some(consumer.id))
                    .count();
                if consumer.prefetch > 0 && held > consumer.prefetch {
                    return Err(violation!("{tag} on {id:?}/{number} holds {held}"));
                }
            }
        }
    }
    one_holder(model)
}

/// A message of a queue is ready, or held by one channel, and nowhere twice.
fn one_holder(model: &Model) -> Checked {
    let mut places = std::collections::BTreeSet::new();
    let ready = model.queues.values().flat_map(|queue| {
        let id = queue.id;
        queue.ready.iter().map(move |item| (id, item.seq))
    });
    let connections = model.connections.values();
    let channels = connections.flat_map(|c| c.channels.values().flatten());
    let held = channels.flat_map(|c| c.held().map(|u| (u.queue, u.item.seq)));
    for place in ready.chain(held) {
        if !places.insert(place) {
            return Err(violation!("place {place:?} is taken twice"));
        }
    }
    Ok(())
}

/// When nothing moves any more: everything that was due has happened. `unreported` is what writers
/// may have written and not reported.
///
/// # Errors
/// If something has not.
pub fn at_rest(model: &Model, log: &Log, history: &History, unreported: usize) -> Checked {
    log.check(model)?;
    history.check()?;
    if let Some(item) = model.has_to_go() {
        return Err(violation!("{item:?} should have gone"));
    }
    for (id, connection) in &model.connections {
        if connection.outbox > unreported {
            let outbox = connection.outbox;
            return Err(violation!("{outbox} octets stay in the outbox of {id:?}"));
        }
        for (number, channel) in &connection.channels {
            let Some(channel) = channel else { continue };
            if channel.waits.is_some() {
                return Err(violation!("{id:?}/{number} waits for ever"));
            }
            if let Mode::Confirm { waiting, .. } = &channel.mode
                && let Some((publish, _)) = waiting.first_key_value()
            {
                return Err(violation!(
                    "publish {publish} on {id:?}/{number} is never confirmed"
                ));
            }
        }
    }
    Ok(())
}

/// When nothing moves any more: a client that is connected has been heard and has heard all.
///
/// # Errors
/// If it has not.
pub fn client_at_rest(client: &Client, link: &Link, history: &History) -> Checked {
    if client.phase != Phase::Open {
        return Ok(());
    }
    if let Some(sent) = link.sent.front() {
        return Err(violation!("nobody has heard {sent:?}"));
    }
    let unheard = |spoken: &&leveret_core::Outbound| {
        !matches!(spoken, leveret_core::Outbound::Consumer { .. })
    };
    if let Some(spoken) = link.spoken.iter().find(unheard) {
        return Err(violation!("the client has not heard {spoken:?}"));
    }
    for (number, channel) in &client.channels {
        let unconfirmed = history.unconfirmed(channel.id);
        if unconfirmed > 0 {
            return Err(violation!(
                "{unconfirmed} publishes on channel {number} are not confirmed"
            ));
        }
    }
    Ok(())
}
