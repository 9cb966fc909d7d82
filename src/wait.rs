//! How long to wait for a Kafka client at a time.
//!
//! The crate `rdkafka` hands librdkafka whole milliseconds, and asks again without pause through what is left of one.

use std::time::Duration;

/// A wait that the client sleeps through: whole milliseconds, and a little more, so that it does not spin through the last.
pub(crate) fn whole(wait: Duration) -> Duration {
    match wait.is_zero() {
        true => wait,
        false => Duration::from_micros(wait.as_micros().div_ceil(1000) as u64 * 1000 + 50),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_never_less_than_a_millisecond_and_nothing_is_not_waited_for() {
        let micros = |micros| whole(Duration::from_micros(micros)).as_micros();
        assert_eq!([0, 1, 1_000, 1_001, 4_990].map(micros), [0, 1_050, 1_050, 2_050, 5_050]);
    }
}
