//! All answers to one request: they begin, are late and fail together.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use sluice_core::{MILLISECOND, Nanos};
use sluice_engine::handle::PoolHandle;
use sluice_telemetry::{Counted, Metrics};

use crate::answer::{Answer, Part};
use crate::error::ApiError;
use crate::live::LiveAnswer;
use crate::request_id::RequestName;
use crate::watch::{Due, Watch};

/// Whoever drops it before its end has cancelled all of them.
pub(crate) struct Answers {
    pub(crate) asked: Asked,
    /// First all to the first prompt, then all to the second, and so on.
    pub(crate) choices: Vec<Answer>,
    pub(crate) watch: Watch,
    /// When something came first.
    pub(crate) first: Option<Nanos>,
    /// How it ended was told.
    pub(crate) closed: bool,
    pub(crate) _counted: Counted,
}

/// The request that they answer.
pub(crate) struct Asked {
    pub(crate) name: RequestName,
    /// The name of the key that it came with.
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) pool: PoolHandle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) arrival: Nanos,
    /// Of all prompts together.
    pub(crate) prompt_tokens: u32,
    /// Answers to each prompt.
    pub(crate) n: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: u32,
    pub(crate) completion: u32,
    pub(crate) cached: u32,
}

/// What came of waiting for the answers.
pub(crate) enum Step {
    /// Parts, and more will come.
    Some,
    /// Nothing for a while.
    Quiet,
    Finished(Usage),
    Failed(ApiError),
}

impl Answers {
    /// Waits until it is decided whether the request gets an answer at all, while an error can still be a status.
    pub(crate) async fn begin(&mut self) -> Result<(), ApiError> {
        poll_fn(|cx| self.poll_begin(cx)).await
    }

    /// They count as being made as long as these live.
    pub(crate) fn live(&self) -> Vec<Arc<LiveAnswer>> {
        self.choices.iter().map(|choice| Arc::clone(&choice.live)).collect()
    }

    /// Gives what has come to `write`, each part with the number of its choice.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, write: &mut dyn FnMut(usize, Part<'_>)) -> Poll<Step> {
        let mut some = false;
        let mut failure = None;
        for (index, choice) in self.choices.iter_mut().enumerate().filter(|(_, choice)| choice.ended().is_none()) {
            match choice.poll(cx, &mut |part| write(index, part)) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => some = true,
                Poll::Ready(Err(error)) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            return Poll::Ready(Step::Failed(self.fail(error)));
        }
        if some {
            self.watch.progressed();
            let all = self.choices.iter().all(|choice| choice.ended().is_some());
            return Poll::Ready(if all { Step::Finished(self.finish()) } else { Step::Some });
        }
        self.watch.poll(cx).map(|due| match due {
            Due::SignOfLife => Step::Quiet,
            Due::Late(what) => Step::Failed(self.fail(ApiError::timed_out(what))),
        })
    }

    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ApiError>> {
        let mut begun = false;
        let mut refusal = None;
        for choice in &mut self.choices {
            match choice.begun(cx) {
                Ok(some) => begun |= some,
                Err(error) => refusal = Some(error),
            }
        }
        if let Some(error) = refusal {
            return Poll::Ready(Err(self.fail(error)));
        }
        if begun {
            self.first = Some(self.asked.pool.now());
            self.watch.progressed();
            return Poll::Ready(Ok(()));
        }
        match self.watch.poll(cx) {
            Poll::Ready(Due::Late(what)) => Poll::Ready(Err(self.fail(ApiError::timed_out(what)))),
            Poll::Ready(Due::SignOfLife) | Poll::Pending => Poll::Pending,
        }
    }

    fn finish(&mut self) -> Usage {
        let usage = self.usage();
        self.close("request finished", self.reason());
        usage
    }

    /// What is left of the others is of no use.
    pub(crate) fn fail(&mut self, error: ApiError) -> ApiError {
        self.close("request failed", error.code());
        self.choices.clear();
        if let Some(timeout) = error.timeout() {
            self.asked.metrics.edge.timed_out(timeout);
        }
        error
    }

    /// Several answers to one prompt read it once.
    fn usage(&self) -> Usage {
        let cached = |choice: &Answer| choice.ended().map_or(0, |ended| ended.cached_tokens);
        Usage {
            prompt: self.asked.prompt_tokens,
            completion: self.choices.iter().map(Answer::completion_tokens).fold(0, u32::saturating_add),
            cached: self.choices.iter().step_by(self.asked.n.max(1)).map(cached).fold(0, u32::saturating_add),
        }
    }

    fn reason(&self) -> &'static str {
        let mut reasons = self.choices.iter().filter_map(|choice| choice.ended().map(|ended| ended.reason));
        let first = reasons.next().unwrap_or("stop");
        if reasons.all(|reason| reason == first) { first } else { "several" }
    }

    fn close(&mut self, message: &str, how: &str) {
        self.closed = true;
        let asked = &self.asked;
        let milliseconds = |until: Nanos| until.saturating_sub(asked.arrival) / MILLISECOND;
        let Usage { prompt, completion, cached } = self.usage();
        tracing::info!(
            request_id = %asked.name,
            tenant = asked.tenant.as_deref(),
            choices = self.choices.len(),
            prompt_tokens = prompt,
            completion_tokens = completion,
            cached_tokens = cached,
            first_token_ms = self.first.map(milliseconds),
            total_ms = milliseconds(asked.pool.now()),
            how,
            "{message}"
        );
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if !self.closed {
            self.close("request aborted", "the connection ended");
        }
    }
}
