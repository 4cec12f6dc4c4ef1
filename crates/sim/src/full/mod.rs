//! The committer of the log on a disk that gets full and has room again.
//!
//! [`run`](run::run) appends records as shards do, has the committer take turn after turn as its
//! thread would, takes room away and gives it back, and cuts the power. What is asked for is in
//! [`model`]: what was reported safe is there after each crash, settles become safe while the disk
//! is full, publishers are stopped before anything has to wait and let go once there is room, and
//! whatever was taken is written in the end. [`mistakes`] are made on purpose, so that tests can see
//! that they are noticed.
//!
//! A run that fails is replayed with `cargo run -p leveret-sim -- full --seed N --trace`.

pub mod command;
pub mod machine;
pub mod mistakes;
pub mod model;
pub mod run;
pub mod traffic;
