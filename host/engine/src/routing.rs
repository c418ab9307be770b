//! Routing's native rule, the replica with the fewest tokens in flight, and the table that a policy sees.

use sluice_core::view::{ReplicaTable, UNKNOWN};
use sluice_core::{BlockHash, Nanos};

use crate::roster::Replica;

pub(crate) fn least_loaded(replicas: &[Replica], is_open: impl Fn(&Replica) -> bool) -> Option<usize> {
    let open = replicas.iter().enumerate().filter(|(_, replica)| is_open(replica));
    open.min_by_key(|(index, replica)| (replica.in_flight_tokens, *index)).map(|(index, _)| index)
}

pub(crate) fn fill(table: &mut ReplicaTable, replicas: &[Replica], hashes: &[BlockHash], now: Nanos) {
    table.clear();
    for (index, replica) in replicas.iter().enumerate() {
        let report = &replica.report;
        table.id.push(u32::try_from(index).unwrap_or(u32::MAX));
        table.state.push(replica.state);
        table.in_flight_requests.push(replica.in_flight);
        table.in_flight_tokens.push(replica.in_flight_tokens);
        table.running.push(report.running);
        table.waiting.push(report.waiting);
        table.waiting_uncached_tokens.push(report.waiting_uncached_tokens);
        table.kv_used.push(f64::from(report.blocks_held) / f64::from(report.blocks_total.max(1)));
        table.kv_capacity_tokens.push(u64::from(report.blocks_total) * u64::from(report.block_tokens));
        table.tokens_per_second.push(report.tokens_per_second);
        table.ttft_average.push(report.ttft_average.unwrap_or(UNKNOWN));
        table.tpot_average.push(report.tpot_average.unwrap_or(UNKNOWN));
        table.error_rate.push(report.error_rate);
        table.cached_prefix_tokens.push(replica.cached_prefix_tokens(hashes));
        table.age.push(now.saturating_sub(report.at));
    }
}
