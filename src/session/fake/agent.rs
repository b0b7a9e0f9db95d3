//! What a fake session does with a command, and its model.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::{LINE_LIMIT, Outbox, Shared};
use crate::wire::link::{join, to_json};

/// Carries out one command and puts its answer into the connection's outbox.
pub(super) fn answer_command(shared: &Arc<Shared>, text: &str, outbox: &Outbox) {
    match Command::parse(text) {
        Ok(command) => command.execute(shared, outbox),
        Err(error) => {
            let error = format!("Failed to parse command: {error}");
            let _ = outbox.send(Some(answer("parse", None, Err(&error))));
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) received: Vec<Bytes>,
    pub(super) unlinked: bool,
    pub(super) run: Option<Run>,
    steering: VecDeque<String>,
    following_up: VecDeque<String>,
    subscribers: Vec<Subscriber>,
    turns: usize,
    last: Option<Bytes>,
}

/// What the session is busy with: one turn after the other until nothing is queued.
#[derive(Debug)]
pub(super) struct Run {
    abort: Arc<Notify>,
    pub(super) task: AbortHandle,
}

#[derive(Debug)]
struct Subscriber {
    id: String,
    outbox: Outbox,
}

/// A command with a type. Members are looked at one by one, and the last of a repeated one counts,
/// as in JavaScript.
struct Command<'a> {
    kind: String,
    id: Option<String>,
    members: BTreeMap<String, &'a RawValue>,
}

impl<'a> Command<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if raw.get().starts_with('[') {
            return Err("Missing command type".into());
        }
        if !raw.get().starts_with('{') {
            return Err("Invalid command".into());
        }
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).map_err(|e| e.to_string())?;
        let mut command = Self { kind: String::new(), id: None, members };
        command.kind = command.text("type").ok_or("Missing command type")?;
        command.id = command.text("id");
        Ok(command)
    }

    fn text(&self, member: &str) -> Option<String> {
        self.members.get(member).and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    fn execute(self, shared: &Arc<Shared>, outbox: &Outbox) {
        let mut state = shared.state();
        let result = match self.kind.as_str() {
            "send" => return self.send(shared, &mut state, outbox),
            "subscribe" => self.subscribe(&mut state, outbox).map(Some),
            "get_message" => {
                let message: &[u8] = state.last.as_deref().unwrap_or(b"null");
                Ok(Some(join(&[br#"{"message":"#, message, b"}"])))
            }
            "get_summary" => state.summary().map(Some),
            "clear" => state.clear(&shared.root).map(Some),
            "abort" => {
                state.run.iter().for_each(|run| run.abort.notify_one());
                Ok(None)
            }
            other => Err(format!("Unsupported command: {other}")),
        };
        let _ = outbox.send(Some(self.answer(result.as_ref().map(Option::as_ref).map_err(String::as_str))));
    }

    fn send(self, shared: &Arc<Shared>, state: &mut State, outbox: &Outbox) {
        let Some(message) = self.text("message").filter(|m| !m.trim().is_empty()) else {
            let _ = outbox.send(Some(self.answer(Err("Missing message"))));
            return;
        };
        let mode = match state.run {
            None => "direct".to_owned(),
            Some(_) => self.text("mode").unwrap_or_else(|| "steer".to_owned()),
        };
        let data = join(&[br#"{"delivered":true,"mode":"#, &to_json(&mode), b"}"]);
        // Before the turn begins, so that its end is told after this answer.
        let _ = outbox.send(Some(self.answer(Ok(Some(&data)))));
        if state.run.is_none() {
            let abort = Arc::new(Notify::new());
            let task = tokio::spawn(run(Arc::clone(shared), Arc::clone(&abort), message)).abort_handle();
            state.run = Some(Run { abort, task });
        } else if mode == "follow_up" {
            state.following_up.push_back(message);
        } else {
            state.steering.push_back(message);
        }
    }

    fn subscribe(&self, state: &mut State, outbox: &Outbox) -> Result<Bytes, String> {
        let event = self.text("event").unwrap_or_else(|| "undefined".to_owned());
        if event != "turn_end" {
            return Err(format!("Unknown event type: {event}"));
        }
        let id = self.id.clone().unwrap_or_else(|| {
            let random = Uuid::new_v4().simple().to_string();
            format!("sub_{}_{}", now_millis(), random.get(..6).unwrap_or_default())
        });
        let data = join(&[br#"{"subscriptionId":"#, &to_json(&id), br#","event":"turn_end"}"#]);
        state.subscribers.retain(|subscriber| !subscriber.outbox.is_closed());
        state.subscribers.push(Subscriber { id, outbox: outbox.clone() });
        Ok(data)
    }

    fn answer(&self, result: Result<Option<&Bytes>, &str>) -> Bytes {
        answer(&self.kind, self.id.as_deref(), result)
    }
}

fn answer(command: &str, id: Option<&str>, result: Result<Option<&Bytes>, &str>) -> Bytes {
    let head = join(&[br#"{"type":"response","command":"#, &to_json(&command)]);
    let tail = id.map(|id| join(&[br#","id":"#, &to_json(&id)])).unwrap_or_default();
    match result {
        Ok(None) => join(&[&head, br#","success":true"#, &tail, b"}\n"]),
        Ok(Some(data)) => join(&[&head, br#","success":true,"data":"#, data, &tail, b"}\n"]),
        Err(error) => join(&[&head, br#","success":false,"error":"#, &to_json(&error), &tail, b"}\n"]),
    }
}

impl State {
    fn summary(&self) -> Result<Bytes, String> {
        if self.last.is_none() {
            return Err("No messages to summarize".into());
        }
        let summary = format!("{} turns of a session that repeats what it is told", self.turns);
        Ok(join(&[br#"{"summary":"#, &to_json(&summary), br#","model":"fake-1"}"#]))
    }

    fn clear(&mut self, root: &str) -> Result<Bytes, String> {
        if self.run.is_some() {
            return Err("Session is busy - wait for turn to complete".into());
        }
        if self.turns == 0 {
            return Ok(Bytes::from_static(br#"{"cleared":true,"alreadyAtRoot":true}"#));
        }
        self.turns = 0;
        self.last = None;
        Ok(join(&[br#"{"cleared":true,"targetId":"#, &to_json(&root), b"}"]))
    }

    fn end_turn(&mut self, content: &str, index: usize) {
        let message = join(&[
            br#"{"role":"assistant","content":"#,
            &to_json(&content),
            format!(r#","timestamp":{}}}"#, now_millis()).as_bytes(),
        ]);
        for subscriber in self.subscribers.drain(..) {
            let event = join(&[
                br#"{"type":"event","event":"turn_end","data":{"message":"#,
                &message,
                format!(r#","turnIndex":{index}}},"subscriptionId":"#).as_bytes(),
                &to_json(&subscriber.id),
                b"}\n",
            ]);
            let _ = subscriber.outbox.send(Some(event));
        }
        self.turns += 1;
        self.last = Some(message);
    }
}

/// A run: the turn of `message`, then one for each message queued meanwhile. An abort ends the
/// turn under way and drops what was queued.
async fn run(shared: Arc<Shared>, abort: Arc<Notify>, mut message: String) {
    for index in 0.. {
        let reply = Reply::to(&message);
        let began = Instant::now();
        let aborted = !reply.takes.is_zero()
            && tokio::select! {
                () = tokio::time::sleep(reply.takes) => false,
                () = abort.notified() => true,
            };
        let mut state = shared.state();
        state.end_turn(if aborted { reply.so_far(began.elapsed()) } else { &reply.content }, index);
        if aborted {
            state.steering.clear();
            state.following_up.clear();
        }
        let next = state.steering.pop_front();
        let Some(next) = next.or_else(|| state.following_up.pop_front()) else {
            state.run = None;
            return;
        };
        message = next;
    }
}

/// What the model says to a message and how long it takes.
struct Reply {
    content: String,
    takes: Duration,
}

impl Reply {
    fn to(message: &str) -> Self {
        let mut words = message.split_whitespace();
        let (first, number) = (words.next(), words.next().and_then(|n| n.parse::<u32>().ok()));
        let echo = format!("echo: {message}");
        match (first, number) {
            (Some("SLOW"), Some(ms)) => Self { content: echo, takes: Duration::from_millis(ms.into()) },
            (Some("BIG"), Some(size)) => {
                let size = usize::try_from(size).unwrap_or(LINE_LIMIT).min(4 * LINE_LIMIT);
                Self { content: "x".repeat(size), takes: Duration::ZERO }
            }
            (_, _) => Self { content: echo, takes: Duration::ZERO },
        }
    }

    /// The words said so far: they come evenly, the first at once.
    fn so_far(&self, elapsed: Duration) -> &str {
        let words: Vec<&str> = self.content.split_inclusive(' ').collect();
        let share = elapsed.as_secs_f64() / self.takes.as_secs_f64().max(f64::MIN_POSITIVE);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the word count")]
        let count = (share.clamp(0.0, 1.0) * words.len() as f64) as usize + 1;
        let length = words.iter().take(count).map(|word| word.len()).sum();
        self.content.get(..length).unwrap_or(&self.content)
    }
}

fn now_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}
