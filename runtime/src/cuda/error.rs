//! What can go wrong on a GPU, and whose fault it is.

use thiserror::Error;

use crate::error::mib;

/// Why a GPU cannot be used, or failed. Each message is one sentence that says what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GpuError {
    /// This machine has no NVIDIA driver.
    #[error(
        "this needs an NVIDIA GPU and the machine has no NVIDIA driver (no libcuda); install the driver, or compile for the CPU"
    )]
    NoDriver,
    /// The program was built without the cargo feature `cuda`.
    #[error("this needs an NVIDIA GPU and the program was built without its cargo feature `cuda`; build it with it")]
    NotBuilt,
    /// The driver is there, a GPU is not.
    #[error(
        "the NVIDIA driver finds no usable GPU ({what}); check nvidia-smi and CUDA_VISIBLE_DEVICES, or compile the model again for the CPU"
    )]
    NoDevice {
        /// What the driver said.
        what: String,
    },
    /// The driver is too old for this program or for these kernels.
    #[error("the NVIDIA driver is too old ({what}); install a newer one")]
    OldDriver {
        /// What it lacks.
        what: String,
    },
    /// The kernels are for another kind of GPU.
    #[error(
        "the artifact was compiled for {compiled}, this is sm_{device} ({name}); compile the model again for this GPU"
    )]
    WrongArch {
        /// As in `.target`: `sm_90a`.
        compiled: String,
        /// Compute capability of the device: 86.
        device: u32,
        /// Its name.
        name: String,
    },
    /// A kernel wants more of a block than this kind of GPU has.
    #[error(
        "kernel {kernel} needs {need} bytes of shared memory a block and this GPU has {has}; compile the model again for this GPU"
    )]
    SharedMemory {
        /// Name of the kernel.
        kernel: String,
        /// Bytes it needs.
        need: u32,
        /// Bytes there are.
        has: u32,
    },
    /// Memory of the GPU is used up.
    #[error(
        "cannot allocate {} for {what}: the GPU has {} left; use a smaller -c or end other programs on it",
        mib(*.need),
        mib(*.available)
    )]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// Its size.
        need: u64,
        /// Bytes the GPU has left.
        available: u64,
    },
    /// The driver does not take the kernels.
    #[error("the GPU driver refuses the artifact's kernels ({log}); compile the model again, or update the driver")]
    Refused {
        /// What its compiler said.
        log: String,
    },
    /// A kernel did what it must not.
    #[error("kernel {kernel} failed on the GPU ({what}); this is a bug of the compiler, please report it")]
    Kernel {
        /// Its name.
        kernel: String,
        /// What happened.
        what: String,
    },
    /// Anything else that the driver refused.
    #[error("the GPU driver failed in {call} ({what}); check nvidia-smi and the system's log")]
    Call {
        /// Function of the driver.
        call: &'static str,
        /// What it said.
        what: String,
    },
}

impl GpuError {
    /// Exit status for the command line.
    pub fn exit_code(&self) -> u8 {
        match self {
            GpuError::Kernel { .. } | GpuError::Call { .. } => 1,
            GpuError::Refused { .. } => 3,
            GpuError::OutOfMemory { .. } => 5,
            GpuError::NoDriver
            | GpuError::NotBuilt
            | GpuError::NoDevice { .. }
            | GpuError::OldDriver { .. }
            | GpuError::WrongArch { .. }
            | GpuError::SharedMemory { .. } => 4,
        }
    }
}
