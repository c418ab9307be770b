//! Who asks: accounted as one tenant, with a share of the service and a cache of its own.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sluice_core::{Digest, TenantId};

use crate::key::Key;
use crate::parameters::first_word;

/// Stands in the extensions of every request that a router lets pass.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    /// Share of the service that it is due, relative to the others'.
    pub(crate) weight: f64,
    /// Part of all hashes of this caller's blocks.
    pub(crate) salt: Vec<u8>,
    /// The key's name; `None` where no key is asked for.
    name: Option<Arc<str>>,
}

impl Caller {
    /// Where no key is asked for, the one that is sent tells tenants apart all the same.
    pub(crate) fn unchecked(headers: &HeaderMap) -> Self {
        match headers.get(AUTHORIZATION) {
            None => Self { tenant: TenantId(0), weight: 1.0, salt: Vec::new(), name: None },
            Some(key) => Self::known_by(key.as_bytes(), 1.0, None),
        }
    }

    /// Two secrets of one name are one caller: the old and the new one while a key is replaced.
    pub(crate) fn with(key: &Key) -> Self {
        Self::known_by(key.name().as_bytes(), key.weight(), Some(Arc::clone(key.name())))
    }

    /// `None` where no key is asked for.
    pub(crate) fn key_name(&self) -> Option<Arc<str>> {
        self.name.clone()
    }

    /// For whoever reads later who has done what.
    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("admin")
    }

    fn known_by(mark: &[u8], weight: f64, name: Option<Arc<str>>) -> Self {
        let digest = Digest::of(mark);
        Self { tenant: TenantId(first_word(&digest)), weight, salt: digest.0.to_vec(), name }
    }
}
