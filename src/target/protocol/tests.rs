//! Copies of a job that begin at the same time.

use super::*;

/// A server at which another copy begins the job behind the first question about it, and lands something.
struct Busy {
    asked: usize,
    /// What is kept of the job from the second question on.
    known: Option<JobRow>,
}

impl Session for Busy {
    fn job(&mut self, _job: &str) -> Result<Option<JobRow>, Failure> {
        self.asked += 1;
        Ok(self.known.clone().filter(|_| self.asked > 1))
    }
    fn lanes(&mut self, _job: &str) -> Result<BTreeMap<u32, LaneRow>, Failure> {
        Ok(BTreeMap::from([(0, LaneRow::default())]))
    }
    fn replace_job(&mut self, _job: &str, from: u64, row: &JobRow) -> Result<bool, Failure> {
        assert_eq!(self.known.replace(row.clone()).map(|row| row.generation), Some(from));
        Ok(true)
    }
    fn is_atomic(&self) -> bool {
        unreachable!()
    }
    fn statement_timeout(&self) -> Duration {
        unreachable!()
    }
    fn create_progress(&mut self) -> Result<(), Failure> {
        unreachable!()
    }
    fn begin(&mut self) -> Result<(), Failure> {
        unreachable!()
    }
    fn commit(&mut self) -> Result<(), Failure> {
        unreachable!()
    }
    fn rollback(&mut self) -> Result<(), Failure> {
        unreachable!()
    }
    fn add_job(&mut self, _job: &str, _row: &JobRow) -> Result<(), Failure> {
        unreachable!("it has progress")
    }
    fn generation(&mut self, _job: &str, _hold: bool) -> Result<Option<u64>, Failure> {
        unreachable!()
    }
    fn save_lane(&mut self, _job: &str, _lane: u32, _generation: u64, _row: &LaneRow) -> Result<(), Failure> {
        unreachable!()
    }
    fn checkpoint(&mut self, _job: &str) -> Result<Option<Checkpoint>, Failure> {
        unreachable!()
    }
    fn save_checkpoint(&mut self, _job: &str, _generation: u64, _checkpoint: &Checkpoint) -> Result<(), Failure> {
        unreachable!()
    }
    fn sessions(&mut self, _job: &str) -> Result<Vec<OtherSession>, Failure> {
        unreachable!()
    }
    fn terminate(&mut self, _sessions: &[OtherSession]) -> Result<(), Failure> {
        unreachable!()
    }
    fn prepare(&mut self, _step: &Step, _schemas: &FindSchema) -> Result<(), Failure> {
        unreachable!()
    }
    fn write(&mut self, _step: &Step) -> Result<(), Failure> {
        unreachable!()
    }
    fn provide_column(
        &mut self,
        _table: &crate::change::TableName,
        _column: &str,
        _schemas: &FindSchema,
    ) -> Result<(), Failure> {
        unreachable!()
    }
    fn blame(&mut self, _step: &Step, _refused: super::super::retry::Refused) -> Result<TargetError, Failure> {
        unreachable!()
    }
}

#[test]
fn a_job_that_another_copy_begins_meanwhile_is_not_taken_for_one_that_was_deleted() {
    let row = JobRow { generation: 1, lanes: 2, log: "t".into(), token: "another's".into() };
    let mut busy = Busy { asked: 0, known: Some(row) };
    assert_eq!(take_generation(&mut busy, "job", 2, "t").ok(), Some(2));
    let mut gone = Busy { asked: 0, known: None };
    let Err(Failure::Final(said)) = take_generation(&mut gone, "job", 2, "t") else { panic!("it has no row") };
    assert!(said.to_string().contains("someone deleted it from tidegate.generation"), "{said}");
}
