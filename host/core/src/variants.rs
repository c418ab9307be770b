//! Which prompts may share keys and values: some models turn a prompt's positions by how long it is.

/// The longest prompt of each variant but the last, which has no end. Most models have one variant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PromptVariants {
    longest: Vec<u32>,
}

impl PromptVariants {
    /// In any order; one that comes twice counts once.
    pub fn new(longest: impl IntoIterator<Item = u32>) -> Self {
        let mut longest: Vec<u32> = longest.into_iter().collect();
        longest.sort_unstable();
        longest.dedup();
        Self { longest }
    }

    /// The variant of a prompt of so many tokens, from 0.
    pub fn of(&self, prompt_tokens: u32) -> u32 {
        u32::try_from(self.longest.partition_point(|longest| *longest < prompt_tokens)).unwrap_or(u32::MAX)
    }

    /// At least 1.
    pub fn count(&self) -> u32 {
        self.of(u32::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_belongs_to_the_first_variant_that_holds_it() {
        let variants = PromptVariants::new([4096, 2048, 4096]);
        let of = [0, 1, 2048, 2049, 4096, 4097, u32::MAX].map(|length| variants.of(length));
        assert_eq!(of, [0, 0, 0, 1, 1, 2, 2]);
        assert_eq!(variants.count(), 3);
        assert_eq!((PromptVariants::default().of(u32::MAX), PromptVariants::default().count()), (0, 1));
    }
}
