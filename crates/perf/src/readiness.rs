//! Tells which of many sockets have something to read.

use std::{net::TcpStream, os::fd::OwnedFd, time::Duration};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, EventData, EventFlags},
    },
};

use crate::{Result, error::Context as _};

/// A fixed list of sockets, known by their place in it.
pub struct Readiness {
    epoll: OwnedFd,
    count: usize,
}

impl Readiness {
    /// # Errors
    /// When they cannot be watched.
    pub fn watch<'a>(streams: impl IntoIterator<Item = &'a TcpStream>) -> Result<Self> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).context("create an epoll instance")?;
        let mut count = 0;
        for stream in streams {
            let data = EventData::new_u64(count as u64);
            epoll::add(&epoll, stream, data, EventFlags::IN).context("watch a socket")?;
            count += 1;
        }
        Ok(Self { epoll, count })
    }

    /// Waits until there is something, for less than a second, and answers where: places in the
    /// list.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait(&self, patience: Duration) -> Result<impl Iterator<Item = usize> + use<>> {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(patience.subsec_nanos()),
        };
        let mut events = Vec::with_capacity(self.count.max(1));
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for something to read"),
        }
        let places = events.into_iter().map(|event| event.data.u64() as usize);
        Ok(places) // ours, see watch()
    }
}
