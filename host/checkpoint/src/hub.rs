//! A model by its name: a folder, a GGUF file, or an id of the Hugging Face hub that lies in its cache.
//!
//! Nothing is downloaded here. The cache's layout is that of `huggingface_hub`: `models--ORG--NAME` holds `refs`,
//! which name commits, and `snapshots`, a folder for each of them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{LoadError, ModelFiles};

/// A commit's hash is forty letters.
const REF_LIMIT: u64 = 256;

const DEFAULT_REVISION: &str = "main";
const FIRST_PART: &str = "-00001-of-";

/// What the environment says of the hub's cache.
#[derive(Clone, Default, Debug)]
pub struct HubEnvironment {
    /// The folder of the cache, if there is any.
    pub cache: Option<PathBuf>,
    /// Whether `HF_HUB_OFFLINE` is set, which tells users why a download that they ask for will not happen.
    pub offline: bool,
}

/// `ORG/NAME`, or `ORG/NAME@REVISION`.
struct HubId<'a> {
    organisation: &'a str,
    name: &'a str,
    revision: Option<&'a str>,
}

impl HubEnvironment {
    /// `variable` reads the environment: `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME` and `HOME`, in this order.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let in_cache = |cache: PathBuf| cache.join("huggingface").join("hub");
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HF_HOME").map(|home| home.join("hub")))
            .or_else(|| folder("XDG_CACHE_HOME").map(in_cache))
            .or_else(|| folder("HOME").map(|home| in_cache(home.join(".cache"))));
        let offline = variable("HF_HUB_OFFLINE").and_then(|value| value.into_string().ok());
        let yes = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str());
        Self { cache, offline: offline.is_some_and(yes) }
    }
}

impl ModelFiles {
    /// The files of the model that a user names.
    pub fn locate(model: &str, environment: &HubEnvironment) -> Result<Self, LoadError> {
        let path = Path::new(model);
        if path.is_dir() {
            return in_folder(path);
        }
        match Self::path(path) {
            gguf @ Self::Gguf(_) if path.is_file() => Ok(gguf),
            _ if path.is_file() => Err(LoadError::NotAModel { path: model.to_owned() }),
            Self::Gguf(_) => Err(LoadError::NoSuchModel { model: model.to_owned() }),
            _ => match HubId::parse(model) {
                Some(id) => id.find(environment),
                None => Err(LoadError::NoSuchModel { model: model.to_owned() }),
            },
        }
    }
}

impl<'a> HubId<'a> {
    fn parse(model: &'a str) -> Option<Self> {
        let (id, revision) = model.split_once('@').map_or((model, None), |(id, revision)| (id, Some(revision)));
        let (organisation, name) = id.split_once('/')?;
        let plain = |part: &str| {
            let known = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
            !part.is_empty() && !part.starts_with('.') && !part.contains("..") && part.chars().all(known)
        };
        let plain_revision = revision.is_none_or(|revision| revision.split('/').all(plain));
        (plain(organisation) && plain(name) && plain_revision).then_some(Self { organisation, name, revision })
    }

    fn find(&self, environment: &HubEnvironment) -> Result<ModelFiles, LoadError> {
        let looked = environment.cache.as_ref().map(|cache| cache.join(self.folder()));
        match looked.as_deref().and_then(|folder| self.snapshot(folder)) {
            Some(snapshot) => in_folder(&snapshot),
            None => Err(LoadError::NotInCache {
                model: self.to_string(),
                looked: looked.map_or_else(|| "nowhere".to_owned(), |folder| format!("`{}`", folder.display())),
                command: self.command(),
                offline: environment.offline,
            }),
        }
    }

    fn folder(&self) -> String {
        format!("models--{}--{}", self.organisation, self.name)
    }

    /// A branch or a tag leads to a commit; a commit is a snapshot's own name.
    fn snapshot(&self, folder: &Path) -> Option<PathBuf> {
        let revision = self.revision.unwrap_or(DEFAULT_REVISION);
        let commit = read_ref(&folder.join("refs").join(revision));
        let snapshot = folder.join("snapshots").join(commit.as_deref().unwrap_or(revision));
        snapshot.is_dir().then_some(snapshot)
    }

    fn command(&self) -> String {
        let revision = self.revision.map_or_else(String::new, |revision| format!(" --revision {revision}"));
        format!("hf download {}/{}{revision}", self.organisation, self.name)
    }
}

impl std::fmt::Display for HubId<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.organisation, self.name)?;
        self.revision.map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// What a model in this folder is called, where the folder is a snapshot of the hub's cache.
pub(crate) fn name_of_snapshot(folder: &Path) -> Option<String> {
    let snapshots = folder.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))?;
    let id = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    id.split_once("--").map(|(organisation, name)| format!("{organisation}/{name}"))
}

/// The commit's hash that a ref holds.
fn read_ref(path: &Path) -> Option<String> {
    let small = fs::metadata(path).ok().filter(|file| file.is_file() && file.len() <= REF_LIMIT);
    let commit = small.and_then(|_| fs::read_to_string(path).ok())?.trim().to_owned();
    (!commit.is_empty() && commit.chars().all(|letter| letter.is_ascii_alphanumeric())).then_some(commit)
}

/// A folder without a configuration that holds one GGUF file is that file.
fn in_folder(folder: &Path) -> Result<ModelFiles, LoadError> {
    if folder.join("config.json").exists() {
        return Ok(ModelFiles::folder(folder));
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let gguf = |path: &PathBuf| matches!(ModelFiles::path(path), ModelFiles::Gguf(_));
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let later_part = |path: &PathBuf| name(path).contains("-of-") && !name(path).contains(FIRST_PART);
    let mut found: Vec<PathBuf> = entries.filter(gguf).filter(|path| !later_part(path)).collect();
    found.sort_unstable();
    match found.as_slice() {
        [] => Ok(ModelFiles::folder(folder)),
        [one] => Ok(ModelFiles::Gguf(one.clone())),
        several => Err(LoadError::SeveralFiles {
            folder: folder.display().to_string(),
            files: several.iter().map(name).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tempfile::TempDir;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn environment(variables: &[(&str, &str)]) -> HubEnvironment {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        HubEnvironment::read(|name| variables.get(name).map(OsString::from))
    }

    /// A cache with one model, in the layout that `huggingface_hub` writes: files are links to blobs.
    fn cache(config: &str) -> (TempDir, HubEnvironment) {
        let cache = TempDir::new().unwrap();
        let model = cache.path().join("models--Qwen--Qwen3-0.6B");
        let snapshot = model.join("snapshots").join(COMMIT);
        for folder in [model.join("refs/pr"), model.join("blobs"), snapshot.clone()] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(model.join("refs/main"), COMMIT).unwrap();
        fs::write(model.join("refs/pr/1"), format!("{COMMIT}\n")).unwrap();
        fs::write(model.join("blobs/0a"), "{}").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("../../blobs/0a", snapshot.join(config)).unwrap();
        #[cfg(not(unix))]
        fs::copy(model.join("blobs/0a"), snapshot.join(config)).unwrap();
        let environment = HubEnvironment { cache: Some(cache.path().to_owned()), offline: false };
        (cache, environment)
    }

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let check = |variables: &[(&str, &str)], expected: Option<&str>| {
            assert_eq!(environment(variables).cache, expected.map(PathBuf::from), "{variables:?}");
        };
        check(&[], None);
        check(&[("HOME", "/me")], Some("/me/.cache/huggingface/hub"));
        check(&[("HOME", "/me"), ("XDG_CACHE_HOME", "/x")], Some("/x/huggingface/hub"));
        check(&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/x")], Some("/hf/hub"));
        check(&[("HF_HUB_CACHE", "/cache"), ("HF_HOME", "/hf")], Some("/cache"));
        check(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/hf")], Some("/hf/hub"));
        assert!(environment(&[("HF_HUB_OFFLINE", "1")]).offline && environment(&[("HF_HUB_OFFLINE", "true")]).offline);
        assert!(!environment(&[("HF_HUB_OFFLINE", "0")]).offline && !environment(&[]).offline);
    }

    #[test]
    fn an_id_is_found_by_its_revisions() {
        let (_cache, environment) = cache("config.json");
        let commit = format!("Qwen/Qwen3-0.6B@{COMMIT}");
        for model in ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B@main", "Qwen/Qwen3-0.6B@pr/1", &commit] {
            let files = ModelFiles::locate(model, &environment).unwrap();
            assert_eq!(files.name(), "Qwen/Qwen3-0.6B");
            assert_eq!(&*files.open("config.json").unwrap(), b"{}");
        }
    }

    #[test]
    fn folders_and_files_are_what_they_are() {
        let (cache, environment) = cache("tiny.gguf");
        let snapshot = cache.path().join("models--Qwen--Qwen3-0.6B/snapshots").join(COMMIT);
        let file = snapshot.join("tiny.gguf");
        for model in [snapshot.to_str().unwrap(), file.to_str().unwrap(), "Qwen/Qwen3-0.6B"] {
            let files = ModelFiles::locate(model, &environment).unwrap();
            assert!(matches!(&files, ModelFiles::Gguf(path) if *path == file), "{files:?}");
        }
        fs::write(snapshot.join("config.json"), "{}").unwrap();
        let folder = ModelFiles::locate(snapshot.to_str().unwrap(), &environment).unwrap();
        assert!(matches!(folder, ModelFiles::Folder(_)));
    }

    #[test]
    fn what_is_not_there_is_told_how_to_come() {
        let (cache, environment) = cache("config.json");
        let check = |model: &str, environment: &HubEnvironment, expected: &[&str]| {
            let error = ModelFiles::locate(model, environment).unwrap_err().to_string();
            expected.iter().for_each(|part| assert!(error.contains(part), "`{error}` does not say `{part}`"));
        };
        let looked = cache.path().join("models--Qwen--Qwen3-8B");
        check(
            "Qwen/Qwen3-8B",
            &environment,
            &["Qwen/Qwen3-8B", "`hf download Qwen/Qwen3-8B`", looked.to_str().unwrap()],
        );
        check("Qwen/Qwen3-0.6B@v2", &environment, &["`hf download Qwen/Qwen3-0.6B --revision v2`"]);
        check("Qwen/Qwen3-8B", &HubEnvironment::default(), &["nowhere", "HOME"]);
        let offline = HubEnvironment { offline: true, ..environment.clone() };
        check("Qwen/Qwen3-8B", &offline, &["HF_HUB_OFFLINE"]);
        for model in ["/no/such/folder", "nothing", "../up", "a/../b", "a/b/c", "Qwen/Qwen3@../main", "x/y.gguf", ""] {
            check(model, &environment, &[&format!("`{model}`"), "no folder"]);
        }
        let snapshot = cache.path().join("models--Qwen--Qwen3-0.6B/snapshots").join(COMMIT);
        check(snapshot.join("config.json").to_str().unwrap(), &environment, &["config.json", "folder"]);
        fs::remove_file(snapshot.join("config.json")).unwrap();
        for file in ["a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"] {
            fs::write(snapshot.join(file), "").unwrap();
        }
        check("Qwen/Qwen3-0.6B", &environment, &["a.gguf, b-00001-of-00002.gguf:"]);
        fs::remove_file(snapshot.join("a.gguf")).unwrap();
        let split = ModelFiles::locate("Qwen/Qwen3-0.6B", &environment).unwrap();
        assert_eq!(split.name(), "b-00001-of-00002");
    }
}
