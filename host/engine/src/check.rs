//! Whether a decision can be carried out at all. Says why not; changes nothing.

use sluice_core::view::{ArrivalView, BatchingView, FlowView, RoutingView};
use sluice_core::{BatchingDecision, NextFlow, Route, Verdict};

pub fn verdict(_view: &ArrivalView, _verdict: &Verdict) -> Result<(), String> {
    Ok(())
}

pub fn next_flow(_view: &FlowView, _next: &NextFlow) -> Result<(), String> {
    Ok(())
}

pub fn route(_view: &RoutingView, _route: &Route) -> Result<(), String> {
    Ok(())
}

pub fn batching(_view: &BatchingView, _decision: &BatchingDecision) -> Result<(), String> {
    Ok(())
}
