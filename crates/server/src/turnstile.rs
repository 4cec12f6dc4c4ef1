//! Turn-taking: whoever brings work does it, unless somebody is at it already, who then does ours
//! too.
//!
//! So a state machine has one owner at a time without a thread of its own, and nobody waits for a
//! lock. The one thing that can go wrong is work that everybody leaves to somebody else. It cannot
//! happen here: the inbox is looked at again *after* the turn was given back. If that look does
//! not see an entry, the entry was put in after it (both hold the inbox's lock), so whoever put it
//! in finds the turn free, or taken by somebody who has yet to look.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Rounds one caller makes for others before it lets somebody else go on.
const ROUNDS_MAX: usize = 4;

/// A state machine that is fed with entries, in order.
pub trait Machine {
    /// What it is fed with.
    type Entry;
    /// What is left to be done after a turn, outside of it.
    type Aftermath;

    /// Takes entries from the front: all, or as many as one turn should do.
    fn turn(&mut self, entries: &mut VecDeque<Self::Entry>) -> Self::Aftermath;
}

/// A machine and what it is to be fed with.
#[derive(Debug)]
pub struct Turnstile<M: Machine> {
    inbox: Mutex<VecDeque<M::Entry>>,
    turn: Mutex<Turn<M>>,
}

#[derive(Debug)]
struct Turn<M: Machine> {
    machine: M,
    /// Taken from the inbox, not yet fed.
    entries: VecDeque<M::Entry>,
}

/// Whether something is left to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "work that is left must be done by somebody: call `run` again soon"]
pub enum Rest {
    /// Nothing, or somebody else is at it.
    Nothing,
    /// The caller has done its share; [`Turnstile::run`] must be called again, from elsewhere.
    Something,
}

impl<M: Machine> Turnstile<M> {
    /// A machine with an empty inbox.
    pub fn new(machine: M) -> Self {
        Self {
            inbox: Mutex::default(),
            turn: Mutex::new(Turn {
                machine,
                entries: VecDeque::new(),
            }),
        }
    }

    /// Puts an entry in line; [`Turnstile::run`] must follow.
    pub fn put(&self, entry: M::Entry) {
        lock(&self.inbox).push_back(entry);
    }

    /// Feeds the machine what is in line, or leaves that to whoever is at it already.
    pub fn run(&self, after: impl FnMut(M::Aftermath)) -> Rest {
        self.run_rounds(ROUNDS_MAX, after)
    }

    /// The same for callers that have something better to do: at most one turn.
    pub fn run_in_passing(&self, after: impl FnMut(M::Aftermath)) -> Rest {
        self.run_rounds(1, after)
    }

    fn run_rounds(&self, rounds: usize, mut after: impl FnMut(M::Aftermath)) -> Rest {
        for _ in 0..rounds {
            let mut turn = match self.turn.try_lock() {
                Ok(turn) => turn,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Rest::Nothing,
            };
            let Turn { machine, entries } = &mut *turn;
            self.collect(entries);
            let aftermath = (!entries.is_empty()).then(|| machine.turn(entries));
            let unfinished = !entries.is_empty();
            drop(turn);
            if let Some(aftermath) = aftermath {
                after(aftermath);
            }
            if unfinished {
                return Rest::Something;
            }
            if lock(&self.inbox).is_empty() {
                return Rest::Nothing;
            }
        }
        Rest::Something
    }

    /// Feeds the machine until nothing is left in line, or for so many rounds; waits for whoever is
    /// at it already. Everything that was put in line before has been done then.
    pub fn run_out(&self, rounds: usize, mut after: impl FnMut(M::Aftermath)) {
        for _ in 0..rounds {
            let mut turn = lock(&self.turn);
            let Turn { machine, entries } = &mut *turn;
            self.collect(entries);
            if entries.is_empty() {
                return;
            }
            let aftermath = machine.turn(entries);
            drop(turn);
            after(aftermath);
        }
    }

    /// Looks at the machine between turns; waits for the one that is going on. What was put in
    /// line meanwhile is still to be done: [`Turnstile::run`] must follow.
    pub fn inspect<R>(&self, look: impl FnOnce(&M) -> R) -> R {
        look(&lock(&self.turn).machine)
    }

    fn collect(&self, entries: &mut VecDeque<M::Entry>) {
        let mut inbox = lock(&self.inbox);
        if entries.is_empty() {
            std::mem::swap(&mut *inbox, entries); // both keep their memory
        } else {
            entries.append(&mut inbox);
        }
    }
}

/// A panic while a lock was held is dealt with where it happened, so the lock is still good.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    /// Remembers what it was fed, a few entries a turn.
    #[derive(Default)]
    struct Diary {
        seen: Vec<(usize, usize)>,
        turn_max: usize,
    }

    impl Machine for Diary {
        type Entry = (usize, usize);
        type Aftermath = ();

        fn turn(&mut self, entries: &mut VecDeque<(usize, usize)>) {
            let count = entries.len().min(self.turn_max);
            self.seen.extend(entries.drain(..count));
        }
    }

    /// Threads put and run, nobody tidies up behind them: when they are done, all must be done.
    #[test]
    fn nothing_is_stranded_and_everybody_keeps_their_order() {
        const THREADS: usize = 4;
        const ENTRIES: usize = 200;
        for round in 0..500 {
            let diary = Diary {
                seen: Vec::new(),
                turn_max: 1 + round % 7,
            };
            let turnstile = Arc::new(Turnstile::new(diary));
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let turnstile = Arc::clone(&turnstile);
                    std::thread::spawn(move || {
                        for n in 0..ENTRIES {
                            turnstile.put((thread, n));
                            while turnstile.run(|()| {}) == Rest::Something {}
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            turnstile.inspect(|diary| {
                assert_eq!(diary.seen.len(), THREADS * ENTRIES, "round {round}");
                for thread in 0..THREADS {
                    let own = diary
                        .seen
                        .iter()
                        .filter(|entry| entry.0 == thread)
                        .map(|entry| entry.1);
                    assert!(own.eq(0..ENTRIES), "round {round}: out of order");
                }
            });
        }
    }

    /// Says that a turn has begun, and goes on when told to.
    struct Slow {
        begun: mpsc::Sender<()>,
        go_on: mpsc::Receiver<()>,
        seen: Vec<usize>,
    }

    impl Machine for Slow {
        type Entry = usize;
        type Aftermath = ();

        fn turn(&mut self, entries: &mut VecDeque<usize>) {
            self.begun.send(()).unwrap();
            self.go_on.recv().unwrap();
            self.seen.extend(entries.drain(..));
        }
    }

    #[test]
    fn what_is_run_out_has_been_done_by_whomever() {
        let (begun, has_begun) = mpsc::channel();
        let (let_go_on, go_on) = mpsc::channel();
        let seen = Vec::new();
        let turnstile = Turnstile::new(Slow { begun, go_on, seen });
        turnstile.put(1);
        std::thread::scope(|scope| {
            let running = scope.spawn(|| turnstile.run(|()| {}));
            has_begun.recv().unwrap();
            turnstile.put(2);
            assert_eq!(turnstile.run(|()| {}), Rest::Nothing, "somebody is at it");
            // For both turns, whoever does the second.
            let_go_on.send(()).unwrap();
            let_go_on.send(()).unwrap();
            turnstile.run_out(10, |()| {});
            assert_eq!(turnstile.inspect(|machine| machine.seen.clone()), [1, 2]);
            assert_eq!(running.join().unwrap(), Rest::Nothing);
        });
    }

    #[test]
    fn who_has_done_its_share_says_so() {
        let turnstile = Turnstile::new(Diary {
            seen: Vec::new(),
            turn_max: 2,
        });
        for n in 0..5 {
            turnstile.put((0, n));
        }
        assert_eq!(turnstile.run(|()| {}), Rest::Something);
        assert_eq!(turnstile.run(|()| {}), Rest::Something);
        assert_eq!(turnstile.run(|()| {}), Rest::Nothing);
        assert_eq!(turnstile.inspect(|diary| diary.seen.len()), 5);
    }
}
