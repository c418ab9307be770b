//! Compiles the CUDA kernels, where the feature `cuda` asks for them: each source that `cuda/kernels.cu` names becomes a fat
//! binary of its own, as many at a time as there are processors.

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

/// Where `fetch-nvcc` puts what it fetches, beneath the target folder.
const FETCHED: &str = "nvcc/nvidia/cu13/bin/nvcc";

const NO_NVCC: &str = "the feature `cuda` needs nvcc, NVIDIA's compiler, and there is none: neither in $NVCC, nor in \
                       $CUDA_HOME/bin, nor in $PATH, nor in the target folder. `host/kernels/fetch-nvcc` fetches it.";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=cuda");
    for variable in ["NVCC", "CUDA_HOME", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Err(problem) = compile_all() {
        println!("cargo::error={problem}");
    }
}

fn compile_all() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: cargo sets it")?);
    let nvcc = nvcc(&out).ok_or(NO_NVCC)?;
    let sources = sources().map_err(|error| format!("cuda/kernels.cu: {error}"))?;
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(name) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            compile(&nvcc, name, &out)?;
        }
        Ok::<_, String>(())
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| Err("a compilation panicked".into())))
    })?;
    fs::write(out.join("fatbins.rs"), list(&sources)).map_err(|error| format!("fatbins.rs: {error}"))
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

fn compile(nvcc: &Path, name: &str, out: &Path) -> Result<(), String> {
    let mut command = Command::new(nvcc);
    command.args(["--fatbin", "-O3", "-std=c++17", "--disable-warnings"]).args(TARGETS);
    command.arg(format!("cuda/{name}.cu")).arg("-o").arg(out.join(format!("{name}.fatbin")));
    let output = command.output().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    if output.status.success() {
        return Ok(());
    }
    // Cargo takes an error of one line.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).lines().collect::<Vec<_>>().join(" | ");
    Err(format!("nvcc of {name}.cu: {}: {said}", output.status))
}

/// What the crate includes: name and contents of each.
fn list(sources: &[String]) -> String {
    let mut list = String::from("&[\n");
    for name in sources {
        let bytes = format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.fatbin\"))");
        let _ = writeln!(list, "    (\"{name}\", {bytes}),");
    }
    list + "]\n"
}
