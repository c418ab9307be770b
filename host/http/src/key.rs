//! A key: its secret only as a digest, and what it allows.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use sluice_core::Digest;

/// What a key may allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Answers, models and tokens.
    Inference,
    /// What `/metrics` shows.
    Metrics,
    /// Everything on the admin listener.
    Deploy,
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Metrics => "metrics",
            Self::Deploy => "deploy",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Key {
    name: Arc<str>,
    digest: Digest,
    scopes: Vec<Scope>,
    weight: f64,
}

/// An entry of the keys file, as it is written there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyEntry {
    name: String,
    /// Hexadecimal.
    sha256: String,
    scopes: Vec<Scope>,
    weight: Option<f64>,
}

/// What is wrong with one key.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum KeyError {
    #[error("its name must have 1 to {NAME_BYTES} letters, digits, `.`, `_` or `-`")]
    Name,
    #[error("its sha256 must be the 64 hexadecimal digits of the secret's SHA-256")]
    Digest,
    #[error("its scopes are empty: name at least one of \"inference\", \"metrics\" and \"deploy\"")]
    NoScopes,
    #[error("its weight {0} must lie between {LEAST_WEIGHT} and {MOST_WEIGHT}")]
    Weight(f64),
    #[error("its secret must have 1 to {SECRET_BYTES} visible ASCII characters, to fit into a header")]
    Secret,
    #[error("its sha256 is also that of `{0}`: give each entry a secret of its own")]
    SameSecret(String),
    #[error("its weight differs from that of another entry of this name, which is the same caller: make them equal")]
    TwoWeights,
}

const NAME_BYTES: usize = 64;
/// Whatever is presented beyond it is not hashed.
pub(crate) const SECRET_BYTES: usize = 512;
const LEAST_WEIGHT: f64 = 0.001;
const MOST_WEIGHT: f64 = 1000.0;

/// What a keys file has in the secret's place. A digest this quick hides only what cannot be guessed: a secret must be
/// random, of 128 bits or more.
pub fn hash_secret(secret: &str) -> String {
    Digest::of(secret.as_bytes()).to_string()
}

impl Key {
    /// For a secret that does not come from a file; due an equal share of the service.
    pub fn of_secret(name: &str, secret: &str, scopes: &[Scope]) -> Result<Self, KeyError> {
        let visible = secret.bytes().all(|byte| byte.is_ascii_graphic());
        if secret.is_empty() || secret.len() > SECRET_BYTES || !visible {
            return Err(KeyError::Secret);
        }
        Self::checked(name, Digest::of(secret.as_bytes()), scopes.to_vec(), 1.0)
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(crate) fn weight(&self) -> f64 {
        self.weight
    }

    pub(crate) fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    fn checked(name: &str, digest: Digest, scopes: Vec<Scope>, weight: f64) -> Result<Self, KeyError> {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(named) {
            return Err(KeyError::Name);
        }
        if scopes.is_empty() {
            return Err(KeyError::NoScopes);
        }
        if !(LEAST_WEIGHT..=MOST_WEIGHT).contains(&weight) {
            return Err(KeyError::Weight(weight));
        }
        Ok(Self { name: name.into(), digest, scopes, weight })
    }
}

impl KeyEntry {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl TryFrom<KeyEntry> for Key {
    type Error = KeyError;

    fn try_from(entry: KeyEntry) -> Result<Self, KeyError> {
        let digest = parse_digest(&entry.sha256).ok_or(KeyError::Digest)?;
        Self::checked(&entry.name, digest, entry.scopes, entry.weight.unwrap_or(1.0))
    }
}

fn parse_digest(text: &str) -> Option<Digest> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = Digest([0; 32]);
    for (index, byte) in digest.0.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_taken_whole_or_its_fault_is_named() {
        let good = || KeyEntry {
            name: "team-1.a_b".to_owned(),
            sha256: hash_secret("s").to_uppercase(),
            scopes: vec![Scope::Metrics],
            weight: Some(2.5),
        };
        let key = Key::try_from(good()).unwrap();
        assert_eq!((key.digest(), key.weight(), &**key.name()), (&Digest::of(b"s"), 2.5, "team-1.a_b"));
        assert!(key.allows(Scope::Metrics) && !key.allows(Scope::Deploy));
        assert_eq!(Key::try_from(KeyEntry { weight: None, ..good() }).unwrap().weight(), 1.0);
        let long = "x".repeat(NAME_BYTES + 1);
        let cases = [
            (KeyEntry { name: String::new(), ..good() }, KeyError::Name),
            (KeyEntry { name: "a b".to_owned(), ..good() }, KeyError::Name),
            (KeyEntry { name: long, ..good() }, KeyError::Name),
            (KeyEntry { sha256: "ab".to_owned(), ..good() }, KeyError::Digest),
            (KeyEntry { sha256: "é".repeat(32), ..good() }, KeyError::Digest),
            (KeyEntry { scopes: Vec::new(), ..good() }, KeyError::NoScopes),
            (KeyEntry { weight: Some(0.0), ..good() }, KeyError::Weight(0.0)),
            (KeyEntry { weight: Some(f64::INFINITY), ..good() }, KeyError::Weight(f64::INFINITY)),
        ];
        for (entry, error) in cases {
            assert_eq!(Key::try_from(entry), Err(error));
        }
        assert!(Key::try_from(KeyEntry { weight: Some(f64::NAN), ..good() }).is_err());
    }

    #[test]
    fn a_secret_must_fit_into_a_header() {
        let key = |secret: &str| Key::of_secret("n", secret, &[Scope::Inference]);
        assert_eq!(key("token-abc123").unwrap().digest().to_string(), hash_secret("token-abc123"));
        let long = "x".repeat(SECRET_BYTES + 1);
        for secret in ["", "two words", "tab\t", "sécret", &long] {
            assert_eq!(key(secret), Err(KeyError::Secret), "{secret:?}");
        }
    }
}
