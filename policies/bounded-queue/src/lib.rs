//! Admission: a queue bounded by requests and prompt tokens.
