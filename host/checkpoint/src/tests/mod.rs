//! Files of every layout that is read: good ones against what made them, bad ones against what they are told.

mod bitsandbytes;
mod damage;
mod folder;
mod gguf;
mod mutations;
