//! Compiles the CUDA kernels, where the feature `cuda` asks for them: each source that `cuda/kernels.cu` names becomes a fat
//! binary of its own, as many at a time as there are processors.

use std::collections::HashMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Machine code for the RTX 4090 and Hopper; the driver makes others' of the last one, on cards from the A100 on.
const TARGETS: [&str; 3] = [
    "-gencode=arch=compute_89,code=sm_89",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_80,code=compute_80",
];

/// With 1 in it, nothing but the last target is compiled: then any card runs what the oldest one would, for trying that out.
const PTX_ONLY: &str = "SLUICE_CUDA_PTX_ONLY";

/// Where `fetch-nvcc` puts what it fetches, beneath the target folder.
const FETCHED: &str = "nvcc/nvidia/cu13/bin/nvcc";

const NO_NVCC: &str = "the feature `cuda` needs nvcc, NVIDIA's compiler, and there is none: neither in $NVCC, nor in \
                       $CUDA_HOME/bin, nor in $PATH, nor in the target folder. `host/kernels/fetch-nvcc` fetches it.";

/// What ptxas is given for Hopper, where all kernels have their bodies.
const ASSEMBLY: &str = ".compute_90a.ptx";

/// How a kernel says what it wants of dynamic shared memory: `SHARED_BYTES` in `cuda/common.cuh`.
const SHARED_BYTES: &str = ".global .align 4 .u32 shared_bytes_";

/// What the crate is told of a kernel: `Compiled` in `src/cuda/compiled.rs`, which its text becomes.
#[derive(Clone, Debug)]
struct Compiled {
    name: String,
    argument_bytes: Option<u32>,
    /// Of a block, at most.
    threads: Option<u32>,
    /// Dynamic.
    shared_bytes: Option<u32>,
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(ptx_only)");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=cuda");
    for variable in ["NVCC", "CUDA_HOME", "PATH", PTX_ONLY] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if ptx_only() {
        println!("cargo::rustc-cfg=ptx_only");
    }
    if let Err(problem) = compile_all() {
        println!("cargo::error={problem}");
    }
}

fn ptx_only() -> bool {
    env::var_os(PTX_ONLY).is_some_and(|value| value == "1")
}

fn compile_all() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: cargo sets it")?);
    let nvcc = nvcc(&out).ok_or(NO_NVCC)?;
    let sources = sources().map_err(|error| format!("cuda/kernels.cu: {error}"))?;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(name) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((name, compile(&nvcc, name, &out)?));
        }
        Ok::<_, String>(done)
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let done: Result<Vec<_>, _> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err("nvcc's thread panicked".into())))
            .collect()
    });
    let mut compiled = done?.concat();
    compiled.sort_by_key(|(name, _)| *name);
    fs::write(out.join("fatbins.rs"), list(&compiled)).map_err(|error| format!("fatbins.rs: {error}"))
}

/// The sources that belong into the program, without their extension.
fn sources() -> io::Result<Vec<String>> {
    let all = fs::read_to_string("cuda/kernels.cu")?;
    let name = |line: &str| Some(line.strip_prefix("#include \"")?.strip_suffix(".cu\"")?.to_string());
    Ok(all.lines().filter_map(name).collect())
}

fn nvcc(out: &Path) -> Option<PathBuf> {
    if let Some(nvcc) = env::var_os("NVCC") {
        return Some(nvcc.into());
    }
    let home = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let fetched = out.ancestors().map(|folder| folder.join(FETCHED)).chain([ours.join(FETCHED)]);
    home.into_iter().chain(on_path).chain(fetched).find(|nvcc| nvcc.is_file())
}

/// Leaves `<name>.fatbin` and says what is in it.
fn compile(nvcc: &Path, name: &str, out: &Path) -> Result<Vec<Compiled>, String> {
    let kept = out.join(name);
    fs::create_dir_all(&kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    let mut command = Command::new(nvcc);
    command.args(["--fatbin", "-O3", "-std=c++17", "--disable-warnings", "-DPROGRAM"]);
    let (targets, assembly) = if ptx_only() { (&TARGETS[2..], ".ptx") } else { (&TARGETS[..], ASSEMBLY) };
    command.args(targets);
    command.arg("--keep").arg("--keep-dir").arg(&kept);
    command.arg(format!("cuda/{name}.cu")).arg("-o").arg(out.join(format!("{name}.fatbin")));
    let output = command.output().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    if !output.status.success() {
        // Cargo takes an error of one line.
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).lines().collect::<Vec<_>>().join(" | ");
        return Err(format!("nvcc of {name}.cu: {}: {said}", output.status));
    }
    let assembly = kept.join(format!("{name}{assembly}"));
    let text = fs::read_to_string(&assembly).map_err(|error| format!("{}: {error}", assembly.display()))?;
    fs::remove_dir_all(&kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    Ok(kernels(&text))
}

/// Those of one source, as its assembly has them (NVIDIA's "Parallel Thread Execution ISA").
fn kernels(assembly: &str) -> Vec<Compiled> {
    let mut found: Vec<Compiled> = Vec::new();
    let mut shared = HashMap::new();
    for line in assembly.lines() {
        if let Some(constant) = line.strip_prefix(SHARED_BYTES) {
            let value = constant.split_once(" = ").map(|(name, value)| (name, number(value)));
            shared.extend(value);
        } else if let Some(entry) = line.strip_prefix(".visible .entry ") {
            let name = entry.trim_end_matches('(').into();
            found.push(Compiled { name, argument_bytes: None, threads: None, shared_bytes: None });
        } else if let Some(kernel) = found.last_mut() {
            let bytes = line.split_once("_param_0[").and_then(|(_, bytes)| number(bytes));
            kernel.argument_bytes = kernel.argument_bytes.or(bytes);
            kernel.threads = kernel.threads.or(line.strip_prefix(".maxntid ").and_then(number));
        }
    }
    for kernel in &mut found {
        kernel.shared_bytes = shared.get(kernel.name.as_str()).copied().flatten();
    }
    found
}

/// What a text begins with.
fn number(text: &str) -> Option<u32> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text[..digits].parse().ok()
}

/// What the crate includes: of each source its name, its fat binary, and its kernels.
fn list(compiled: &[(&String, Vec<Compiled>)]) -> String {
    let mut list = String::from("&[\n");
    for (name, kernels) in compiled {
        let image = format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.fatbin\"))");
        let _ = writeln!(list, "Fatbin {{ name: {name:?}, image: {image}, kernels: &{kernels:#?} }},");
    }
    list + "]\n"
}
