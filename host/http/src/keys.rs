//! All keys of a server, found by their secrets in a time that says nothing about them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use sluice_core::Digest;
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use tokio::sync::watch;

use crate::key::{Key, KeyEntry, KeyError};
use crate::reload::Reloaded;
use crate::serve::Phase;

/// The keys in use. A key that its file no longer has fails from the next request on.
#[derive(Clone)]
pub struct Keys(Option<Arc<Reloaded<KeySet, KeysError>>>);

#[derive(Debug)]
pub(crate) struct KeySet(Vec<Key>);

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("the keys file {file} cannot be read: {reason}")]
    Unreadable { file: PathBuf, reason: io::Error },
    #[error("the keys file {file} has more than {FILE_BYTES} bytes: it should have a few lines per key")]
    TooLarge { file: PathBuf },
    #[error("the keys file {file}: {reason}")]
    Syntax { file: PathBuf, reason: toml::de::Error },
    #[error("the keys file {file} has no [[key]]: add one, or everybody would be locked out")]
    Empty { file: PathBuf },
    #[error("there are {0} keys: the most are {MOST_KEYS}")]
    TooMany(usize),
    #[error("the keys file {file}, entry {number} (`{name}`): {problem}")]
    Entry { file: PathBuf, number: usize, name: String, problem: KeyError },
    #[error("the key `{name}`: {problem}")]
    Key { name: String, problem: KeyError },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    #[serde(default)]
    key: Vec<KeyEntry>,
}

const FILE_BYTES: u64 = 1 << 20;
/// Every request is compared with all of them.
const MOST_KEYS: usize = 1024;

impl Keys {
    /// Everybody may do everything.
    pub fn open() -> Self {
        Self(None)
    }

    /// Those given and those of a file; with neither, everybody may do everything.
    pub fn load(given: Vec<Key>, file: Option<PathBuf>) -> Result<Self, KeysError> {
        if given.is_empty() && file.is_none() {
            return Ok(Self::open());
        }
        let files = file.iter().cloned().collect();
        let read = move || {
            let from_file = file.as_deref().map(read_file).transpose()?.unwrap_or_default();
            KeySet::new(given.iter().cloned().chain(from_file).collect())
        };
        Ok(Self(Some(Arc::new(Reloaded::new(files, read)?))))
    }

    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Takes new versions of the file until the phase is `Closing`.
    pub async fn follow(self, phase: watch::Receiver<Phase>) {
        if let Some(keys) = self.0 {
            keys.follow("keys", phase).await;
        }
    }

    /// `None` where no key is asked for.
    pub(crate) fn now(&self) -> Option<Arc<KeySet>> {
        self.0.as_ref().map(|keys| keys.get())
    }
}

impl KeySet {
    fn new(keys: Vec<Key>) -> Result<Self, KeysError> {
        if keys.len() > MOST_KEYS {
            return Err(KeysError::TooMany(keys.len()));
        }
        for (index, key) in keys.iter().enumerate() {
            let problem = keys[..index].iter().find_map(|other| {
                if other.digest() == key.digest() {
                    return Some(KeyError::SameSecret(other.name().to_string()));
                }
                (other.name() == key.name() && other.weight() != key.weight()).then_some(KeyError::TwoWeights)
            });
            if let Some(problem) = problem {
                return Err(KeysError::Key { name: key.name().to_string(), problem });
            }
        }
        Ok(Self(keys))
    }

    /// Compares with every key, wherever it finds one.
    pub(crate) fn find(&self, secret: &[u8]) -> Option<&Key> {
        let Digest(presented) = Digest::of(secret);
        let mut place = u32::MAX;
        for (index, key) in (0..).zip(&self.0) {
            place.conditional_assign(&index, key.digest().0.ct_eq(&presented));
        }
        self.0.get(place as usize)
    }
}

fn read_file(path: &Path) -> Result<Vec<Key>, KeysError> {
    let file = || path.to_owned();
    let mut text = String::new();
    let read = File::open(path).and_then(|opened| opened.take(FILE_BYTES + 1).read_to_string(&mut text));
    if read.map_err(|reason| KeysError::Unreadable { file: file(), reason })? as u64 > FILE_BYTES {
        return Err(KeysError::TooLarge { file: file() });
    }
    let KeyFile { key: entries } =
        toml::from_str(&text).map_err(|reason| KeysError::Syntax { file: file(), reason })?;
    if entries.is_empty() {
        return Err(KeysError::Empty { file: file() });
    }
    let key = |(number, entry): (usize, KeyEntry)| {
        let name = entry.name().escape_debug().to_string();
        Key::try_from(entry).map_err(|problem| KeysError::Entry { file: file(), number, name, problem })
    };
    (1..).zip(entries).map(key).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::key::{Scope, hash_secret};

    fn entry(name: &str, secret: &str, more: &str) -> String {
        format!("[[key]]\nname = \"{name}\"\nsha256 = \"{}\"\nscopes = [\"inference\"]\n{more}\n", hash_secret(secret))
    }

    fn load(text: &str) -> Result<Keys, KeysError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.toml");
        fs::write(&file, text).unwrap();
        Keys::load(Vec::new(), Some(file))
    }

    #[test]
    fn a_secret_finds_its_key_wherever_it_stands() {
        let all: String = (0..MOST_KEYS).map(|n| entry(&format!("k{n}"), &format!("s{n}"), "")).collect();
        let keys = load(&all).unwrap().now().unwrap();
        for n in [0, 1, MOST_KEYS / 2, MOST_KEYS - 1] {
            assert_eq!(&**keys.find(format!("s{n}").as_bytes()).unwrap().name(), format!("k{n}"));
        }
        for secret in ["", "s", "S0", "s0 ", &hash_secret("s0")] {
            assert!(keys.find(secret.as_bytes()).is_none(), "{secret:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_names_the_entry_and_the_remedy() {
        let good = entry("a", "s", "");
        let many: String = (0..=MOST_KEYS).map(|n| entry("k", &format!("s{n}"), "")).collect();
        let cases = [
            (String::new(), "has no [[key]]: add one"),
            (good.clone() + "[[key]]\nname = \"b\"", "missing field `sha256`"),
            (good.replace("inference", "everything"), "unknown variant `everything`, expected one of `inference`"),
            (entry("a", "s", "colour = 1"), "unknown field `colour`, expected one of `name`"),
            (good.clone() + &entry("b\\u001b", "t", ""), r"entry 2 (`b\u{1b}`): its name must have 1 to 64 letters"),
            (entry("a", "s", "weight = -1"), "entry 1 (`a`): its weight -1 must lie between"),
            (good.clone() + &entry("b", "s", ""), "the key `b`: its sha256 is also that of `a`: give each"),
            (good.clone() + &entry("a", "t", "weight = 2"), "the key `a`: its weight differs"),
            (many, "there are 1025 keys: the most are 1024"),
            (format!("#{}", "x".repeat(FILE_BYTES as usize)), "has more than 1048576 bytes"),
        ];
        for (text, expected) in cases {
            let error = load(&text).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let missing = Keys::load(Vec::new(), Some(PathBuf::from("/nowhere/keys.toml"))).map(|_| ()).unwrap_err();
        assert!(missing.to_string().starts_with("the keys file /nowhere/keys.toml cannot be read: No such file"));
        assert!(load(&(good + &entry("a", "t", ""))).is_ok(), "two secrets of one caller");
    }

    #[test]
    fn given_keys_stand_beside_those_of_a_file_and_without_either_all_is_open() {
        assert!(Keys::load(Vec::new(), None).unwrap().is_open());
        let given = Key::of_secret("environment", "s", &[Scope::Inference]).unwrap();
        let keys = Keys::load(vec![given], None).unwrap().now().unwrap();
        assert_eq!(&**keys.find(b"s").unwrap().name(), "environment");
    }
}
