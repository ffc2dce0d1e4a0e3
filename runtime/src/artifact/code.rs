//! The kernels of an artifact: functions in memory for a CPU, text and machine code to give to a driver for a GPU.

use std::collections::{BTreeMap, BTreeSet};

use super::{KERNELS, KERNELS_PTX, cubin_of, is_kernels};
use crate::cuda::{Code, DeviceFacts, GpuError, Sm};
use crate::error::ArtifactError;
use crate::loader::Kernels;

/// Kernels for a CPU or a GPU.
#[derive(Debug)]
pub(super) enum KernelCode {
    Cpu(Kernels),
    Gpu(GpuKernels),
}

impl KernelCode {
    /// Takes the files that hold kernels out of `files`; `main` is the one there must be.
    pub(super) fn take(main: &str, files: &mut BTreeMap<String, Vec<u8>>) -> Result<KernelCode, ArtifactError> {
        let Some(first) = files.remove(main) else {
            return Err(ArtifactError::rejected(super::MANIFEST, format!("{main} is not listed")));
        };
        if main == KERNELS_PTX {
            return GpuKernels::read(first, files).map(KernelCode::Gpu);
        }
        let mut kernels = Kernels::load(&first)?;
        let more: Vec<String> = files.keys().filter(|name| is_kernels(name)).cloned().collect();
        for name in more {
            kernels.join(Kernels::load(&files.remove(&name).unwrap_or_default())?);
        }
        Ok(KernelCode::Cpu(kernels))
    }

    /// Name of the file that must be there.
    pub(super) fn main_file(gpu: bool) -> &'static str {
        if gpu { KERNELS_PTX } else { KERNELS }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            KernelCode::Cpu(kernels) => kernels.get(name).is_some(),
            KernelCode::Gpu(kernels) => kernels.entries.contains(name),
        }
    }
}

/// Kernels for a GPU: PTX, and machine code for some kinds of GPUs beside it.
#[derive(Debug)]
pub struct GpuKernels {
    ptx: String,
    /// What `.target` says.
    target: String,
    /// Names of the kernels in the text.
    entries: BTreeSet<String>,
    /// Machine code by kind of GPU.
    cubins: BTreeMap<String, Vec<u8>>,
}

impl GpuKernels {
    fn read(ptx: Vec<u8>, files: &mut BTreeMap<String, Vec<u8>>) -> Result<GpuKernels, ArtifactError> {
        let bad = |what: &str| ArtifactError::rejected(KERNELS_PTX, what);
        let ptx = String::from_utf8(ptx).map_err(|_| bad("it is not text"))?;
        let target =
            ptx.lines().find_map(|l| l.trim().strip_prefix(".target ")).and_then(|l| l.split([',', ' ']).next());
        let target =
            target.filter(|name| Sm::parse(name).is_some()).ok_or_else(|| bad("it names no .target"))?.to_string();
        let entries = entries(&ptx);
        let names: Vec<String> = files.keys().filter(|name| is_kernels(name)).cloned().collect();
        let mut cubins = BTreeMap::new();
        for file in names {
            let arch = file.strip_prefix("kernels.").and_then(|n| n.strip_suffix(".cubin"));
            let arch = arch.filter(|arch| Sm::parse(arch).is_some() && cubin_of(arch) == file);
            let Some(arch) = arch.map(str::to_string) else {
                return Err(ArtifactError::rejected(&file, "it does not belong into an artifact for a GPU"));
            };
            cubins.insert(arch, files.remove(&file).unwrap_or_default());
        }
        Ok(GpuKernels { ptx, target, entries, cubins })
    }

    /// The text.
    pub fn ptx(&self) -> &str {
        &self.ptx
    }

    /// The kind of GPU that the text is for: `sm_90a`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Kinds of GPUs for which there is machine code.
    pub fn cubins(&self) -> impl Iterator<Item = &str> {
        self.cubins.keys().map(String::as_str)
    }

    /// What to load on a device, best first: machine code that runs there, if the driver takes any, and the text.
    pub fn for_device(&self, facts: &DeviceFacts) -> Result<Vec<Code<'_>>, GpuError> {
        let runs = |(arch, cubin)| Sm::parse(arch).filter(|sm: &Sm| sm.code_runs_on(facts.sm)).map(|sm| (sm, cubin));
        let cubins = self.cubins.iter().map(|(arch, cubin)| (arch.as_str(), cubin)).filter_map(runs);
        let nearest = cubins.filter(|_| facts.takes_cubins).max_by_key(|(sm, _)| (sm.number, sm.exact));
        let text = Sm::parse(&self.target).filter(|sm| sm.runs_on(facts.sm)).map(|_| Code::Ptx(&self.ptx));
        let codes: Vec<Code<'_>> =
            nearest.map(|(_, cubin): (Sm, &Vec<u8>)| Code::Cubin(cubin)).into_iter().chain(text).collect();
        match codes.is_empty() {
            true => {
                let (compiled, name) = (self.target.clone(), facts.name.clone());
                Err(GpuError::WrongArch { compiled, device: facts.sm, name })
            }
            false => Ok(codes),
        }
    }
}

/// Names behind `.visible .entry`.
fn entries(ptx: &str) -> BTreeSet<String> {
    let visible = |before: &str| before.trim_end().ends_with(".visible");
    let name = |after: &str| {
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '$')).unwrap_or(after.len());
        after[..end].to_string()
    };
    ptx.match_indices(".entry")
        .filter(|(at, _)| visible(&ptx[..*at]))
        .map(|(at, m)| name(&ptx[at + m.len()..]))
        .collect()
}
