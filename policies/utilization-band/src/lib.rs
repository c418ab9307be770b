//! Batching: the 70/85 utilisation rule.
