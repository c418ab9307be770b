//! Every way in which files can be wrong ends in an error that names the file or tensor and the remedy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use serde_json::json;

use super::checkpoint::{Checkpoint, Tensors, save};
use sluice_checkpoint::{ConfigFile, EmbeddedFiles, LoadFormat, ModelFiles};

use super::load;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const NORM: &str = "model.norm.weight";

/// Damages a good checkpoint and expects an error with all of these in its message.
fn check(damage: impl FnOnce(&Path), expected: &[&str]) {
    check_of(&Checkpoint::qwen3(1, true), damage, expected);
}

fn check_of(checkpoint: &Checkpoint, damage: impl FnOnce(&Path), expected: &[&str]) {
    let (folder, files) = checkpoint.write();
    damage(folder.path());
    let error = load(&files, LoadFormat::Auto).err().expect("the files are damaged").to_string();
    for part in expected {
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
}

fn check_tensors(damage: impl FnOnce(&mut Tensors), expected: &[&str]) {
    let damage = |folder: &Path| {
        let mut tensors = Checkpoint::qwen3(1, true).tensors();
        damage(&mut tensors);
        save(&folder.join(WEIGHTS), &tensors);
    };
    check(damage, expected);
}

fn overwrite(file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> impl FnOnce(&Path) {
    move |folder| {
        let path = folder.join(file);
        fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
    }
}

/// A file whose header says this, before eight bytes of data.
fn header(json: &str) -> impl FnOnce(Vec<u8>) -> Vec<u8> + use<> {
    let bytes = [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &[0; 8]].concat();
    move |_| bytes
}

#[test]
fn missing_files() {
    check(|folder| fs::remove_file(folder.join("config.json")).unwrap(), &["config.json", "no file", "download"]);
    check(|folder| fs::remove_file(folder.join(WEIGHTS)).unwrap(), &[WEIGHTS, "no file", "download"]);
    let sharded = Checkpoint { shards: 2, ..Checkpoint::qwen3(1, true) };
    let shard = "model-00002-of-00002.safetensors";
    check_of(&sharded, |folder| fs::remove_file(folder.join(shard)).unwrap(), &[shard, "no file"]);
    let nowhere = load(&ModelFiles::folder("/nonexistent/qwen"), LoadFormat::Auto).err().unwrap();
    assert!(nowhere.to_string().contains("/nonexistent/qwen"));
}

#[test]
fn damaged_json() {
    check(overwrite("config.json", |bytes| bytes[..40].to_vec()), &["config.json", "not valid JSON"]);
    check(|folder| fs::write(folder.join(INDEX), "{}").unwrap(), &[INDEX, "weight_map"]);
    let outside = json!({"weight_map": {NORM: "../model.safetensors"}}).to_string();
    check(|folder| fs::write(folder.join(INDEX), outside).unwrap(), &[INDEX, "../model.safetensors"]);
    let partial = json!({"weight_map": {NORM: WEIGHTS}}).to_string();
    check(|folder| fs::write(folder.join(INDEX), partial).unwrap(), &[INDEX, "model.embed_tokens.weight", "missing"]);
}

#[test]
fn damaged_weight_files() {
    let not_whole = [WEIGHTS, "truncated or damaged"];
    check(overwrite(WEIGHTS, |_| Vec::new()), &not_whole);
    check(overwrite(WEIGHTS, |bytes| bytes[..5].to_vec()), &not_whole);
    check(overwrite(WEIGHTS, |bytes| bytes[..100].to_vec()), &not_whole);
    check(overwrite(WEIGHTS, |bytes| bytes[..bytes.len() - 1].to_vec()), &not_whole);
    check(overwrite(WEIGHTS, |bytes| [bytes, vec![0]].concat()), &not_whole);
    check(overwrite(WEIGHTS, |bytes| [&[255; 8], &bytes[8..]].concat()), &not_whole);
    check(overwrite(WEIGHTS, |bytes| [&[b'{'; 8], &bytes[8..]].concat()), &not_whole);
}

/// None of these allocates what it claims to need.
#[test]
fn lying_headers() {
    let not_whole = [WEIGHTS, "truncated or damaged"];
    let tensor = |shape: &str, offsets: &str| {
        header(&format!(r#"{{"{NORM}": {{"dtype": "F32", "shape": {shape}, "data_offsets": {offsets}}}}}"#))
    };
    check(overwrite(WEIGHTS, tensor("[2]", "[0, 4]")), &not_whole);
    check(overwrite(WEIGHTS, tensor("[4611686018427387904, 4611686018427387904]", "[0, 8]")), &not_whole);
    check(overwrite(WEIGHTS, tensor("[1099511627776]", "[0, 4398046511104]")), &not_whole);
    check(overwrite(WEIGHTS, tensor("[2]", "[8, 0]")), &not_whole);
    check(overwrite(WEIGHTS, tensor("[-2]", "[0, 8]")), &not_whole);
    check(overwrite(WEIGHTS, header("[]")), &not_whole);
    check(overwrite(WEIGHTS, header("")), &not_whole);
    let mut huge = Checkpoint::qwen3(1, true);
    huge.config["vocab_size"] = json!(1 << 24);
    let swap = |folder: &Path| fs::write(folder.join("config.json"), huge.config.to_string()).unwrap();
    check(swap, &["model.embed_tokens.weight", "[97, 48]", "[16777216, 48]"]);
}

#[test]
fn wrong_tensors() {
    let set = |tensors: &mut Tensors, dtype, shape: &[usize], bytes: Vec<u8>| {
        tensors.insert(NORM.to_owned(), (dtype, shape.to_vec(), bytes));
    };
    check_tensors(|tensors| drop(tensors.remove(NORM)), &[NORM, "missing", WEIGHTS]);
    check_tensors(|tensors| set(tensors, Dtype::F32, &[49], vec![0; 196]), &[NORM, "[49]", "expected [48]"]);
    check_tensors(|tensors| set(tensors, Dtype::F32, &[1, 48], vec![0; 192]), &[NORM, "[1, 48]", "expected [48]"]);
    check_tensors(|tensors| set(tensors, Dtype::I16, &[48], vec![0; 96]), &[NORM, "I16", "convert"]);
    for (value, says) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let mut values = [1.0f32; 48];
        values[17] = value;
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        check_tensors(|tensors| set(tensors, Dtype::F32, &[48], bytes), &[NORM, says, "index 17", "download"]);
    }
}

#[test]
fn what_a_model_says_of_itself() {
    let (folder, files) = Checkpoint::qwen3(1, false).write();
    let model = load(&files, LoadFormat::Auto).unwrap();
    let info = model.info();
    assert_eq!(files.name(), folder.path().file_name().unwrap().to_string_lossy());
    assert_eq!((info.architecture, info.max_model_len), ("Qwen3ForCausalLM", 256));
    assert_eq!(info.kv_bytes_per_token(), 3 * 2 * 2 * 16 * 4);
    let stored =
        Checkpoint::qwen3(1, false).tensors().values().map(|(_, _, bytes)| bytes.len() as u64 / 4).sum::<u64>();
    assert_eq!(info.parameters, stored);
}

#[test]
fn a_blueprint_lists_the_tensors_of_its_checkpoint() {
    let mut biased = Checkpoint::qwen3(1, false);
    biased.config["attention_bias"] = json!(true);
    let mut tied = Checkpoint::qwen(1);
    tied.config["tie_word_embeddings"] = json!(true);
    let others =
        [Checkpoint::qwen(1), Checkpoint::qwen2(1, true), Checkpoint::qwen2(1, false), Checkpoint::qwen3(1, true)];
    for checkpoint in others.into_iter().chain([biased, tied]) {
        let (_folder, files) = checkpoint.write();
        let blueprint = crate::blueprint(&ConfigFile::read(&files).unwrap()).unwrap();
        let stored = checkpoint.tensors().into_iter().map(|(name, (_, shape, _))| (name, shape));
        let listed: BTreeMap<_, _> = blueprint.tensors().map(|tensor| (tensor.name, tensor.shape)).collect();
        assert_eq!(listed, stored.collect());
        let parameters = blueprint.tensors().map(|tensor| tensor.parameters()).sum::<u64>();
        assert_eq!(load(&files, LoadFormat::Auto).unwrap().info().parameters, parameters);
    }
}

#[test]
fn the_first_series_is_served_as_far_as_it_can_be_stretched() {
    let model = |stretched: bool| {
        let mut checkpoint = Checkpoint::qwen(1);
        checkpoint.config["use_dynamic_ntk"] = json!(stretched);
        let (_folder, files) = checkpoint.write_config();
        load(&files, LoadFormat::Dummy { seed: 1 }).unwrap()
    };
    let (stretched, plain) = (model(true), model(false));
    assert_eq!((stretched.info().max_model_len, plain.info().max_model_len), (8192, 2048));
    let variants = |length| [&stretched, &plain].map(|model| model.info().variants.of(length));
    assert_eq!([1, 2048, 2049, 4096, 4097, 8192].map(variants), [[0, 0], [0, 0], [1, 0], [1, 0], [2, 0], [2, 0]]);
    assert_eq!((stretched.info().variants.count(), plain.info().variants.count()), (3, 1));
}

#[test]
fn newer_files_keep_the_rotary_settings_together() {
    let mut checkpoint = Checkpoint::qwen3(1, true);
    checkpoint.config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 10000.0});
    checkpoint.config.as_object_mut().unwrap().remove("rope_theta");
    let (_folder, files) = checkpoint.write();
    assert!(load(&files, LoadFormat::Auto).is_ok());
}

#[test]
fn embedded_bytes_are_a_model_too() {
    static FILES: &[(&str, &[u8])] = &[(
        "config.json",
        br#"{"architectures": ["Qwen3ForCausalLM"], "vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 4, "max_position_embeddings": 16,
            "rope_theta": 100.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": true}"#,
    )];
    let files = ModelFiles::Embedded(EmbeddedFiles { name: "tiny", files: FILES });
    let error = load(&files, LoadFormat::Auto).err().unwrap().to_string();
    assert!(error.contains(WEIGHTS) && error.contains("tiny"), "{error}");
    let dummy = load(&files, LoadFormat::Dummy { seed: 3 }).unwrap();
    assert_eq!(dummy.info().dimensions.head_dim, 2);
}
