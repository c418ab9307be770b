//! `sluice key`: makes keys for the server's clients.

use anyhow::{Context as _, Result};
use sluice_http::{Key, Scope, hash_secret};

use crate::cli::KeyCommand;
use crate::output::{say, tell};

/// 256 bits: no digest of them is worth guessing at.
const SECRET_BYTES: usize = 32;

pub(crate) fn run(command: KeyCommand) -> Result<()> {
    let KeyCommand::New { name, scope } = command;
    let scopes = if scope.is_empty() { vec![Scope::Inference] } else { scope };
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
    let secret = secret(&bytes);
    say(&entry(&name, &secret, &scopes)?)?;
    // Apart from the entry, so that a file that the entry is written to never holds the secret.
    Ok(tell(&format!("for the client, and shown only here: {secret}"))?)
}

fn secret(bytes: &[u8]) -> String {
    let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sk-{hexadecimal}")
}

/// A keys file by itself.
fn entry(name: &str, secret: &str, scopes: &[Scope]) -> Result<String> {
    Key::of_secret(name, secret, scopes).with_context(|| format!("no key can be called `{name}`"))?;
    let scopes: Vec<String> = scopes.iter().map(|scope| format!("\"{scope}\"")).collect();
    Ok(format!("[[key]]\nname = \"{name}\"\nsha256 = \"{}\"\nscopes = [{}]\n", hash_secret(secret), scopes.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_http::Keys;

    #[test]
    fn what_is_printed_is_a_keys_file() {
        let text = entry("alice", &secret(&[7; SECRET_BYTES]), &[Scope::Inference, Scope::Deploy]).unwrap();
        assert!(text.contains("scopes = [\"inference\", \"deploy\"]") && !text.contains("sk-"), "{text}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        assert!(!Keys::load(Vec::new(), Some(file.path().to_owned())).unwrap().is_open());
    }

    #[test]
    fn a_name_that_no_key_may_have_is_refused() {
        assert!(entry("a b", "sk-1", &[Scope::Metrics]).unwrap_err().to_string().contains("`a b`"));
    }
}
