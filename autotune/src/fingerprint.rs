//! Which machine this is: what decides whether times that were measured once hold again.
//!
//! Read from `/proc/cpuinfo` and `/sys`, which need no `unsafe` and can be tested for every architecture. Left out is what
//! changes between two runs: clock, load, microcode, and flags that tell of the kernel and not of the processor.
//!
//! ```
//! use tilewright_autotune::fingerprint::Device;
//! let device = Device::detect();
//! assert_eq!(device.id(), Device::detect().id());
//! assert_eq!(device.id().len(), 16);
//! println!("{}", device.describe());
//! ```

use std::fs::read_to_string;
use std::path::Path;
use tilewright_runtime::cuda::DeviceFacts;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Who made the processor; `CPU implementer` on aarch64.
    pub vendor: String,
    /// Its name; on aarch64 the parts.
    pub model: String,
    /// Family, model and stepping, `25/17/1`; revisions of the parts on aarch64.
    pub stepping: String,
    /// Processors of the machine, not of this process: pinning a process does not make another machine of it.
    pub cores: usize,
    /// Caches of the first processor, `L2 1024K`.
    pub caches: Vec<String>,
    /// Instruction sets that kernels may use.
    pub features: Vec<String>,
    /// Whether it is known to be virtual.
    pub hypervisor: bool,
}

/// How names of flags start that say what kernels can do. The others come and go with the version of the kernel.
const FEATURES: &[&str] = &[
    "sse", "ssse", "pni", "avx", "fma", "f16c", "bmi", "abm", "popcnt", "movbe", "amx", "gfni", "vaes", "vpclmul",
    "erms", "fsrm", "asimd", "sve", "sme", "fphp", "bf16", "i8mm",
];

impl Device {
    /// This machine.
    pub fn detect() -> Device {
        let cpu = read_to_string("/proc/cpuinfo").unwrap_or_default();
        Device::from_parts(&cpu, caches(Path::new("/sys/devices/system/cpu/cpu0/cache")))
    }

    /// The machine that `/proc/cpuinfo` describes, with these caches. What is not said stays empty.
    pub fn from_parts(cpuinfo: &str, caches: Vec<String>) -> Device {
        let lines = || cpuinfo.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.trim(), v.trim()));
        // Processors of one machine may differ, and come in any number: each value once, in its order.
        let all = |name: &str| {
            let mut values: Vec<&str> = vec![];
            for (_, v) in lines().filter(|(k, v)| *k == name && !v.is_empty()) {
                if !values.contains(&v) {
                    values.push(v);
                }
            }
            values.join(" ")
        };
        let either = |a: &str, b: &str| Some(all(a)).filter(|v| !v.is_empty()).unwrap_or_else(|| all(b));
        let flags = either("flags", "Features");
        let mut features: Vec<String> =
            flags.split(' ').filter(|f| FEATURES.iter().any(|p| f.starts_with(p))).map(str::to_string).collect();
        features.sort();
        features.dedup();
        let stepping = if all("cpu family").is_empty() {
            format!("{}/{}/{}", all("CPU architecture"), all("CPU variant"), all("CPU revision"))
        } else {
            format!("{}/{}/{}", all("cpu family"), all("model"), all("stepping"))
        };
        Device {
            vendor: either("vendor_id", "CPU implementer"),
            model: either("model name", "CPU part"),
            stepping,
            cores: lines().filter(|(k, _)| *k == "processor").count(),
            caches,
            features,
            hypervisor: flags.split(' ').any(|f| f == "hypervisor"),
        }
    }

    /// Sixteen digits that differ where anything above does: the name of the machine's file of records.
    pub fn id(&self) -> String {
        // The architecture too: /proc may be absent.
        let text = format!("{}\n{}", std::env::consts::ARCH, self.describe());
        blake3::hash(text.as_bytes()).to_hex()[..16].to_string()
    }

    /// All of it, a line each.
    pub fn describe(&self) -> String {
        let known = |s: &str| if s.is_empty() { "unknown".to_string() } else { s.to_string() };
        format!(
            "vendor      {}\nmodel       {}\nstepping    {}\ncores       {}\ncaches      {}\nfeatures    {}\nhypervisor  {}\n",
            known(&self.vendor),
            known(&self.model),
            self.stepping,
            self.cores,
            known(&self.caches.join(", ")),
            known(&self.features.join(" ")),
            if self.hypervisor { "yes" } else { "none known" },
        )
    }
}

/// All of a GPU, a line each, as [`Device::describe`] says it of a processor.
pub fn describe_gpu(facts: &DeviceFacts) -> String {
    format!(
        "model       {}\ncapability  sm_{}\nmultiprocessors {}\nmemory      {} MiB\ncache       {} KiB\ndriver      CUDA {}.{}\n",
        facts.name,
        facts.sm,
        facts.multiprocessors,
        facts.memory_bytes >> 20,
        facts.l2_bytes >> 10,
        facts.driver / 1000,
        facts.driver % 1000 / 10,
    )
}

/// The id of a GPU, as [`Device::id`] is one of a machine: the machine around it does not matter, its driver does.
///
/// ```
/// use tilewright_autotune::fingerprint::of_gpu;
/// use tilewright_codegen::emulated::{EmulatedDriver, EmulatedGpu};
/// use tilewright_runtime::cuda::GpuDriver;
/// let id = |sm| of_gpu(EmulatedDriver::new(EmulatedGpu { sm, ..EmulatedGpu::default() }).facts());
/// assert!(id(90) == id(90) && id(90) != id(80) && id(90).len() == 16);
/// ```
pub fn of_gpu(facts: &DeviceFacts) -> String {
    let DeviceFacts { name, sm, multiprocessors, memory_bytes, l2_bytes, driver, .. } = facts;
    let text = format!("gpu\n{name}\n{sm} {multiprocessors} {memory_bytes} {l2_bytes} {driver}");
    blake3::hash(text.as_bytes()).to_hex()[..16].to_string()
}

/// What a folder of `index0`, `index1`, .. says, in their order; nothing where the system has no such folder.
fn caches(folder: &Path) -> Vec<String> {
    let read = |i: usize, name: &str| {
        let text = read_to_string(folder.join(format!("index{i}")).join(name)).ok()?;
        Some(text.trim().to_string())
    };
    (0..8)
        .map_while(|i| {
            let kind = match read(i, "type")?.as_str() {
                "Data" => "d",
                "Instruction" => "i",
                _ => "",
            };
            Some(format!("L{}{kind} {}", read(i, "level")?, read(i, "size")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\
        stepping\t: 1\nmicrocode\t: 0x1\ncpu MHz\t\t: 2596.1\nflags\t\t: fpu sse2 avx2 hypervisor ibrs\nbogomips\t: 5192.28\n\n\
        processor\t: 1\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\
        stepping\t: 1\nmicrocode\t: 0x1\ncpu MHz\t\t: 2600.0\nflags\t\t: fpu sse2 avx2 hypervisor ibrs\nbogomips\t: 5192.28\n";
    const ARM: &str = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd crc32 asimddp i8mm\nCPU implementer\t: 0x41\n\
        CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\nprocessor\t: 1\n\
        Features\t: fp asimd crc32 asimddp i8mm\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\n\
        CPU part\t: 0xd41\nCPU revision\t: 1\n";

    #[test]
    fn reads_both_architectures() {
        let d = Device::from_parts(X86, vec!["L1d 32K".into()]);
        assert_eq!((d.vendor.as_str(), d.model.as_str(), d.stepping.as_str()), ("AuthenticAMD", "AMD EPYC", "25/17/1"));
        assert_eq!((d.cores, d.features.as_slice(), d.hypervisor), (2, &["avx2".to_string(), "sse2".into()][..], true));
        let d = Device::from_parts(ARM, vec![]);
        assert_eq!((d.vendor.as_str(), d.model.as_str(), d.stepping.as_str()), ("0x41", "0xd0c 0xd41", "8/0x1/1"));
        assert_eq!((d.cores, d.features.join(" ").as_str(), d.hypervisor), (2, "asimd asimddp i8mm", false));
    }

    #[test]
    fn only_the_machine_decides() {
        let id = |text: &str| Device::from_parts(text, vec![]).id();
        let same = X86.replace("2600.0", "1400.0").replace("5192", "4000").replace("0x1\ncpu", "0x2\ncpu");
        assert_eq!(id(X86), id(&same.replace(" ibrs", " ibrs brand_new_mitigation")));
        for (was, is) in [("AMD EPYC", "AMD Ryzen"), ("25", "26"), ("avx2", "avx2 avx512f"), ("hypervisor ", "")] {
            assert_ne!(id(X86), id(&X86.replace(was, is)), "{was}");
        }
        assert_ne!(id(X86), Device::from_parts(X86, vec!["L1d 48K".into()]).id());
    }

    #[test]
    fn a_system_that_says_nothing() {
        let d = Device::from_parts("", caches(Path::new("/nonexistent")));
        assert!(d.cores == 0 && d.describe().contains("unknown"), "{d:?}");
    }
}
