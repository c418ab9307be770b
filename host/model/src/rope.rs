//! How fast the pairs of a head turn per position: plainly, slowed by YaRN, or slowed by the prompt's length.

use sluice_checkpoint::{ConfigFile, LoadError};
use sluice_core::PromptVariants;

/// The longest context that a configuration may ask for.
const LONGEST: f64 = (1 << 24) as f64;

/// Rotary position embedding (Su et al., arXiv 2104.09864).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rope {
    pub theta: f64,
    pub scaling: Scaling,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Scaling {
    None,
    Yarn(Yarn),
    /// Qwen's first series: once a prompt is longer than `native` tokens, theta grows with its length. What was
    /// chosen for a prompt stays, however long the answer gets.
    DynamicNtk {
        native: u32,
    },
}

/// For every prompt alike (Peng et al., arXiv 2309.00071), in the way of Hugging Face's transformers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Yarn {
    pub factor: f64,
    /// The context that the model was made for before it was stretched.
    pub original: u32,
    /// Cosines and sines are multiplied by it.
    pub attention_factor: f64,
    /// Pairs that turn more often than this within the original context keep their speed,
    pub beta_fast: f64,
    /// those that turn less often than this are slowed by the whole factor, and the others by a part of it.
    pub beta_slow: f64,
}

impl Rope {
    /// Newer files keep everything in `rope_parameters`, older ones theta beside the rest in `rope_scaling`.
    pub(crate) fn read(config: &ConfigFile, max_position_embeddings: u32) -> Result<Self, LoadError> {
        let (newer, older) = (config.section("rope_parameters")?, config.section("rope_scaling")?);
        if newer.is_some() && older.is_some() {
            return Err(config.wrong("rope_scaling", "stands beside `rope_parameters`: keep one of the two"));
        }
        let theta = newer.as_ref().map_or(Ok(None), |settings| settings.optional_positive("rope_theta"))?;
        let theta = theta.map_or_else(|| config.positive("rope_theta"), Ok)?;
        let settings = newer.or(older);
        let scaling =
            settings.map_or(Ok(Scaling::None), |settings| Scaling::read(&settings, max_position_embeddings))?;
        Self { theta, scaling }.check(config, "rope_theta")
    }

    pub(crate) fn check(self, config: &ConfigFile, key: &str) -> Result<Self, LoadError> {
        if self.theta > 1.0 {
            return Ok(self);
        }
        Err(config.wrong(key, &format!("is {:?}, expected a number above 1", self.theta)))
    }

    /// The positions there are, where a configuration speaks of this many.
    pub(crate) fn length(&self, max_position_embeddings: u32) -> u32 {
        match self.scaling {
            Scaling::Yarn(yarn) => (f64::from(yarn.original) * yarn.factor) as u32,
            _ => max_position_embeddings,
        }
    }

    /// Prompts of different variants have different keys, even for the same tokens.
    pub fn variants(&self, max_model_len: u32) -> PromptVariants {
        let Scaling::DynamicNtk { native } = self.scaling else { return PromptVariants::default() };
        let doubled = std::iter::successors(Some(native), |length| length.checked_mul(2));
        PromptVariants::new(doubled.take_while(|length| *length < max_model_len))
    }

    /// Radians per position, for each pair of a head.
    pub fn speeds(&self, variant: u32, head_dim: usize) -> Vec<f32> {
        let theta = match self.scaling {
            Scaling::DynamicNtk { .. } => self.theta * alpha(variant).powf(head_dim as f64 / (head_dim as f64 - 2.0)),
            _ => self.theta,
        };
        let speed = |pair: usize| 1.0 / theta.powf((2 * pair) as f64 / head_dim as f64) as f32;
        let plain = (0..head_dim / 2).map(speed);
        match self.scaling {
            Scaling::Yarn(yarn) => {
                let kept = yarn.kept(theta, head_dim);
                plain.enumerate().map(|(pair, speed)| yarn.slow(speed, kept(pair))).collect()
            }
            _ => plain.collect(),
        }
    }

    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            Scaling::Yarn(yarn) => yarn.attention_factor as f32,
            _ => 1.0,
        }
    }
}

/// max(2^⌈log₂(L / native) + 1⌉ − 1, 1) for a prompt of L tokens: 1, 3, 7, … by its variant.
fn alpha(variant: u32) -> f64 {
    f64::from(variant + 1).exp2() - 1.0
}

impl Scaling {
    fn read(settings: &ConfigFile, max_position_embeddings: u32) -> Result<Self, LoadError> {
        for key in ["rope_type", "type"] {
            settings.refuse(key, &["default", "yarn"])?;
        }
        for key in ["mscale", "mscale_all_dim"] {
            settings.refuse(key, &[])?;
        }
        if settings.optional_positive("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
            return Err(settings.wrong("partial_rotary_factor", "is not 1, and only whole heads are turned"));
        }
        let kind =
            settings.optional_text("rope_type")?.map_or_else(|| settings.optional_text("type"), |kind| Ok(Some(kind)));
        match kind? {
            Some("yarn") => Ok(Self::Yarn(Yarn::read(settings, max_position_embeddings)?)),
            _ => Ok(Self::None),
        }
    }
}

impl Yarn {
    fn read(settings: &ConfigFile, max_position_embeddings: u32) -> Result<Self, LoadError> {
        let original = settings.optional_size("original_max_position_embeddings")?;
        let original = original.map_or(max_position_embeddings, |length| length as u32);
        let factor = settings.positive("factor")?;
        if !(1.0..=LONGEST / f64::from(original)).contains(&factor) {
            return Err(
                settings.wrong("factor", &format!("is {factor:?}, expected at least 1 and a length within {LONGEST}"))
            );
        }
        if !settings.flag_or("truncate", true)? {
            return Err(settings.wrong("truncate", "is false, which is not served yet: only true is"));
        }
        let (beta_fast, beta_slow) =
            (settings.optional_positive("beta_fast")?, settings.optional_positive("beta_slow")?);
        let (beta_fast, beta_slow) = (beta_fast.unwrap_or(32.0), beta_slow.unwrap_or(1.0));
        if beta_fast < beta_slow {
            return Err(settings
                .wrong("beta_fast", &format!("is {beta_fast:?}, and `beta_slow` is {beta_slow:?}, which is more")));
        }
        let attention_factor = settings.optional_positive("attention_factor")?;
        let attention_factor = attention_factor.unwrap_or_else(|| 0.1 * factor.ln() + 1.0);
        Ok(Self { factor, original, attention_factor, beta_fast, beta_slow })
    }

    /// How much of its speed a pair keeps: 1 up to the last pair that turns fast, 0 from the first that turns slowly.
    fn kept(&self, theta: f64, head_dim: usize) -> impl Fn(usize) -> f64 {
        let dim = head_dim as f64;
        let turning =
            |turns: f64| dim * (f64::from(self.original) / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
        let fast = turning(self.beta_fast).floor().max(0.0);
        let slow = turning(self.beta_slow).ceil().min(dim - 1.0);
        let width = if slow == fast { 0.001 } else { slow - fast };
        move |pair| 1.0 - ((pair as f64 - fast) / width).clamp(0.0, 1.0)
    }

    fn slow(&self, speed: f32, kept: f64) -> f32 {
        let speed = f64::from(speed);
        (speed / self.factor * (1.0 - kept) + speed * kept) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_is_as_published_for_every_prompt() {
        for native in [100u32, 2048, 3000] {
            let rope = Rope { theta: 10_000.0, scaling: Scaling::DynamicNtk { native } };
            let variants = rope.variants(4 * native);
            for prompt in 1..=4 * native {
                let published = ((f64::from(prompt) / f64::from(native)).log2() + 1.0).ceil().exp2() - 1.0;
                assert_eq!(alpha(variants.of(prompt)), published.max(1.0), "{prompt} of {native}");
            }
            assert_eq!(variants.count(), 3);
        }
    }

    #[test]
    fn the_slowest_pair_slows_by_alpha() {
        let rope = Rope { theta: 10_000.0, scaling: Scaling::DynamicNtk { native: 2048 } };
        let speeds = [0, 1, 2].map(|variant| rope.speeds(variant, 128));
        for (speeds, alpha) in speeds.iter().zip([1.0, 3.0, 7.0]) {
            assert_eq!((speeds.len(), speeds[0]), (64, 1.0));
            // theta is multiplied by alpha^(128 / 126), and the last of 64 pairs takes theta^(126 / 128).
            assert!((speeds[63] * alpha / speeds[0] - 10_000f32.powf(-126.0 / 128.0)).abs() < 1e-9);
        }
    }
}
