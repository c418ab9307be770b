//! Files of every layout that is read: good ones against what made them, bad ones against what they are told.

mod allocations;
mod bitsandbytes;
mod damage;
mod folder;
mod gguf;
mod gguf_made;
mod loading;
mod mutations;

/// More than any of the small files here has in it: who asks for more believed a length that was a lie.
const ALLOCATION: usize = 256 << 10;
