//! Names for sessions: an adjective and a noun, kept while the session lives.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;

use sha2::{Digest, Sha256};

use crate::wire::SessionId;
use crate::wire::link::MAX_NAME;

/// The names of the machine's sessions: each one's own, the same after a restart of the daemon.
pub struct Names {
    files: Box<dyn NameFiles>,
    by_id: HashMap<SessionId, String>,
    taken: HashSet<String>,
    unwritten: VecDeque<SessionId>,
}

/// Where names are kept: `names/<sessionId>` in the state directory, one small file each. A name
/// that is lost costs a new name and nothing else, so nothing here needs to reach the disk at once.
pub trait NameFiles: Send {
    /// The ids that have a name kept.
    fn list(&self) -> Vec<String>;

    /// What is kept for the session, if there is something readable.
    fn read(&self, id: &SessionId) -> Option<Vec<u8>>;

    /// Keeps a name.
    ///
    /// # Errors
    /// When the file cannot be written.
    fn write(&self, id: &SessionId, name: &[u8]) -> io::Result<()>;

    /// Forgets a name; one that is not kept is no error.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    fn remove(&self, id: &SessionId) -> io::Result<()>;
}

impl Names {
    /// Names that are kept in `files`.
    pub fn new(files: impl NameFiles + 'static) -> Self {
        Self { files: Box::new(files), by_id: HashMap::new(), taken: HashSet::new(), unwritten: VecDeque::new() }
    }

    /// Names that live as long as this value.
    pub fn in_memory() -> Self {
        Self::new(Nowhere)
    }

    /// Reserves the name that is kept for the session, if there is one and nobody else has it. Done
    /// for every session before new names are made, so that none takes what another had.
    pub fn recall(&mut self, id: &SessionId) {
        if self.by_id.contains_key(id) {
            return;
        }
        let kept = self.files.read(id).and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some(name) = kept.map(|name| name.trim_ascii().to_owned()).filter(|name| is_name(name))
            && self.taken.insert(name.clone())
        {
            self.by_id.insert(id.clone(), name);
        }
    }

    /// The session's name: the one it has, else the one kept for it, else a new one, which
    /// [`Names::write_some`] keeps later: creating a file takes longer than all else about a session.
    pub fn name(&mut self, id: &SessionId) -> &str {
        self.recall(id);
        if !self.by_id.contains_key(id) {
            let name = self.new_name(id);
            self.taken.insert(name.clone());
            self.by_id.insert(id.clone(), name);
            self.unwritten.push_back(id.clone());
        }
        self.by_id.get(id).map_or("", String::as_str)
    }

    /// Keeps up to `most` names that are new; whether there are more.
    pub fn write_some(&mut self, most: usize) -> bool {
        for id in self.unwritten.drain(..most.min(self.unwritten.len())) {
            if let Some(name) = self.by_id.get(&id)
                && let Err(e) = self.files.write(&id, name.as_bytes())
            {
                tracing::debug!(session = %id, "its name is not kept over a restart: {e}");
            }
        }
        !self.unwritten.is_empty()
    }

    /// Forgets the name of a session that has ended.
    pub fn forget(&mut self, id: &SessionId) {
        if let Some(name) = self.by_id.remove(id) {
            self.taken.remove(&name);
        }
        if let Err(e) = self.files.remove(id) {
            tracing::debug!(session = %id, "its name stays behind: {e}");
        }
    }

    /// Forgets what is kept for sessions that ended while no daemon ran.
    pub fn forget_all_but(&mut self, exists: impl Fn(&SessionId) -> bool) {
        for id in self.files.list().into_iter().filter_map(|id| id.parse().ok()).filter(|id| !exists(id)) {
            self.forget(&id);
        }
    }

    fn new_name(&self, id: &SessionId) -> String {
        let hash = Sha256::digest(id.as_str());
        let start = hash.iter().take(8).fold(0usize, |sum, byte| sum.wrapping_mul(256).wrapping_add((*byte).into()));
        // With so many names taken, the rounds before this one are full.
        let mut round = self.taken.len() / COUNT + 1;
        loop {
            let free = (0..COUNT).map(|step| pair(start.wrapping_add(step) % COUNT, round));
            if let Some(name) = free.into_iter().find(|name| !self.taken.contains(name)) {
                return name;
            }
            round += 1;
        }
    }
}

/// How many names there are without a number behind them.
const COUNT: usize = ADJECTIVES.len() * NOUNS.len();

fn pair(index: usize, round: usize) -> String {
    // Both remainders are within the lists.
    let adjective = ADJECTIVES.get(index / NOUNS.len() % ADJECTIVES.len()).unwrap_or(&"plain");
    let noun = NOUNS.get(index % NOUNS.len()).unwrap_or(&"stone");
    match round {
        0 | 1 => format!("{adjective}-{noun}"),
        _ => format!("{adjective}-{noun}-{round}"),
    }
}

/// Whether this is a name of the usual form, from this program's words or others.
fn is_name(text: &str) -> bool {
    let mut parts = text.split('-');
    let is_word = |part: Option<&str>| part.is_some_and(|p| p.len() > 1 && p.bytes().all(|b| b.is_ascii_lowercase()));
    text.len() <= MAX_NAME
        && is_word(parts.next())
        && is_word(parts.next())
        && parts.next().is_none_or(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        && parts.next().is_none()
}

struct Nowhere;

impl NameFiles for Nowhere {
    fn list(&self) -> Vec<String> {
        Vec::new()
    }
    fn read(&self, _: &SessionId) -> Option<Vec<u8>> {
        None
    }
    fn write(&self, _: &SessionId, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _: &SessionId) -> io::Result<()> {
        Ok(())
    }
}

#[rustfmt::skip]
const ADJECTIVES: [&str; 100] = [
    "agile", "airy", "amber", "ample", "ancient", "arctic", "azure", "balmy", "bold", "brave",
    "breezy", "bright", "brisk", "bronze", "calm", "candid", "careful", "cheerful", "civil", "clear",
    "clever", "coastal", "copper", "coral", "cosmic", "cozy", "crisp", "curious", "daring", "deft",
    "dreamy", "eager", "early", "earnest", "easy", "elegant", "faithful", "fancy", "fearless", "festive",
    "fluent", "frank", "fresh", "friendly", "frosty", "gentle", "gifted", "glad", "gleaming", "golden",
    "graceful", "grand", "happy", "hardy", "honest", "humble", "ivory", "jolly", "keen", "kind",
    "lively", "loyal", "lucid", "lucky", "lunar", "mellow", "merry", "mighty", "modest", "mossy",
    "neat", "nimble", "noble", "opal", "patient", "placid", "polite", "proud", "quick", "quiet",
    "rapid", "ready", "robust", "royal", "rustic", "sandy", "scarlet", "serene", "sharp", "silent",
    "silver", "sincere", "smooth", "snowy", "solar", "steady", "sunny", "tidy", "vivid", "witty",
];

#[rustfmt::skip]
const NOUNS: [&str; 100] = [
    "acorn", "alder", "anchor", "aspen", "badger", "bamboo", "beacon", "birch", "bison", "bridge",
    "brook", "canyon", "cedar", "cliff", "clover", "comet", "condor", "cove", "crane", "creek",
    "cricket", "cypress", "dahlia", "daisy", "delta", "dolphin", "dune", "eagle", "ember", "falcon",
    "fern", "finch", "fjord", "forest", "fox", "galaxy", "garden", "geyser", "glacier", "grove",
    "harbor", "hazel", "heron", "hill", "ibis", "island", "jaguar", "jasmine", "juniper", "kestrel",
    "lagoon", "lake", "lantern", "lark", "laurel", "lemur", "lilac", "linden", "lotus", "lynx",
    "maple", "marten", "meadow", "meteor", "mountain", "nebula", "oasis", "ocean", "orchard", "orchid",
    "osprey", "otter", "panda", "pebble", "pelican", "pine", "planet", "plover", "pond", "poplar",
    "prairie", "puffin", "quartz", "rabbit", "raven", "reef", "ridge", "river", "robin", "saffron",
    "sparrow", "spruce", "summit", "swan", "thicket", "tulip", "valley", "walnut", "willow", "zephyr",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<HashMap<String, Vec<u8>>>>);

    impl NameFiles for Kept {
        fn list(&self) -> Vec<String> {
            self.0.lock().unwrap().keys().cloned().collect()
        }
        fn read(&self, id: &SessionId) -> Option<Vec<u8>> {
            self.0.lock().unwrap().get(id.as_str()).cloned()
        }
        fn write(&self, id: &SessionId, name: &[u8]) -> io::Result<()> {
            self.0.lock().unwrap().insert(id.to_string(), name.to_owned());
            Ok(())
        }
        fn remove(&self, id: &SessionId) -> io::Result<()> {
            self.0.lock().unwrap().remove(id.as_str());
            Ok(())
        }
    }

    fn id(text: &str) -> SessionId {
        text.parse().unwrap()
    }

    #[test]
    fn a_session_has_the_same_name_in_every_run_and_after_a_restart() {
        let kept = Kept::default();
        let first = Names::new(kept.clone()).name(&id("s-1")).to_owned();
        assert!(is_name(&first), "{first}");
        assert_eq!(Names::in_memory().name(&id("s-1")), first, "it follows from the id");
        kept.write(&id("s-1"), b"jade-gale\n").unwrap();
        assert_eq!(Names::new(kept).name(&id("s-1")), "jade-gale", "other words than ours, kept");
    }

    #[test]
    fn a_kept_name_that_is_no_name_or_taken_is_replaced() {
        let kept = Kept::default();
        for bad in ["", "one", "a/b-c", "Jade-gale", "jade-gale-x", "jade-gale-2-3", "\u{1b}[2J", &"a".repeat(99)] {
            kept.write(&id("s"), bad.as_bytes()).unwrap();
            assert!(is_name(Names::new(kept.clone()).name(&id("s"))), "{bad:?}");
        }
        kept.write(&id("a"), b"jade-gale").unwrap();
        kept.write(&id("b"), b"jade-gale").unwrap();
        let mut names = Names::new(kept.clone());
        let (a, b) = (names.name(&id("a")).to_owned(), names.name(&id("b")).to_owned());
        assert!(!names.write_some(9));
        assert!(a == "jade-gale" && b != a);
        assert_eq!(kept.read(&id("b")).unwrap(), b.as_bytes());
    }

    #[test]
    fn a_name_is_free_again_and_its_file_gone_when_the_session_has_ended() {
        let kept = Kept::default();
        let mut names = Names::new(kept.clone());
        let name = names.name(&id("s")).to_owned();
        names.name(&id("brief"));
        assert!(names.write_some(1), "one more");
        assert_eq!(kept.read(&id("s")).unwrap(), name.as_bytes());
        names.forget(&id("s"));
        names.forget(&id("brief"));
        assert!(!names.write_some(1) && kept.list().is_empty(), "what has ended is not written");
        kept.write(&id("t"), name.as_bytes()).unwrap();
        assert_eq!(names.name(&id("t")), name);
        kept.write(&id("old"), b"jade-gale").unwrap();
        names.forget_all_but(|session| session.as_str() == "t");
        assert_eq!(kept.list(), ["t"]);
    }

    #[test]
    fn names_are_unique_and_numbered_once_all_are_taken() {
        let mut names = Names::in_memory();
        let all: HashSet<String> = (0..COUNT + 500).map(|n| names.name(&id(&n.to_string())).to_owned()).collect();
        assert_eq!(all.len(), COUNT + 500);
        assert_eq!(all.iter().filter(|name| name.ends_with("-2")).count(), 500);
    }

    #[test]
    fn the_words_are_distinct_and_plain() {
        for words in [ADJECTIVES, NOUNS] {
            assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
            assert!(words.iter().all(|word| is_name(&format!("{word}-{word}"))));
        }
    }
}
