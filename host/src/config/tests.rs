//! What was typed where, and what it comes to mean.

use std::io::Write as _;

use super::*;

fn from_file(text: &str) -> Result<Settings, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    super::file(file.path())
}

fn from_environment(variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    environment(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

#[test]
fn nothing_typed_is_the_embedded_model_on_loopback() {
    let config = ServeConfig::of(Settings::default()).unwrap();
    assert_eq!(config.server.address.to_string(), "127.0.0.1:8000");
    assert_eq!(config.server.admin_address.to_string(), "127.0.0.1:8001");
    assert_eq!(config.model.source, ModelSource::Embedded);
    assert!(config.policies.first.iter().all(|first| matches!(first.source, PolicySource::Shipped(_))));
}

#[test]
fn the_environment_stands_over_the_file() {
    let file = from_file("[server]\nport = 1\nadmin_port = 2\n[engine]\nreplicas = 3").unwrap();
    let environment =
        from_environment(&[("SLUICE__SERVER__PORT", "9"), ("SLUICE__MODEL__SOURCE", "/m"), ("HOME", "/h")]).unwrap();
    let config = ServeConfig::of(environment.over(file)).unwrap();
    assert_eq!((config.server.address.port(), config.server.admin_address.port()), (9, 2));
    assert_eq!((config.engine.on_cpu.replicas, config.model.source), (3, ModelSource::Named("/m".to_owned())));
}

#[test]
fn an_unknown_key_suggests_the_nearest() {
    let cases = [
        ("[server]\nprot = 1", "unknown key in [server] `prot`: did you mean `port`?"),
        ("[engine]\nmax_seqs = 1", "unknown key in [engine] `max_seqs`: did you mean `max_num_seqs`?"),
        ("[sever]\nport = 1", "unknown section `sever`: did you mean `server`?"),
        ("server = 1", "`server` is a section: write `[server]`"),
        ("[server]\nport = 99999", "invalid value"),
        ("[server]\nhost = \"nowhere\"", "invalid IP address"),
        ("[server", "TOML parse error"),
    ];
    for (text, message) in cases {
        let error = from_file(text).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let error = from_environment(&[("SLUICE__SERVER__PROT", "1")]).unwrap_err().to_string();
    assert_eq!(error, "SLUICE__SERVER__PROT: unknown key in [server] `prot`: did you mean `port`?");
    assert!(from_environment(&[("SLUICE__PORT", "1")]).unwrap_err().to_string().contains("SECTION__KEY"));
    assert!(super::file(std::path::Path::new("/no/such/sluice.toml")).is_err());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cases = [
        ("[engine]\nreplicas = 0", "engine.replicas: must be at least 1"),
        ("[engine]\nreplicas = 65", "engine.replicas: is 65, at most 64"),
        ("[engine]\nmax_num_seqs = 4294967295", "engine.max_num_seqs: is 4294967295, at most 16384"),
        (
            "[engine]\nmax_num_batched_tokens = 4294967295",
            "engine.max_num_batched_tokens: is 4294967295, at most 1048576",
        ),
        ("[engine]\nblock_size = 4294967295", "engine.block_size: is 4294967295, at most 4096"),
        ("[engine]\nmax_num_seqs = 64\nmax_num_batched_tokens = 32", "engine.max_num_batched_tokens"),
        ("[engine]\ndevice = \"tpu\"", "engine.device: unknown device `tpu`: there are `auto`, `cpu` and `cuda`"),
        ("[engine]\ngpu_memory_utilization = 0", "engine.gpu_memory_utilization: is 0, expected more than 0"),
        ("[engine]\nkeep_dequantized = 'yes'", "engine.keep_dequantized: unknown choice `yes`: there are `auto`"),
        ("[engine]\ngpu_memory_utilization = nan", "engine.gpu_memory_utilization"),
        ("[model]\nmax_model_len = 1", "model.max_model_len"),
        ("[model]\nload_format = \"gguf\"", "unknown format `gguf`"),
        ("[model]\ndtype = \"int4\"", "model.dtype: `int4` is no dtype"),
        ("[model]\nquantization = \"awq\"", "model.quantization: `awq`"),
        (
            "[policies]\nrouting = \"first-come\"",
            "there are least-loaded, prefix-affinity, session-affinity, two-choices, or a .wasm file",
        ),
        ("[log]\nformat = \"xml\"", "log.format"),
    ];
    for (text, message) in cases {
        let error = ServeConfig::of(from_file(text).unwrap()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn what_a_step_holds_depends_on_the_device_where_nobody_says() {
    let check = |typed: &str, on_cpu: (u32, u32), on_gpu: (u32, u32)| {
        let engine = ServeConfig::of(from_file(typed).unwrap()).unwrap().engine;
        let sizes = |engine: EngineConfig| (engine.max_sequences, engine.max_batched_tokens);
        assert_eq!((sizes(engine.on_cpu), sizes(engine.on_gpu)), (on_cpu, on_gpu), "{typed}");
    };
    check("", (64, 512), (256, 2048));
    check("[engine]\nmax_num_seqs = 1000", (1000, 1000), (1000, 2048));
    check("[engine]\nmax_num_batched_tokens = 32", (32, 32), (32, 32));
    check("[engine]\nmax_num_batched_tokens = 4096", (64, 4096), (256, 4096));
}
