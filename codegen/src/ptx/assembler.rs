//! NVIDIA's assembler, where it is installed: whether a text assembles, and what became of it. Nothing needs it but tests,
//! reports, and whoever wants to assemble ahead of time.
//!
//! It is looked for in `PTXAS`, in `target/cuda-tools` of this folder and those above it (`make cuda-tools` puts it there),
//! and in `PATH`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io};

use thiserror::Error;

pub use super::sass::Sass;

/// Where `make cuda-tools` puts the programs.
const TOOLS: &str = "target/cuda-tools/nvidia/cu13/bin";

/// The programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembler {
    ptxas: PathBuf,
    nvdisasm: Option<PathBuf>,
}

/// What the assembler made of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// Machine code that a driver loads.
    pub cubin: Vec<u8>,
    /// What the entries need, in the order of the assembler's report.
    pub entries: Vec<Entry>,
    /// What it warns of: above all that it could not let products of four warps run at the same time.
    pub warnings: Vec<String>,
}

/// What a kernel needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Name of the kernel.
    pub name: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread's stack.
    pub stack: u32,
    /// Bytes of stores and loads of registers that did not fit.
    pub spill_stores: u32,
    /// Bytes of loads of such registers.
    pub spill_loads: u32,
    /// Bytes of shared memory, without dynamic one.
    pub shared: u32,
}

/// Why there is no machine code.
#[derive(Debug, Error)]
pub enum AssembleError {
    /// The text is wrong.
    #[error("the assembler refuses it for {arch}:\n{message}")]
    Refused {
        /// The machine.
        arch: String,
        /// What the assembler said.
        message: String,
    },
    /// The program did not run.
    #[error("the assembler does not run: {0}")]
    Run(#[from] io::Error),
    /// The program does not say what it is.
    #[error("{0} does not say its version; is it NVIDIA's assembler?")]
    Version(PathBuf),
    /// There is no disassembler beside the assembler.
    #[error("there is no nvdisasm beside {0}")]
    NoDisassembler(PathBuf),
}

impl Assembler {
    /// The programs, if they are installed.
    pub fn find() -> Option<Assembler> {
        let given = env::var_os("PTXAS").filter(|p| !p.is_empty()).map(PathBuf::from);
        let here = env::current_dir().unwrap_or_default();
        let above = here.ancestors().map(|dir| dir.join(TOOLS).join("ptxas"));
        let path = env::var_os("PATH").unwrap_or_default();
        let anywhere: Vec<PathBuf> = env::split_paths(&path).map(|dir| dir.join("ptxas")).collect();
        let ptxas = given.into_iter().chain(above).chain(anywhere).find(|p| p.is_file())?;
        Some(Assembler::at(ptxas))
    }

    /// The assembler of that path, and what lies beside it.
    pub fn at(ptxas: PathBuf) -> Assembler {
        let nvdisasm = Some(ptxas.with_file_name("nvdisasm")).filter(|p| p.is_file());
        Assembler { ptxas, nvdisasm }
    }

    /// True if [`Assembler::disassemble`] works.
    pub fn disassembles(&self) -> bool {
        self.nvdisasm.is_some()
    }

    /// The assembler with its version: `ptxas 13.0.88`. With equal text, machine and version the machine code is equal.
    pub fn version(&self) -> Result<String, AssembleError> {
        let out = Command::new(&self.ptxas).arg("--version").output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        match version(&text).filter(|_| out.status.success()) {
            Some(version) => Ok(format!("ptxas {version}")),
            None => Err(AssembleError::Version(self.ptxas.clone())),
        }
    }

    /// Assembles a module for a machine, `sm_90a`.
    pub fn assemble(&self, text: &[u8], arch: &str) -> Result<Assembled, AssembleError> {
        let folder = Scratch::new()?;
        let (source, cubin) = ("module.ptx", "module.cubin");
        fs::write(folder.0.join(source), text)?;
        // The machine code says how it was made: names without folders keep it the same everywhere.
        let program = std::path::absolute(&self.ptxas)?;
        let arch_flag = format!("-arch={arch}");
        let out =
            Command::new(program).args(["-v", &arch_flag, "-o", cubin, source]).current_dir(&folder.0).output()?;
        let report = String::from_utf8_lossy(&out.stderr);
        if !out.status.success() {
            let message = format!("{}{report}", String::from_utf8_lossy(&out.stdout));
            return Err(AssembleError::Refused { arch: arch.into(), message: message.trim().into() });
        }
        Ok(Assembled { cubin: fs::read(folder.0.join(cubin))?, entries: entries(&report), warnings: warnings(&report) })
    }

    /// What the instructions of machine code are, for each of its kernels.
    pub fn disassemble(&self, cubin: &[u8]) -> Result<Vec<Sass>, AssembleError> {
        let Some(nvdisasm) = &self.nvdisasm else { return Err(AssembleError::NoDisassembler(self.ptxas.clone())) };
        let folder = Scratch::new()?;
        let file = folder.0.join("module.cubin");
        fs::write(&file, cubin)?;
        let out = Command::new(nvdisasm).arg("-c").arg(&file).output()?;
        if !out.status.success() {
            let message = String::from_utf8_lossy(&out.stderr).trim().to_string();
            return Err(AssembleError::Refused { arch: "disassembly".into(), message });
        }
        Ok(Sass::of(&String::from_utf8_lossy(&out.stdout)))
    }
}

/// A folder of its own that goes with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Scratch> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base: &Path = &env::temp_dir();
        loop {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let dir = base.join(format!("tilewright-ptx-{}-{n}", std::process::id()));
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(Scratch(dir)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system, which clears the folder of temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Reads `ptxas --version`: what stands behind the V of `release 13.0, V13.0.88`.
fn version(text: &str) -> Option<&str> {
    let behind = text.split_once("release ")?.1.split_once(", V")?.1;
    behind.split_whitespace().next().filter(|v| v.starts_with(|c: char| c.is_ascii_digit()))
}

/// The number that stands before `what`.
fn number(line: &str, what: &str) -> Option<u32> {
    let before = &line[..line.find(what)?];
    before.trim_end().rsplit([' ', ',']).next()?.parse().ok()
}

/// The lines that are no mere facts.
fn warnings(report: &str) -> Vec<String> {
    let is_one = |line: &&str| line.contains("warning") || line.contains("Potential Performance Loss");
    report.lines().filter(is_one).map(|line| line.trim().to_string()).collect()
}

/// Reads the report of `ptxas -v`.
fn entries(report: &str) -> Vec<Entry> {
    let mut out: Vec<Entry> = vec![];
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or_default().to_string();
            out.push(Entry { name, ..Entry::default() });
        }
        let Some(entry) = out.last_mut() else { continue };
        if let Some(n) = number(line, "bytes stack frame") {
            entry.stack = n;
            entry.spill_stores = number(line, "bytes spill stores").unwrap_or(0);
            entry.spill_loads = number(line, "bytes spill loads").unwrap_or(0);
        }
        if let Some(n) = number(line, "registers") {
            entry.registers = n;
            entry.shared = number(line, "bytes smem").unwrap_or(0);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read() {
        let report = "ptxas info    : 0 bytes gmem\n\
                      ptxas info    : Compiling entry function 'k' for 'sm_80'\n\
                      ptxas info    : Function properties for k\n    \
                      16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n\
                      ptxas info    : Used 42 registers, used 1 barriers, 16 bytes cumulative stack size, 1024 bytes smem, 380 bytes cmem[0]\n";
        let wanted =
            Entry { name: "k".into(), registers: 42, stack: 16, spill_stores: 12, spill_loads: 8, shared: 1024 };
        assert_eq!(entries(report), [wanted]);
        assert_eq!(warnings(report), [""; 0]);
        let loss =
            "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to";
        assert_eq!(warnings(&format!("{report}{loss}\n")), [loss]);
        let banner =
            "Built on Wed\nCuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0.r13.0/compiler.1_0\n";
        assert_eq!(version(banner), Some("13.0.88"));
        assert_eq!(version("release 13.0, Vienna"), None);
    }
}
