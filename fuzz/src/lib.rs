//! What the fuzz targets share: a place for a file, a policy that does nothing, a server, and what a text side is asked.

mod idle;
mod model;
mod probe;
mod scratch;
mod server;

pub use idle::Idle;
pub use probe::use_text;
pub use scratch::Scratch;
pub use server::Server;
