//! Who asks: accounted as one tenant, with a cache of its own.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sluice_core::{Digest, TenantId};

use crate::parameters::first_word;

pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    /// Part of all hashes of this caller's blocks.
    pub(crate) salt: Vec<u8>,
}

impl Caller {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match headers.get(AUTHORIZATION) {
            None => Self { tenant: TenantId(0), salt: Vec::new() },
            Some(key) => {
                let digest = Digest::of(key.as_bytes());
                Self { tenant: TenantId(first_word(&digest)), salt: digest.0.to_vec() }
            }
        }
    }
}
