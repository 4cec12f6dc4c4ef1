//! Two deadlines: when we owe the peer a sign of life, and when it has owed us one for too long.
//!
//! Nothing here is told about each frame that is written or armed again on each read. The session
//! notes times, and whoever waits asks for the next deadline after it has waited for the last one.

use leveret_core::Mono;

/// How long a peer may be silent, in milliseconds for each second of its interval.
///
/// "If a peer detects no incoming traffic for two heartbeat intervals or longer, it should close
/// the connection" (AMQP 0-9-1 §4.2.7). RabbitMQ looks once an interval and closes after two silent
/// looks, so between two and three intervals; clients whose beats come late rely on the third.
const SILENCE_MS: u64 = 3_000;

/// The heartbeats of one connection; off until [`Heartbeat::start`].
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval_s: u16, // 0 is off
    paused: bool,
    heard: Mono,
    sent: Mono,
}

/// What is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Due {
    /// Nothing yet.
    Nothing,
    /// A heartbeat is to be sent.
    Beat,
    /// The peer has been silent for [`SILENCE_MS`] of an interval.
    PeerSilent,
}

impl Heartbeat {
    /// Off.
    pub(crate) const fn off() -> Self {
        Self {
            interval_s: 0,
            paused: false,
            heard: Mono(0),
            sent: Mono(0),
        }
    }

    /// Begins with an interval in seconds, as agreed in `connection.tune-ok`; 0 keeps it off.
    pub(crate) fn start(&mut self, interval_s: u16, now: Mono) {
        *self = Self {
            interval_s,
            paused: false,
            heard: now,
            sent: now,
        };
    }

    /// The peer is alive: octets came, whatever they mean.
    pub(crate) fn heard(&mut self, now: Mono) {
        self.heard = self.heard.max(now);
    }

    /// We wrote something, so that no heartbeat is needed for a while.
    pub(crate) fn sent(&mut self, at: Mono) {
        self.sent = self.sent.max(at);
    }

    /// While we do not read, silence is no sign of death.
    pub(crate) fn pause_expiry(&mut self) {
        self.paused = true;
    }

    /// We read again: the peer's time starts anew.
    pub(crate) fn resume_expiry(&mut self, now: Mono) {
        self.paused = false;
        self.heard(now);
    }

    /// When to ask [`Heartbeat::due`] again, if ever.
    pub(crate) fn next(&self) -> Option<Mono> {
        let beat = self.beat_due()?;
        Some(self.silence_due().map_or(beat, |silence| silence.min(beat)))
    }

    /// What is due by now. A beat counts as sent when this returns it.
    pub(crate) fn due(&mut self, now: Mono) -> Due {
        if self.silence_due().is_some_and(|at| now >= at) {
            return Due::PeerSilent;
        }
        if self.beat_due().is_some_and(|at| now >= at) {
            self.sent = now;
            return Due::Beat;
        }
        Due::Nothing
    }

    /// Twice in an interval, so that one that is late is not yet one that is missed.
    fn beat_due(&self) -> Option<Mono> {
        (self.interval_s > 0).then(|| self.sent.plus_ms(u64::from(self.interval_s) * 500))
    }

    fn silence_due(&self) -> Option<Mono> {
        (self.interval_s > 0 && !self.paused)
            .then(|| self.heard.plus_ms(u64::from(self.interval_s) * SILENCE_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started() -> Heartbeat {
        let mut heartbeat = Heartbeat::off();
        heartbeat.start(10, Mono(1_000));
        heartbeat
    }

    #[test]
    fn a_beat_is_due_each_half_interval() {
        let mut heartbeat = started();
        assert_eq!(heartbeat.next(), Some(Mono(6_000)));
        assert_eq!(heartbeat.due(Mono(5_999)), Due::Nothing);
        assert_eq!(heartbeat.due(Mono(6_000)), Due::Beat);
        assert_eq!(heartbeat.due(Mono(6_000)), Due::Nothing, "once");
        assert_eq!(heartbeat.next(), Some(Mono(11_000)));
    }

    #[test]
    fn traffic_of_our_own_stands_in_for_a_beat() {
        let mut heartbeat = started();
        heartbeat.sent(Mono(5_000));
        heartbeat.sent(Mono(4_000)); // an older note changes nothing
        assert_eq!(heartbeat.due(Mono(9_999)), Due::Nothing);
        assert_eq!(heartbeat.due(Mono(10_000)), Due::Beat);
    }

    #[test]
    fn a_peer_silent_for_three_intervals_is_gone() {
        let mut heartbeat = started();
        heartbeat.heard(Mono(4_000));
        heartbeat.sent(Mono(33_999));
        assert_eq!(heartbeat.due(Mono(33_999)), Due::Nothing);
        assert_eq!(heartbeat.due(Mono(34_000)), Due::PeerSilent);
    }

    #[test]
    fn silence_does_not_count_while_we_do_not_read() {
        let mut heartbeat = started();
        heartbeat.pause_expiry();
        assert_eq!(heartbeat.due(Mono(100_000)), Due::Beat, "but we stay alive");
        heartbeat.resume_expiry(Mono(100_000));
        heartbeat.sent(Mono(129_999));
        assert_eq!(heartbeat.due(Mono(129_999)), Due::Nothing);
        assert_eq!(heartbeat.due(Mono(130_000)), Due::PeerSilent);
    }

    #[test]
    fn an_interval_of_zero_turns_both_off() {
        let mut heartbeat = Heartbeat::off();
        heartbeat.start(0, Mono(1));
        assert_eq!(heartbeat.next(), None);
        assert_eq!(heartbeat.due(Mono(u64::MAX)), Due::Nothing);
    }
}
