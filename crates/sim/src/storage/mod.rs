//! The log under simulation: one machine, a disk that forgets, tears and fails, and a model of
//! what has to be there all the same.
//!
//! [`run`](run::run) makes records as a broker does, writes and syncs them, keeps house, and cuts
//! the power again and again. After each time what the log finds is [`judged`](judge): what was
//! reported safe is there, nothing is there that was not staged, and what holds together is there
//! wholly or not at all. [`points`] cuts the power at every operation of a run in every way,
//! [`faults`] makes every operation fail, [`rot`] turns over bits. [`mistakes`] are made on
//! purpose, so that tests can see that they are noticed.
//!
//! A run that fails is replayed with `cargo run -p leveret-sim -- storage --seed N --trace`.

pub mod command;
pub mod disk;
pub mod faults;
pub mod host;
pub mod image;
pub mod judge;
pub mod mistakes;
pub mod model;
pub mod points;
pub mod rot;
pub mod run;
pub mod traffic;
