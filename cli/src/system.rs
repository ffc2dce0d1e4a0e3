//! What the operating system says of this process and machine. Linux; elsewhere the answers are absent. And what devices
//! the machine has.

use std::time::{SystemTime, UNIX_EPOCH};
use tilewright_autotune::fingerprint::{self, Device};
use tilewright_runtime::cuda::{self, DeviceFacts, GpuError};

/// Most memory this process has had resident, mapped weights included.
pub fn peak_rss() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// Memory of the machine that is free or can be freed.
pub fn memory_available() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// Memory of the machine.
pub fn memory_total() -> Option<u64> {
    field("/proc/meminfo", "MemTotal:")
}

fn field(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|l| l.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The processor's name.
pub fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("model name").or(l.strip_prefix("CPU part")));
    name.map_or_else(|| std::env::consts::ARCH.to_string(), |n| n.trim_start_matches([' ', '\t', ':']).to_string())
}

/// Programs that want a core at the moment, this one among them; the average of the last minute.
pub fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// A GPU in a line.
pub fn gpu_name(gpu: &DeviceFacts) -> String {
    let (n, memory) = (gpu.multiprocessors, human(gpu.memory_bytes));
    format!("{} (sm_{}, {n} multiprocessors, {memory})", gpu.name, gpu.sm)
}

/// What records call the devices of this machine: its processor, and its GPU if it has one.
pub fn devices() -> Vec<String> {
    let mut devices = vec![Device::detect().id()];
    match cuda::open() {
        Ok(gpu) => devices.push(fingerprint::of_gpu(gpu.facts())),
        Err(GpuError::NoDriver | GpuError::NotBuilt | GpuError::NoDevice { .. }) => {}
        Err(e) => eprintln!("warning: records of the GPU are left out: {e}"),
    }
    devices
}

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A seed that differs from run to run; 32 bits, so that it is easy to type again.
pub fn clock_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_nanos() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

/// Bytes for people.
pub fn human(bytes: u64) -> String {
    let b = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", b / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", b / 1e6),
        _ => format!("{:.2} GB", b / 1e9),
    }
}
