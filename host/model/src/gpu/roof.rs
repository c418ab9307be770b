//! What a step would take if nothing held a card up but its bandwidth and its arithmetic: the roofline model (Williams,
//! Waterman and Patterson, 2009).

use sluice_core::{Batch, Nanos, SECOND};
use sluice_kernels::Matrix;
use sluice_kernels::op::HEAD_DIM;

use crate::gpu::ceilings::Ceilings;
use crate::gpu::shape::{Shape, halves};
use crate::gpu::weights::ModelWeights;

/// What of a model takes how long.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Roof {
    ceilings: Ceilings,
    /// Read once in a step.
    layer_bytes: f64,
    head_bytes: f64,
    /// Read once for each token of each context.
    kv_bytes: f64,
    /// For each token, for each that is drawn or scored, and for each pair of tokens that attention looks at.
    token_flops: f64,
    head_flops: f64,
    pair_flops: f64,
}

impl Roof {
    pub(crate) fn new(ceilings: Ceilings, shape: &Shape, weights: &ModelWeights) -> Self {
        let matrices = || weights.layers.iter().flat_map(|layer| layer.projections()).map(|weighted| weighted.matrix);
        let flops = |matrix: &Matrix| 2.0 * f64::from(matrix.outputs) * f64::from(matrix.inputs);
        let layers = f64::from(shape.layers());
        Self {
            ceilings,
            layer_bytes: matrices().map(|matrix| bytes(&matrix)).sum(),
            head_bytes: bytes(&weights.head),
            kv_bytes: 2.0 * layers * halves(u64::from(shape.heads.kv * HEAD_DIM)) as f64,
            token_flops: matrices().map(|matrix| flops(&matrix)).sum(),
            head_flops: flops(&weights.head),
            pair_flops: 4.0 * layers * f64::from(shape.heads.queries * HEAD_DIM),
        }
    }

    /// What of a step is reading its weights or computing, whichever takes longer, and then reading its contexts.
    pub(crate) fn of(&self, batch: &Batch) -> Nanos {
        let (mut tokens, mut heads, mut context, mut pairs) = (0.0, 0.0, 0.0, 0.0);
        for row in &batch.rows {
            let (start, run) = (f64::from(row.start), f64::from(row.tokens));
            tokens += run;
            heads += if row.score.is_some() { run } else { f64::from(u8::from(row.draw.is_some())) };
            context += start + run;
            pairs += run * (start + (run + 1.0) / 2.0);
        }
        let read = self.layer_bytes + if heads > 0.0 { self.head_bytes } else { 0.0 };
        let flops = self.token_flops * tokens + self.head_flops * heads + self.pair_flops * pairs;
        let Ceilings { bytes_per_second, flops_per_second } = self.ceilings;
        let seconds =
            (read / bytes_per_second).max(flops / flops_per_second) + self.kv_bytes * context / bytes_per_second;
        (seconds * SECOND as f64) as Nanos
    }
}

fn bytes(matrix: &Matrix) -> f64 {
    let (weights, scales) = matrix.form.bytes(u64::from(matrix.outputs), u64::from(matrix.inputs));
    (weights + scales) as f64
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluice_checkpoint::{LoadFormat, LoadOptions, ModelFiles, Quantization};
    use sluice_core::{Draw, RequestId, Row, SamplingParams, TokenSource};
    use sluice_kernels::Card;

    use super::*;
    use crate::gpu::{Dequantized, GpuModel};
    use crate::step::StepLimits;

    /// Of one H200.
    const CEILINGS: Ceilings = Ceilings { bytes_per_second: 4.33e12, flops_per_second: 764e12 };

    fn of_14b(quantization: Quantization) -> Roof {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "architectures": ["Qwen2ForCausalLM"], "vocab_size": 152_064, "hidden_size": 5120, "num_hidden_layers": 48,
            "num_attention_heads": 40, "num_key_value_heads": 8, "intermediate_size": 13_824, "hidden_act": "silu",
            "tie_word_embeddings": false, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32_768,
        });
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let options = LoadOptions { format: LoadFormat::Dummy { seed: 0 }, quantization, ..LoadOptions::default() };
        let model = GpuModel::read(ModelFiles::folder(folder.path()), options, None).unwrap();
        let limits = StepLimits { blocks: 1, block_tokens: 16, max_tokens: 16, max_rows: 16 };
        let memory = model.place(&Card::h200(), &limits, Dequantized::Anew);
        Roof::new(CEILINGS, &model.shape, &memory.weights)
    }

    /// As many, each with so much behind it.
    fn batch(sequences: u64, start: u32, tokens: u32) -> Batch {
        let mut batch = Batch::default();
        for sequence in 0..sequences {
            batch.rows.push(Row {
                sequence: RequestId(sequence),
                start,
                tokens,
                prompt_tokens: start,
                token_offset: batch.tokens.len(),
                block_offset: 0,
                block_count: 0,
                draw: Some(Draw::new(SamplingParams::greedy())),
                score: None,
            });
            batch.tokens.extend((0..tokens).map(|_| TokenSource::PreviousStep));
        }
        batch
    }

    /// Against what was worked out by hand, in milliseconds: attention's arithmetic, which is not in there, is little.
    #[test]
    fn a_step_of_14b_on_an_h200() {
        let expected = [
            (Quantization::None, [(1, 6.5), (8, 6.7), (32, 7.3), (128, 10.0), (256, 16.4)]),
            (Quantization::Nf4, [(1, 2.0), (8, 2.2), (32, 2.8), (128, 8.2), (256, 16.4)]),
        ];
        for (quantization, steps) in expected {
            let roof = of_14b(quantization);
            for (sequences, milliseconds) in steps {
                let found = roof.of(&batch(sequences, 599, 1)) as f64 / 1e6;
                assert!((found / milliseconds - 1.0).abs() < 0.04, "{quantization}, {sequences}: {found}");
            }
        }
    }

    #[test]
    fn a_prompt_is_bound_by_arithmetic_and_scores_cost_the_head() {
        let roof = of_14b(Quantization::None);
        let prompts = roof.of(&batch(8, 0, 2048)) as f64 / 1e9;
        let rate = 8.0 * 2048.0 / prompts;
        assert!((27_000.0..29_000.0).contains(&rate), "{rate} tokens a second");
        let mut scored = batch(1, 0, 2048);
        scored.rows[0].score = Some(sluice_core::Score { alternatives: 0, next: None });
        let more = (roof.of(&scored) - roof.of(&batch(1, 0, 2048))) as f64 / 1e9;
        let head = 2.0 * 2047.0 * 152_064.0 * 5120.0 / CEILINGS.flops_per_second;
        assert!((more / head - 1.0).abs() < 0.01, "{more} s for {head} s of products");
    }
}
