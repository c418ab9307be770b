//! The four decisions, each with how it is asked for and how it is checked. The guard knows no more of them.

use sluice_core::view::{ArrivalView, BatchingView, FlowView, RoutingView};
use sluice_core::{
    AdmissionPolicy, BatchingDecision, BatchingPolicy, NextFlow, Policy, PolicyFault, Route, RoutingPolicy, Verdict,
};

use crate::check;
use crate::codec::Codec;

pub trait Decide {
    type Policy: Policy + ?Sized;
    type View: Codec;
    type Decision: Codec + std::fmt::Debug;

    /// Stands for this kind of decision in a recording.
    const TAG: u8;

    fn ask(policy: &mut Self::Policy, view: &Self::View) -> Result<Self::Decision, PolicyFault>;

    /// Why the decision cannot be carried out, if it cannot.
    fn check(view: &Self::View, decision: &Self::Decision) -> Result<(), String>;
}

/// May this request come in?
pub struct Admit;
/// Which flow is served next?
pub struct Next;
/// Which replica takes it?
pub struct Rank;
/// What does the next step compute?
pub struct Plan;

macro_rules! decide {
    ($($name:ident = $tag:literal: dyn $policy:ident, $method:ident($view:ident) -> $decision:ident, $check:ident;)*) => {$(
        impl Decide for $name {
            type Policy = dyn $policy;
            type View = $view;
            type Decision = $decision;

            const TAG: u8 = $tag;

            fn ask(policy: &mut Self::Policy, view: &$view) -> Result<$decision, PolicyFault> {
                policy.$method(view)
            }

            fn check(view: &$view, decision: &$decision) -> Result<(), String> {
                check::$check(view, decision)
            }
        }
    )*};
}

decide! {
    Admit = 1: dyn AdmissionPolicy, admit(ArrivalView) -> Verdict, verdict;
    Next = 2: dyn AdmissionPolicy, next(FlowView) -> NextFlow, next_flow;
    Rank = 3: dyn RoutingPolicy, rank(RoutingView) -> Route, route;
    Plan = 4: dyn BatchingPolicy, plan(BatchingView) -> BatchingDecision, batching;
}
