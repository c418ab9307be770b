//! Routing: the better of two replicas drawn at random.
