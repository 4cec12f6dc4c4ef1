//! Whether targets are reached.

use crate::scenario::{Against, Bound, Target};

/// Whether a target is reached.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    /// The figure, or its ratio to what it is compared with.
    pub value: f64,
    pub met: bool,
}

impl Target {
    /// `None`: one of the figures was not measured.
    pub fn judge(&self, own: Option<f64>, other: Option<f64>) -> Option<Verdict> {
        let value = match self.against {
            Against::Itself => own?,
            _ => {
                let other = other?;
                if other <= 0.0 {
                    return None;
                }
                own? / other
            }
        };
        let met = match self.bound {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        };
        Some(Verdict { value, met })
    }

    /// The target in words, and the value in its unit.
    pub fn describe(&self, value: Option<f64>) -> String {
        let show = |value: f64| match self.against {
            Against::Itself => self.metric.format(value),
            _ => format!("{value:.2}"),
        };
        let (word, bound) = match self.bound {
            Bound::AtLeast(bound) => ("at least", bound),
            Bound::AtMost(bound) => ("at most", bound),
        };
        let against = match self.against {
            Against::Itself => String::new(),
            Against::Relay => " x the relay's".into(),
            Against::RabbitMq => " x RabbitMQ's".into(),
            Against::Memory => " x its own in memory".into(),
            Against::Scenario(name) => format!(" x {name}'s"),
            Against::RateOf(name) => format!(" x the rate of {name}"),
        };
        let value = value.map_or_else(|| "not measured".into(), show);
        let heading = self.metric.heading();
        format!("{heading}: {value}{against} ({word} {})", show(bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Metric;

    const FASTER: Target = Target {
        metric: Metric::Rate,
        bound: Bound::AtLeast(0.3),
        against: Against::Relay,
    };
    const SMALL: Target = Target {
        metric: Metric::CpuMicros,
        bound: Bound::AtMost(0.5),
        against: Against::Itself,
    };

    #[test]
    fn judging_targets() {
        let verdict = |value, met| Some(Verdict { value, met });
        #[rustfmt::skip]
        let table = [
            // target  own         other       verdict               why this row is here
            (FASTER,   Some(3.0),  Some(10.0), verdict(0.3, true),   "on the mark is reached"),
            (FASTER,   Some(2.9),  Some(10.0), verdict(0.29, false), "just below"),
            (FASTER,   Some(3.0),  None,       None,                 "no relay: not measured"),
            (FASTER,   None,       Some(10.0), None,                 "no figure of our own"),
            (FASTER,   Some(3.0),  Some(0.0),  None,                 "no division by zero"),
            (SMALL,    Some(0.4),  None,       verdict(0.4, true),   "itself needs no other"),
            (SMALL,    Some(0.6),  None,       verdict(0.6, false),  "too much"),
        ];
        for (target, own, other, expected, why) in table {
            assert_eq!(target.judge(own, other), expected, "{why}");
        }
    }

    #[test]
    fn targets_in_words() {
        assert_eq!(
            FASTER.describe(Some(0.345)),
            "per s: 0.34 x the relay's (at least 0.30)"
        );
        assert_eq!(SMALL.describe(None), "cpu us: not measured (at most 0.500)");
        let full = Target {
            metric: Metric::FillRate,
            bound: Bound::AtLeast(0.5),
            against: Against::RateOf("durable-100"),
        };
        assert_eq!(
            full.describe(Some(0.6)),
            "fill/s: 0.60 x the rate of durable-100 (at least 0.50)"
        );
    }
}
