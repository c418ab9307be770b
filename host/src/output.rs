//! What the program says to whoever started it, and how it says an error.

use std::io::{self, ErrorKind, Write as _};

/// A line on standard output. A reader that has seen enough, as `head` has, is no error.
pub(crate) fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        said => said,
    }
}

/// A line on the standard error: for whoever sits there, and not for what the output is written to.
pub(crate) fn tell(line: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{line}")
}

/// An error and its causes on one line, without those that the ones before them have already told.
pub fn with_causes(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said += ": ";
            said += &cause;
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let told = anyhow!("end of file").context("`config.json` is no JSON (end of file)").context("it cannot load");
        assert_eq!(with_causes(&told), "it cannot load: `config.json` is no JSON (end of file)");
        assert_eq!(with_causes(&anyhow!("no such file").context("/m")), "/m: no such file");
    }
}
