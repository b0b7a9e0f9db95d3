//! Both logs, and what waits to be written to them.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::chain::Chain;
use super::collapse::{Collapse, is_decision};
use super::line::{Adopted, AdoptedKind, Record};
use super::{Log, Rotation};
use crate::state_dir::StateDir;
use crate::wire::audit::{Action, Entry};
use crate::wire::error::Failure;

/// Records that wait for a log while it cannot be written.
const MAX_WAITING: usize = 4096;
/// Records that are written at once.
const BATCH: usize = 256;

/// The logs of a daemon.
#[derive(Debug)]
pub struct Journal {
    dir: StateDir,
    audit: Waiting,
    trust: Waiting,
    collapse: Collapse,
    remarks: Vec<Remark>,
    /// Peers that were pinned when it began: with them, a log was there once.
    pinned: usize,
    /// Both logs were looked at together.
    is_begun: bool,
    /// The log of trust was told how far the other goes.
    is_introduced: bool,
}

/// What was found in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// What it is, in words.
    pub text: String,
    /// The log is not as it was written.
    pub is_broken: bool,
}

#[derive(Debug)]
struct Waiting {
    log: Log,
    chain: Option<Chain>,
    records: VecDeque<Record>,
    missed: u64,
}

impl Journal {
    /// The logs in a state directory; nothing is opened before something is written.
    pub fn new(dir: StateDir, rotation: Rotation) -> Self {
        let waiting = |log| Waiting { log, chain: None, records: VecDeque::new(), missed: 0 };
        let (audit, trust) = (waiting(Log::audit(rotation)), waiting(Log::trust()));
        Self {
            dir,
            audit,
            trust,
            collapse: Collapse::default(),
            remarks: Vec::new(),
            pinned: 0,
            is_begun: false,
            is_introduced: false,
        }
    }

    /// As many peers are pinned: if no log is there at all, it says that one was taken away.
    pub fn with_pinned(mut self, peers: usize) -> Self {
        self.pinned = peers;
        self
    }

    /// Takes what happened, to be written with [`Journal::write`]; of `missed` entries it is known
    /// only how many they were.
    pub fn take(&mut self, entries: Vec<Entry>, missed: u64, at: SystemTime, now: Duration) {
        self.end_window(now);
        self.audit.missed += missed;
        for entry in entries {
            // Nobody's decision when nobody answered, and a peer can bring it about again and again.
            let is_of_trust = is_decision(&entry) || entry.action == Action::OwnKeyElsewhere;
            if let Some(record) = self.collapse.take(entry, at, now) {
                if is_of_trust {
                    self.trust.push(record.clone());
                }
                self.audit.push(record);
            }
        }
    }

    /// When something is to be written without that anything happens.
    pub fn due(&self) -> Option<Duration> {
        self.collapse.ends()
    }

    /// Whether everything taken is written, but for repeats that are counted still.
    pub fn is_written(&self) -> bool {
        self.audit.is_empty() && self.trust.is_empty()
    }

    /// Whether everything written is on the disk.
    pub fn is_synced(&self) -> bool {
        self.audit.chain.as_ref().is_none_or(Chain::is_synced)
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// A log cannot be written. What could not be written waits.
    pub fn write(&mut self, at: SystemTime, now: Duration) -> Result<(), Failure> {
        self.end_window(now);
        // What one log cannot does not keep the other from being written.
        let opened = self.audit.open(&self.dir);
        let trust = self.trust.open(&self.dir).and_then(|()| {
            self.begin();
            self.trust.know(&self.audit);
            self.trust.write(at, &mut self.remarks)
        });
        opened?;
        self.audit.know(&self.trust);
        self.audit.write(at, &mut self.remarks)?;
        trust?;
        self.introduce()
    }

    /// Says that there is no log where there should be one.
    fn begin(&mut self) {
        let (Some(audit), Some(trust)) = (&self.audit.chain, &mut self.trust.chain) else { return };
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        if is_first && self.pinned > 0 && audit.is_new() && trust.is_new() {
            let peers = if self.pinned == 1 { "1 peer is".into() } else { format!("{} peers are", self.pinned) };
            trust.should_have_been(format!("the logs begin here, and {peers} pinned: what was before is gone"));
        }
    }

    /// Has the log of trust know of the other from the start, and not only when trust changes next.
    fn introduce(&mut self) -> Result<(), Failure> {
        let (Some(audit), Some(trust)) = (&self.audit.chain, &mut self.trust.chain) else { return Ok(()) };
        let extent = audit.extent();
        if self.is_introduced && (trust.knows_other() || extent.synced == 0) {
            return Ok(());
        }
        trust.know_other(extent);
        trust.put_head()?;
        self.is_introduced = true;
        Ok(())
    }

    /// Writes what waits and what was counted, and has it on the disk.
    ///
    /// # Errors
    /// A log cannot be written.
    pub fn sync(&mut self, at: SystemTime, now: Duration) -> Result<(), Failure> {
        self.collapse.flush().into_iter().for_each(|record| self.audit.push(record));
        self.write(at, now)?;
        self.have_on_disk()
    }

    /// Has on the disk what is written, and the log of trust know of it: an older copy of the other log and
    /// its head is then missed, however long trust has not changed.
    ///
    /// # Errors
    /// The disk refuses it.
    pub fn have_on_disk(&mut self) -> Result<(), Failure> {
        let Some(audit) = &mut self.audit.chain else { return Ok(()) };
        audit.sync()?;
        let extent = audit.extent();
        match &mut self.trust.chain {
            Some(trust) if !trust.knows(extent) => {
                trust.know_other(extent);
                trust.put_head()
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What was found in the logs since this was last asked.
    pub fn take_remarks(&mut self) -> Vec<Remark> {
        std::mem::take(&mut self.remarks)
    }

    fn end_window(&mut self, now: Duration) {
        self.collapse.end(now).into_iter().for_each(|record| self.audit.push(record));
    }
}

impl Waiting {
    fn push(&mut self, record: Record) {
        if self.records.len() < MAX_WAITING {
            self.records.push_back(record);
        } else {
            self.missed += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.missed == 0
    }

    fn open(&mut self, dir: &StateDir) -> Result<(), Failure> {
        if self.chain.is_none() {
            self.chain = Some(Chain::open(dir, self.log)?);
        }
        Ok(())
    }

    /// Has this log's head know how far the other goes.
    fn know(&mut self, other: &Self) {
        if let (Some(chain), Some(other)) = (&mut self.chain, &other.chain) {
            chain.know_other(other.extent());
        }
    }

    fn write(&mut self, at: SystemTime, remarks: &mut Vec<Remark>) -> Result<(), Failure> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        if self.records.is_empty() && self.missed == 0 && chain.look()?.is_empty() {
            return Ok(());
        }
        loop {
            let batch: Vec<Record> = self.records.iter().take(BATCH).cloned().collect();
            let found = chain.append(&batch, at)?;
            remarks.extend(found.iter().map(|found| remark(self.log.name, found)));
            self.records.drain(..batch.len());
            if self.records.is_empty() {
                break;
            }
        }
        if self.missed > 0 {
            let missed = Record::with_data(at, Action::Missed, json!({ "count": self.missed }));
            let found = chain.append(&[missed], at)?;
            remarks.extend(found.iter().map(|found| remark(self.log.name, found)));
            self.missed = 0;
        }
        Ok(())
    }
}

fn remark(name: &str, found: &Adopted) -> Remark {
    let what = found.what.as_deref().unwrap_or_default();
    let lines = found.lines;
    let text = match found.kind {
        AdoptedKind::Original => format!("{name}: {lines} lines of the original's were found and are part of it now"),
        AdoptedKind::Torn => format!("{name}: a crash had left a part of a line, which is marked as such now"),
        AdoptedKind::Lost | AdoptedKind::Removed => format!("{name}: {what}"),
        AdoptedKind::Unsealed => {
            let from = found.from.unwrap_or_default();
            format!("{name}: {lines} lines from line {from} on are not sealed: written by a crash or by somebody else")
        }
        AdoptedKind::Broken => {
            format!("{name} IS NOT AS IT WAS WRITTEN: {what}; `pi-remote audit --verify` names the place")
        }
    };
    Remark { text, is_broken: found.kind == AdoptedKind::Broken }
}
