//! Makes the engine's requests of what was prepared, one for every choice, and offers them together.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_core::{Nanos, Request, RequestId, SamplingParams, split_mix};

use crate::answer::{Answer, Progress};
use crate::answers::{Answers, Asked};
use crate::caller::Caller;
use crate::channel::{Sender, channel};
use crate::edge::Edge;
use crate::error::ApiError;
use crate::logprobs::Logprobs;
use crate::object::{Endpoint, Header};
use crate::prepare::{Prepared, PreparedPrompt};
use crate::request_id::RequestName;
use crate::watch::Watch;

/// Who asks, by which name and since when.
pub(crate) struct Asker {
    pub(crate) caller: Caller,
    pub(crate) name: RequestName,
    /// When the request's line and headers were there: its body and what is made of it take of its time.
    pub(crate) arrival: Nanos,
    /// Runs since then.
    pub(crate) watch: Watch,
}

/// A request that is being answered.
pub(crate) struct Offered {
    pub(crate) answers: Answers,
    pub(crate) header: Header,
    /// Of each choice, where they were asked for; what is known of an echo before it is in them.
    pub(crate) logprobs: Vec<Option<Logprobs>>,
}

/// What tells one engine request from the others of its request.
struct Own {
    id: RequestId,
    seed: u64,
    arrival: Nanos,
    sink: Sender,
}

impl Asker {
    /// Whose request has just arrived.
    pub(crate) fn new(edge: &Edge, caller: Caller, name: RequestName) -> Self {
        Self { caller, name, arrival: edge.parts.pool.now(), watch: Watch::new(edge.config.answers) }
    }
}

impl Edge {
    /// Hands a request to the engine, and waits until it is decided whether it is answered.
    pub(crate) async fn offer(
        &self,
        endpoint: Endpoint,
        asker: Asker,
        prepared: Prepared,
    ) -> Result<Offered, ApiError> {
        let choices = prepared.prompts.len() as u64 * u64::from(prepared.parameters.choices());
        let first = self.next_id.fetch_add(choices, Ordering::Relaxed);
        let mut requests = Vec::new();
        let mut answers = Vec::new();
        for (id, (prompt, choice)) in (first..).map(RequestId).zip(places(&prepared)) {
            let (sink, answer) = self.answer(id, &prepared, prompt)?;
            let own = Own { id, seed: self.seed(id, &prepared, choice), arrival: asker.arrival, sink };
            requests.push(request(own, &asker.caller, &prepared, prompt));
            answers.push(answer);
        }
        let logprobs = self.logprobs(endpoint, &prepared);
        // Made before the offer: from here on, whatever happens, the request is followed to its end or cancelled.
        let mut answers = self.answers(asker, &prepared, answers);
        self.parts.pool.offer_all(requests).map_err(|_| answers.fail(ApiError::stopped()))?;
        answers.begin().await?;
        Ok(Offered { answers, header: self.header(endpoint, first), logprobs })
    }

    fn header(&self, endpoint: Endpoint, id: u64) -> Header {
        Header {
            endpoint,
            id: format!("{}-{:016x}{id:016x}", endpoint.id_prefix(), self.config.seed),
            created_unix: (self.parts.unix_time)(),
            model: self.config.model.name.clone(),
        }
    }

    fn answer(
        &self,
        id: RequestId,
        prepared: &Prepared,
        prompt: &PreparedPrompt,
    ) -> Result<(Sender, Answer), ApiError> {
        let parameters = &prepared.parameters;
        let decoder = self.parts.text.decoder(&parameters.stop, parameters.include_stop, parameters.min_new_tokens)?;
        let (sender, receiver) = channel(self.config.limits.unread_tokens, self.wakes.handover());
        let live = self.live.enter(id, receiver.shared()).map_err(|_| ApiError::stopping())?;
        let answer = Answer {
            id,
            pool: self.parts.pool.clone(),
            receiver,
            decoder,
            echo: prompt.echo.clone(),
            silent: parameters.makes_nothing(),
            progress: Progress::default(),
            live,
        };
        Ok((sender, answer))
    }

    fn answers(&self, asker: Asker, prepared: &Prepared, choices: Vec<Answer>) -> Answers {
        let tokens = |prompt: &PreparedPrompt| u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
        let asked = Asked {
            name: asker.name,
            tenant: asker.caller.key_name(),
            pool: self.parts.pool.clone(),
            metrics: Arc::clone(&self.parts.metrics),
            arrival: asker.arrival,
            prompt_tokens: prepared.prompts.iter().map(tokens).fold(0, u32::saturating_add),
            n: prepared.parameters.choices() as usize,
        };
        let _counted = self.parts.metrics.edge.answer();
        Answers { asked, choices, watch: asker.watch, first: None, closed: false, _counted }
    }

    /// The first choice is the answer that would have come alone.
    fn seed(&self, id: RequestId, prepared: &Prepared, choice: u32) -> u64 {
        let Some(seed) = prepared.parameters.seed else { return split_mix(&mut (self.config.seed ^ id.0)) };
        let mut state = seed;
        (0..choice).fold(seed, |_, _| split_mix(&mut state))
    }

    /// For each choice; nothing can predict the first token of an echo.
    fn logprobs(&self, endpoint: Endpoint, prepared: &Prepared) -> Vec<Option<Logprobs>> {
        let of_choice = |(prompt, _): (&PreparedPrompt, u32)| {
            let top = prepared.parameters.logprobs?;
            let mut logprobs = Logprobs::new(Arc::clone(&self.parts.text), endpoint, top);
            if let (true, Some(first)) = (prompt.echo.is_some(), prompt.tokens.first()) {
                logprobs.add_first(*first);
            }
            Some(logprobs)
        };
        places(prepared).map(of_choice).collect()
    }
}

/// All choices of the first prompt, then all of the second, and so on.
fn places(prepared: &Prepared) -> impl Iterator<Item = (&PreparedPrompt, u32)> {
    let choices = prepared.parameters.choices();
    prepared.prompts.iter().flat_map(move |prompt| (0..choices).map(move |choice| (prompt, choice)))
}

fn request(own: Own, caller: &Caller, prepared: &Prepared, prompt: &PreparedPrompt) -> Request {
    let parameters = &prepared.parameters;
    Request {
        id: own.id,
        tenant: caller.tenant,
        tenant_weight: caller.weight,
        session: parameters.session,
        priority: parameters.priority,
        arrival: own.arrival,
        deadline: parameters.time_limit.map(|limit| own.arrival.saturating_add(limit)),
        ttft_target: parameters.ttft_target,
        tpot_target: parameters.tpot_target,
        prompt: Arc::clone(&prompt.tokens),
        hashes: Arc::clone(&prompt.hashes),
        max_new_tokens: prompt.max_new_tokens,
        stop_tokens: Arc::clone(&prepared.stop_tokens),
        min_new_tokens: parameters.min_new_tokens,
        sampling: SamplingParams { seed: own.seed, ..prepared.sampling.clone() },
        prompt_logprobs: parameters.logprobs.filter(|_| parameters.echo),
        attempt: 1,
        sink: Arc::new(own.sink),
    }
}
