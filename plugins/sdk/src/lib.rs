//! What a policy author depends on: rows, a trait per decision, and the export macros.
