//! A job for each expression that schedules go by, so that a vhost looks at them again when they
//! are due.
//!
//! [`Book`] is what the vhosts' schedulers write into when an expression appears or vanishes, and
//! [`Jobs`] follows it with jobs of tokio-cron-scheduler. All that such a job does is to say which
//! expression it was: it may come late, twice or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use chrono::FixedOffset;
use leveret_core::Wall;
use leveret_scheduler::zone::Zone;
use leveret_scheduler::{Rhythm, Witness};
use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::turnstile::lock;

/// Most jobs: tokio-cron-scheduler goes over all of them twice a second. Schedules of expressions
/// beyond that do as well without; once a minute all schedules are looked at anyway.
pub const JOBS_MAX: usize = 1_000;

/// Which expressions there are, and which vhosts have schedules of them.
#[derive(Debug, Default)]
pub struct Book {
    pages: Mutex<Pages>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pages {
    vhosts: BTreeMap<Rhythm, BTreeSet<Arc<str>>>,
    /// Those that have come or gone since somebody looked.
    news: BTreeSet<Rhythm>,
}

impl Book {
    /// For one vhost to write into.
    #[must_use]
    pub fn scribe(self: &Arc<Self>, vhost: &Arc<str>) -> Arc<dyn Witness> {
        Arc::new(Scribe {
            book: Arc::clone(self),
            vhost: Arc::clone(vhost),
        })
    }

    /// The vhosts with schedules of this expression.
    #[must_use]
    pub fn vhosts(&self, rhythm: &Rhythm) -> Vec<Arc<str>> {
        let pages = lock(&self.pages);
        let vhosts = pages.vhosts.get(rhythm).into_iter().flatten();
        vhosts.cloned().collect()
    }

    /// Expressions in use.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.pages).vhosts.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until expressions have come or gone.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Those that have, each with whether it is in use now.
    fn take_news(&self) -> Vec<(Rhythm, bool)> {
        let mut pages = lock(&self.pages);
        let news = std::mem::take(&mut pages.news).into_iter();
        let in_use = |rhythm: Rhythm| {
            let is_used = pages.vhosts.contains_key(&rhythm);
            (rhythm, is_used)
        };
        news.map(in_use).collect()
    }

    fn write(&self, rhythm: &Rhythm, change: impl FnOnce(&mut BTreeSet<Arc<str>>)) {
        let mut pages = lock(&self.pages);
        let vhosts = pages.vhosts.entry(rhythm.clone()).or_default();
        change(vhosts);
        if vhosts.is_empty() {
            pages.vhosts.remove(rhythm);
        }
        pages.news.insert(rhythm.clone());
        drop(pages);
        self.changed.notify_one();
    }
}

/// Writes down what one vhost has.
struct Scribe {
    book: Arc<Book>,
    vhost: Arc<str>,
}

impl Witness for Scribe {
    fn appears(&self, rhythm: &Rhythm) {
        self.book.write(rhythm, |vhosts| {
            vhosts.insert(Arc::clone(&self.vhost));
        });
    }

    fn vanishes(&self, rhythm: &Rhythm) {
        self.book.write(rhythm, |vhosts| {
            vhosts.remove(&self.vhost);
        });
    }
}

/// The jobs.
pub struct Jobs {
    jobs: JobScheduler,
    book: Arc<Book>,
    /// Where it is said which expression it was. What has no room is left out.
    tell: Sender<Rhythm>,
    /// Each with the seconds that its zone was ahead of UTC when it was made: a job does not know
    /// that clocks are changed.
    running: BTreeMap<Rhythm, (Job, i32)>,
    /// Expressions in use for which there was no room.
    waiting: BTreeSet<Rhythm>,
    jobs_max: usize,
}

impl Jobs {
    /// None yet.
    #[must_use]
    pub fn new(jobs: JobScheduler, book: Arc<Book>, tell: Sender<Rhythm>) -> Self {
        Self {
            jobs,
            book,
            tell,
            running: BTreeMap::new(),
            waiting: BTreeSet::new(),
            jobs_max: JOBS_MAX,
        }
    }

    /// Follows what the book says by now.
    pub async fn follow(&mut self, now: Wall) {
        for (rhythm, in_use) in self.book.take_news() {
            if !in_use {
                self.waiting.remove(&rhythm);
                self.end(&rhythm).await;
            } else if !self.running.contains_key(&rhythm) {
                self.waiting.insert(rhythm);
            }
        }
        while self.running.len() < self.jobs_max
            && let Some(rhythm) = self.waiting.pop_first()
        {
            self.begin(rhythm, now).await;
        }
    }

    /// Makes jobs anew whose zone has changed its clocks.
    pub async fn follow_clocks(&mut self, now: Wall) {
        let moved = |(rhythm, (_, offset)): (&Rhythm, &(Job, i32))| {
            (offset_of(rhythm, now) != *offset).then(|| rhythm.clone())
        };
        let moved: Vec<Rhythm> = self.running.iter().filter_map(moved).collect();
        for rhythm in moved {
            self.end(&rhythm).await;
            self.begin(rhythm, now).await;
        }
    }

    async fn begin(&mut self, rhythm: Rhythm, now: Wall) {
        let offset = offset_of(&rhythm, now);
        match self.add(&rhythm, offset).await {
            Ok(job) => {
                self.running.insert(rhythm, (job, offset));
            }
            // Its schedules have the vhost's own clock, and the look at all of them each minute.
            Err(error) => {
                tracing::warn!(rhythm = %rhythm.name(), %error, "no job for an expression");
            }
        }
    }

    async fn add(&self, rhythm: &Rhythm, offset: i32) -> Result<Job, JobSchedulerError> {
        let (tell, name) = (self.tell.clone(), rhythm.clone());
        let job = job_at(rhythm, offset, move || {
            let _ = tell.try_send(name.clone());
        })?;
        self.jobs.add(job.clone()).await?;
        Ok(job)
    }

    async fn end(&mut self, rhythm: &Rhythm) {
        if let Some((job, _)) = self.running.remove(rhythm)
            && let Err(error) = self.jobs.remove(&job.guid()).await
        {
            tracing::warn!(rhythm = %rhythm.name(), %error, "a job cannot be removed");
        }
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs")
            .field("running", &self.running.keys())
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

/// Does something at the times of a rhythm, as long as its zone keeps the offset that it has now.
///
/// # Errors
/// `ParseSchedule`: never, as far as we know.
pub fn job(
    rhythm: &Rhythm,
    now: Wall,
    what: impl FnMut() + Send + Sync + 'static,
) -> Result<Job, JobSchedulerError> {
    job_at(rhythm, offset_of(rhythm, now), what)
}

fn job_at(
    rhythm: &Rhythm,
    offset: i32,
    mut what: impl FnMut() + Send + Sync + 'static,
) -> Result<Job, JobSchedulerError> {
    let zone = FixedOffset::east_opt(offset).ok_or(JobSchedulerError::ParseSchedule)?;
    Job::new_tz(rhythm.fields(), zone, move |_, _| what())
}

/// Seconds that the zone is ahead of UTC.
fn offset_of(rhythm: &Rhythm, now: Wall) -> i32 {
    let seconds = i64::try_from(now.0 / 1_000).unwrap_or(i64::MAX);
    let zone = Zone::find(rhythm.zone()).unwrap_or(Zone::UTC);
    i32::try_from(zone.offset(seconds)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use leveret_scheduler::cron::{Cron, Dialect, Dst, Expression};
    use leveret_scheduler::time;
    use leveret_scheduler::trigger::Trigger;
    use tokio::sync::mpsc::{Receiver, channel};

    use super::*;

    fn rhythm(text: &str) -> Rhythm {
        match Cron::parse(text, Dialect::Robfig, Zone::UTC, Dst::default()) {
            Ok(Expression::Cron(cron)) => Rhythm::of(&Trigger::Cron(Box::new(cron))).unwrap(),
            other => panic!("{text}: {other:?}"),
        }
    }

    async fn jobs(book: &Arc<Book>, jobs_max: usize) -> (Jobs, Receiver<Rhythm>) {
        let scheduler = JobScheduler::new_with_channel_size(100).await.unwrap();
        scheduler.start().await.unwrap();
        let (tell, told) = channel(10);
        let mut jobs = Jobs::new(scheduler, Arc::clone(book), tell);
        jobs.jobs_max = jobs_max;
        (jobs, told)
    }

    fn names(jobs: &Jobs) -> Vec<&str> {
        jobs.running.keys().map(|rhythm| &**rhythm.name()).collect()
    }

    #[tokio::test]
    async fn jobs_come_and_go_with_their_expressions() {
        let (now, book) = (Wall(0), Arc::<Book>::default());
        let (one, other) = (
            book.scribe(&Arc::from("one")),
            book.scribe(&Arc::from("other")),
        );
        let (mut jobs, _told) = jobs(&book, 2).await;
        let (a, b, c) = (
            rhythm("1 * * * *"),
            rhythm("2 * * * *"),
            rhythm("3 * * * *"),
        );
        one.appears(&a);
        other.appears(&a);
        one.appears(&b);
        one.appears(&c);
        jobs.follow(now).await;
        assert_eq!(names(&jobs), [&**a.name(), &**b.name()], "no more than two");
        assert_eq!(book.vhosts(&a), [Arc::from("one"), Arc::from("other")]);
        one.vanishes(&a);
        jobs.follow(now).await;
        assert_eq!(names(&jobs), [&**a.name(), &**b.name()], "the other has it");
        other.vanishes(&a);
        jobs.follow(now).await;
        assert_eq!(names(&jobs), [&**b.name(), &**c.name()], "there is room");
        one.vanishes(&c);
        one.appears(&c);
        jobs.follow(now).await;
        assert_eq!(names(&jobs), [&**b.name(), &**c.name()]);
        one.vanishes(&b);
        one.vanishes(&c);
        jobs.follow(now).await;
        assert!(names(&jobs).is_empty() && book.is_empty());
    }

    #[tokio::test]
    async fn a_job_says_which_expression_it_was() {
        let book = Arc::<Book>::default();
        let (mut jobs, mut told) = jobs(&book, 2).await;
        let every_second = rhythm("CRON_TZ=Asia/Kolkata * * * * * *");
        book.scribe(&Arc::from("/")).appears(&every_second);
        jobs.follow(Wall(0)).await;
        for _ in 0..2 {
            assert_eq!(told.recv().await, Some(every_second.clone()));
        }
    }

    #[tokio::test]
    async fn a_job_is_made_anew_when_its_zone_changes_its_clocks() {
        let book = Arc::<Book>::default();
        let (mut jobs, _told) = jobs(&book, 2).await;
        let berlin = rhythm("CRON_TZ=Europe/Berlin 30 6 * * *");
        book.scribe(&Arc::from("/")).appears(&berlin);
        let at = |text| time::parse(text).unwrap();
        jobs.follow(at("2026-03-29T00:59:59Z")).await;
        let job = |jobs: &Jobs| {
            let (job, offset) = &jobs.running[&berlin];
            (job.guid(), *offset)
        };
        let before = job(&jobs);
        assert_eq!(before.1, 3_600);
        jobs.follow_clocks(at("2026-03-29T00:59:59Z")).await;
        assert_eq!(job(&jobs), before, "nothing has changed");
        jobs.follow_clocks(at("2026-03-29T01:00:00Z")).await;
        let after = job(&jobs);
        assert_eq!(after.1, 7_200);
        assert_ne!(after.0, before.0);
    }

    #[tokio::test]
    async fn whatever_our_dialects_say_gives_a_job() {
        let book = Arc::<Book>::default();
        let (mut jobs, _told) = jobs(&book, 100).await;
        let scribe = book.scribe(&Arc::from("/"));
        let texts = [
            "* * * * *",
            "*/7 3-5,22 */2 2,12 *",
            "0 0 31 2 *",
            "0 0 29 2 *",
            "0 12 * * 0,6",
            "@yearly",
            "CRON_TZ=America/St_Johns 1-59/2 * * * *",
        ];
        texts.iter().for_each(|text| scribe.appears(&rhythm(text)));
        jobs.follow(Wall(0)).await;
        assert_eq!(jobs.running.len(), texts.len());
    }
}
