//! The driver's tasks: whatever takes long runs beside the loop, on the process's runtime.
//!
//! A task that panics is a fault of ours. A runtime would only note it, and the loop would wait for an answer
//! that never comes; so the loop is told, and dies with it.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Event;

/// Where the driver's tasks run. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tasks {
    runtime: Handle,
    events: mpsc::UnboundedSender<Event>,
}

/// Tells the loop if it is dropped by a panic.
struct Watched(mpsc::UnboundedSender<Event>);

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Event::Fault);
        }
    }
}

impl Tasks {
    pub(super) fn new(runtime: Handle, events: mpsc::UnboundedSender<Event>) -> Tasks {
        Tasks { runtime, events }
    }

    /// Runs `work` as a task.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let watched = Watched(self.events.clone());
        self.runtime.spawn(async move {
            let _watched = watched;
            work.await;
        });
    }

    /// Runs `work` on a thread that may block.
    pub(super) fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        let watched = Watched(self.events.clone());
        self.runtime.spawn_blocking(move || {
            let _watched = watched;
            work();
        });
    }

    /// Waits for `work` on a thread that may block.
    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_told(inbox: &mut mpsc::UnboundedReceiver<Event>) -> bool {
        let told = tokio::time::timeout(std::time::Duration::from_secs(10), inbox.recv());
        matches!(told.await, Ok(Some(Event::Fault)))
    }

    #[tokio::test]
    async fn the_loop_is_told_of_a_panic_and_of_nothing_else() {
        let (events, mut inbox) = mpsc::unbounded_channel();
        let tasks = Tasks::new(Handle::current(), events);
        tasks.spawn(async { panic!("on purpose") });
        assert!(is_told(&mut inbox).await);
        tasks.spawn_blocking(|| panic!("on purpose"));
        assert!(is_told(&mut inbox).await);
        let within = tasks.clone();
        tasks.spawn_blocking(move || within.block_on(async { panic!("on purpose") }));
        assert!(is_told(&mut inbox).await);
        let (sender, mut done) = mpsc::unbounded_channel();
        let again = sender.clone();
        tasks.spawn(async move { drop(sender) });
        tasks.spawn_blocking(move || drop(again));
        assert_eq!(done.recv().await, None::<()>, "both have ended");
        assert!(inbox.try_recv().is_err(), "and nobody was told");
    }
}
