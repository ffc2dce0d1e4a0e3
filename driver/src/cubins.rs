//! Machine code for GPUs ahead of time, where NVIDIA's assembler is at hand: an artifact has it beside the PTX, so that a
//! session need not wait for the driver to compile that.
//!
//! What was assembled lies in `cubins/` of the cache folder, under a hash of text, target and assembler, behind a hash of itself.
//! Nothing is lost with it: what is missing there or damaged is assembled again.

use crate::{BuildOptions, DriverError};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use tilewright_codegen::ptx::assembler::{AssembleError, Assembler};
use tilewright_runtime::artifact::Choice;

/// What became of the text of a GPU's kernels.
pub(crate) struct Assembled {
    /// The machine code, if there is any.
    pub cubin: Option<Vec<u8>>,
    /// What the artifact says of it.
    pub choice: Choice,
    /// What the user should know.
    pub warning: Option<String>,
}

/// Assembles the kernels of a GPU target; without an assembler there is PTX alone. `begin` is called if it takes time.
pub(crate) fn assemble(ptx: &[u8], options: &BuildOptions, begin: impl FnOnce()) -> Result<Assembled, DriverError> {
    let arch = &options.target.name;
    let made = |cubin: Option<Vec<u8>>, choice: String, why: String| {
        let choice = Choice { what: "code".into(), choice: choice.into(), why: why.into() };
        Assembled { cubin, choice, warning: None }
    };
    let driver = "the driver compiles it when it is loaded";
    let Some(assembler) = &options.assembler else {
        return Ok(made(None, "PTX alone".into(), format!("there is no assembler (ptxas) here; {driver}")));
    };
    let version = assembler.version()?;
    let known = options.records.as_deref().map(|root| root.join("cubins").join(name(ptx, arch, &version)));
    if let Some(cubin) = known.as_deref().and_then(read) {
        return Ok(made(Some(cubin), format!("{arch} and PTX"), by(&version)));
    }
    begin();
    match assembler.assemble(ptx, arch) {
        Ok(done) => {
            if let Some(path) = &known {
                write(path, &done.cubin);
            }
            Ok(made(Some(done.cubin), format!("{arch} and PTX"), by(&version)))
        }
        // It may be too old for the target; the driver may not be.
        Err(AssembleError::Refused { message, .. }) => {
            let warning =
                format!("{version} refuses the kernels ({message}): the artifact has PTX alone, and {driver}");
            let alone = made(None, "PTX alone".into(), format!("{version} refuses it; {driver}"));
            Ok(Assembled { warning: Some(warning), ..alone })
        }
        Err(e) => Err(e.into()),
    }
}

fn by(version: &str) -> String {
    format!("assembled by {version}; a GPU or driver that does not take it is given the PTX")
}

/// What of the assembler changes the result, for cache keys.
pub(crate) fn key(assembler: Option<&Assembler>) -> Result<String, DriverError> {
    Ok(assembler.map(Assembler::version).transpose()?.unwrap_or_default())
}

fn name(ptx: &[u8], arch: &str, version: &str) -> String {
    let mut hash = blake3::Hasher::new();
    for part in [arch.as_bytes(), version.as_bytes(), ptx] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("{}.cubin", &hash.finalize().to_hex()[..32])
}

/// What was kept there, if it is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(path).ok()?;
    let rest = bytes.split_off(bytes.len().min(blake3::OUT_LEN));
    (*blake3::hash(&rest).as_bytes() == *bytes).then_some(rest)
}

/// Keeps machine code. It is no more than a shortcut: where it cannot be written it is made again.
fn write(path: &Path, cubin: &[u8]) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let part = path.with_extension(format!("{}-{number}.part", std::process::id()));
    let _ = path.parent().map(std::fs::create_dir_all);
    let bytes = [blake3::hash(cubin).as_bytes().as_slice(), cubin].concat();
    if std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path)).is_err() {
        let _ = std::fs::remove_file(&part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_whole_or_not_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("cubins").join(name(b"text", "sm_80", "ptxas 1"));
        assert_eq!(read(&path), None);
        let seed = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64;
        let cubin: Vec<u8> = (1..200u64).map(|i| (i.wrapping_mul(seed | 1) >> 7) as u8).collect();
        write(&path, &cubin);
        assert_eq!(read(&path).as_ref(), Some(&cubin), "seed {seed}");
        let kept = std::fs::read(&path).expect("kept");
        for at in [0, 31, 32, kept.len() - 1] {
            let mut bad = kept.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).expect("written");
            assert_eq!(read(&path), None, "seed {seed}, byte {at}");
            std::fs::write(&path, &kept[..at]).expect("written");
            assert_eq!(read(&path), None, "seed {seed}, the first {at} bytes");
        }
        let others =
            [name(b"text", "sm_90", "ptxas 1"), name(b"text", "sm_80", "ptxas 2"), name(b"txt", "sm_80", "ptxas 1")];
        assert!(others.iter().all(|n| *n != name(b"text", "sm_80", "ptxas 1")));
    }
}
