//! Which CPU features this machine has, by the names of `is_x86_feature_detected`.

/// Those of `features` that this machine lacks or that this build does not know.
pub fn missing_features<'a>(features: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    features.into_iter().filter(|f| !has(f)).collect()
}

#[cfg(target_arch = "x86_64")]
fn has(name: &str) -> bool {
    macro_rules! table {
        ($($n:tt)*) => { match name {
            $($n => std::arch::is_x86_feature_detected!($n),)*
            "amx-tile" | "amx-int8" | "amx-bf16" => amx::has(name),
            _ => false,
        } };
    }
    table!("sse" "sse2" "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt"
        "movbe" "gfni" "vaes" "vpclmulqdq" "avxvnni" "avxvnniint8" "avxifma" "avx512f" "avx512bw" "avx512cd" "avx512dq"
        "avx512vl" "avx512vnni" "avx512bf16" "avx512fp16" "avx512vbmi" "avx512vbmi2" "avx512bitalg" "avx512ifma"
        "avx512vpopcntdq" "avx512vp2intersect")
}

#[cfg(target_arch = "aarch64")]
fn has(name: &str) -> bool {
    macro_rules! table {
        ($($n:tt)*) => { match name { $($n => std::arch::is_aarch64_feature_detected!($n),)* _ => false } };
    }
    table!("neon" "fp16" "dotprod" "i8mm" "bf16" "fhm" "sve" "sve2" "lse")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has(_: &str) -> bool {
    false
}

/// AMX: the CPU has it, the system saves its registers, and this process has asked for leave to use it.
#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    pub(super) fn has(name: &str) -> bool {
        let bit = match name {
            "amx-bf16" => 22,
            "amx-tile" => 24,
            _ => 25,
        };
        if __cpuid(0).eax < 7 {
            return false;
        }
        let (tile, wanted) = (1 << 24, 1 << bit);
        let edx = __cpuid_count(7, 0).edx;
        edx & tile != 0 && edx & wanted != 0 && permitted()
    }

    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
        const XTILEDATA: u64 = 18;
        let result: i64;
        // SAFETY: the system call only sets a flag of this process; it clobbers rcx and r11 as declared.
        unsafe {
            std::arch::asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn permitted() -> bool {
        false
    }
}
