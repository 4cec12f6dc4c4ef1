//! What many schedules have in common, once for all of them.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Values that are in use, each once. O(log n) each.
#[derive(Debug)]
pub(crate) struct Common<T>(BTreeSet<Arc<T>>);

impl<T: Ord> Common<T> {
    /// Takes the one instead that is equal and known already, if there is one.
    pub(crate) fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.0.get(value) {
            *value = Arc::clone(known);
        } else {
            self.0.insert(Arc::clone(value));
        }
    }

    /// Somebody needs it no longer that has shared it. The last one takes it along.
    pub(crate) fn release(&mut self, value: &Arc<T>) {
        if Arc::strong_count(value) <= 2 {
            self.0.remove(value);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<T> Default for Common<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use leveret_codec::{FieldTable, FieldValue, Properties};
    use leveret_core::error::AmqpError;
    use leveret_core::ids::Wall;
    use leveret_core::message::Message;
    use leveret_core::schedule::{Deeds, Note, Order, Rights, Scheduler as _};

    use crate::agenda::Appointments;
    use crate::registry::{Limits, Registry};
    use crate::schedule::Schedule;

    struct All;

    impl Rights for All {
        fn may_configure(&self, _: &str) -> Result<(), AmqpError> {
            Ok(())
        }

        fn may_publish(&self, _: &str) -> Result<(), AmqpError> {
            Ok(())
        }
    }

    /// Gives an order, and returns what is to be kept because of it.
    fn order(registry: &mut Registry, headers: &[(&str, &str)]) -> Vec<Note> {
        let headers = headers.iter();
        let headers: FieldTable = headers
            .map(|(name, value)| (format!("x-schedule-{name}"), FieldValue::from(*value)))
            .collect();
        let properties = Properties {
            headers: Some(headers),
            ..Properties::default()
        };
        let order = Order {
            user: &Arc::from("guest"), // another one each time
            message: &Message::fired("", "", &properties, b"body"),
            rights: &All,
        };
        let mut deeds = Deeds::default();
        registry.order(Wall(0), &order, &mut deeds).unwrap();
        deeds.notes
    }

    fn shared(registry: &Registry) -> (usize, usize) {
        (registry.rules.len(), registry.terms.len())
    }

    /// All that a schedule is told in `docs/scheduling.md` to cost is counted here and in the log:
    /// it grows by what is added here, times the schedules.
    #[test]
    fn a_schedule_is_small_and_its_order_is_shared_with_the_log() {
        assert_eq!(size_of::<Appointments>(), 16);
        assert_eq!(size_of::<Schedule>(), 128);
        let mut registry = Registry::new(Limits::default());
        let put = [("name", "a"), ("cron", "@daily")];
        for _ in 0..2 {
            let notes = order(&mut registry, &put);
            let definition = &notes[0];
            assert_eq!(Arc::strong_count(&definition.key), 3, "this, by name, here");
            let value = definition.value.as_ref();
            assert_eq!(value.map(Arc::strong_count), Some(2), "this, and here");
        }
        let notes = vec![order(&mut registry, &put).remove(0)];
        registry = Registry::new(Limits::default());
        registry.recover(Wall(0), notes.clone()).unwrap();
        assert_eq!(Arc::strong_count(&notes[0].key), 3, "after a start, too");
        let value = notes[0].value.as_ref();
        assert_eq!(value.map(Arc::strong_count), Some(2), "after a start, too");
    }

    #[test]
    fn what_schedules_share_goes_with_the_last_of_them() {
        let mut registry = Registry::new(Limits::default());
        for name in ["a", "b", "c"] {
            order(&mut registry, &[("name", name), ("cron", "@daily")]);
        }
        assert_eq!(shared(&registry), (1, 1));
        for _ in 0..2 {
            order(&mut registry, &[("name", "a"), ("cron", "@hourly")]);
            assert_eq!(shared(&registry), (2, 1), "again and again");
        }
        let other = [("name", "b"), ("cron", "@hourly"), ("overlap", "skip")];
        let mut notes = vec![order(&mut registry, &other).remove(0)];
        assert_eq!(shared(&registry), (2, 2));
        for (name, left) in [("c", (1, 2)), ("b", (1, 1)), ("a", (0, 0))] {
            order(&mut registry, &[("action", "delete"), ("name", name)]);
            assert_eq!(shared(&registry), left, "without {name}");
        }
        notes.extend(order(&mut registry, &[("name", "c"), ("cron", "@hourly")]).drain(..1));
        registry = Registry::new(Limits::default());
        registry.recover(Wall(0), notes).unwrap();
        assert_eq!(shared(&registry), (1, 2), "after a start");
    }

    #[test]
    fn equal_ones_are_one_and_the_last_takes_it_along() {
        let mut common = Common::default();
        let mut values = [1, 2, 1, 1].map(Arc::new);
        for value in &mut values {
            common.share(value);
        }
        let [a, b, c, d] = values;
        assert!(Arc::ptr_eq(&a, &c) && Arc::ptr_eq(&a, &d));
        assert_eq!((*a, *b, common.len()), (1, 2, 2));
        for (value, left) in [(a, 2), (b, 1), (c, 1), (d, 0)] {
            common.release(&value);
            assert_eq!(common.len(), left);
        }
    }
}
