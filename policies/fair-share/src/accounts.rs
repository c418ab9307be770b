//! One virtual counter per tenant, bounded in number, as bytes for a successor.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use sluice_sdk::state::{Reader, Writer};

/// A full table gives up this part of its tenants at once, so that what looking for them costs is shared by as many
/// newcomers.
const EVICTED: usize = 16;

/// What a tenant was served, in weighted tokens divided by its weight.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Account {
    pub(crate) counter: f64,
    /// Prompt tokens charged at dispatch for requests that have not ended yet.
    pub(crate) ahead: u64,
    pub(crate) weight: f64,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Accounts {
    by_tenant: BTreeMap<u64, Account>,
    capacity: usize,
    /// The counter of whoever was charged last: where time stands when nobody waits.
    pub(crate) now: f64,
}

impl Accounts {
    pub(crate) fn new(capacity: u32) -> Self {
        Self { by_tenant: BTreeMap::new(), capacity: capacity.max(1) as usize, now: 0.0 }
    }

    pub(crate) fn counter(&self, tenant: u64) -> f64 {
        self.by_tenant.get(&tenant).map_or(self.now, |account| account.counter)
    }

    /// Who is not known yet starts where time stands.
    pub(crate) fn open(&mut self, tenant: u64, weight: f64) -> &mut Account {
        if self.by_tenant.len() >= self.capacity && !self.by_tenant.contains_key(&tenant) {
            self.keep(self.capacity - (self.capacity / EVICTED).max(1));
        }
        let now = self.now;
        let account = self.by_tenant.entry(tenant).or_insert(Account { counter: now, ahead: 0, weight: 1.0 });
        if weight.is_finite() && weight > 0.0 {
            account.weight = weight;
        }
        account
    }

    pub(crate) fn charge(&mut self, tenant: u64, cost: impl FnOnce(&mut Account) -> f64) {
        let weight = self.by_tenant.get(&tenant).map_or(1.0, |account| account.weight);
        let account = self.open(tenant, weight);
        account.counter += cost(account) / account.weight;
        self.now = account.counter;
    }

    /// Of so many tenants at most. The smallest counters go: they would be lifted on their return anyway, so nothing is
    /// forgiven.
    fn keep(&mut self, most: usize) {
        let mut ranks: Vec<_> = self.by_tenant.iter().map(|(tenant, account)| (account.counter, *tenant)).collect();
        let Some(last) = ranks.len().checked_sub(most + 1) else { return };
        let (_, &mut last_to_go, _) = ranks.select_nth_unstable_by(last, by_counter);
        self.by_tenant.retain(|tenant, account| by_counter(&(account.counter, *tenant), &last_to_go).is_gt());
    }

    pub(crate) fn export(&self, state: &mut Writer) {
        state.f64(self.now);
        state.u64(self.by_tenant.len() as u64);
        for (tenant, account) in &self.by_tenant {
            state.u64(*tenant);
            state.f64(account.counter);
            state.u64(account.ahead);
            state.f64(account.weight);
        }
    }

    /// `None` where the rest of the state is not what `export` writes. What exceeds the capacity is evicted.
    pub(crate) fn import(state: &mut Reader<'_>, capacity: u32) -> Option<Self> {
        let mut accounts = Self { now: finite(state.f64()?)?, ..Self::new(capacity) };
        for _ in 0..state.u64()? {
            let tenant = state.u64()?;
            let counter = finite(state.f64()?)?;
            let ahead = state.u64()?;
            let weight = finite(state.f64()?).filter(|weight| *weight > 0.0)?;
            accounts.by_tenant.insert(tenant, Account { counter, ahead, weight });
        }
        accounts.keep(accounts.capacity);
        state.is_empty().then_some(accounts)
    }
}

/// Tenants by their counters, and no two alike.
fn by_counter(a: &(f64, u64), b: &(f64, u64)) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(accounts: &Accounts) -> Vec<u64> {
        accounts.by_tenant.keys().copied().collect()
    }

    #[test]
    fn the_table_is_bounded_and_gives_up_the_smallest_counter() {
        let mut accounts = Accounts::new(2);
        for (tenant, cost) in [(1, 50.0), (2, 10.0), (3, 99.0)] {
            accounts.now = 0.0;
            accounts.charge(tenant, |_| cost);
        }
        assert_eq!(tenants(&accounts), [1, 3]);
    }

    #[test]
    fn a_large_table_gives_up_a_part_of_the_smallest_counters_at_once() {
        let mut accounts = Accounts::new(64);
        (1..=65).for_each(|tenant| accounts.open(tenant, 1.0).counter = tenant as f64);
        assert_eq!(tenants(&accounts), (5..=65).collect::<Vec<_>>());
    }

    #[test]
    fn a_smaller_table_imports_the_largest_counters() {
        let mut accounts = Accounts::new(4);
        [(1, 9.0), (2, 3.0), (3, 7.0), (4, 1.0)]
            .into_iter()
            .for_each(|(tenant, counter)| accounts.open(tenant, 1.0).counter = counter);
        let mut state = Writer::default();
        accounts.export(&mut state);
        let bytes = state.finish();
        for (capacity, kept) in [(1, vec![1]), (2, vec![1, 3]), (4, vec![1, 2, 3, 4])] {
            assert_eq!(tenants(&Accounts::import(&mut Reader::new(&bytes), capacity).unwrap()), kept);
        }
    }

    #[test]
    fn what_is_exported_is_imported_and_anything_else_is_refused() {
        let mut accounts = Accounts::new(4);
        accounts.open(1, 2.0).ahead = 7;
        accounts.charge(1, |_| 3.0);
        accounts.charge(2, |_| 1.0);
        let mut state = Writer::default();
        accounts.export(&mut state);
        let bytes = state.finish();
        let import = |bytes: &[u8], capacity| Accounts::import(&mut Reader::new(bytes), capacity);
        assert_eq!(import(&bytes, 4), Some(accounts));
        assert_eq!(import(&bytes[..bytes.len() - 1], 4), None);
        assert_eq!(import(&[], 4), None);
        assert_eq!(import(&f64::NAN.to_le_bytes(), 4), None);
    }
}
