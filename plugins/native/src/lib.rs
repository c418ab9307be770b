//! Runs a policy natively: maps the host's views to the SDK's rows.
