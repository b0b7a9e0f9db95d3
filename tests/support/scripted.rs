//! A session whose every answer a test writes itself, on connections handled one task each.

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// A session that answers as the test says; gone when dropped.
pub struct Scripted {
    socket: std::path::PathBuf,
    received: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Scripted {
    /// Answers each line with what `answer` makes of it; the newline is added here.
    pub fn start<F, A>(dir: &Path, id: &str, answer: F) -> Self
    where
        F: Fn(String) -> A + Send + Sync + 'static,
        A: Future<Output = Vec<u8>> + Send + 'static,
    {
        let socket = dir.join(format!("{id}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let received = Arc::<Mutex<Vec<String>>>::default();
        let (answer, seen) = (Arc::new(answer), Arc::clone(&received));
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        connections.spawn(converse(stream, Arc::clone(&answer), Arc::clone(&seen)));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { socket, received, serving }
    }

    /// Answers every line with the same bytes.
    pub fn always(dir: &Path, id: &str, answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(dir, id, move |_| std::future::ready(answer.clone()))
    }

    /// Every line received, without its newline.
    pub fn received(&self) -> Vec<String> {
        self.received.lock().unwrap().clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        self.serving.abort();
    }
}

async fn converse<F, A>(stream: UnixStream, answer: Arc<F>, received: Arc<Mutex<Vec<String>>>)
where
    F: Fn(String) -> A,
    A: Future<Output = Vec<u8>>,
{
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        received.lock().unwrap().push(line.clone());
        let mut bytes = answer(line).await;
        bytes.push(b'\n');
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
