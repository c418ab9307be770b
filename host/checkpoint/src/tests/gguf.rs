//! GGUF files, written here by the format's description: what they say is read, and what is wrong with them is told.

use std::path::Path;

use serde_json::json;

use super::ALLOCATION;
use super::allocations::largest;
use super::folder::{Folder, f32s};
use crate::{
    ConfigFile, Form, GgmlKind, GgufTokenizer, LoadError, LoadOptions, ModelFiles, Quantization, Silent, Weights,
};

/// A value of metadata with the number of its kind.
#[derive(Clone)]
pub(super) enum Value {
    U16(u16),
    U32(u32),
    F32(f32),
    Flag(bool),
    Text(&'static str),
    Texts(Vec<String>),
    I32s(Vec<i32>),
}

#[derive(Clone)]
pub(super) struct Tensor {
    pub(super) name: &'static str,
    /// Innermost first, as the file has it.
    pub(super) sizes: Vec<u64>,
    pub(super) kind: u32,
    pub(super) bytes: Vec<u8>,
}

#[derive(Clone)]
pub(super) struct File {
    pub(super) magic: [u8; 4],
    pub(super) version: u32,
    pub(super) values: Vec<(&'static str, Value)>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) alignment: usize,
}

impl File {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut offset = 0;
        let mut offsets = Vec::new();
        for tensor in &self.tensors {
            offsets.push(offset);
            offset += tensor.bytes.len().next_multiple_of(self.alignment) as u64;
        }
        self.bytes_at(&offsets)
    }

    /// With the tensors' offsets as they are given, and the data as it should be.
    pub(super) fn bytes_at(&self, offsets: &[u64]) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            text(&mut bytes, key);
            value.write(&mut bytes);
        }
        for (tensor, offset) in self.tensors.iter().zip(offsets) {
            text(&mut bytes, tensor.name);
            bytes.extend((tensor.sizes.len() as u32).to_le_bytes());
            tensor.sizes.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(&tensor.bytes);
        }
        bytes
    }

    pub(super) fn set(mut self, key: &'static str, value: Value) -> Self {
        self.values.retain(|(known, _)| *known != key);
        self.values.push((key, value));
        self
    }

    pub(super) fn without(mut self, key: &str) -> Self {
        self.values.retain(|(known, _)| *known != key);
        self
    }
}

impl Value {
    fn write(&self, bytes: &mut Vec<u8>) {
        let mut kind = |kind: u32| bytes.extend(kind.to_le_bytes());
        match self {
            Self::U16(number) => {
                kind(2);
                bytes.extend(number.to_le_bytes());
            }
            Self::U32(number) => {
                kind(4);
                bytes.extend(number.to_le_bytes());
            }
            Self::F32(number) => {
                kind(6);
                bytes.extend(number.to_le_bytes());
            }
            Self::Flag(flag) => {
                kind(7);
                bytes.push(u8::from(*flag));
            }
            Self::Text(value) => {
                kind(8);
                text(bytes, value);
            }
            Self::Texts(texts) => {
                kind(9);
                kind_of_list(bytes, 8, texts.len());
                texts.iter().for_each(|value| text(bytes, value));
            }
            Self::I32s(numbers) => {
                kind(9);
                kind_of_list(bytes, 5, numbers.len());
                numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
            }
        }
    }
}

fn kind_of_list(bytes: &mut Vec<u8>, kind: u32, count: usize) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend((count as u64).to_le_bytes());
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn texts(list: &[&str]) -> Value {
    Value::Texts(list.iter().map(|text| (*text).to_owned()).collect())
}

/// A Qwen3 of one layer, whose tensors are a few of those it needs.
pub(super) fn model() -> File {
    let tensor = |name, sizes: &[u64], kind, bytes| Tensor { name, sizes: sizes.to_vec(), kind, bytes };
    let q8_0 = [&[0x00, 0x3c][..], &[2; 32]].concat();
    File {
        magic: *b"GGUF",
        version: 3,
        values: vec![
            ("general.architecture", Value::Text("qwen3")),
            ("general.name", Value::Text("tiny")),
            ("qwen3.block_count", Value::U32(1)),
            ("qwen3.context_length", Value::U32(128)),
            ("qwen3.embedding_length", Value::U32(32)),
            ("qwen3.feed_forward_length", Value::U32(64)),
            ("qwen3.attention.head_count", Value::U32(4)),
            ("qwen3.attention.head_count_kv", Value::U32(2)),
            ("qwen3.attention.key_length", Value::U32(16)),
            ("qwen3.attention.value_length", Value::U32(16)),
            ("qwen3.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
            ("qwen3.rope.freq_base", Value::F32(1_000_000.0)),
            ("tokenizer.ggml.model", Value::Text("gpt2")),
            ("tokenizer.ggml.pre", Value::Text("qwen2")),
            ("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "<|im_end|>"])),
            ("tokenizer.ggml.token_type", Value::I32s(vec![1, 1, 1, 3])),
            ("tokenizer.ggml.merges", texts(&["a b"])),
            ("tokenizer.ggml.eos_token_id", Value::U32(3)),
            ("tokenizer.ggml.eot_token_id", Value::U32(3)),
            ("tokenizer.ggml.add_bos_token", Value::Flag(false)),
            ("tokenizer.chat_template", Value::Text("{{ messages }}")),
        ],
        tensors: vec![
            tensor("token_embd.weight", &[32, 4], 8, q8_0.repeat(4)),
            tensor("output_norm.weight", &[32], 0, f32s(&[1.5; 32])),
            tensor("blk.0.attn_q.weight", &[32, 64], 1, [0x00, 0x40].repeat(32 * 64)),
            tensor("blk.0.attn_k.weight", &[32, 32], 30, [0x40, 0x40].repeat(32 * 32)),
            tensor("rope_freqs.weight", &[8], 0, f32s(&[1.0; 8])),
        ],
        alignment: 32,
    }
}

fn files(folder: &Folder, file: &File) -> ModelFiles {
    ModelFiles::path(folder.write("tiny.gguf", file.bytes()))
}

fn open(files: &ModelFiles, options: LoadOptions) -> Result<Weights, LoadError> {
    Weights::open(files, options, Box::new(Silent))
}

#[test]
fn its_metadata_is_a_configuration() {
    let folder = Folder::new();
    for version in [2, 3] {
        let files = files(&folder, &File { version, ..model() });
        assert_eq!(files.name(), "tiny");
        let config = ConfigFile::read(&files).unwrap();
        let expected = json!({
            "architectures": ["Qwen3ForCausalLM"], "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "vocab_size": 4, "tie_word_embeddings": true,
            "rope_scaling": null,
        });
        assert_eq!(config.json(), &expected);
    }
}

#[test]
fn yarn_is_said_as_hugging_face_says_it() {
    let folder = Folder::new();
    let file = model()
        .set("qwen3.rope.scaling.type", Value::Text("yarn"))
        .set("qwen3.rope.scaling.factor", Value::F32(4.0))
        .set("qwen3.rope.scaling.original_context_length", Value::U32(32));
    let config = ConfigFile::read(&files(&folder, &file)).unwrap();
    let expected = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
    assert_eq!(config.json()["rope_scaling"], expected);
    let tuned = file
        .clone()
        .set("qwen3.rope.scaling.yarn_beta_fast", Value::F32(16.5))
        .set("qwen3.rope.scaling.yarn_beta_slow", Value::F32(2.0));
    let config = ConfigFile::read(&files(&folder, &tuned)).unwrap();
    let scaling = &config.json()["rope_scaling"];
    assert_eq!((&scaling["beta_fast"], &scaling["beta_slow"]), (&json!(16.5), &json!(2.0)));
    let attention = "qwen3.rope.scaling.attn_factor";
    check(file.clone().set(attention, Value::F32(0.8)), &[attention, "is 0.8", "only 1.0"]);
    for key in ["qwen3.rope.scaling.factor", "qwen3.rope.scaling.original_context_length"] {
        check(file.clone().without(key), &["tiny.gguf", key, "missing"]);
    }
}

/// The heads share the width of the residual stream where a file does not say how wide they are.
#[test]
fn a_width_need_not_be_written() {
    let folder = Folder::new();
    let plain = model().without("qwen3.attention.key_length").set("qwen3.attention.value_length", Value::U32(8));
    let config = ConfigFile::read(&files(&folder, &plain.set("qwen3.rope.dimension_count", Value::U32(8)))).unwrap();
    assert_eq!(config.json()["head_dim"], json!(null));
}

#[test]
fn its_tokenizer_is_plain_data() {
    let folder = Folder::new();
    let tokenizer = GgufTokenizer::read(&files(&folder, &model())).unwrap().unwrap();
    assert_eq!(tokenizer.tokens, ["a", "b", "ab", "<|im_end|>"]);
    assert_eq!((tokenizer.token_types, tokenizer.merges), (vec![1, 1, 1, 3], vec!["a b".to_owned()]));
    assert_eq!((tokenizer.model.as_deref(), tokenizer.pre.as_deref()), (Some("gpt2"), Some("qwen2")));
    assert_eq!((tokenizer.bos_id, tokenizer.add_bos), (None, Some(false)));
    assert_eq!((tokenizer.eos_id, tokenizer.eot_id), (Some(3), Some(3)));
    assert_eq!(tokenizer.chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!(GgufTokenizer::read(&folder.files()).unwrap(), None);
}

#[test]
fn its_tensors_have_the_names_of_hugging_face() {
    let folder = Folder::new();
    for alignment in [32, 64] {
        let aligned = File { alignment, ..model() }.set("general.alignment", Value::U32(alignment as u32));
        let weights = open(&files(&folder, &aligned), LoadOptions::default()).unwrap();
        let table = weights.table("model.embed_tokens.weight", 4, 32).unwrap();
        assert_eq!((table.form(), table.to_f32()), (Form::Ggml(GgmlKind::Q8_0), vec![2.0; 128]));
        assert_eq!(weights.vector("model.norm.weight", 32).unwrap(), [1.5; 32]);
        let query = weights.projection("model.layers.0.self_attn.q_proj.weight", 64, 32).unwrap();
        assert_eq!((query.form(), query.to_f32()), (Form::F16, vec![2.0; 64 * 32]));
        assert_eq!(weights.unclaimed(), ["model.layers.0.self_attn.k_proj.weight", "rope_freqs.weight"]);
        let key = weights.form("model.layers.0.self_attn.k_proj.weight", &[32, 32]).unwrap();
        assert_eq!((key, weights.unclaimed()), (Form::Bf16, vec!["rope_freqs.weight".to_owned()]));
        assert_eq!(weights.parameters(), 128 + 32 + 64 * 32);
    }
}

#[test]
fn only_what_is_not_quantised_is_quantised() {
    let folder = Folder::new();
    let options = LoadOptions { quantization: Quantization::Nf4, ..LoadOptions::default() };
    let weights = open(&files(&folder, &model()), options).unwrap();
    let query = weights.projection("model.layers.0.self_attn.q_proj.weight", 64, 32).unwrap();
    assert_eq!((query.form(), query.to_f32()[0]), (Form::Nf4 { nested: true }, 2.0));
    let error = weights.projection("model.embed_tokens.weight", 4, 32).unwrap_err().to_string();
    for part in ["tiny.gguf", "Q8_0", "nf4"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_split_file_is_whole_by_its_first_part() {
    let folder = Folder::new();
    let mut first = model().set("split.count", Value::U16(2));
    let second = File { values: vec![("split.count", Value::U16(2))], tensors: first.tensors.split_off(2), ..model() };
    let path = folder.write("tiny-00001-of-00002.gguf", first.bytes());
    let missing = open(&ModelFiles::path(&path), LoadOptions::default()).err().unwrap().to_string();
    assert!(missing.contains("tiny-00002-of-00002.gguf") && missing.contains("all parts"), "{missing}");
    let other = folder.write("tiny-00002-of-00002.gguf", second.bytes());
    let weights = open(&ModelFiles::path(path), LoadOptions::default()).unwrap();
    assert_eq!(weights.vector("model.norm.weight", 32).unwrap(), [1.5; 32]);
    weights.projection("model.layers.0.self_attn.q_proj.weight", 64, 32).unwrap();
    let error = open(&ModelFiles::path(other), LoadOptions::default()).err().unwrap().to_string();
    assert!(error.contains("-00001-of-00002.gguf"), "{error}");
}

/// What a file says when its configuration, its tokenizer and three of its tensors are asked for.
pub(super) fn read_all(path: &Path) -> Result<(), LoadError> {
    let files = ModelFiles::path(path);
    ConfigFile::read(&files)?;
    GgufTokenizer::read(&files)?;
    let weights = open(&files, LoadOptions::default())?;
    weights.table("model.embed_tokens.weight", 4, 32)?.to_f32();
    weights.vector("model.norm.weight", 32)?;
    weights.projection("model.layers.0.self_attn.q_proj.weight", 64, 32)?.to_f32();
    Ok(())
}

fn check_bytes(bytes: Vec<u8>, expected: &[&str]) {
    let folder = Folder::new();
    let path = folder.write("tiny.gguf", bytes);
    let (read, largest) = largest(|| read_all(&path));
    assert!(largest <= ALLOCATION, "{largest} bytes were allocated at once");
    let error = read.expect_err("the file is damaged").to_string();
    for part in expected {
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
}

fn check(file: File, expected: &[&str]) {
    check_bytes(file.bytes(), expected);
}

fn with_tensor(damage: impl FnOnce(&mut Tensor)) -> File {
    let mut file = model();
    damage(&mut file.tensors[2]);
    file
}

#[test]
fn other_files() {
    check_bytes(Vec::new(), &["tiny.gguf", "truncated"]);
    check_bytes(b"GGUF".to_vec(), &["tiny.gguf", "truncated"]);
    check(File { magic: *b"PK\x03\x04", ..model() }, &["tiny.gguf", "does not begin with `GGUF`"]);
    check(File { version: 1, ..model() }, &["version is 1", "2 and 3"]);
    check(File { version: 3u32.swap_bytes(), ..model() }, &["version is 50331648", "little-endian"]);
    let absent = ModelFiles::path("/nonexistent/tiny.gguf");
    let error = ConfigFile::read(&absent).err().unwrap().to_string();
    assert!(error.contains("tiny.gguf") && error.contains("/nonexistent"), "{error}");
}

/// Every length is a lie at every place: nothing of that size is allocated, and none is believed.
#[test]
fn lying_lengths() {
    let whole = model().bytes();
    let folder = Folder::new();
    for end in (0..1200).chain((1200..whole.len() - 64).step_by(97)) {
        assert!(read_all(&folder.write("tiny.gguf", &whole[..end])).is_err(), "cut at {end}");
    }
    let counts = [(8, "tensors"), (16, "entries of metadata")];
    for (at, what) in counts {
        for count in [u64::MAX, 1 << 40] {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            check_bytes(bytes, &[&count.to_string(), what, "damaged"]);
        }
        let mut bytes = whole.clone();
        bytes[at..at + 8].copy_from_slice(&60_000u64.to_le_bytes());
        check_bytes(bytes, &["bytes are to follow", "truncated"]);
    }
    // The first key's length, then its value's.
    for (at, length) in [(24, u64::MAX), (24, 1 << 23), (24 + 8 + 20 + 4, 1 << 62)] {
        let mut bytes = whole.clone();
        bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
        check_bytes(bytes, &["tiny.gguf", "damaged"]);
    }
    check(with_tensor(|tensor| tensor.sizes = vec![1 << 40, 1 << 40]), &["blk.0.attn_q.weight", "shape"]);
    check(with_tensor(|tensor| tensor.sizes = vec![1 << 40]), &["blk.0.attn_q.weight", "beyond the end"]);
    check(with_tensor(|tensor| tensor.sizes = vec![0, 64]), &["blk.0.attn_q.weight", "shape"]);
    check(with_tensor(|tensor| tensor.sizes = vec![]), &["blk.0.attn_q.weight", "shape"]);
    check(with_tensor(|tensor| tensor.sizes = vec![1; 5]), &["blk.0.attn_q.weight", "shape"]);
}

#[test]
fn wrong_offsets() {
    let file = model();
    let check = |offsets: [u64; 5], expected: &[&str]| check_bytes(file.bytes_at(&offsets), expected);
    check([0, 7, 1, 2, 3], &["`output_norm.weight`", "7", "multiple of 32"]);
    check([0, 160, 288, 4384, 1 << 40], &["`rope_freqs.weight`", "beyond the end"]);
    check([0, 160, 288, 4384, !31], &["`rope_freqs.weight`", "beyond the end"]);
    check([0, 32, 288, 4384, 6432], &["`token_embd.weight`", "`output_norm.weight`", "overlap"]);
    check([0, 160, 288, 288, 6432], &["`blk.0.attn_q.weight`", "`blk.0.attn_k.weight`", "overlap"]);
}

#[test]
fn wrong_tensors() {
    check(with_tensor(|tensor| tensor.kind = 20), &["blk.0.attn_q.weight", "IQ4_NL (20)", "Q4_K"]);
    check(with_tensor(|tensor| tensor.kind = 4711), &["blk.0.attn_q.weight", "4711"]);
    check(with_tensor(|tensor| tensor.kind = 12), &["blk.0.attn_q.weight", "rows of 32", "Q4_K"]);
    check(with_tensor(|tensor| tensor.sizes = vec![64, 32]), &["self_attn.q_proj.weight", "[32, 64]", "[64, 32]"]);
    check(with_tensor(|tensor| tensor.name = "blk.0.attn_qkv.weight"), &["self_attn.q_proj.weight", "missing"]);
    check(with_tensor(|tensor| tensor.name = "token_embd.weight"), &["`token_embd.weight`", "twice"]);
    check(with_tensor(|tensor| tensor.bytes[34..36].copy_from_slice(&[0, 0x7c])), &["q_proj", "inf at index 17"]);
    let mut file = model();
    file.tensors[0].bytes[35..37].copy_from_slice(&[0x7e, 0x7e]);
    check(file, &["model.embed_tokens.weight", "NaN at index 32", "download it again"]);
}

#[test]
fn wrong_metadata() {
    for (key, problem) in [
        ("general.architecture", "missing"),
        ("qwen3.block_count", "missing"),
        ("qwen3.rope.freq_base", "missing"),
        ("tokenizer.ggml.tokens", "missing"),
    ] {
        check(model().without(key), &["tiny.gguf", key, problem]);
    }
    for (key, value, problem) in [
        ("general.architecture", Value::U32(3), "must be a text"),
        ("general.alignment", Value::U32(33), "power of two"),
        ("general.alignment", Value::U32(0), "power of two"),
        ("general.alignment", Value::U32(1 << 31), "power of two"),
        ("qwen3.block_count", Value::U32(0), "whole number"),
        ("qwen3.block_count", Value::Text("one"), "whole number"),
        ("qwen3.rope.freq_base", Value::F32(f32::NAN), "positive number"),
        ("qwen3.attention.layer_norm_rms_epsilon", Value::F32(-1.0), "positive number"),
        ("qwen3.attention.value_length", Value::U32(8), "is 8, and only 16, the width of a head"),
        ("qwen3.rope.dimension_count", Value::U32(8), "is 8, and only 16, the width of a head"),
        ("qwen3.rope.scaling.attn_factor", Value::F32(1.5), "is 1.5"),
        ("qwen3.rope.scaling.yarn_log_multiplier", Value::F32(1.0), "only 0.0"),
        ("qwen3.rope.scale_linear", Value::Text("4"), "must be a number"),
        ("qwen3.rope.scaling.factor", Value::F32(4.0), "is 4.0, and only 1.0 is served"),
        ("qwen3.rope.scaling.type", Value::Text("linear"), "`none` and `yarn`"),
        ("tokenizer.ggml.tokens", Value::I32s(vec![1, 2]), "must be a list of texts"),
        ("tokenizer.ggml.tokens", Value::U32(4), "must be a list"),
        ("tokenizer.ggml.token_type", Value::I32s(vec![1]), "1 entries for 4 tokens"),
        ("tokenizer.ggml.eos_token_id", Value::Text("end"), "token's id"),
        ("tokenizer.ggml.add_eos_token", Value::Flag(true), "is true, which is not served"),
        ("tokenizer.chat_template", Value::Flag(true), "must be a text"),
    ] {
        check(model().set(key, value), &["tiny.gguf", key, problem]);
    }
    let llama = model().set("general.architecture", Value::Text("llama"));
    check(llama, &["tiny.gguf", "architecture `llama`, and these are served: qwen2, qwen3"]);
    let mut twice = model();
    twice.values.push(twice.values[0].clone());
    check(twice, &["`general.architecture`", "twice"]);
}
