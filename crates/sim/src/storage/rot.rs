//! Bits turn over in files at rest.
//!
//! In what was synced before the last batch was written, the log knows that it was: it refuses to
//! start, or says so when the message is read, or needs no such octet. In what was never synced it
//! cuts. Between the two it may do either, but says that it cuts. Never are octets wrong.

use leveret_core::log::RecoveredQueue;
use leveret_store::salvage;

use super::disk::SimDisk;
use super::host::{Host, Trouble};
use super::judge::{Found, judge};
use super::model::{Model, VHOSTS};
use super::run::{Run, STEPS, Setup, guarded};
use crate::batch::Failure;
use crate::dice::Dice;
use crate::model::Tally;

/// Octets turned over in the disk of one run.
const FLIPS: u64 = 20;

/// A run whose disk rots in the end.
#[derive(Clone, Debug, Default)]
pub struct Rot {
    /// Which run.
    pub seed: u64,
    /// Only this octet.
    pub at: Option<u64>,
    /// Print what happens.
    pub trace: bool,
}

/// What the log can know of an octet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// That it was synced: something written later says so.
    Known,
    /// It was synced, and nothing later says so.
    Synced,
    /// It was not.
    Unsynced,
}

/// What became of a disk.
struct Rotten {
    disk: SimDisk,
    /// What was reported before the last batch was written.
    earlier: Model,
    model: Model,
    host: Host,
    /// What was written before this operation is known to be synced.
    known_before: u64,
    /// What is found while it is sound.
    found: Found,
}

/// Turns over one octet after the other of a run's disk.
pub fn rot(rot: &Rot) -> (Tally, Vec<Failure>) {
    let mut failures = Vec::new();
    let failure = |at: u64, what: String| Failure {
        replay: format!("storage --rot --seed {} --at {at}", rot.seed),
        what: format!("run {}, flip {at}: {what}", rot.seed),
    };
    let mut rotten = match guarded(|| prepare(rot.seed)) {
        Ok(rotten) => rotten,
        Err(what) => return (Tally::new(), vec![failure(u64::MAX, what)]),
    };
    rotten.host.trace = rot.trace;
    let places = rotten.disk.written();
    rotten.host.disk = rotten.disk.killed();
    rotten.host.model = rotten.model.clone();
    if let Err(what) = guarded(|| salvaged(&mut rotten.host, Some(&rotten.found))) {
        failures.push(failure(u64::MAX, what));
    }
    for n in 0..FLIPS {
        let mut dice = Dice::new(rot.seed ^ (n << 40));
        // The last of them are of most interest.
        let first = if dice.chance(50) {
            places.len().saturating_sub(8)
        } else {
            0
        };
        let Some(written) = dice.pick(&places[first..]) else {
            break;
        };
        let name = &written.name;
        let offset = written.from + dice.any() % (written.to - written.from);
        let mask = dice.one_of(&[0x01, 0x80, 0xff]);
        if rot.at.is_some_and(|only| only != n) {
            continue;
        }
        let place = if written.at < rotten.known_before {
            Place::Known
        } else if written.is_synced {
            Place::Synced
        } else {
            Place::Unsynced
        };
        let host = &mut rotten.host;
        host.disk = rotten.disk.killed();
        host.disk.rot(name, offset, mask);
        host.say(|| format!("{place:?} octet {offset} of {name} ^ {mask:#x}"));
        host.model = rotten.model.clone();
        let result = guarded(|| read(host, place, &rotten.earlier, &rotten.found));
        if let Err(what) = result {
            let what = format!("{place:?} octet {offset} of {name} ^ {mask:#x}: {what}");
            failures.push(failure(n, what));
        }
    }
    (rotten.host.tally, failures)
}

/// What is saved of a disk can be opened, and no octet of it is wrong. Of a sound one all is saved.
fn salvaged(host: &mut Host, sound: Option<&Found>) -> Result<(), Trouble> {
    let to = SimDisk::default();
    let model = host.model.clone();
    let saved = salvage(&host.disk, to.clone(), host.options.clone());
    saved.map_err(|error| Trouble::Wrong(format!("salvage: {error}")))?;
    host.disk = to;
    let found = host
        .look()
        .map_err(|trouble| Trouble::Wrong(format!("salvaged: {trouble:?}")))?;
    let mut states = (*model.now).clone();
    let (mut kept, mut lost) = (0, 0);
    for (vhost, state) in states.iter_mut().enumerate() {
        for (number, queue) in &mut state.queues {
            let runs = found[vhost].queues.iter().find(|of| of.number == *number);
            let runs = runs.map_or(&[][..], |of| &of.runs);
            let before = queue.messages.len();
            let is_there = |seq| {
                runs.iter()
                    .any(|run| (run.first.0..=run.last.0).contains(&seq))
            };
            queue.messages.retain(|seq, _| is_there(*seq));
            kept += queue.messages.len();
            lost += before - queue.messages.len();
        }
    }
    host.count("messages salvaged", kept as u64);
    host.count("messages not salvaged", lost as u64);
    host.model.found(states);
    if host.read_each()? > 0 {
        return Err(Trouble::Wrong("salvaged, and cannot be read".into()));
    }
    if let Some(sound) = sound {
        for (n, name) in VHOSTS.iter().enumerate() {
            let places = |found: &Found| -> Vec<_> {
                let queues = found[n].queues.iter();
                let queues = queues.filter(|queue| !queue.runs.is_empty());
                let runs = queues.map(|queue| (queue.number, runs(queue)));
                runs.collect()
            };
            if places(&found) != places(sound) || found[n].definitions != sound[n].definitions {
                let why = format!("vhost '{name}' is not all salvaged of a sound log");
                return Err(Trouble::Wrong(why));
            }
        }
        host.count("sound logs salvaged", 1);
    }
    Ok(())
}

fn runs(queue: &RecoveredQueue) -> Vec<(u64, u64)> {
    let runs = queue.runs.iter();
    runs.map(|run| (run.first.0, run.last.0)).collect()
}

/// Octets of the time of arrival.
const TIME_BYTES: usize = 6;

/// Changes octets of a message on the disk of a run, and the sum over them so that it fits. To a
/// log this is what damage is to one that checks no sums. Says what comes of it.
///
/// # Errors
/// What a log that gives out those octets is told.
pub fn rot_with_sum(seed: u64) -> Result<Tally, String> {
    let mut rotten = guarded(|| prepare(seed))?;
    let states = std::sync::Arc::clone(&rotten.model.safe);
    let queues = states.iter().flat_map(|state| state.queues.values());
    let messages = queues.flat_map(|queue| queue.messages.values());
    let host = &mut rotten.host;
    host.disk = rotten.disk.killed();
    host.model = rotten.model.clone();
    for message in messages.filter(|message| message.body_len() > 0) {
        for (name, mut content) in host.disk.files() {
            let block = message.block();
            let places = content.windows(block.len());
            let places: Vec<usize> = places
                .enumerate()
                .filter(|(_, octets)| **octets == **block)
                .map(|(at, _)| at)
                .collect();
            for at in places {
                let last = at + block.len() - 1;
                let at = at - TIME_BYTES; // before the block
                content[last] ^= 0x20;
                host.disk.rot(&name, last as u64, 0x20);
                let number = u64::from_str_radix(&name[..16], 16).unwrap_or_default();
                let place = ((number << 32) | at as u64).to_le_bytes();
                let sum = crc32c::crc32c_append(crc32c::crc32c(&place), &content[at..=last]);
                for (n, octet) in (at - 4..at).zip(sum.to_le_bytes()) {
                    host.disk.rot(&name, n as u64, content[n] ^ octet);
                }
                host.count("sums made to fit", 1);
            }
        }
    }
    guarded(|| host.open())?;
    Ok(std::mem::take(&mut host.tally))
}

fn prepare(seed: u64) -> Result<Rotten, Trouble> {
    let mut run = Run::new(&Setup {
        seed,
        calm: true,
        ..Setup::default()
    });
    run.start()?;
    let steps = run.dice.between(5..=STEPS as u64 / 2) as usize;
    for step in 1..=steps {
        run.step(step)?;
    }
    for _ in 0..3 {
        run.traffic.act(&mut run.host.model, &mut run.dice);
    }
    run.host.write()?;
    run.host.sync()?;
    let mut earlier = run.host.model.clone();
    let known_before = run.host.disk.operations();
    let mut write = |run: &mut Run| {
        let mut batch = super::model::Batch::new();
        for _ in 0..run.dice.between(1..=4) {
            run.traffic.act(&mut run.host.model, &mut run.dice);
            batch = run.host.model.open.clone();
        }
        earlier.pending.push(batch.into());
        run.host.write()
    };
    // Perhaps all of a batch is left out, and nothing says that what was before is safe.
    while run.host.disk.operations() == known_before {
        write(&mut run)?;
    }
    run.host.sync()?;
    let synced_before = run.host.disk.operations();
    if run.dice.chance(60) {
        write(&mut run)?;
        if run.host.disk.operations() > synced_before {
            // A batch after the sync: all that was synced is known to be.
            return rotten(run, synced_before, None);
        }
    }
    rotten(run, known_before, Some(earlier))
}

fn rotten(mut run: Run, known_before: u64, earlier: Option<Model>) -> Result<Rotten, Trouble> {
    run.host.stop();
    let model = run.host.model.clone();
    let mut host = Host::new(
        run.host.disk.killed(),
        model.clone(),
        run.host.options.clone(),
    );
    let found = host.look()?;
    judge(&model, &found).map_err(Trouble::Wrong)?;
    Ok(Rotten {
        disk: run.host.disk,
        earlier: earlier.unwrap_or_else(|| model.clone()),
        model,
        host,
        known_before,
        found,
    })
}

fn read(host: &mut Host, place: Place, earlier: &Model, sound: &Found) -> Result<(), Trouble> {
    host.count("flips", 1);
    let what = match place {
        Place::Known => "flips in what is known to be synced",
        Place::Synced => "flips in what was synced",
        Place::Unsynced => "flips in what was not synced",
    };
    host.count(what, 1);
    let found = match host.look() {
        Ok(found) => found,
        Err(Trouble::Wrong(why)) if place == Place::Unsynced => {
            return Err(Trouble::Wrong(format!("refused: {why}")));
        }
        Err(Trouble::Wrong(why)) => {
            host.say(|| format!("refused: {why}"));
            host.count("refused", 1);
            return salvaged(host, None);
        }
        Err(trouble) => return Err(trouble),
    };
    let same = (0..found.len()).all(|n| {
        found[n].last == sound[n].last
            && found[n].definitions == sound[n].definitions
            && found[n].queues == sound[n].queues
    });
    let by = match judge(&host.model, &found) {
        Ok(states) => states,
        Err(_) if place == Place::Synced && host.was_cut => {
            host.count("the last synced batch was cut", 1);
            judge(earlier, &found).map_err(Trouble::Wrong)?
        }
        Err(why) if place == Place::Synced && judge(earlier, &found).is_ok() => {
            return Err(Trouble::Wrong(format!("cut, and nobody says so: {why}")));
        }
        Err(why) => return Err(Trouble::Wrong(why)),
    };
    if !same {
        if place == Place::Known {
            return Err(Trouble::Wrong("something else is found than before".into()));
        }
        host.count("cut at a flip", u64::from(host.was_cut));
    }
    host.model.found(by);
    let unreadable = host.read_each()?;
    if unreadable > 0 {
        host.count("seen when read", 1);
        if place == Place::Unsynced {
            return Err(Trouble::Wrong("recovered, and cannot be read".into()));
        }
    } else if same {
        host.count("harmless", 1);
    }
    Ok(())
}
