//! What is done by the clock, beside what vhosts do: jobs of tokio-cron-scheduler.
//!
//! Schedules of users are not fired by them. A vhost knows to the millisecond when the next of its
//! schedules is due, and fires it in one record with the note that it has; jobs here come up to
//! half a second late, may be lost when many come at once, and know no time zone that changes its
//! offset. What they are good for is what may as well be done once more or once less: they make
//! sure that nothing was overlooked. There is one for each expression that schedules go by
//! ([`crons`]), and one a minute for all schedules. Backups and the time for compaction are looked at
//! by both as well.

use std::sync::Arc;

use leveret_core::{Input, Wall};
use leveret_scheduler::Rhythm;
use leveret_scheduler::trigger::Trigger;
use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::backup::Backup;
use crate::config::housekeeping::{Housekeeping, Window};
use crate::crons::{self, JOBS_MAX, job};
use crate::node::Node;

/// When all schedules are planned anew, in UTC: every minute, at its thirtieth second, when little
/// else is due.
const REPLAN: &str = "30 * * * * *";

/// Activations that may wait within tokio-cron-scheduler, which tells of each in up to four
/// messages. By default there is room for 200.
const CHANNEL_SIZE: usize = 4 * (JOBS_MAX + 24);

/// Activations that may wait to be passed on to vhosts.
const TOLD_MAX: usize = JOBS_MAX;

/// Does what is to be done by the clock, for ever.
pub async fn keep(node: Arc<Node>, plan: Housekeeping) {
    if let Err(error) = run(&node, plan).await {
        tracing::error!(%error, "housekeeping cannot be started");
    }
}

async fn run(node: &Arc<Node>, plan: Housekeeping) -> Result<(), JobSchedulerError> {
    let jobs = JobScheduler::new_with_channel_size(CHANNEL_SIZE).await?;
    let (minute, mut minutes) = mpsc::channel(1);
    add(&jobs, REPLAN, move || {
        let _ = minute.try_send(()); // the one before it has not been looked at: that will do
    })
    .await?;
    let (time_to_compact, mut windows) = mpsc::channel(1);
    let window = plan.compaction_window;
    if let Some(window) = &window
        && let Some(rhythm) = Rhythm::of(&Trigger::Cron(Box::new(window.cron.clone())))
    {
        add_rhythm(&jobs, &rhythm, node.clock.now().wall, move || {
            let _ = time_to_compact.try_send(()); // as above
        })
        .await?;
    }
    let (time_to_back_up, mut backups) = mpsc::channel(1);
    let mut backup = None;
    if let Some(plan) = plan.definitions_backup {
        let times = plan.cron.clone();
        backup = Some(Backup::new(plan, node.clock.now().wall));
        let rhythm = Rhythm::of(&Trigger::Cron(Box::new(times)));
        if let Some(rhythm) = rhythm {
            add_rhythm(&jobs, &rhythm, node.clock.now().wall, move || {
                let _ = time_to_back_up.try_send(()); // as above
            })
            .await?;
        }
    }
    jobs.start().await?;
    let (tell, mut told) = mpsc::channel(TOLD_MAX);
    let mut rhythms = crons::Jobs::new(jobs, Arc::clone(&node.crons), tell);
    loop {
        tokio::select! {
            () = node.crons.changed() => rhythms.follow(node.clock.now().wall).await,
            Some(rhythm) = told.recv() => look_at_some(node, &rhythm),
            Some(()) = minutes.recv() => {
                look_at_all(node);
                rhythms.follow_clocks(node.clock.now().wall).await;
                look_at_window(node, window.as_ref());
                if let Some(backup) = &mut backup {
                    backup.look(node.clock.now().wall, node);
                }
            }
            Some(()) = windows.recv() => look_at_window(node, window.as_ref()),
            Some(()) = backups.recv() => {
                if let Some(backup) = &mut backup {
                    backup.look(node.clock.now().wall, node);
                }
            }
        }
    }
}

async fn add(
    jobs: &JobScheduler,
    when: &str,
    mut what: impl FnMut() + Send + Sync + 'static,
) -> Result<(), JobSchedulerError> {
    jobs.add(Job::new(when, move |_, _| what())?).await?;
    Ok(())
}

/// The same at the times of a rhythm, or an hour off after its zone has changed its clocks: look at
/// each minute as well.
async fn add_rhythm(
    jobs: &JobScheduler,
    rhythm: &Rhythm,
    now: Wall,
    what: impl FnMut() + Send + Sync + 'static,
) -> Result<(), JobSchedulerError> {
    jobs.add(job(rhythm, now, what)?).await?;
    Ok(())
}

/// Begins or ends a time to compact.
fn look_at_window(node: &Node, window: Option<&Window>) {
    if let Some(window) = window {
        node.store
            .compact_eagerly(window.is_open(node.clock.now().wall));
    }
}

fn look_at_all(node: &Node) {
    for shard in node.shards.values() {
        shard.submit(Input::Replan);
    }
}

fn look_at_some(node: &Node, rhythm: &Rhythm) {
    for vhost in node.crons.vhosts(rhythm) {
        if let Some(shard) = node.shards.get(&vhost) {
            shard.submit(Input::ReplanSome(Arc::clone(rhythm.name())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_comes_again() {
        let jobs = JobScheduler::new_with_channel_size(CHANNEL_SIZE).await;
        let jobs = jobs.expect("a scheduler");
        let (tell, mut told) = mpsc::unbounded_channel();
        add(&jobs, REPLAN, || {}).await.expect("a time");
        add(&jobs, "* * * * * *", move || {
            let _ = tell.send(());
        })
        .await
        .expect("a job");
        jobs.start().await.expect("a start");
        for _ in 0..2 {
            told.recv().await.expect("once more");
        }
    }
}
