//! What all connections of the broker share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use leveret_core::broker::{Limits, Options};
use leveret_core::log::{Journal as _, Watcher};
use leveret_core::{Broker, Input};
use leveret_scheduler as scheduler;
use leveret_session::SessionConfig;
use leveret_store::Store;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{Notify, Semaphore, watch};

use crate::auth::Door;
use crate::backup;
use crate::clock::Clock;
use crate::config::{Config, Settings};
use crate::crons;
use crate::error::StartError;
use crate::http;
use crate::journal;
use crate::journal::{Condition, Listener};
use crate::per_object;
use crate::registry::{Lobby, Registry};
use crate::shard::Shard;
use crate::turnstile::lock;

/// Why connections are closed when the broker stops, in RabbitMQ's words.
pub const SHUTDOWN_REASON: &str = "broker forced connection closure with reason 'shutdown'";

/// Connections that may always wait for their login, however few file descriptors there are.
const LOBBY_MIN: usize = 200;

/// Octets of messages of one vhost that may be on their way to the swap area: a disk that is slow
/// must not pin more of them in memory.
const SWAP_BYTES_MAX: usize = 32 << 20;

/// The broker's insides.
#[derive(Debug)]
pub struct Node {
    /// As configured.
    pub settings: Settings,
    /// The same for what every session needs.
    pub session: Arc<SessionConfig>,
    /// Who may log in.
    pub door: Door,
    /// The vhosts, by name.
    pub shards: BTreeMap<Arc<str>, Arc<Shard>>,
    /// What their schedulers have counted, by the same names.
    pub schedules: BTreeMap<Arc<str>, Arc<scheduler::Metrics>>,
    /// Which expressions those go by.
    pub crons: Arc<crons::Book>,
    /// Backups of definitions: how many.
    pub backups: backup::Counts,
    /// Room for scrapes of single queues.
    pub scrapes: Semaphore,
    /// The connections.
    pub registry: Arc<Registry>,
    /// Those of them that have not opened a vhost.
    pub lobby: Lobby,
    /// Connections to the HTTP API, which the registry knows nothing of.
    pub talks: http::Talks,
    /// Most connections with an open vhost.
    pub connections_max: usize,
    /// Most connections at all.
    pub sockets_max: usize,
    /// Time.
    pub clock: Clock,
    /// Bugs that were caught.
    pub panics: Arc<AtomicU64>,
    /// Connections that were turned away at once because there were too many.
    pub turned_away: AtomicU64,
    ready: AtomicBool,
    ended: watch::Sender<bool>,
    memory_alarm: AtomicBool,
    telling: Mutex<()>,
    /// What the log has said that concerns all vhosts.
    pub log: Arc<Condition>,
    /// Told when the log has failed.
    pub log_lost: Notify,
    /// The log itself.
    pub store: Arc<Store>,
}

impl Node {
    /// A broker without connections, with what the log knows of its vhosts; must be called within
    /// the runtime. `fds_max` is the number of file descriptors the process may have.
    ///
    /// # Errors
    /// [`StartError`] if the system has no randomness, or if the log cannot be used.
    pub fn new(config: &Config, store: Store, fds_max: usize) -> Result<Self, StartError> {
        let settings = config.settings.clone();
        let clock = Clock::start();
        let panics = Arc::default();
        let log: Arc<Condition> = Arc::default();
        let mut shards = BTreeMap::new();
        let mut schedules = BTreeMap::new();
        let crons: Arc<crons::Book> = Arc::default();
        for vhost in &config.accounts.vhosts {
            let options = Options {
                vhost: Arc::clone(vhost),
                seed: seed()?,
                limits: limits(&settings),
            };
            let listener = Listener::new(Arc::clone(&log));
            let lead = store
                .lead(vhost, Arc::clone(&listener) as Arc<dyn Watcher>)
                .and_then(|lead| {
                    let started = clock.started();
                    let mut broker = Broker::recover(options, lead.recovered, started)?;
                    let mut scheduler = scheduler::Registry::new(scheduler::Limits {
                        schedules_max: settings.schedules_max,
                        ..scheduler::Limits::default()
                    });
                    schedules.insert(Arc::clone(vhost), scheduler.metrics());
                    scheduler.tell_rhythms(crons.scribe(vhost));
                    broker.schedule_with(clock.now(), Box::new(scheduler))?;
                    broker.ask_about_users(Arc::new(config.accounts.in_vhost(vhost)));
                    Ok((lead.log, broker))
                });
            let (journal, broker) = lead.map_err(|error| journal::lead_error(vhost, &error))?;
            let name = Arc::clone(vhost);
            let shard = Shard::new(broker, name, journal, clock, Arc::clone(&panics));
            listener.attach(&shard);
            shards.insert(Arc::clone(vhost), shard);
        }
        let sockets_max = fds_max / 10 * 9;
        Ok(Self {
            session: Arc::new(session_config(&settings)),
            door: Door::new(&config.accounts),
            shards,
            schedules,
            crons,
            backups: backup::Counts::default(),
            scrapes: Semaphore::new(per_object::SCRAPES_MAX),
            registry: Arc::default(),
            talks: http::Talks::default(),
            lobby: Lobby::new((fds_max / 10).max(LOBBY_MIN)),
            connections_max: settings.connections_max.min(sockets_max),
            sockets_max,
            settings,
            clock,
            panics,
            turned_away: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            memory_alarm: AtomicBool::new(false),
            telling: Mutex::default(),
            log,
            log_lost: Notify::new(),
            store: Arc::new(store),
        })
    }

    /// Are connections accepted?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// They are from here on, or no longer.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Nothing becomes durable from here on: whoever waits for that need not wait.
    pub fn set_ended(&self) {
        self.ended.send_replace(true);
    }

    /// Waits until that is so, which may be never.
    pub async fn ended(&self) {
        // It cannot close: the other end is ours.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Is memory short?
    #[must_use]
    pub fn memory_alarm(&self) -> bool {
        self.memory_alarm.load(Ordering::Relaxed)
    }

    /// Memory has become short, or is no longer: tells every vhost.
    pub fn set_memory_alarm(&self, on: bool) {
        self.memory_alarm.store(on, Ordering::Relaxed);
        self.tell_alarms();
    }

    /// Tells every vhost which resources are short, in RabbitMQ's words.
    pub fn tell_alarms(&self) {
        // Two watchers may come here at once: whoever comes last must tell what holds last.
        let _one_at_a_time = lock(&self.telling);
        let alarm = match (self.memory_alarm(), self.log.is_full()) {
            (false, false) => None,
            (true, false) => Some("low on memory"),
            (false, true) => Some("low on disk"),
            (true, true) => Some("low on memory & disk"),
        };
        for shard in self.shards.values() {
            shard.submit(Input::Alarm(alarm));
        }
    }
}

fn limits(settings: &Settings) -> Limits {
    Limits {
        queues_max: settings.queues_max,
        exchanges_max: settings.exchanges_max,
        bindings_max: settings.bindings_max,
        binding_bytes_max: settings.binding_bytes_max.as_usize(),
        consumers_max: settings.consumers_max,
        consumers_per_channel_max: settings.consumers_per_channel_max,
        outbox_bytes_max: settings.outbox_max.as_usize(),
        queue_memory_max: settings.queue_memory_max.as_usize(),
        swap_bytes_max: SWAP_BYTES_MAX,
        consumer_timeout_ms: match settings.consumer_timeout.as_ms() {
            0 => u64::MAX,
            ms => ms,
        },
    }
}

fn session_config(settings: &Settings) -> SessionConfig {
    SessionConfig {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        frame_max: u32::try_from(settings.frame_max.0).unwrap_or(u32::MAX),
        channel_max: settings.channel_max,
        heartbeat_s: u16::try_from(settings.heartbeat.as_ms() / 1_000).unwrap_or(u16::MAX),
        handshake_timeout_ms: settings.handshake_timeout.as_ms(),
        message_size_max: settings.message_size_max.0,
        ..SessionConfig::default()
    }
}

/// Nobody must be able to guess the names and reply addresses that the core makes up.
fn seed() -> Result<[u8; 32], StartError> {
    let mut seed = [0; 32];
    SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_| StartError::new("the system gives no random octets"))?;
    Ok(seed)
}
