//! Builds the shipped policies into components when the host is built, and embeds them.
