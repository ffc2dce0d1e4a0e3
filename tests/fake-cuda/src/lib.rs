//! A `libcuda` without a GPU.
//!
//! Tests lay it where a program looks for NVIDIA's driver, so that what calls the driver runs as it does on a machine with a
//! GPU: the search for the library, the layouts of what is passed, the order of calls. Kernels run in the emulator of
//! PTX. It has the functions that the runtime uses and no others, and holds their callers to the rules of the
//! [driver API](https://docs.nvidia.com/cuda/cuda-driver-api/): handles that are not there, a missing context, calls that
//! cannot be captured, memory that was not given and so on get the driver's error, and a failed kernel is told of by the
//! next call that waits and by all after it.
//!
//! | file | what |
//! |---|---|
//! | `lib.rs` | the exported functions |
//! | `device.rs` | what they do: objects, captures, rules |
//! | `code.rs` | numbers of errors, attributes and options, and layouts, from the driver's header |
//!
//! Environment variables say what it is like:
//!
//! | variable | what |
//! |---|---|
//! | `FAKE_CUDA_SM` | compute capability, 90 if not given; 0: there is no device |
//! | `FAKE_CUDA_MEMORY` | bytes of memory |
//! | `FAKE_CUDA_SEED` | orders of warps and blocks |
//! | `FAKE_CUDA_FAIL` | `CALL:N:CODE`: the N-th call (from 1) of that function gives that error |
//! | `FAKE_CUDA_LOG` | a file that gets a line `CALL COUNT` a function and `left KIND COUNT` for what nobody gave back, when the context is released |

// The functions have the driver's names, and whoever calls them has the driver's header for what they take.
#![allow(non_snake_case, missing_docs, clippy::missing_safety_doc)]

mod code;
mod device;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::slice;

use code::*;
use device::{Outcome, with};

/// An opaque handle.
type Handle = *mut c_void;

/// Exported functions: each takes the device, and gives 0 or the number of an error.
macro_rules! exports {
    ($(fn $name:ident($fake:ident, $($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> c_int {
            with(stringify!($name), |$fake| $body)
        }
    )*};
}

/// Writes what a function gives.
fn put<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the driver's header asks for a pointer to a `T` here, and it is not null.
    unsafe { to.write(value) };
    Ok(())
}

fn handle(id: usize) -> Handle {
    std::ptr::without_provenance_mut(id)
}

exports! {
    fn cuInit(fake, flags: c_uint) {
        fake.init(flags)
    }

    fn cuDriverGetVersion(_fake, version: *mut c_int) {
        put(version, DRIVER_VERSION)
    }

    fn cuGetErrorName(_fake, code: c_int, text: *mut *const c_char) {
        let name = error_name(code).ok_or(INVALID_VALUE)?;
        put(text, name.as_ptr())
    }

    fn cuGetErrorString(_fake, code: c_int, text: *mut *const c_char) {
        error_name(code).ok_or(INVALID_VALUE)?;
        put(text, c"told by a driver that is none".as_ptr())
    }

    fn cuDeviceGetCount(fake, count: *mut c_int) {
        put(count, fake.devices()?)
    }

    fn cuDeviceGet(fake, device: *mut c_int, ordinal: c_int) {
        fake.device(ordinal)?;
        put(device, ordinal)
    }

    fn cuDeviceGetName(fake, name: *mut c_char, len: c_int, device: c_int) {
        fake.device(device)?;
        let bytes = fake.facts().name.as_bytes();
        let len = usize::try_from(len).ok().filter(|len| *len > bytes.len()).ok_or(INVALID_VALUE)?;
        // SAFETY: the caller gives room for `len` bytes, and all of them may be written.
        let room = unsafe { slice::from_raw_parts_mut(name.cast::<u8>(), len) };
        room[..bytes.len()].copy_from_slice(bytes);
        room[bytes.len()] = 0;
        Ok(())
    }

    fn cuDeviceGetAttribute(fake, value: *mut c_int, attribute: c_int, device: c_int) {
        fake.device(device)?;
        put(value, fake.attribute(attribute)?)
    }

    fn cuDeviceTotalMem_v2(fake, bytes: *mut usize, device: c_int) {
        fake.device(device)?;
        put(bytes, fake.facts().memory_bytes as usize)
    }

    fn cuDevicePrimaryCtxRetain(fake, context: *mut Handle, device: c_int) {
        fake.device(device)?;
        put(context, handle(fake.retain()))
    }

    fn cuDevicePrimaryCtxRelease_v2(fake, device: c_int) {
        fake.device(device)?;
        fake.release()
    }

    fn cuCtxSetCurrent(fake, context: Handle) {
        fake.set_current(context.addr())
    }

    fn cuStreamCreate(fake, stream: *mut Handle, flags: c_uint) {
        put(stream, handle(fake.create_stream(flags)?))
    }

    fn cuStreamDestroy_v2(fake, stream: Handle) {
        fake.destroy_stream(stream.addr())
    }

    fn cuStreamSynchronize(fake, stream: Handle) {
        fake.wait(stream.addr())
    }

    fn cuStreamBeginCapture_v2(fake, stream: Handle, mode: c_uint) {
        fake.begin_capture(stream.addr(), mode)
    }

    fn cuStreamEndCapture(fake, stream: Handle, graph: *mut Handle) {
        put(graph, handle(fake.end_capture(stream.addr())?))
    }

    fn cuGraphInstantiateWithFlags(fake, ready: *mut Handle, graph: Handle, flags: u64) {
        put(ready, handle(fake.instantiate(graph.addr(), flags)?))
    }

    fn cuGraphDestroy(fake, graph: Handle) {
        fake.destroy_graph(graph.addr())
    }

    fn cuGraphExecDestroy(fake, ready: Handle) {
        fake.destroy_exec(ready.addr())
    }

    fn cuGraphLaunch(fake, ready: Handle, stream: Handle) {
        fake.launch_graph(ready.addr(), stream.addr())
    }

    fn cuModuleLoadDataEx(
        fake,
        module: *mut Handle,
        image: *const c_void,
        count: c_uint,
        keys: *mut c_int,
        values: *mut *mut c_void,
    ) {
        if image.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: an image begins with the four bytes of ELF, or is text that ends with a zero.
        let is_elf = unsafe { slice::from_raw_parts(image.cast::<u8>(), 4) } == b"\x7fELF";
        // SAFETY: what is not ELF is text that ends with a zero.
        let text = if is_elf { None } else { Some(unsafe { CStr::from_ptr(image.cast()) }) };
        let (id, log) = match fake.load(text) {
            Ok(id) => return put(module, handle(id)),
            Err(told) => told,
        };
        // SAFETY: the caller gives as many keys and values as it says.
        let options = unsafe { (slice::from_raw_parts(keys, count as usize), slice::from_raw_parts(values, count as usize)) };
        let value = |key| options.0.iter().position(|k| *k == key).map(|at| options.1[at]);
        if let (Some(room), Some(len)) = (value(JIT_ERROR_LOG_BUFFER), value(JIT_ERROR_LOG_BUFFER_SIZE_BYTES)) {
            // The size is a number where a pointer would be.
            let len = len.addr();
            let part = &log.as_bytes()[..log.len().min(len.saturating_sub(1))];
            // SAFETY: the caller gives room for `len` bytes.
            let room = unsafe { slice::from_raw_parts_mut(room.cast::<u8>(), len) };
            room[..part.len()].copy_from_slice(part);
            room[part.len()] = 0;
        }
        Err(id)
    }

    fn cuModuleUnload(fake, module: Handle) {
        fake.unload(module.addr())
    }

    fn cuModuleGetFunction(fake, function: *mut Handle, module: Handle, name: *const c_char) {
        // SAFETY: a name ends with a zero.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| INVALID_VALUE)?;
        put(function, handle(fake.function(module.addr(), name)?))
    }

    fn cuFuncSetAttribute(fake, function: Handle, attribute: c_int, value: c_int) {
        fake.set_attribute(function.addr(), attribute, value)
    }

    fn cuLaunchKernelEx(
        fake,
        config: *const LaunchConfig,
        function: Handle,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        if config.is_null() || params.is_null() || !extra.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: a configuration, which is not null.
        let config = unsafe { &*config };
        let attributes = match config.attribute_count {
            0 => &[],
            // SAFETY: the configuration says how many there are.
            n => unsafe { slice::from_raw_parts(config.attributes, n as usize) },
        };
        let count = fake.param_count(function.addr())?;
        // SAFETY: there are as many as the kernel has parameters.
        let params = unsafe { slice::from_raw_parts(params, count) };
        // SAFETY: each points to a value of its parameter's size: 8 bytes in all of these kernels.
        let params = params.iter().map(|p| unsafe { p.cast::<u64>().read_unaligned() }).collect();
        fake.launch(config, attributes, function.addr(), params)
    }

    fn cuMemGetInfo_v2(fake, free: *mut usize, total: *mut usize) {
        let bytes = fake.free_memory()?;
        put(free, bytes as usize)?;
        put(total, fake.facts().memory_bytes as usize)
    }

    fn cuMemAlloc_v2(fake, address: *mut u64, bytes: usize) {
        put(address, fake.alloc(bytes as u64)?)
    }

    fn cuMemFree_v2(fake, address: u64) {
        fake.free(address)
    }

    fn cuMemcpyHtoDAsync_v2(fake, to: u64, from: *const c_void, bytes: usize, stream: Handle) {
        // SAFETY: the caller gives so many bytes.
        let from = unsafe { slice::from_raw_parts(from.cast::<u8>(), bytes) };
        fake.upload(to, from, stream.addr())
    }

    fn cuMemcpyDtoHAsync_v2(fake, to: *mut c_void, from: u64, bytes: usize, stream: Handle) {
        // SAFETY: the caller gives room for so many bytes.
        let to = unsafe { slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
        fake.download(from, to, stream.addr())
    }

    fn cuMemcpyDtoDAsync_v2(fake, to: u64, from: u64, bytes: usize, stream: Handle) {
        fake.copy(to, from, bytes as u64, stream.addr())
    }

    fn cuMemsetD8Async(fake, to: u64, value: u8, bytes: usize, stream: Handle) {
        fake.fill(to, value, bytes as u64, stream.addr())
    }

    fn cuEventCreate(fake, event: *mut Handle, flags: c_uint) {
        put(event, handle(fake.create_event(flags)?))
    }

    fn cuEventRecord(fake, event: Handle, stream: Handle) {
        fake.record(event.addr(), stream.addr())
    }

    fn cuEventSynchronize(fake, event: Handle) {
        fake.wait_for(event.addr())
    }

    fn cuEventElapsedTime(fake, millis: *mut f32, start: Handle, end: Handle) {
        put(millis, fake.elapsed(start.addr(), end.addr())?)
    }

    fn cuEventDestroy_v2(fake, event: Handle) {
        fake.destroy_event(event.addr())
    }
}
