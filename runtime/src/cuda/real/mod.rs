//! [`GpuDriver`] on NVIDIA's driver, through `cudarc` and by name.
//!
//! Nothing of CUDA is needed to build it, and a machine without a driver gets one sentence. **It has never met a GPU**: it
//! was written on machines that have none. Its calls are tested with a library in the driver's place that holds them to the
//! driver's rules (`tests/fake-cuda`, `tests/tests/gpu_driver.rs`).
//!
//! One primary context, one stream, blocking by default; every call makes the context current, so that a session may move
//! between threads.

mod api;

use std::ffi::{CString, c_int, c_uint, c_void};
use std::ptr;

use api::Api;
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute as Attribute, CUevent, CUfunction, CUfunction_attribute, CUgraphExec,
    CUjit_option, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, CUmodule, CUstream,
    CUstreamCaptureMode,
};

use super::{Code, DeviceFacts, FunctionId, GpuDriver, GpuError, GraphId, Launch, ModuleId};

/// Left to the driver: graphs, modules, and what allocations lose to pages.
const RESERVE: u64 = 128 << 20;
/// Shared memory of a block that needs no leave.
const PLAIN_SHARED: u32 = 48 << 10;
/// Bytes for the log of the driver's compiler.
const LOG: usize = 8 << 10;

/// A kernel of a module.
struct Function {
    handle: CUfunction,
    name: String,
    /// Bytes of shared memory that it may have.
    shared: u32,
}

/// The first GPU of this machine.
pub(super) struct Cuda {
    api: Api,
    facts: DeviceFacts,
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
    /// Start and end of a timed graph.
    events: [CUevent; 2],
    modules: Vec<CUmodule>,
    functions: Vec<Function>,
    graphs: Vec<CUgraphExec>,
    allocations: Vec<u64>,
}

// SAFETY: the handles belong to the context, which each call makes current on its thread, and `&mut self` keeps calls apart.
unsafe impl Send for Cuda {}

/// Calls the driver and turns the number that it gives into a `Result`.
macro_rules! call {
    ($api:expr, $name:ident($($arg:expr),* $(,)?)) => {
        // SAFETY: pointers are to locals of the right type that outlive the call, handles and device addresses came from
        // the driver and are not destroyed before `Cuda` is dropped.
        $api.check(stringify!($name), unsafe { ($api.$name)($($arg),*) })
    };
}

impl Cuda {
    /// Opens the first GPU.
    pub(super) fn open() -> Result<Cuda, GpuError> {
        let api = Api::load()?;
        let none = |what: String| GpuError::NoDevice { what };
        let mut version: c_int = 0;
        call!(api, cuDriverGetVersion(&mut version))?;
        // SAFETY: the first call of all, as it must be.
        match unsafe { (api.cuInit)(0) } {
            0 => {}
            api::STUB_LIBRARY => return Err(GpuError::NoDriver),
            code => return Err(none(api.words(code))),
        }
        let (mut count, mut device): (c_int, CUdevice) = (0, 0);
        call!(api, cuDeviceGetCount(&mut count))?;
        if count == 0 {
            return Err(none("there is none".into()));
        }
        call!(api, cuDeviceGet(&mut device, 0))?;
        let facts = facts(&api, device, version)?;
        let mut context: CUcontext = ptr::null_mut();
        // SAFETY: writes a handle to a local.
        match unsafe { (api.cuDevicePrimaryCtxRetain)(&mut context, device) } {
            0 => {}
            code => return Err(none(api.words(code))),
        }
        let mut cuda = Cuda {
            api,
            facts,
            device,
            context,
            stream: ptr::null_mut(),
            events: [ptr::null_mut(); 2],
            modules: Vec::new(),
            functions: Vec::new(),
            graphs: Vec::new(),
            allocations: Vec::new(),
        };
        cuda.enter()?;
        // 1: not in step with the default stream, which other libraries may use.
        call!(cuda.api, cuStreamCreate(&mut cuda.stream, 1))?;
        for event in &mut cuda.events {
            call!(cuda.api, cuEventCreate(event, 0))?;
        }
        Ok(cuda)
    }

    /// Makes the context this thread's.
    fn enter(&self) -> Result<(), GpuError> {
        call!(self.api, cuCtxSetCurrent(self.context))
    }
}

fn facts(api: &Api, device: CUdevice, version: c_int) -> Result<DeviceFacts, GpuError> {
    let attribute = |which: Attribute| {
        let mut value: c_int = 0;
        call!(api, cuDeviceGetAttribute(&mut value, which as c_int, device))?;
        Ok::<u32, GpuError>(value.max(0) as u32)
    };
    let mut name = [0u8; 256];
    call!(api, cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device))?;
    let name = name.split(|b| *b == 0).next().unwrap_or_default();
    let mut memory = 0;
    call!(api, cuDeviceTotalMem_v2(&mut memory, device))?;
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(DeviceFacts {
        name: String::from_utf8_lossy(name).into_owned(),
        sm: major.saturating_mul(10).saturating_add(minor),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory_bytes: memory as u64,
        l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        driver: version.max(0) as u32,
        takes_cubins: true,
    })
}

impl GpuDriver for Cuda {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn free_memory(&mut self) -> Result<u64, GpuError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        call!(self.api, cuMemGetInfo_v2(&mut free, &mut total))?;
        Ok((free as u64).saturating_sub(RESERVE))
    }

    fn load(&mut self, code: Code<'_>) -> Result<ModuleId, GpuError> {
        self.enter()?;
        let text;
        let image: *const c_void = match code {
            Code::Cubin(bytes) => bytes.as_ptr().cast(),
            Code::Ptx(ptx) => {
                text = CString::new(ptx).map_err(|_| GpuError::Refused { log: "the text holds a zero byte".into() })?;
                text.as_ptr().cast()
            }
        };
        let mut log = vec![0u8; LOG];
        // Options are an array of keys and one of values, where numbers are written as pointers.
        let mut keys = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut::<c_void>(LOG)];
        let mut module: CUmodule = ptr::null_mut();
        let (count, keys, values) = (keys.len() as c_uint, keys.as_mut_ptr(), values.as_mut_ptr());
        // SAFETY: the image is text that ends with zero or a cubin that says its own size; the log has as many bytes as
        // its option says; all of it outlives the call.
        let result = unsafe { (self.api.cuModuleLoadDataEx)(&mut module, image, count, keys, values) };
        if result != 0 {
            let log = String::from_utf8_lossy(log.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
            let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let what = [&[self.api.words(result).as_str()], &lines[..]].concat().join("; ");
            return Err(match result {
                api::UNSUPPORTED_PTX_VERSION => GpuError::OldDriver { what },
                _ => GpuError::Refused { log: what },
            });
        }
        self.modules.push(module);
        Ok(ModuleId(self.modules.len() as u32 - 1))
    }

    fn function(&mut self, module: ModuleId, name: &str) -> Result<FunctionId, GpuError> {
        self.enter()?;
        let missing = || GpuError::Refused { log: format!("there is no kernel {name}") };
        let c_name = CString::new(name).map_err(|_| missing())?;
        let mut handle: CUfunction = ptr::null_mut();
        let module = self.modules[module.0 as usize];
        // SAFETY: writes a handle to a local; the name ends with a zero and the module is loaded.
        match unsafe { (self.api.cuModuleGetFunction)(&mut handle, module, c_name.as_ptr()) } {
            api::NOT_FOUND => return Err(missing()),
            code => self.api.check("cuModuleGetFunction", code)?,
        }
        self.functions.push(Function { handle, name: name.into(), shared: PLAIN_SHARED });
        Ok(FunctionId(self.functions.len() as u32 - 1))
    }

    fn alloc(&mut self, what: &'static str, bytes: u64) -> Result<u64, GpuError> {
        self.enter()?;
        let mut address = 0;
        // A length of zero is refused by the driver.
        // SAFETY: writes an address to a local.
        match unsafe { (self.api.cuMemAlloc_v2)(&mut address, bytes.max(1) as usize) } {
            api::OUT_OF_MEMORY => {
                let available = self.free_memory()?;
                return Err(GpuError::OutOfMemory { what, need: bytes, available });
            }
            code => self.api.check("cuMemAlloc_v2", code)?,
        }
        self.allocations.push(address);
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), GpuError> {
        self.enter()?;
        let Some(at) = self.allocations.iter().position(|a| *a == address) else {
            return Err(GpuError::Call { call: "free", what: format!("{address:#x} was not allocated") });
        };
        self.allocations.swap_remove(at);
        call!(self.api, cuMemFree_v2(address))
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), GpuError> {
        self.enter()?;
        // Ordinary memory is copied, to the device or aside, before the call returns.
        call!(self.api, cuMemcpyHtoDAsync_v2(to, bytes.as_ptr().cast(), bytes.len(), self.stream))
    }

    fn download(&mut self, from: u64, out: &mut [u8]) -> Result<(), GpuError> {
        self.enter()?;
        call!(self.api, cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), from, out.len(), self.stream))?;
        call!(self.api, cuStreamSynchronize(self.stream))
    }

    fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), GpuError> {
        self.enter()?;
        call!(self.api, cuMemcpyDtoDAsync_v2(to, from, bytes as usize, self.stream))
    }

    fn zero(&mut self, to: u64, bytes: u64) -> Result<(), GpuError> {
        self.enter()?;
        call!(self.api, cuMemsetD8Async(to, 0, bytes as usize, self.stream))
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), GpuError> {
        self.enter()?;
        let function = &mut self.functions[launch.function.0 as usize];
        if launch.shared_bytes > function.shared {
            let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as c_int;
            call!(self.api, cuFuncSetAttribute(function.handle, which, launch.shared_bytes as c_int))?;
            function.shared = launch.shared_bytes;
        }
        let mut overlap = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: launch.grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: self.stream,
            attrs: &mut overlap,
            numAttrs: launch.dependent.into(),
        };
        let mut params: Vec<*mut c_void> =
            launch.params.iter().map(|value| ptr::from_ref(value).cast_mut().cast()).collect();
        // SAFETY: configuration, attribute and parameters are locals, and the driver copies the parameters' values. That
        // there are as many as the kernel has, and that their addresses are right, is the artifact's promise.
        let result =
            unsafe { (self.api.cuLaunchKernelEx)(&config, function.handle, params.as_mut_ptr(), ptr::null_mut()) };
        self.api.check("cuLaunchKernelEx", result).map_err(|e| match e {
            GpuError::Call { what, .. } => GpuError::Kernel { kernel: function.name.clone(), what },
            other => other,
        })
    }

    fn begin_capture(&mut self) -> Result<(), GpuError> {
        self.enter()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as c_uint;
        call!(self.api, cuStreamBeginCapture_v2(self.stream, mode))
    }

    fn end_capture(&mut self) -> Result<GraphId, GpuError> {
        self.enter()?;
        let (mut graph, mut ready) = (ptr::null_mut(), ptr::null_mut());
        call!(self.api, cuStreamEndCapture(self.stream, &mut graph))?;
        let made = call!(self.api, cuGraphInstantiateWithFlags(&mut ready, graph, 0));
        call!(self.api, cuGraphDestroy(graph))?;
        made?;
        self.graphs.push(ready);
        Ok(GraphId(self.graphs.len() as u32 - 1))
    }

    fn replay(&mut self, graph: GraphId) -> Result<(), GpuError> {
        self.enter()?;
        call!(self.api, cuGraphLaunch(self.graphs[graph.0 as usize], self.stream))
    }

    fn time(&mut self, graph: GraphId) -> Result<u64, GpuError> {
        let [start, end] = self.events;
        self.enter()?;
        call!(self.api, cuEventRecord(start, self.stream))?;
        self.replay(graph)?;
        call!(self.api, cuEventRecord(end, self.stream))?;
        call!(self.api, cuEventSynchronize(end))?;
        let mut millis = 0.0f32;
        call!(self.api, cuEventElapsedTime(&mut millis, start, end))?;
        Ok((f64::from(millis) * 1e6) as u64)
    }

    fn forget(&mut self, graph: GraphId) -> Result<(), GpuError> {
        self.enter()?;
        let graph = std::mem::replace(&mut self.graphs[graph.0 as usize], ptr::null_mut());
        call!(self.api, cuGraphExecDestroy(graph))
    }

    fn synchronize(&mut self) -> Result<(), GpuError> {
        self.enter()?;
        call!(self.api, cuStreamSynchronize(self.stream))
    }
}

impl Drop for Cuda {
    /// Gives everything back. What fails here fails because the context is gone, and everything with it.
    fn drop(&mut self) {
        let _ = self.synchronize();
        for graph in self.graphs.drain(..).filter(|g| !g.is_null()) {
            let _ = call!(self.api, cuGraphExecDestroy(graph));
        }
        for module in self.modules.drain(..) {
            let _ = call!(self.api, cuModuleUnload(module));
        }
        for address in self.allocations.drain(..) {
            let _ = call!(self.api, cuMemFree_v2(address));
        }
        for event in self.events.into_iter().filter(|e| !e.is_null()) {
            let _ = call!(self.api, cuEventDestroy_v2(event));
        }
        if !self.stream.is_null() {
            let _ = call!(self.api, cuStreamDestroy_v2(self.stream));
        }
        let _ = call!(self.api, cuDevicePrimaryCtxRelease_v2(self.device));
    }
}

#[cfg(test)]
mod tests {
    use super::Cuda;
    use crate::cuda::{Code, GpuDriver, GpuError, Launch};

    /// out[i] = in[i] + i, for a block of 32; where launches overlap it waits for the one before it.
    const PTX: &str = ".version 7.8
.target sm_TARGET
.address_size 64
.visible .entry add(.param .u64 p_out, .param .u64 p_in)
{
    .reg .b32 %i, %x;
    .reg .b64 %out, %in, %a;
    ld.param.u64 %out, [p_out];
    ld.param.u64 %in, [p_in];
    WAIT
    mov.u32 %i, %tid.x;
    mad.wide.u32 %a, %i, 4, %in;
    ld.global.u32 %x, [%a];
    add.u32 %x, %x, %i;
    mad.wide.u32 %a, %i, 4, %out;
    st.global.u32 [%a], %x;
    ret;
}
";

    /// Without a driver one sentence; with one, all that a session does with it.
    #[test]
    fn opens_or_says_why() {
        match Cuda::open() {
            Err(e @ (GpuError::NoDriver | GpuError::NoDevice { .. } | GpuError::OldDriver { .. })) => {
                let text = e.to_string();
                assert!(text.contains("; ") && !text.contains('\n'), "{text}");
                assert_eq!(e.exit_code(), 4, "{text}");
            }
            Err(e) => panic!("{e}"),
            Ok(cuda) => works(cuda),
        }
    }

    fn works(mut cuda: Cuda) {
        assert!(cuda.facts().sm >= 50 && cuda.free_memory().unwrap() > 0, "{:?}", cuda.facts());
        let start = std::process::id();
        let bytes: Vec<u8> = (start..start + 64).flat_map(u32::to_le_bytes).collect();
        let at = cuda.alloc("a test", 256).unwrap();
        cuda.upload(at, &bytes).unwrap();
        cuda.copy(at + 128, at, 128).unwrap();
        cuda.zero(at, 128).unwrap();
        let mut back = vec![1; 256];
        cuda.download(at, &mut back).unwrap();
        assert_eq!((&back[..128], &back[128..]), (&[0; 128][..], &bytes[..128]));

        let overlaps = cuda.facts().overlaps();
        let (target, wait) = if overlaps { ("90", "griddepcontrol.wait;") } else { ("75", "") };
        let text = PTX.replace("TARGET", target).replace("WAIT", wait);
        let refused = cuda.load(Code::Ptx(&text.replace("add.u32", "add.u33"))).unwrap_err();
        assert!(matches!(refused, GpuError::Refused { .. }) && !refused.to_string().contains('\n'), "{refused}");
        let module = cuda.load(Code::Ptx(&text)).unwrap();
        assert!(cuda.function(module, "subtract").is_err());
        let function = cuda.function(module, "add").unwrap();
        let params = [at, at + 128];
        let launch = Launch { function, grid: 1, threads: 32, shared_bytes: 0, params: &params, dependent: overlaps };
        cuda.begin_capture().unwrap();
        cuda.launch(&launch).unwrap();
        cuda.launch(&Launch { params: &[at + 128, at], ..launch }).unwrap();
        let graph = cuda.end_capture().unwrap();
        cuda.upload(at + 128, &bytes[..128]).unwrap();
        cuda.replay(graph).unwrap();
        assert!(cuda.time(graph).unwrap() > 0);
        cuda.download(at + 128, &mut back[128..]).unwrap();
        let want: Vec<u8> = (0..32).flat_map(|i| (start + i + 4 * i).to_le_bytes()).collect();
        assert_eq!(back[128..], want);
        cuda.forget(graph).unwrap();
        assert!(matches!(cuda.alloc("too much", 1 << 50), Err(GpuError::OutOfMemory { .. })));
        cuda.free(at).unwrap();
        assert!(cuda.free(at).is_err());
    }
}
