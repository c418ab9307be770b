//! Tokenises texts for comparisons with other tokenizers: the argument is a model's folder, each line of the input a
//! JSON string, each line of the output the list of its tokens.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::Instant;

use sluice_text::{Text, TextFiles};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("the argument is the folder of a model")?;
    let start = Instant::now();
    let text = Text::new(&TextFiles::read(Path::new(&folder))?)?;
    writeln!(std::io::stderr(), "{} tokens read in {:?}", text.vocabulary(), start.elapsed())?;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let tokens = text.prompt_for_completion(&serde_json::from_str::<String>(&line?)?, u32::MAX)?;
        writeln!(out, "{}", serde_json::to_string(&tokens)?)?;
    }
    Ok(())
}
