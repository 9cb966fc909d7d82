//! Any contents, any cut of polls, any stop: no row goes back, and of each key the newest is there in the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use proptest::prelude::*;

use super::*;
use crate::change::epoch_at;
use crate::log::kafka::Producer;
use crate::log::{Offsets, Places, go_on_from};
use crate::operators::Newest;
use crate::target::{Checkpoint, JobState, Progress};

const EPOCH: Duration = Duration::from_millis(10);
const LANES: i64 = 2;

/// Decides what is left open, from a list that comes round again.
#[derive(Clone)]
struct Choices(Arc<Mutex<(Vec<u8>, usize)>>);

impl Choices {
    fn below(&self, limit: usize) -> usize {
        let mut list = self.0.lock().unwrap();
        list.1 += 1;
        // Shifted at each round, so that it is not the same again.
        let (at, round) = (list.1 % list.0.len(), list.1 / list.0.len());
        (usize::from(list.0[at]) + round * 31) % limit
    }
}

/// A topic that is there at once and is shown bit by bit.
#[derive(Clone)]
struct Topic {
    /// Of each partition; `None`: a marker of a transaction.
    records: Arc<Vec<Vec<Option<Vec<u8>>>>>,
    shown: Arc<Mutex<Vec<usize>>>,
    /// The first offset of each partition that is kept.
    low: Arc<Mutex<Vec<u64>>>,
    /// When Kafka took all of it.
    timestamp: Option<u64>,
    choices: Choices,
}

struct Reading {
    topic: Topic,
    next: Vec<usize>,
    ended: Vec<bool>,
    held: Vec<bool>,
}

impl Topic {
    fn shown(&self) -> MutexGuard<'_, Vec<usize>> {
        self.shown.lock().unwrap()
    }

    /// Shows some more of a partition.
    fn show(&self) {
        let mut shown = self.shown();
        let partition = self.choices.below(shown.len());
        shown[partition] = (shown[partition] + self.choices.below(12)).min(self.records[partition].len());
    }
}

impl Consumer for Reading {
    fn poll(
        &mut self,
        _wait: Duration,
        take: &mut dyn FnMut(Record<'_>) -> Result<(), LogError>,
    ) -> Result<Polled, LogError> {
        if self.topic.choices.below(7) == 0 {
            return Ok(Polled::Nothing);
        }
        let first = self.topic.choices.below(self.next.len());
        let partitions = self.next.len();
        for number in (0..partitions).map(|number| (first + number) % partitions) {
            if self.held[number] {
                continue;
            }
            while self.next[number] < self.topic.shown()[number] {
                let (partition, offset) = (number as u32, self.next[number] as u64);
                self.next[number] += 1;
                self.ended[number] = false;
                let Some(value) = &self.topic.records[number][offset as usize] else { continue };
                let timestamp = self.topic.timestamp;
                take(Record { partition, offset, timestamp, key: None, value: Some(value), headers: None })?;
                return Ok(Polled::Record);
            }
            if !std::mem::replace(&mut self.ended[number], true) {
                return Ok(Polled::End(number as u32));
            }
        }
        Ok(Polled::Nothing)
    }

    fn hold(&mut self, partition: u32, held: bool) -> Result<(), LogError> {
        assert_ne!(std::mem::replace(&mut self.held[partition as usize], held), held, "it is so already");
        Ok(())
    }
}

impl Kafka for Topic {
    fn producer(&self, _id: Option<&str>) -> Result<Box<dyn Producer>, LogError> {
        unreachable!("nothing is written")
    }
    fn consumer(&self, _topic: &str, starts: &[(u32, Option<u64>)]) -> Result<Box<dyn Consumer>, LogError> {
        let next: Vec<_> = starts.iter().map(|(_, start)| start.unwrap_or(0) as usize).collect();
        assert!(next.iter().zip(&*self.low.lock().unwrap()).all(|(next, low)| *next as u64 >= *low), "it is gone");
        Ok(Box::new(Reading {
            topic: self.clone(),
            ended: vec![false; next.len()],
            held: vec![false; next.len()],
            next,
        }))
    }
    fn offsets_at(&self, _topic: &str, _time: u64) -> Result<Vec<u64>, LogError> {
        unreachable!("nobody asks")
    }
    fn ends(&self, _topic: &str) -> Result<Vec<(u64, u64)>, LogError> {
        let low = self.low.lock().unwrap();
        Ok(self.shown().iter().zip(&*low).map(|(shown, low)| (*low, *shown as u64)).collect())
    }
}

/// Of so many partitions of which all is kept.
fn low(partitions: usize) -> Arc<Mutex<Vec<u64>>> {
    Arc::new(Mutex::new(vec![0; partitions]))
}

type Version = (u64, u64, u32);
type Rows = BTreeMap<i64, Version>;

fn key_of(change: &crate::change::Change) -> i64 {
    std::str::from_utf8(change.key()).unwrap().parse().unwrap()
}

/// What is kept of a lane: its progress, and how far a step goes that may be half written.
#[derive(Clone, Default)]
struct KeptLane {
    progress: Progress,
    through: Option<Progress>,
}

/// A target without transactions.
#[derive(Default)]
struct Warehouse {
    rows: Rows,
    lanes: BTreeMap<u32, KeptLane>,
    checkpoint: Option<Checkpoint>,
}

impl Warehouse {
    /// One that the job begins with, and where that begins.
    fn begun_at(low: &[u64]) -> Warehouse {
        let offsets: BTreeMap<u32, u64> = (0..).zip(low.iter().copied()).collect();
        let look_backs = offsets.iter().map(|(number, low)| (*number, LookBack::nothing(*low))).collect();
        let checkpoint = Checkpoint { look_backs, offsets, ..Checkpoint::default() };
        Warehouse { checkpoint: Some(checkpoint), ..Warehouse::default() }
    }

    fn state(&self) -> JobState {
        let mut state = JobState { checkpoint: self.checkpoint.clone(), ..JobState::default() };
        for (lane, kept) in &self.lanes {
            if kept.progress != Progress::default() {
                state.lanes.insert(*lane, kept.progress.clone());
            }
            if let Some(through) = &kept.through {
                state.through.insert(*lane, through.seqs.clone());
            }
        }
        state.count_half_written();
        state
    }

    /// Writes the first `most` rows of a step, and its progress if those are all. Whether they are.
    fn apply(&mut self, lane: u32, step: &Rows, reached: &Progress, most: usize) -> bool {
        let kept = self.lanes.entry(lane).or_default();
        if let Some(through) = &kept.through {
            assert!(reached.seqs.covers(&through.seqs), "a legal step is refused");
        }
        kept.through = Some(reached.clone());
        for (key, version) in step.iter().take(most) {
            let before = self.rows.insert(*key, *version);
            assert!(
                before.is_none_or(|before| before <= *version),
                "key {key} goes back from {before:?} to {version:?}"
            );
        }
        if most >= step.len() {
            *kept = KeptLane { progress: reached.clone(), through: None };
        }
        most >= step.len()
    }
}

/// What `land` does with what a reader gives.
struct Run {
    reader: ForeignReader,
    newest: Newest<Version>,
    /// Open epochs.
    open: BTreeMap<u64, Vec<(i64, Head)>>,
    frontier: u64,
    /// Of each lane the epochs that it has not applied.
    steps: BTreeMap<u32, VecDeque<(u64, Rows)>>,
    reached: BTreeMap<u32, Progress>,
    heads: BTreeMap<(i64, Version), Head>,
    offsets: Offsets,
}

impl Run {
    fn begin(topic: &Topic, warehouse: &mut Warehouse, settings: &ForeignSettings, letters: DeadLetters) -> Run {
        let state = warehouse.state();
        let newest = |number: &u32| state.lanes.values().map(|progress| progress.seqs.at(*number)).max();
        let ends = topic.ends("t").unwrap();
        let numbers = 0..ends.len() as u32;
        let applied = numbers.filter_map(|number| Some((number, newest(&number)?))).collect();
        let Checkpoint { offsets, look_backs, .. } = state.checkpoint.expect("the first run has begun with one");
        assert!(look_backs.iter().all(|(number, known)| ends[*number as usize].0 <= known.read), "nothing is lost");
        let settings = settings.clone().going_on_from(&look_backs);
        let places =
            go_on_from(Places { offsets, look_backs, ..Places::default() }, &ends, &applied, settings.horizon());
        let partition = |(number, (_, end)): (u32, &(u64, u64))| (number, (places.offsets[&number], *end));
        let partitions = (0..).zip(&ends).map(partition).collect();
        let kafka = Arc::new(topic.clone());
        let checkpoint = warehouse.checkpoint.as_mut().expect("it was there just now");
        (checkpoint.offsets, checkpoint.look_backs) = (places.offsets.clone(), places.look_backs.clone());
        let earlier = (&applied, &places.look_backs);
        Run {
            newest: Newest::new(settings.horizon()),
            reader: ForeignReader::new(kafka, "t", &partitions, settings, earlier, letters).unwrap(),
            open: BTreeMap::new(),
            frontier: 0,
            steps: BTreeMap::new(),
            reached: state.lanes,
            heads: BTreeMap::new(),
            offsets: Offsets::default(),
        }
    }

    fn poll(&mut self) {
        let fetched = self.reader.poll(Duration::ZERO).unwrap();
        for (at, batch) in fetched.batches {
            assert!(epoch_at(at) >= self.frontier, "a change comes after its epoch");
            let heads = batch.changes().map(|change| (key_of(&change), *change.head));
            self.open.entry(epoch_at(at)).or_default().extend(heads);
        }
        fetched.starts.into_iter().for_each(|start| self.offsets.note(start));
        self.frontier = epoch_at(fetched.frontier.unwrap());
        let later = self.open.split_off(&self.frontier);
        for (epoch, mut changes) in std::mem::replace(&mut self.open, later) {
            changes.sort_by_key(|(key, head)| (*key, head.version()));
            self.newest.forget();
            for (key, head) in changes {
                let admitted = self.newest.admits(epoch, key as u128, head.version(), (head.partition, head.time));
                if admitted {
                    self.heads.insert((key, head.version()), head);
                    let steps = self.steps.entry((key % LANES) as u32).or_default();
                    if steps.back().is_none_or(|(last, _)| *last != epoch) {
                        steps.push_back((epoch, BTreeMap::new()));
                    }
                    steps.back_mut().unwrap().1.insert(key, head.version());
                }
            }
        }
    }

    /// Lets a lane apply its next step, `half` of it if it is to be cut off.
    fn apply(&mut self, lane: u32, warehouse: &mut Warehouse, half: Option<usize>) {
        let Some((epoch, step)) = self.steps.get_mut(&lane).and_then(VecDeque::pop_front) else { return };
        let reached = self.reached.entry(lane).or_default();
        (reached.step, reached.epoch) = (reached.step + 1, epoch.max(reached.epoch));
        for (key, version) in &step {
            let head = self.heads[&(*key, *version)];
            reached.seqs.raise(head.partition, head.seq);
        }
        let most = half.map_or(usize::MAX, |half| half % step.len());
        warehouse.apply(lane, &step, reached, most);
    }

    fn record(&mut self, warehouse: &mut Warehouse) {
        let open = self.steps.values().filter_map(|steps| steps.front()).map(|(epoch, _)| *epoch);
        let durable = open.min().unwrap_or(self.frontier);
        if durable > 0 {
            let Some(Places { offsets, look_backs, .. }) = self.offsets.from(moment(durable, 0)) else { return };
            let checkpoint = warehouse.checkpoint.as_mut().expect("of the first run");
            (checkpoint.epoch, checkpoint.offsets, checkpoint.look_backs) = (durable - 1, offsets, look_backs);
        }
    }
}

fn message(key: i64, time: u64) -> Option<Vec<u8>> {
    message_of("t", key, time)
}

fn message_of(table: &str, key: i64, time: u64) -> Option<Vec<u8>> {
    let message = format!(
        r#"{{"data":[{{"id":"{key}"}}],"database":"d","table":"{table}","es":{time},"type":"UPDATE","mysqlType":{{"id":"bigint"}},"pkNames":["id"]}}"#
    );
    Some(message.into_bytes())
}

/// One in so many is of a table that is wanted at times, and as many are markers.
const ODD: u8 = 8;

/// Records with their partition, key and time, as far as they are not too late, some of them odd.
/// And what is the newest of each key, of those that are kept from `low` on.
fn topic_of(steps: &[(usize, i64, u64, u64, u8)], horizon: u64, low: &[u64]) -> (Vec<Vec<Option<Vec<u8>>>>, Rows) {
    let (mut records, mut newest, mut oracle) = (vec![Vec::new(); 3], [0; 3], BTreeMap::new());
    for (partition, key, ahead, behind, odd) in steps {
        let key = key * 3 + *partition as i64;
        let time = (newest[*partition] + ahead).saturating_sub(*behind);
        if *odd == 0 {
            records[*partition].push(None);
        }
        if time + horizon < newest[*partition] {
            continue;
        }
        newest[*partition] = time.max(newest[*partition]);
        if *odd == 1 {
            records[*partition].push(message_of("at_times", key + 1_000, time));
            continue;
        }
        let version = (time, records[*partition].len() as u64, 0);
        if version.1 >= low[*partition] {
            oracle.entry(key).and_modify(|known| *known = version.max(*known)).or_insert(version);
        }
        records[*partition].push(message(key, time));
    }
    (records, oracle)
}

fn settings(idle_timeout: Duration) -> ForeignSettings {
    ForeignSettings {
        envelope: EnvelopeKind::CanalJson,
        tables: TableFilter::new(&["d.t".into()]).unwrap(),
        policy: SettlePolicy { out_of_orderness: Duration::from_millis(20), idle_timeout, epoch: EPOCH },
        lateness: Duration::from_millis(60),
        lead_bytes: usize::MAX,
        until_caught_up: false,
        look_at_ends: Duration::from_secs(3600),
    }
}

#[test]
fn markers_behind_the_last_record_are_no_records_that_could_be_lost() {
    // Retention may take it before it is looked for.
    [false, true].into_iter().for_each(marker_behind_the_last_record);
}

fn marker_behind_the_last_record(is_gone: bool) {
    let records = (0..4).map(|time| if time < 3 { message(1, time) } else { None }).collect::<Vec<_>>();
    let choices = Choices(Arc::new(Mutex::new((vec![1], 0))));
    let topic = Topic {
        records: Arc::new(vec![records]),
        shown: Arc::new(Mutex::new(vec![0])),
        low: low(1),
        timestamp: None,
        choices,
    };
    let mut warehouse = Warehouse::begun_at(&[0]);
    let settings = settings(Duration::ZERO);
    let mut run = Run::begin(&topic, &mut warehouse, &settings, DeadLetters::default());
    let mut read = |run: &mut Run| {
        for _ in 0..20 {
            run.poll();
            run.apply(1, &mut warehouse, None);
        }
        std::thread::sleep(SAY_AGAIN); // it is not said more often
        run.poll();
        run.record(&mut warehouse);
        warehouse.checkpoint.as_ref().unwrap().look_backs[&0].read
    };
    topic.shown()[0] = 4;
    assert_eq!(read(&mut run), 3, "nothing has said that it is a marker that lies behind the last record");
    if is_gone {
        topic.low.lock().unwrap()[0] = 4;
    }
    run.reader.guess.settings.look_at_ends = Duration::ZERO;
    assert_eq!(read(&mut run), 4);
}

/// What becomes of the second of two records, of so long ahead of the clock, that Kafka took so long ahead of it.
fn second(ahead: u64, taken_ahead: u64) -> (Option<String>, String) {
    let now = now_ms();
    let records = Arc::new(vec![vec![message(1, 5), message(1, now + ahead)]]);
    let choices = Choices(Arc::new(Mutex::new((vec![1], 0))));
    let timestamp = Some(now.wrapping_add(taken_ahead));
    let topic = Topic { records, shown: Arc::new(Mutex::new(vec![2])), low: low(1), timestamp, choices };
    let folder = tempfile::tempdir().unwrap();
    let letters = folder.path().join("letters");
    let settings = settings(Duration::ZERO);
    let letters_to = DeadLetters::new(Some(letters.clone()));
    let mut run = Run::begin(&topic, &mut Warehouse::begun_at(&[0]), &settings, letters_to);
    let refused = (0..10).find_map(|_| run.reader.poll(Duration::ZERO).err());
    (refused.map(|error| error.to_string()), std::fs::read_to_string(&letters).unwrap_or_default())
}

#[test]
fn whether_a_time_in_the_future_counts_does_not_depend_on_when_it_is_read() {
    let hour = 3_600_000;
    assert_eq!(second(50_000, 0), (None, String::new()));
    let (refused, letters) = second(hour, 0);
    assert!(refused.is_none() && letters.contains("\"t/0/1\"") && letters.contains("ahead of Kafka's"), "{letters}");
    // Both clocks are wrong, or this machine's is.
    let (refused, letters) = second(hour, hour);
    let refused = refused.unwrap();
    assert!(letters.is_empty() && refused.starts_with("t/0/1: its time, and Kafka's, is "), "{refused}");
    // Kafka had it long ago, and its time has come.
    let (refused, letters) = second(0, 0_u64.wrapping_sub(hour));
    assert!(refused.is_none() && letters.contains("ahead of Kafka's"), "{letters}");
}

#[test]
fn a_partition_that_is_far_ahead_waits_for_the_others() {
    // The second has its first record at once, and the others when the first partition has been read as far as it may.
    let times = |count: u64| (0..count).map(|n| message(1, 1_000_000 + n * 10)).collect::<Vec<_>>();
    let records = vec![times(20_000), times(20_000)];
    let choices = Choices(Arc::new(Mutex::new((vec![1], 0))));
    let shown = Arc::new(Mutex::new(vec![20_000, 1]));
    let topic = Topic { records: Arc::new(records), shown, low: low(2), timestamp: None, choices };
    let settings = ForeignSettings { lead_bytes: 100_000, ..settings(Duration::from_secs(3600)) };
    let mut run = Run::begin(&topic, &mut Warehouse::begun_at(&[0; 2]), &settings, DeadLetters::default());
    let read = |run: &Run| run.open.values().map(Vec::len).sum::<usize>();
    (0..1_000).for_each(|_| run.poll());
    let ahead = read(&run);
    assert!((300..5_000).contains(&ahead), "{ahead} records wait for those of the other partition");
    topic.shown()[1] = 20_000;
    let mut most = 0;
    for _ in 0..100_000 {
        run.poll();
        most = most.max(read(&run));
    }
    assert!(most < 10_000, "{most} records wait");
    assert_eq!(run.frontier, (1_000_000 + 19_999 * 10 - 20) / 10, "both have been read to their ends");
}

/// How far a partition moves on: mostly little, at times by many horizons.
fn ahead() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..15, 2 => 15u64..120, 1 => 120u64..900]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn no_row_goes_back_and_the_newest_of_each_key_is_there_in_the_end(
        steps in proptest::collection::vec((0usize..3, 0i64..3, ahead(), 0u64..90, 0..ODD), 1..120),
        choices in proptest::collection::vec(any::<u8>(), 40..200),
        stops in 1usize..6, idle in any::<bool>(), lead_bytes in prop_oneof![Just(usize::MAX), 0usize..900],
        mut low in proptest::collection::vec(prop_oneof![Just(0), 0u64..30], 3), deletes_places in any::<bool>(),
        is_strict in any::<bool>(),
    ) {
        // Every partition at once, or none.
        let settings = settings(if idle { Duration::ZERO } else { Duration::from_secs(3600) });
        let settings = ForeignSettings { lead_bytes, ..settings };
        let (records, oracle) = topic_of(&steps, settings.horizon(), &low);
        // The job may begin where others have been before.
        low.iter_mut().zip(&records).for_each(|(low, records)| *low = (*low).min(records.len() as u64));
        let choices = Choices(Arc::new(Mutex::new((choices, 0))));
        let shown = Arc::new(Mutex::new(low.iter().map(|low| *low as usize).collect()));
        let mut warehouse = Warehouse::begun_at(&low);
        let low = Arc::new(Mutex::new(low));
        let topic = Topic { records: Arc::new(records), shown, low, timestamp: None, choices: choices.clone() };
        let folder = tempfile::tempdir().unwrap();
        let letters = folder.path().join("letters");
        let mut lateness = settings.lateness / if is_strict { 3 } else { 1 };
        for _ in 0..stops {
            // Settings may change.
            let policy = SettlePolicy { epoch: EPOCH * [1, 1, 4][choices.below(3)], ..settings.policy };
            lateness = lateness * [3, 3, 9, 1][choices.below(4)] / 3;
            lateness = if is_strict { lateness } else { lateness.max(settings.lateness) };
            let look_at_ends = [Duration::ZERO, settings.look_at_ends][choices.below(2)];
            let tables = TableFilter::new(&[["d.t", "d.*"][choices.below(2)].into()]).unwrap();
            let settings = ForeignSettings { tables, policy, lateness, look_at_ends, ..settings.clone() };
            let mut run = Run::begin(&topic, &mut warehouse, &settings, DeadLetters::new(Some(letters.clone())));
            for _ in 0..choices.below(40) {
                match choices.below(6) {
                    0 => topic.show(),
                    1 | 2 => run.poll(),
                    3 | 4 => run.apply(choices.below(LANES as usize) as u32, &mut warehouse, None),
                    _ => run.record(&mut warehouse),
                }
            }
            if choices.below(2) == 0 {
                run.apply(choices.below(LANES as usize) as u32, &mut warehouse, Some(choices.below(5)));
            }
            // Retention deletes what nobody needs any more, at times all of it.
            let Checkpoint { offsets, look_backs, .. } = warehouse.checkpoint.as_ref().unwrap();
            for (partition, offset) in offsets {
                if choices.below(3) == 0 {
                    let offset = if deletes_places { look_backs[partition].read } else { *offset };
                    topic.low.lock().unwrap()[*partition as usize] = offset;
                }
            }
        }
        topic.shown().iter_mut().zip(&*topic.records).for_each(|(shown, records)| *shown = records.len());
        let settings = ForeignSettings { until_caught_up: true, lateness, ..settings };
        let mut run = Run::begin(&topic, &mut warehouse, &settings, DeadLetters::new(Some(letters.clone())));
        while run.reader.caught_up().is_none_or(|wanted| run.frontier < epoch_at(wanted)) || !run.open.is_empty() {
            run.poll();
        }
        while run.steps.values().any(|steps| !steps.is_empty()) {
            (0..LANES as u32).for_each(|lane| run.apply(lane, &mut warehouse, None));
        }
        let aside = std::fs::read_to_string(&letters).unwrap_or_default();
        prop_assert!(aside.is_empty() || deletes_places || is_strict, "of what is kept all can be judged");
        // What could not be judged, or came too late for a run, is kept aside, and nothing else is missing.
        for (key, version) in oracle.iter().filter(|(key, version)| warehouse.rows.get(key) != Some(version)) {
            let place = format!("\"t/{}/{}\"", key % 3, version.1);
            prop_assert!(aside.contains(&place), "key {key}: {version:?} is neither landed nor kept aside");
        }
    }
}
