//! Counters of all schedules of a vhost, since the broker started.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets of lateness, in milliseconds; one more has no bound.
pub const LATENESS_BOUNDS_MS: [u64; 11] =
    [1, 2, 5, 10, 20, 50, 100, 1_000, 10_000, 60_000, 3_600_000];

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters that others may read while the schedules go on. Reading them takes no lock,
        /// and tells nothing about the order of things.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* $name: AtomicU64,)*
            lateness: [AtomicU64; LATENESS_BOUNDS_MS.len() + 1],
        }

        impl Metrics {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(&self) -> u64 {
                    self.$name.load(Ordering::Relaxed)
                }
            )*

            /// Names and values of all counters, but for lateness.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name()),)*]
            }
        }

        /// Which counter.
        #[derive(Clone, Copy, Debug)]
        #[allow(non_camel_case_types)]
        pub(crate) enum Counter {
            $($name,)*
        }

        impl Metrics {
            fn counter(&self, counter: Counter) -> &AtomicU64 {
                match counter {
                    $(Counter::$name => &self.$name,)*
                }
            }
        }
    };
}

metrics! {
    /// Schedules that there are, ended ones included.
    schedules,
    /// Messages fired.
    fired,
    /// Sum of the milliseconds that they were fired after they were due.
    lateness_ms,
    /// Times left out because the run before was not over.
    overlapped,
    /// Occasions on which times were missed.
    missed,
    /// Runs that all who got them are done with.
    acked,
    /// Runs that came to another end.
    failed,
    /// Sum of the milliseconds from delivery to the end of runs that were acked.
    processing_ms,
    /// Deadlines that passed without an ack.
    alarms,
    /// Runs that the histories remember.
    history_runs,
}

impl Metrics {
    /// Messages fired, by how late they were: one number for each of [`LATENESS_BOUNDS_MS`], of
    /// those up to this bound and above the one before, and one for all above.
    #[must_use]
    pub fn lateness(&self) -> [u64; LATENESS_BOUNDS_MS.len() + 1] {
        std::array::from_fn(|place| self.lateness[place].load(Ordering::Relaxed))
    }

    pub(crate) fn add(&self, counter: Counter, count: u64) {
        self.counter(counter).fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, counter: Counter, value: usize) {
        self.counter(counter).store(value as u64, Ordering::Relaxed);
    }

    pub(crate) fn fired_late(&self, ms: u64) {
        let place = LATENESS_BOUNDS_MS.partition_point(|bound| *bound < ms);
        self.lateness[place].fetch_add(1, Ordering::Relaxed);
        self.add(Counter::fired, 1);
        self.add(Counter::lateness_ms, ms);
    }
}
