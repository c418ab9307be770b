//! Tokenising, incremental detokenising, stop strings and chat templates.
