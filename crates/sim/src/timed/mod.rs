//! Time under simulation: a broker with schedules and delayed messages, on a disk that forgets, with
//! clocks that jump.
//!
//! [`run`](run::run) lets clients make, pause and delete schedules and publish messages that are to
//! come later; time passes, in steps or all at once; the clock on the wall is set; the power goes at
//! any operation of the disk, most of all around a fire. The [`model`] is a list of [nominal
//! times](nominal) that were worked out without the scheduler, and of promises. Each has to be kept
//! once, or there has to be a [reason](judge). [`points`] cuts the power at every operation around a
//! fire, in every way; [`many`] lets a day pass over very many schedules. [`mistakes`] are made on
//! purpose, so that tests can see that they are noticed.
//!
//! A run that fails is replayed with `cargo run -p leveret-sim -- timed --seed N --trace`.

pub mod clock;
pub mod command;
pub mod fates;
pub mod guests;
pub mod judge;
pub mod machine;
pub mod many;
pub mod mistakes;
pub mod model;
pub mod nominal;
pub mod plan;
pub mod points;
pub mod run;
