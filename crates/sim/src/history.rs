//! What the clients have published, heard and been told, and whether that can be.
//!
//! Knows nothing of the model nor of the broker: promises are judged from outside, by what reached
//! the clients. Weaker than the model, and a check on it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Checked;
use crate::violation;

/// Something a client did or noticed. Channels have numbers of their own here, never reused.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message was published on a channel, as so many-th to be confirmed.
    Published {
        /// On this channel.
        channel: u64,
        /// Which.
        id: u64,
        /// Of this priority.
        priority: u8,
        /// If it is to be confirmed.
        number: Option<u64>,
    },
    /// A message was delivered or fetched.
    Delivered {
        /// On this channel.
        channel: u64,
        /// From this queue.
        queue: String,
        /// Which; `None` if its body is too short to tell.
        id: Option<u64>,
        /// What it says it has been through; empty if it never died.
        past: String,
        /// The flag.
        redelivered: bool,
    },
    /// Publishes were confirmed: up to this one if the flag says so.
    Confirmed(u64, u64, bool),
    /// A message died and went on as a dead letter. The one thing that is told by somebody else.
    Died {
        /// Which.
        id: u64,
        /// What it has been through since.
        past: String,
    },
    /// A publish was refused by a queue.
    Refused(u64, u64),
    /// A message came back.
    Returned(u64, Option<u64>),
}

/// All events in the order in which they were noticed.
#[derive(Debug, Default)]
pub struct History {
    events: Vec<Event>,
    /// Queues that may have priorities: only equals keep their order there.
    prioritized: BTreeSet<String>,
}

impl History {
    /// Nothing has happened. These queues may have priorities.
    #[must_use]
    pub fn new(prioritized: BTreeSet<String>) -> Self {
        Self {
            events: Vec::new(),
            prioritized,
        }
    }

    /// Something happened.
    pub fn note(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Judges everything that happened.
    ///
    /// # Errors
    /// If a promise was broken.
    pub fn check(&self) -> Checked {
        let mut published: BTreeMap<u64, (u64, u8)> = BTreeMap::new();
        let mut numbers: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        let mut confirmed: BTreeSet<(u64, u64)> = BTreeSet::new();
        let mut died: BTreeSet<(u64, &str)> = BTreeSet::new();
        let mut refused: BTreeSet<(u64, u64)> = BTreeSet::new();
        let mut first: BTreeSet<(String, u64, String)> = BTreeSet::new();
        let mut newest: BTreeMap<(u64, String, u64, u8), u64> = BTreeMap::new();
        let mut confirmed_ids: BTreeSet<u64> = BTreeSet::new();
        for event in &self.events {
            match event {
                Event::Published {
                    channel,
                    id,
                    priority,
                    number,
                } => {
                    published.insert(*id, (*channel, *priority));
                    if let Some(number) = number {
                        numbers.insert((*channel, *number), *id);
                    }
                }
                Event::Delivered {
                    channel,
                    queue,
                    id: Some(id),
                    past,
                    redelivered,
                } => {
                    let Some(&(publisher, mut priority)) = published.get(id) else {
                        return Err(violation!("message {id} came from nowhere"));
                    };
                    if !past.is_empty() && !died.contains(&(*id, past)) {
                        return Err(violation!(
                            "message {id} of '{queue}' says that it has died ({past}), and has not"
                        ));
                    }
                    if *redelivered {
                        continue;
                    }
                    // From the third death on there may be two ways to the same past.
                    let deaths = past.matches(',').count();
                    let short = deaths < 3 && !past.contains(" 2,") && !past.contains(" 3,");
                    if (short || past.is_empty())
                        && !first.insert((queue.clone(), *id, past.clone()))
                    {
                        return Err(violation!(
                            "message {id} ({past}) comes from '{queue}' for the first time twice"
                        ));
                    }
                    if !past.is_empty() {
                        continue; // dead letters come as the messages died
                    }
                    if !self.prioritized.contains(queue) {
                        priority = 0;
                    }
                    let stream = (*channel, queue.clone(), publisher, priority);
                    if newest
                        .insert(stream, *id)
                        .is_some_and(|before| before > *id)
                    {
                        return Err(violation!(
                            "message {id} of '{queue}' comes too late on channel {channel} from {publisher}"
                        ));
                    }
                }
                Event::Confirmed(channel, number, multiple) => {
                    let from = if *multiple { 0 } else { *number };
                    let covered: Vec<u64> = numbers
                        .range((*channel, from)..=(*channel, *number))
                        .map(|((_, number), _)| *number)
                        .filter(|number| !confirmed.contains(&(*channel, *number)))
                        .filter(|number| !refused.contains(&(*channel, *number)))
                        .collect();
                    if covered.last() != Some(number) {
                        return Err(violation!(
                            "publish {number} is confirmed twice or never was"
                        ));
                    }
                    for number in covered {
                        confirmed.insert((*channel, number));
                        confirmed_ids.extend(numbers.get(&(*channel, number)));
                    }
                }
                Event::Died { id, past } => {
                    died.insert((*id, past));
                }
                Event::Refused(channel, number) => {
                    let known = numbers.contains_key(&(*channel, *number));
                    let confirmed = confirmed.contains(&(*channel, *number));
                    if !known || confirmed || !refused.insert((*channel, *number)) {
                        return Err(violation!(
                            "publish {number} is refused that is confirmed, or refused, or never was"
                        ));
                    }
                }
                Event::Returned(_, Some(id)) => {
                    if confirmed_ids.contains(id) {
                        return Err(violation!("message {id} is returned after its confirm"));
                    }
                }
                Event::Delivered { .. } | Event::Returned(..) => {}
            }
        }
        Ok(())
    }

    /// Publishes of this channel that nobody has confirmed.
    #[must_use]
    pub fn unconfirmed(&self, channel: u64) -> u64 {
        let mut open: BTreeSet<u64> = BTreeSet::new();
        for event in &self.events {
            match event {
                Event::Published {
                    channel: on,
                    number: Some(number),
                    ..
                } if *on == channel => {
                    open.insert(*number);
                }
                Event::Confirmed(on, number, multiple) if *on == channel => {
                    open.retain(|n| n != number && !(*multiple && n < number));
                }
                Event::Refused(on, number) if *on == channel => {
                    open.remove(number);
                }
                _ => {}
            }
        }
        open.len() as u64
    }
}
