//! What one file of the log says by itself, whatever its octets are.

use leveret_core::log::Recovered;
use leveret_core::message::Message;

use crate::checkpoint;
use crate::footer::unpack;
use crate::format::{BATCH, BatchHeader, Header, HeaderFound};
use crate::record::{BODY_SUM, What, split_time};
use crate::segment::{Entries, body_is_sound, footer_of, scan_batches};
use crate::state::{Place, Segment, State};

/// What a file says.
#[derive(Debug, Default)]
pub struct Scan {
    /// Number of the segment; None if the header is not one of this version.
    pub segment: Option<u64>,
    /// The footer is there and sound.
    pub is_sealed: bool,
    /// Where what is sound ends, in octets.
    pub end: u64,
    /// What is wrong there, if something had been begun.
    pub broken: Option<String>,
    /// Sound records.
    pub records: u64,
    /// Messages whose octets are sound.
    pub messages: u64,
    /// Checkpoints that can be read.
    pub checkpoints: u64,
    /// Vhosts that are named in it, with what it says of them.
    pub vhosts: Vec<(String, Recovered)>,
}

/// Reads the image of one segment file as recovery would, if it were all there is.
#[must_use]
pub fn scan(image: &[u8]) -> Scan {
    let HeaderFound::Sound(header) = Header::decode(image) else {
        return Scan::default();
    };
    let number = header.number;
    let batches = scan_batches(image, number);
    let footer = footer_of(image, number);
    let is_sealed = footer.is_some();
    let mut broken = batches.tail.broken.map(str::to_owned);
    if let Some(footer) = &footer {
        let is_same = footer.end == batches.end && footer.list == batches.list;
        // Behind the end that a footer names may be what was cut off.
        broken = (!is_same).then(|| match broken {
            Some(what) if batches.end < footer.end => what,
            _ => "its footer is not that of its records".to_owned(),
        });
    }
    let list = footer.map_or(batches.list, |footer| footer.list);
    let mut scan = read_list(&list, number, Some(image));
    scan.segment = Some(u64::from(number));
    scan.is_sealed = is_sealed;
    scan.end = u64::from(batches.end);
    scan.broken = broken;
    scan
}

/// Reads heads as a footer holds them, or if it cannot be one as a list: what [`scan`] does behind
/// all sums.
#[must_use]
pub fn scan_heads(footer: &[u8]) -> Scan {
    let list = unpack(footer);
    read_list(list.as_deref().unwrap_or(footer), 1, None)
}

fn read_list(list: &[u8], number: u32, image: Option<&[u8]>) -> Scan {
    let mut scan = Scan::default();
    let mut state = State::default();
    state.segments.insert(number, Segment::default());
    let mut parts = Vec::new();
    for entry in Entries::new(list, number).flatten() {
        scan.records += 1;
        if let Some(image) = image {
            scan.messages += sound_messages(image, &entry.head.what, &mut entry.place.clone());
        }
        if let What::Checkpoint(part) = entry.head.what {
            if part.index == 0 {
                parts.clear();
            }
            let body = image.and_then(|image| body_at(image, entry.place, part.bytes));
            parts.extend_from_slice(body.unwrap_or_default());
            if part.is_last
                && let Some(checkpoint) = checkpoint::decode(&parts)
            {
                scan.checkpoints += 1;
                state = checkpoint.state;
                state.segments.insert(number, Segment::default());
            }
        }
        let mut place = entry.place;
        state.apply(
            entry.head.vhost,
            entry.head.lsn,
            entry.head.what,
            &mut place,
        );
    }
    let numbers: Vec<_> = state.vhosts.keys().copied().collect();
    for number in numbers {
        let recovered = state.recovered(number);
        let name = state.vhosts.get(&number).map(|vhost| vhost.name.clone());
        scan.vhosts.push((name.unwrap_or_default(), recovered));
    }
    scan
}

fn sound_messages(image: &[u8], what: &What<'_>, place: &mut Place) -> u64 {
    match what {
        What::Published(publish) | What::Moved(publish) => {
            let body = body_at(image, *place, publish.body.bytes);
            place.pass(publish.body.bytes);
            let parts = body.and_then(|body| split_time(publish.body.has_time, body));
            let message = parts.and_then(|(_, block)| Message::from_block(block));
            u64::from(message.is_some())
        }
        What::Together(parts) => {
            let sound = parts.iter().map(|part| sound_messages(image, part, place));
            sound.sum()
        }
        _ => 0,
    }
}

fn body_at(image: &[u8], place: Place, bytes: u32) -> Option<&[u8]> {
    let start = place.offset.checked_sub(BODY_SUM)? as usize;
    let end = (place.offset as usize).checked_add(bytes as usize)?;
    let with_sum = image.get(start..end)?;
    body_is_sound(place, with_sum).then(|| with_sum.get(BODY_SUM as usize..))?
}

/// Places of all batch headers in an image, also of those that nothing sound leads to.
pub(crate) fn batch_places(image: &[u8], number: u32) -> Vec<(u32, BatchHeader)> {
    let magic = crate::format::BATCH_MAGIC;
    let windows = (0..).zip(image.windows(magic.len()));
    let starts = windows.filter(|(_, window)| *window == magic);
    starts
        .filter_map(|(at, _): (u32, _)| {
            let bytes = image.get(at as usize..(at + BATCH) as usize)?;
            Some((at, BatchHeader::decode(bytes, number, at)?))
        })
        .collect()
}
