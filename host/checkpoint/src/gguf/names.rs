//! What GGUF calls the tensors that Hugging Face's layout has other names for.

/// Outside of layers.
const WHOLE: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Within one.
const LAYER: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// None where Hugging Face's name is not of a model that is served from GGUF.
pub(super) fn gguf(name: &str) -> Option<String> {
    translate(name, "model.layers.", "blk.", |(from, to)| (from, to))
}

pub(super) fn hugging_face(name: &str) -> Option<String> {
    translate(name, "blk.", "model.layers.", |(to, from)| (from, to))
}

type Pair = (&'static str, &'static str);

fn translate(name: &str, from: &str, to: &str, order: fn(Pair) -> Pair) -> Option<String> {
    let (stem, ending) = name.rsplit_once('.')?;
    let find = |table: &[Pair], stem: &str| {
        table.iter().map(|pair| order(*pair)).find(|(from, _)| *from == stem).map(|(_, to)| to)
    };
    match stem.strip_prefix(from).and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => Some(format!("{to}{layer}.{}.{ending}", find(&LAYER, part)?)),
        None => Some(format!("{}.{ending}", find(&WHOLE, stem)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated_both_ways() {
        for (here, there) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.17.self_attn.q_proj.bias", "blk.17.attn_q.bias"),
            ("model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight"),
            ("model.layers.3.post_attention_layernorm.weight", "blk.3.ffn_norm.weight"),
            ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
        ] {
            assert_eq!(gguf(here).as_deref(), Some(there));
            assert_eq!(hugging_face(there).as_deref(), Some(here));
        }
        for unknown in ["", "weight", "rope_freqs.weight", "model.layers.3", "model.layers.3.weight", "blk.3.x.weight"]
        {
            assert_eq!((gguf(unknown), hugging_face(unknown)), (None, None), "{unknown}");
        }
    }
}
