//! Two buckets per tenant, bounded in number: requests, and tokens. They fill with time and are never more than full.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use sluice_sdk::state::{Reader, Writer};
use sluice_sdk::{Nanos, SECOND};

/// A full table gives up this part of its tenants at once, so that what looking for them costs is shared by as many
/// newcomers.
const EVICTED: usize = 16;
/// Rounding may leave a bucket so much short of what it holds.
const ROUNDING: f64 = 1e-6;

/// How a bucket fills.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Rate {
    /// Without a rate there is no limit.
    pub(crate) per_second: Option<f64>,
    /// What it holds when it is full.
    pub(crate) burst: f64,
}

impl Rate {
    /// A level, so much later. It is not above the burst, whatever was given back.
    fn filled(&self, level: f64, seconds: f64, weight: f64) -> f64 {
        let gained = self.per_second.unwrap_or(0.0) * weight * seconds;
        (level + gained).min(self.burst * weight)
    }

    /// Seconds until the level allows a cost; nothing where it does now. What costs more than a full bucket holds
    /// passes when it is full, and leaves a debt.
    fn wait(&self, level: f64, cost: f64, weight: f64) -> f64 {
        let lacking = cost.min(self.burst * weight) - level;
        match self.per_second {
            Some(per_second) if lacking > ROUNDING => lacking / (per_second * weight),
            _ => 0.0,
        }
    }
}

/// What a tenant has left, below nothing after a request that cost more than there was.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Bucket {
    requests: f64,
    tokens: f64,
    weight: f64,
    at: Nanos,
}

/// What a request costs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Cost {
    pub(crate) requests: f64,
    pub(crate) tokens: f64,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Buckets {
    by_tenant: BTreeMap<u64, Bucket>,
    requests: Rate,
    tokens: Rate,
    capacity: usize,
}

impl Buckets {
    pub(crate) fn new(requests: Rate, tokens: Rate, capacity: u32) -> Self {
        Self { by_tenant: BTreeMap::new(), requests, tokens, capacity: capacity.max(1) as usize }
    }

    /// How long until the tenant may send what costs this: nothing if it may now.
    pub(crate) fn wait(&mut self, tenant: u64, weight: f64, cost: Cost, now: Nanos) -> Nanos {
        let (requests, tokens) = (self.requests, self.tokens);
        let bucket = self.open(tenant, weight, now);
        let seconds = requests.wait(bucket.requests, cost.requests, bucket.weight);
        let seconds = seconds.max(tokens.wait(bucket.tokens, cost.tokens, bucket.weight));
        (seconds * SECOND as f64).ceil() as Nanos
    }

    pub(crate) fn take(&mut self, tenant: u64, weight: f64, cost: Cost, now: Nanos) {
        let bucket = self.open(tenant, weight, now);
        bucket.requests -= cost.requests;
        bucket.tokens -= cost.tokens;
    }

    /// Gives back what was not used. Who is not known any more has full buckets.
    pub(crate) fn refund(&mut self, tenant: u64, cost: Cost) {
        if let Some(bucket) = self.by_tenant.get_mut(&tenant) {
            bucket.requests = (bucket.requests + cost.requests).min(self.requests.burst * bucket.weight);
            bucket.tokens = (bucket.tokens + cost.tokens).min(self.tokens.burst * bucket.weight);
        }
    }

    /// A tenant's buckets as they stand now. Who is not known starts with full ones.
    fn open(&mut self, tenant: u64, weight: f64, now: Nanos) -> &mut Bucket {
        if self.by_tenant.len() >= self.capacity && !self.by_tenant.contains_key(&tenant) {
            self.keep(self.capacity - (self.capacity / EVICTED).max(1), now);
        }
        let weight = if weight.is_finite() && weight > 0.0 { weight } else { 1.0 };
        let (requests, tokens) = (self.requests, self.tokens);
        let full = Bucket { requests: requests.burst * weight, tokens: tokens.burst * weight, weight, at: now };
        let bucket = self.by_tenant.entry(tenant).or_insert(full);
        let seconds = now.saturating_sub(bucket.at) as f64 / SECOND as f64;
        bucket.requests = requests.filled(bucket.requests, seconds, weight);
        bucket.tokens = tokens.filled(bucket.tokens, seconds, weight);
        (bucket.weight, bucket.at) = (weight, now.max(bucket.at));
        bucket
    }

    /// Of so many tenants at most. Those who have most left go: the least is forgiven.
    fn keep(&mut self, most: usize, now: Nanos) {
        let (requests, tokens) = (self.requests, self.tokens);
        let left = |bucket: &Bucket| {
            let seconds = now.saturating_sub(bucket.at) as f64 / SECOND as f64;
            let share = |rate: &Rate, level| rate.filled(level, seconds, bucket.weight) / (rate.burst * bucket.weight);
            share(&requests, bucket.requests).min(share(&tokens, bucket.tokens))
        };
        let mut ranks: Vec<_> = self.by_tenant.iter().map(|(tenant, bucket)| (left(bucket), *tenant)).collect();
        if ranks.len() <= most {
            return;
        }
        let (_, &mut first_to_go, _) = ranks.select_nth_unstable_by(most, by_what_is_left);
        self.by_tenant.retain(|tenant, bucket| by_what_is_left(&(left(bucket), *tenant), &first_to_go).is_lt());
    }

    pub(crate) fn export(&self, state: &mut Writer) {
        state.u64(self.by_tenant.len() as u64);
        for (tenant, bucket) in &self.by_tenant {
            state.u64(*tenant);
            state.f64(bucket.requests);
            state.f64(bucket.tokens);
            state.f64(bucket.weight);
            state.u64(bucket.at);
        }
    }

    /// `None` where it is not what `export` writes. Levels and the table are held to these bounds, which may be other
    /// ones.
    pub(crate) fn import(&mut self, state: &mut Reader<'_>) -> Option<()> {
        let mut latest = 0;
        for _ in 0..state.u64()? {
            let tenant = state.u64()?;
            let (requests, tokens) = (finite(state.f64()?)?, finite(state.f64()?)?);
            let weight = finite(state.f64()?).filter(|weight| *weight > 0.0)?;
            let at = state.u64()?;
            self.by_tenant.insert(tenant, Bucket { requests, tokens, weight, at });
            self.refund(tenant, Cost { requests: 0.0, tokens: 0.0 });
            latest = latest.max(at);
        }
        self.keep(self.capacity, latest);
        Some(())
    }
}

/// Tenants by the share that they have left, and no two alike.
fn by_what_is_left(a: &(f64, u64), b: &(f64, u64)) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two requests and 100 tokens a second; four requests and 300 tokens at once.
    fn buckets(capacity: u32) -> Buckets {
        let requests = Rate { per_second: Some(2.0), burst: 4.0 };
        Buckets::new(requests, Rate { per_second: Some(100.0), burst: 300.0 }, capacity)
    }

    fn tenants(buckets: &Buckets) -> Vec<u64> {
        buckets.by_tenant.keys().copied().collect()
    }

    fn cost(tokens: f64) -> Cost {
        Cost { requests: 1.0, tokens }
    }

    /// Sends requests of so many tokens until one is refused; how many passed, and how long the next one waits.
    fn check(weight: f64, tokens: f64, expected: (u32, Nanos)) {
        let mut buckets = buckets(8);
        let mut passed = 0;
        while buckets.wait(1, weight, cost(tokens), 0) == 0 {
            buckets.take(1, weight, cost(tokens), 0);
            passed += 1;
        }
        let wait = buckets.wait(1, weight, cost(tokens), 0);
        assert_eq!((passed, wait), expected, "{tokens} tokens each");
        assert!(buckets.wait(1, weight, cost(tokens), wait - SECOND / 1000) > 0, "it says no more than it must");
        assert_eq!(buckets.wait(1, weight, cost(tokens), wait), 0, "and no less");
    }

    #[test]
    fn a_burst_passes_and_what_follows_is_told_when() {
        check(1.0, 10.0, (4, SECOND / 2));
        check(1.0, 100.0, (3, SECOND));
        check(1.0, 200.0, (1, SECOND));
    }

    #[test]
    fn a_tenant_of_twice_the_weight_may_send_twice_as_much() {
        check(2.0, 10.0, (8, SECOND / 4));
        check(2.0, 100.0, (6, SECOND / 2));
    }

    #[test]
    fn a_request_beyond_the_burst_passes_when_the_bucket_is_full_and_leaves_a_debt() {
        check(1.0, 1000.0, (1, 10 * SECOND));
    }

    #[test]
    fn what_is_given_back_can_be_used_and_never_overfills() {
        let mut buckets = buckets(8);
        buckets.take(1, 1.0, cost(300.0), 0);
        assert_eq!(buckets.wait(1, 1.0, cost(100.0), 0), SECOND);
        buckets.refund(1, Cost { requests: 0.0, tokens: 100.0 });
        assert_eq!(buckets.wait(1, 1.0, cost(100.0), 0), 0);
        buckets.refund(1, Cost { requests: 99.0, tokens: 9999.0 });
        assert_eq!(buckets.by_tenant[&1].tokens, 300.0);
        assert_eq!(buckets.by_tenant[&1].requests, 4.0);
        buckets.refund(2, cost(1.0));
        assert_eq!(buckets.by_tenant.len(), 1);
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        let none = Rate { per_second: None, burst: 1.0 };
        let mut buckets = Buckets::new(none, none, 8);
        for _ in 0..100 {
            buckets.take(1, 1.0, cost(1e6), 0);
        }
        assert_eq!(buckets.wait(1, 1.0, cost(1e6), 0), 0);
    }

    #[test]
    fn the_table_is_bounded_and_forgives_least() {
        let mut buckets = buckets(2);
        buckets.take(1, 1.0, cost(300.0), 0);
        buckets.take(2, 1.0, cost(100.0), 0);
        buckets.take(3, 1.0, cost(1.0), 0);
        assert_eq!(tenants(&buckets), [1, 3]);
    }

    #[test]
    fn a_large_table_forgives_those_who_have_most_left_a_part_at_once() {
        let mut buckets = buckets(64);
        (1..=65).for_each(|tenant| buckets.take(tenant, 1.0, cost(300.0 - tenant as f64), 0));
        assert_eq!(tenants(&buckets), (1..=60).chain([65]).collect::<Vec<_>>());
    }

    #[test]
    fn a_smaller_table_imports_those_who_have_least_left() {
        let mut old = buckets(4);
        for (tenant, tokens) in [(1, 300.0), (2, 10.0), (3, 200.0), (4, 1.0)] {
            old.take(tenant, 1.0, Cost { requests: 0.0, tokens }, tenant);
        }
        let mut state = Writer::default();
        old.export(&mut state);
        let bytes = state.finish();
        for (capacity, kept) in [(1, vec![1]), (2, vec![1, 3]), (4, vec![1, 2, 3, 4])] {
            let mut new = buckets(capacity);
            assert!(new.import(&mut Reader::new(&bytes)).is_some());
            assert_eq!(tenants(&new), kept);
        }
    }

    #[test]
    fn a_clock_that_stands_still_or_runs_back_fills_nothing() {
        let mut buckets = buckets(8);
        buckets.take(1, 1.0, cost(300.0), 10 * SECOND);
        assert_eq!(buckets.wait(1, 1.0, cost(100.0), 0), SECOND);
        assert_eq!(buckets.wait(1, 1.0, cost(100.0), 10 * SECOND), SECOND);
    }

    #[test]
    fn what_is_exported_is_imported_and_held_to_new_bounds() {
        let mut old = buckets(8);
        old.take(1, 2.0, cost(500.0), 7);
        old.take(2, 1.0, cost(0.0), 9);
        let mut state = Writer::default();
        old.export(&mut state);
        let bytes = state.finish();
        let mut new = buckets(8);
        assert!(new.import(&mut Reader::new(&bytes)).is_some());
        assert_eq!(new, old);
        assert!(buckets(8).import(&mut Reader::new(&bytes[..bytes.len() - 1])).is_none());
        let tight = Rate { per_second: Some(1.0), burst: 2.0 };
        let mut tight = Buckets::new(tight, tight, 1);
        assert!(tight.import(&mut Reader::new(&bytes)).is_some());
        assert_eq!(tight.by_tenant.len(), 1);
        assert!(tight.by_tenant.values().all(|bucket| bucket.tokens <= 4.0));
    }
}
