//! End-to-end tests over real HTTP, hostile guests, and the test of the layers.
