//! What is refused before any work: a topic, its companion and a job's progress that do not fit together. Each is one
//! sentence that says what is missing and which ways there are to go on.

use std::collections::BTreeMap;

use anyhow::bail;
use tidegate::config::LandStart;
use tidegate::log::Companion;

/// First kept offset and end of each partition of a topic.
pub type Ends = [(u64, u64)];

/// That the companion topic says of every partition with records how far it is complete; `ends` are from before it was read.
pub fn refuse_unstated(topic: &str, ends: &Ends, companion: &Companion) -> anyhow::Result<()> {
    let stated = &companion.statements;
    // What somebody else has added to the topic is theirs.
    let ends = &ends[..companion.partitions().map_or(ends.len(), |written| ends.len().min(written as usize))];
    let silent = |(partition, (_, end)): &(usize, &(u64, u64))| *end > 0 && !stated.contains_key(&(*partition as u32));
    let unstated = ends.iter().enumerate().filter(silent).map(|(partition, _)| partition.to_string());
    let unstated = unstated.collect::<Vec<_>>().join(", ");
    // Every run states those of which nothing is said before it writes to any.
    if !unstated.is_empty() {
        bail!(
            "topic {0} has records in partition {unstated}, of which its companion {0}.meta says nothing: start again in a minute if a \
             publish was killed as it began; else that was truncated or made anew, or {0} is another tool's topic, and nobody knows \
             what is complete: publish to a new topic, with the tables copied anew or from a place in the source that they have \
             reached",
            topic
        );
    }
    Ok(())
}

/// That the companion topic speaks of no more than there is; `ends` are from after it was read.
pub fn refuse_overstated(topic: &str, ends: &Ends, companion: &Companion) -> anyhow::Result<()> {
    for (partition, statement) in &companion.statements {
        let Some((_, end)) = ends.get(*partition as usize) else {
            bail!(
                "{0}.meta speaks of topic {0}/{partition}, and {0} has {1} partitions: it is another topic's companion, or {0} was \
                 deleted and made anew: publish to a new topic, with the tables copied anew or from a place in the source that \
                 they have reached",
                topic,
                ends.len()
            );
        };
        if statement.offset > *end {
            bail!(
                "{0}.meta speaks of offset {1} of topic {0}/{partition}, which ends at {end}: it is another topic's companion, or \
                 {0} was deleted and made anew: publish to a new topic, with the tables copied anew or from a place in the \
                 source that they have reached",
                topic,
                statement.offset
            );
        }
    }
    Ok(())
}

/// That everything is there from where a job has to read on: `from`, and where that says nothing from the beginning. `anew` is
/// the way to begin anew.
pub fn refuse_gone(
    topic: &str,
    ends: &Ends,
    job: &str,
    start: LandStart,
    from: &BTreeMap<u32, u64>,
    anew: &str,
) -> anyhow::Result<()> {
    for (partition, (low, end)) in ends.iter().enumerate() {
        let place = format!("{topic}/{partition}");
        match from.get(&(partition as u32)) {
            Some(next) if next > end => bail!(
                "job '{job}' is at offset {next} of {place}, which ends at {end}: its progress is of another topic, or this one was \
                 deleted and made anew: give the job another name, or the topic that it had"
            ),
            Some(next) if next < low => bail!(
                "{place}: the records from offset {next} to {low} are gone, retention has passed them before job '{job}' had \
                 landed them: {anew}; or, if the tables have what is missing, land \
                 under another job name with [land] start = \"earliest\""
            ),
            None if *low > 0 && start == LandStart::Beginning => bail!(
                "{place}: the records before offset {low} are gone, retention has passed them before job '{job}' has landed \
                 any: {anew}; or, if the tables have what is missing, set [land] start \
                 = \"earliest\""
            ),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate::log::{Meta, Statement, pass_markers};
    use tidegate::source::Resume;

    #[test]
    fn markers_that_retention_has_passed_are_no_loss_and_records_are() {
        let mut companion = Companion::default();
        for partition in 0..3 {
            let resume = Resume { position: String::new(), seq: 9 };
            companion.take(Meta::Statement(Statement { partition, time: 9, seq: 9, offset: 2, resume, last: false }));
        }
        // Of each the records 0 and 1 and a marker: of the first two everything is gone, of the third nothing.
        let ends = [(3, 3), (3, 3), (0, 3)];
        let mut from = BTreeMap::from([(0, 2), (1, 1), (2, 2)]);
        pass_markers(&mut from, &ends, &companion, |_, _| Ok(None)).unwrap();
        assert_eq!(from, BTreeMap::from([(0, 3), (1, 1), (2, 2)]));
        // Since then more has been written and stated behind the marker, and what is left says that it follows on record 1.
        for statement in companion.statements.values_mut() {
            statement.offset = 6;
        }
        let mut from = BTreeMap::from([(0, 2), (1, 1), (2, 2)]);
        pass_markers(&mut from, &[(3, 7), (3, 7), (0, 7)], &companion, |_, offset| {
            assert_eq!(offset, 3);
            Ok(Some(2))
        })
        .unwrap();
        assert_eq!(from, BTreeMap::from([(0, 3), (1, 1), (2, 2)]));
        let refused =
            refuse_gone("t", &ends, "job", LandStart::Beginning, &from, "begin anew").unwrap_err().to_string();
        assert!(refused.starts_with("t/1: the records from offset 1 to 3 are gone"), "{refused}");
    }
}
