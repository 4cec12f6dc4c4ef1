//! What is done by the clock, beside what vhosts do: jobs of tokio-cron-scheduler.
//!
//! Schedules of users are not among them. A vhost knows to the millisecond when the next of its
//! schedules is due, and fires it in one record with the note that it has; jobs here come up to
//! half a second late, may be lost when many come at once, and know no time zone that changes its
//! offset. What they are good for is what may as well be done once more or once less: they make
//! sure that nothing was overlooked.

use std::sync::Arc;

use leveret_core::Input;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::node::Node;

/// When schedules are planned anew, in UTC: every minute, at its thirtieth second, when little else
/// is due.
const REPLAN: &str = "30 * * * * *";

/// Activations that may wait to be taken note of; by default there is room for 200.
const CHANNEL_SIZE: usize = 1_000;

/// Does what is to be done by the clock, for ever.
pub async fn keep(node: Arc<Node>) {
    let again = move || {
        for shard in node.shards.values() {
            shard.submit(Input::Replan);
        }
    };
    match run(REPLAN, again).await {
        Ok(_jobs) => std::future::pending().await,
        Err(error) => tracing::error!(%error, "housekeeping cannot be started"),
    }
}

async fn run(
    when: &str,
    mut what: impl FnMut() + Send + Sync + 'static,
) -> Result<JobScheduler, JobSchedulerError> {
    let jobs = JobScheduler::new_with_channel_size(CHANNEL_SIZE).await?;
    jobs.add(Job::new(when, move |_, _| what())?).await?;
    jobs.start().await?;
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[tokio::test]
    async fn a_job_comes_again() {
        let (tell, mut told) = unbounded_channel();
        let _jobs = run("* * * * * *", move || {
            let _ = tell.send(());
        })
        .await
        .expect("a job");
        for _ in 0..2 {
            told.recv().await.expect("once more");
        }
    }

    #[tokio::test]
    async fn the_times_are_times() {
        let _jobs = run(REPLAN, || {}).await.expect("a job");
    }
}
