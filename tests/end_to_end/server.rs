//! A server process of its own for each test, on free ports, and a small client for it.

use std::future::poll_fn;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) admin: String,
    pub(crate) http: reqwest::Client,
    log: Arc<Mutex<Vec<String>>>,
}

/// A streamed answer: its text, how it ended, and the raw events.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Streamed {
    pub(crate) text: String,
    pub(crate) finish_reason: Option<String>,
    pub(crate) error: Option<Value>,
    pub(crate) events: Vec<String>,
}

pub(crate) fn sluice() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sluice"))
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    sluice().args(arguments).output().unwrap()
}

/// TLS needs to be told who does its cryptography; a second time changes nothing.
fn http_client() -> reqwest::Client {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    pub(crate) fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = sluice()
            .args(["serve", "--port", "0", "--admin-port", "0", "--served-model-name", "sluice"])
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        keep(child.stdout.take().unwrap(), &log);
        keep(child.stderr.take().unwrap(), &log);
        let (url, admin) = listening(&mut child, &log);
        Self { child, url, admin, http: http_client(), log }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.http.post(format!("{}{path}", self.url)).json(body).timeout(PATIENCE).send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.http.get(format!("{}{path}", self.url)).timeout(PATIENCE).send().await.unwrap()
    }

    /// A plain answer to one question, greedily.
    pub(crate) async fn ask(&self, question: &str, max_tokens: u32) -> Value {
        let response = self.post("/v1/chat/completions", &chat(question, max_tokens)).await;
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    pub(crate) async fn stream(&self, question: &str, max_tokens: u32) -> Streamed {
        let mut body = chat(question, max_tokens);
        body["stream"] = json!(true);
        let response = self.post("/v1/chat/completions", &body).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
        read_stream(response).await
    }

    pub(crate) async fn deploy(&self, component: &[u8], query: &[(&str, &str)]) -> (StatusCode, Value) {
        let request = self.http.post(format!("{}/admin/policies", self.admin)).query(query).timeout(PATIENCE);
        let response =
            request.header("content-type", "application/wasm").body(component.to_vec()).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Deploys what must be deployable.
    pub(crate) async fn install(&self, component: &[u8], config: &str) -> Value {
        let (status, body) = self.deploy(component, &[("config", config)]).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    pub(crate) async fn rollback(&self, slot: &str) -> (StatusCode, Value) {
        let url = format!("{}/admin/policies/{slot}/rollback", self.admin);
        let response = self.http.post(url).timeout(PATIENCE).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// The report of one slot.
    pub(crate) async fn slot(&self, slot: &str) -> Value {
        let response = self.http.get(format!("{}/admin/policies", self.admin)).send().await.unwrap();
        let body: Value = response.json().await.unwrap();
        body["slots"].as_array().unwrap().iter().find(|report| report["slot"] == slot).unwrap().clone()
    }

    pub(crate) async fn active(&self, slot: &str) -> String {
        self.slot(slot).await["seats"][0]["active"].as_str().unwrap_or("native").to_owned()
    }

    pub(crate) async fn history(&self) -> Vec<Value> {
        let response = self.http.get(format!("{}/admin/history", self.admin)).send().await.unwrap();
        let body: Value = response.json().await.unwrap();
        body["entries"].as_array().unwrap().clone()
    }

    /// The sum of a metric over its labels, those that hold `label` only.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let mine = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        };
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        text.lines().filter(mine).map(value).sum()
    }

    /// Waits until nothing runs or waits, then demands that no KV block is in use.
    pub(crate) async fn assert_idle_and_empty(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut busy = self.metric("sluice_http_answers_in_progress", "").await;
            for name in [
                "sluice_requests_running",
                "sluice_requests_waiting",
                "sluice_queue_requests",
                "sluice_kv_cache_usage_ratio",
            ] {
                busy += self.metric(name, "").await;
            }
            if busy == 0.0 {
                return;
            }
            assert!(Instant::now() < deadline, "still busy: {}", self.get("/metrics").await.text().await.unwrap());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the server said:\n{}", self.log());
        }
    }
}

pub(crate) fn chat(question: &str, max_tokens: u32) -> Value {
    json!({
        "model": "sluice",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": max_tokens,
    })
}

pub(crate) fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

/// Reads server-sent events to their end, checking their form.
pub(crate) async fn read_stream(response: Response) -> Streamed {
    let body = response.text().await.unwrap();
    assert!(body.ends_with("data: [DONE]\n\n"), "{body:?}");
    let mut streamed = Streamed::default();
    for event in body.trim_end_matches("\n\n").split("\n\n").filter(|event| !event.starts_with(':')) {
        let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("not an event: {event:?}"));
        streamed.events.push(data.to_owned());
        if data == "[DONE]" {
            continue;
        }
        let chunk: Value = serde_json::from_str(data).unwrap();
        if let Some(error) = chunk.get("error") {
            streamed.error = Some(error.clone());
        } else if let Some(choice) = chunk["choices"].get(0) {
            streamed.text += choice["delta"]["content"].as_str().unwrap_or("");
            if let Some(reason) = choice["finish_reason"].as_str() {
                streamed.finish_reason = Some(reason.to_owned());
            }
        }
    }
    streamed
}

/// All of them at once, on this task.
pub(crate) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    poll_fn(move |context| {
        for (future, output) in waiting.iter_mut().zip(&mut outputs).filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(ready) = future.as_mut().poll(context) {
                *output = Some(ready);
            }
        }
        match outputs.iter().all(Option::is_some) {
            true => Poll::Ready(outputs.iter_mut().filter_map(Option::take).collect()),
            false => Poll::Pending,
        }
    })
    .await
}

/// A shipped policy's component.
pub(crate) fn shipped(name: &str) -> &'static [u8] {
    sluice_bundle::shipped(name).unwrap().component
}

/// Writes a file into a fresh temporary folder.
pub(crate) fn file(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn keep(stream: impl std::io::Read + Send + 'static, log: &Arc<Mutex<Vec<String>>>) {
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            log.lock().unwrap().push(line);
        }
    });
}

/// The two addresses that the program prints, the API's first.
fn listening(child: &mut Child, log: &Arc<Mutex<Vec<String>>>) -> (String, String) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found: Vec<String> = Vec::new();
        for line in log.lock().unwrap().iter() {
            for word in line.split_whitespace().filter(|word| word.starts_with("http")) {
                let Some((scheme, rest)) = word.split_once("://127.0.0.1:") else { continue };
                let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                let url = format!("{scheme}://127.0.0.1:{port}");
                if !found.contains(&url) {
                    found.push(url);
                }
            }
        }
        if let [url, admin, ..] = found.as_slice() {
            return (url.clone(), admin.clone());
        }
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none() && Instant::now() < deadline, "no server:\n{}", log.lock().unwrap().join("\n"));
        thread::sleep(Duration::from_millis(10));
    }
}
