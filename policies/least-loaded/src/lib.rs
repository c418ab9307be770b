//! Routing: the replica with the least outstanding work.
