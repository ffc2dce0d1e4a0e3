//! What the functions do: objects behind handles, captures, and the rules.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_int, c_uint};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use tilewright_codegen::emulated::{Counts, EmulatedDriver, EmulatedGpu};
use tilewright_ptx_emu::Module;
use tilewright_runtime::cuda::{self, Code, DeviceFacts, FunctionId, GpuDriver, GpuError, GraphId, ModuleId};

use crate::code::*;

/// Nothing, or the number of an error.
pub type Outcome<T = ()> = Result<T, c_int>;

/// What handles stand for.
enum Object {
    Context,
    Stream,
    /// The clock when it was recorded.
    Event(Option<u64>),
    /// The text again, for what the emulated driver does not tell.
    Module(ModuleId, Box<Module>),
    Function(Function),
    Graph(GraphId),
    /// Ready to launch.
    Exec(GraphId),
}

impl Object {
    fn kind(&self) -> &'static str {
        match self {
            Object::Context => "context",
            Object::Stream => "stream",
            Object::Event(_) => "event",
            Object::Module(..) => "module",
            Object::Function(_) => "function",
            Object::Graph(_) => "graph",
            Object::Exec(_) => "exec",
        }
    }
}

#[derive(Clone, Copy)]
struct Function {
    id: FunctionId,
    /// Handle of the module.
    module: usize,
    params: usize,
    /// Dynamic shared memory that it may have.
    shared: c_uint,
}

/// A capture that began and did not end.
struct Capture {
    stream: usize,
    mode: c_uint,
    broken: bool,
}

/// The device and the driver.
pub struct Fake {
    gpu: EmulatedDriver,
    counts: Counts,
    has_device: bool,
    initialised: bool,
    retained: u32,
    context: usize,
    /// The error of a kernel: every call has it from then on.
    failed: Option<c_int>,
    objects: HashMap<usize, Object>,
    allocations: usize,
    last: usize,
    capture: Option<Capture>,
    calls: BTreeMap<&'static str, u64>,
}

thread_local! {
    /// The context that is current on this thread.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

static FAKE: Mutex<Option<Fake>> = Mutex::new(None);

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} cannot be read")))
}

/// Does a call: counts it, fails it if it shall, and lets no panic out.
pub fn with(name: &'static str, call: impl FnOnce(&mut Fake) -> Outcome) -> c_int {
    let mut fake = FAKE.lock().unwrap_or_else(PoisonError::into_inner);
    let done = catch_unwind(AssertUnwindSafe(|| {
        let fake = fake.get_or_insert_with(Fake::new);
        fake.count(name)?;
        call(fake)
    }));
    match done.unwrap_or(Err(UNKNOWN)) {
        Ok(()) => 0,
        Err(code) => code,
    }
}

impl Fake {
    fn new() -> Fake {
        let sm = variable("FAKE_CUDA_SM").unwrap_or(90);
        let plain = EmulatedGpu { takes_cubins: true, ..EmulatedGpu::default() };
        let gpu = EmulatedDriver::new(EmulatedGpu {
            sm: if sm == 0 { plain.sm } else { sm },
            memory_bytes: variable("FAKE_CUDA_MEMORY").unwrap_or(plain.memory_bytes),
            seed: variable("FAKE_CUDA_SEED").unwrap_or(plain.seed),
            ..plain
        });
        Fake {
            counts: gpu.counts(),
            gpu,
            has_device: sm != 0,
            initialised: false,
            retained: 0,
            context: 0,
            failed: None,
            objects: HashMap::new(),
            allocations: 0,
            last: 0,
            capture: None,
            calls: BTreeMap::new(),
        }
    }

    fn count(&mut self, name: &'static str) -> Outcome {
        let n = self.calls.entry(name).or_default();
        *n += 1;
        let Some(text) = variable::<String>("FAKE_CUDA_FAIL") else { return Ok(()) };
        let wanted: Vec<&str> = text.split(':').collect();
        let [call, at, code] = wanted[..] else { panic!("FAKE_CUDA_FAIL={text} is no CALL:N:CODE") };
        if call != name || at != n.to_string() {
            return Ok(());
        }
        let code = code.parse().unwrap_or_else(|_| panic!("FAKE_CUDA_FAIL={text}: no number"));
        if (ILLEGAL_ADDRESS..NOT_SUPPORTED).contains(&code) {
            self.failed = Some(code);
        }
        Err(code)
    }

    // Objects.

    fn add(&mut self, object: Object) -> usize {
        // Nothing is at these addresses, and none is ever used again.
        self.last += 16;
        self.objects.insert(self.last, object);
        self.last
    }

    fn stream(&self, id: usize) -> Outcome {
        self.current()?;
        matches!(self.objects.get(&id), Some(Object::Stream)).then_some(()).ok_or(INVALID_HANDLE)
    }

    fn remove(&mut self, id: usize, fits: fn(&Object) -> bool) -> Outcome<Object> {
        self.current()?;
        if !self.objects.get(&id).is_some_and(fits) {
            return Err(INVALID_HANDLE);
        }
        self.objects.remove(&id).ok_or(INVALID_HANDLE)
    }

    // Rules.

    fn ready(&self) -> Outcome {
        match (self.initialised, self.failed) {
            (false, _) => Err(NOT_INITIALIZED),
            (true, Some(code)) => Err(code),
            (true, None) => Ok(()),
        }
    }

    fn current(&self) -> Outcome {
        self.ready()?;
        if self.context != 0 && CURRENT.get() == self.context { Ok(()) } else { Err(INVALID_CONTEXT) }
    }

    /// What must not be called while something is captured.
    fn idle(&mut self) -> Outcome {
        self.current()?;
        match &mut self.capture {
            Some(capture) if capture.mode != CAPTURE_RELAXED => {
                capture.broken = true;
                Err(CAPTURE_UNSUPPORTED)
            }
            _ => Ok(()),
        }
    }

    /// What waits for the stream or changes its memory: that is never captured here.
    fn idle_on(&mut self, stream: usize) -> Outcome {
        self.stream(stream)?;
        match &mut self.capture {
            Some(capture) if capture.stream == stream => {
                capture.broken = true;
                Err(CAPTURE_UNSUPPORTED)
            }
            _ => Ok(()),
        }
    }

    /// The driver's number for what the emulated one says; a kernel's failure is for later calls.
    fn done<T>(&mut self, result: Result<T, GpuError>) -> Outcome<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e @ GpuError::Kernel { .. }) => {
                eprintln!("fake driver: {e}");
                self.failed = Some(ILLEGAL_ADDRESS);
                Ok(None)
            }
            Err(GpuError::OutOfMemory { .. }) => Err(OUT_OF_MEMORY),
            Err(e) => {
                eprintln!("fake driver: {e}");
                Err(INVALID_VALUE)
            }
        }
    }

    // Calls.

    pub fn facts(&self) -> &DeviceFacts {
        self.gpu.facts()
    }

    pub fn init(&mut self, flags: c_uint) -> Outcome {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        self.initialised = true;
        Ok(())
    }

    pub fn devices(&self) -> Outcome<c_int> {
        self.ready()?;
        Ok(self.has_device.into())
    }

    pub fn device(&self, ordinal: c_int) -> Outcome {
        if ordinal < self.devices()? && ordinal >= 0 { Ok(()) } else { Err(INVALID_DEVICE) }
    }

    pub fn attribute(&self, which: c_int) -> Outcome<c_int> {
        let facts = self.facts();
        let value = match which {
            COMPUTE_CAPABILITY_MAJOR => facts.sm / 10,
            COMPUTE_CAPABILITY_MINOR => facts.sm % 10,
            MULTIPROCESSOR_COUNT => facts.multiprocessors,
            L2_CACHE_SIZE => facts.l2_bytes as u32,
            MAX_SHARED_MEMORY_PER_BLOCK_OPTIN => facts.shared_bytes,
            _ => return Err(INVALID_VALUE),
        };
        c_int::try_from(value).map_err(|_| INVALID_VALUE)
    }

    pub fn retain(&mut self) -> usize {
        self.retained += 1;
        if self.context == 0 {
            self.context = self.add(Object::Context);
        }
        self.context
    }

    pub fn release(&mut self) -> Outcome {
        self.retained = self.retained.checked_sub(1).ok_or(INVALID_CONTEXT)?;
        if self.retained > 0 {
            return Ok(());
        }
        self.objects.remove(&self.context);
        self.context = 0;
        let Ok(path) = std::env::var("FAKE_CUDA_LOG") else { return Ok(()) };
        let mut left: BTreeMap<&str, usize> = BTreeMap::from([("allocation", self.allocations)]);
        for object in self.objects.values() {
            *left.entry(object.kind()).or_default() += 1;
        }
        // Functions go with their modules.
        left.remove("function");
        let mut log = String::new();
        for (call, n) in &self.calls {
            let _ = writeln!(log, "{call} {n}");
        }
        for (kind, n) in left.iter().filter(|(_, n)| **n > 0) {
            let _ = writeln!(log, "left {kind} {n}");
        }
        std::fs::write(path, log).map_err(|_| UNKNOWN)
    }

    pub fn set_current(&mut self, context: usize) -> Outcome {
        self.ready()?;
        if context != 0 && context != self.context {
            return Err(INVALID_CONTEXT);
        }
        CURRENT.set(context);
        Ok(())
    }

    pub fn create_stream(&mut self, flags: c_uint) -> Outcome<usize> {
        self.idle()?;
        if flags > STREAM_NON_BLOCKING {
            return Err(INVALID_VALUE);
        }
        Ok(self.add(Object::Stream))
    }

    pub fn destroy_stream(&mut self, stream: usize) -> Outcome {
        self.remove(stream, |o| matches!(o, Object::Stream)).map(drop)
    }

    pub fn wait(&mut self, stream: usize) -> Outcome {
        self.idle_on(stream)
    }

    pub fn begin_capture(&mut self, stream: usize, mode: c_uint) -> Outcome {
        self.idle_on(stream)?;
        if !CAPTURE_MODES.contains(&mode) || self.capture.is_some() {
            return Err(INVALID_VALUE);
        }
        self.capture = Some(Capture { stream, mode, broken: false });
        let begun = self.gpu.begin_capture();
        self.done(begun).map(drop)
    }

    pub fn end_capture(&mut self, stream: usize) -> Outcome<usize> {
        self.stream(stream)?;
        let capture = self.capture.take_if(|c| c.stream == stream).ok_or(INVALID_VALUE)?;
        let graph = self.gpu.end_capture();
        let graph = self.done(graph)?.ok_or(UNKNOWN)?;
        if capture.broken {
            return Err(CAPTURE_INVALIDATED);
        }
        Ok(self.add(Object::Graph(graph)))
    }

    pub fn instantiate(&mut self, graph: usize, flags: u64) -> Outcome<usize> {
        self.current()?;
        match (self.objects.get(&graph), flags) {
            (Some(Object::Graph(id)), 0) => {
                let ready = Object::Exec(*id);
                Ok(self.add(ready))
            }
            (Some(Object::Graph(_)), _) => Err(INVALID_VALUE),
            _ => Err(INVALID_HANDLE),
        }
    }

    pub fn destroy_graph(&mut self, graph: usize) -> Outcome {
        self.remove(graph, |o| matches!(o, Object::Graph(_))).map(drop)
    }

    pub fn destroy_exec(&mut self, exec: usize) -> Outcome {
        if let Object::Exec(id) = self.remove(exec, |o| matches!(o, Object::Exec(_)))? {
            let forgotten = self.gpu.forget(id);
            self.done(forgotten)?;
        }
        Ok(())
    }

    pub fn launch_graph(&mut self, exec: usize, stream: usize) -> Outcome {
        self.idle_on(stream)?;
        let Some(Object::Exec(id)) = self.objects.get(&exec) else { return Err(INVALID_HANDLE) };
        let ran = self.gpu.replay(*id);
        self.done(ran).map(drop)
    }

    /// `None` is machine code. An error comes with a log.
    pub fn load(&mut self, text: Option<&CStr>) -> Result<usize, (c_int, String)> {
        let told = |code: c_int| move |log: String| (code, format!("\n{log}\n"));
        self.idle().map_err(|code| (code, String::new()))?;
        let text = text.ok_or_else(|| told(NO_BINARY_FOR_GPU)("this device runs no machine code".into()))?;
        let text = text.to_str().map_err(|e| told(INVALID_PTX)(e.to_string()))?;
        let module = Module::parse(text).map_err(|e| told(INVALID_PTX)(e.to_string()))?;
        let id = self.gpu.load(Code::Ptx(text)).map_err(|e| told(INVALID_PTX)(e.to_string()))?;
        Ok(self.add(Object::Module(id, Box::new(module))))
    }

    pub fn unload(&mut self, module: usize) -> Outcome {
        self.idle()?;
        self.remove(module, |o| matches!(o, Object::Module(..)))?;
        self.objects.retain(|_, o| !matches!(o, Object::Function(f) if f.module == module));
        Ok(())
    }

    pub fn function(&mut self, module: usize, name: &str) -> Outcome<usize> {
        self.current()?;
        let Some(Object::Module(id, parsed)) = self.objects.get(&module) else { return Err(INVALID_HANDLE) };
        let params = parsed.params(name).ok_or(NOT_FOUND)?;
        let id = self.gpu.function(*id, name).map_err(|_| NOT_FOUND)?;
        Ok(self.add(Object::Function(Function { id, module, params, shared: PLAIN_SHARED })))
    }

    fn known(&self, function: usize) -> Outcome<Function> {
        self.current()?;
        match self.objects.get(&function) {
            Some(Object::Function(f)) => Ok(*f),
            _ => Err(INVALID_HANDLE),
        }
    }

    pub fn param_count(&self, function: usize) -> Outcome<usize> {
        Ok(self.known(function)?.params)
    }

    pub fn set_attribute(&mut self, function: usize, attribute: c_int, value: c_int) -> Outcome {
        let known = self.known(function)?;
        let most = self.facts().shared_bytes;
        let shared = c_uint::try_from(value).ok().filter(|bytes| *bytes <= most);
        let (MAX_DYNAMIC_SHARED_SIZE_BYTES, Some(shared)) = (attribute, shared) else { return Err(INVALID_VALUE) };
        self.objects.insert(function, Object::Function(Function { shared, ..known }));
        Ok(())
    }

    pub fn launch(
        &mut self,
        config: &LaunchConfig,
        attributes: &[LaunchAttribute],
        function: usize,
        params: Vec<u64>,
    ) -> Outcome {
        let known = self.known(function)?;
        self.stream(config.stream.addr())?;
        let threads: u64 = config.block.iter().map(|n| u64::from(*n)).product();
        let flat = config.grid[1..] == [1, 1] && config.block[1..] == [1, 1];
        if config.grid[0] == 0 || !(1..=MAX_THREADS).contains(&threads) || config.shared_bytes > known.shared || !flat {
            return Err(INVALID_VALUE);
        }
        let mut dependent = false;
        for attribute in attributes {
            match (attribute.id, attribute.value) {
                (PROGRAMMATIC_STREAM_SERIALIZATION, on @ (0 | 1)) if self.facts().sm >= 90 => dependent |= on == 1,
                (PROGRAMMATIC_STREAM_SERIALIZATION, 0 | 1) => return Err(NOT_SUPPORTED),
                _ => return Err(INVALID_VALUE),
            }
        }
        let launched = self.gpu.launch(&cuda::Launch {
            function: known.id,
            grid: config.grid[0],
            threads: config.block[0],
            shared_bytes: config.shared_bytes,
            params: &params,
            dependent,
        });
        self.done(launched).map(drop)
    }

    pub fn free_memory(&mut self) -> Outcome<u64> {
        self.current()?;
        let bytes = self.gpu.free_memory();
        self.done(bytes)?.ok_or(UNKNOWN)
    }

    pub fn alloc(&mut self, bytes: u64) -> Outcome<u64> {
        self.idle()?;
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        let address = self.gpu.alloc("an allocation", bytes);
        let address = self.done(address)?.ok_or(UNKNOWN)?;
        self.allocations += 1;
        Ok(address)
    }

    pub fn free(&mut self, address: u64) -> Outcome {
        self.idle()?;
        let freed = self.gpu.free(address);
        self.done(freed)?;
        self.allocations -= 1;
        Ok(())
    }

    pub fn upload(&mut self, to: u64, from: &[u8], stream: usize) -> Outcome {
        self.idle_on(stream)?;
        let done = self.gpu.upload(to, from);
        self.done(done).map(drop)
    }

    pub fn download(&mut self, from: u64, to: &mut [u8], stream: usize) -> Outcome {
        self.idle_on(stream)?;
        let done = self.gpu.download(from, to);
        self.done(done).map(drop)
    }

    pub fn copy(&mut self, to: u64, from: u64, bytes: u64, stream: usize) -> Outcome {
        self.idle_on(stream)?;
        let done = self.gpu.copy(to, from, bytes);
        self.done(done).map(drop)
    }

    pub fn fill(&mut self, to: u64, value: u8, bytes: u64, stream: usize) -> Outcome {
        self.upload(to, &vec![value; bytes as usize], stream)
    }

    pub fn create_event(&mut self, flags: c_uint) -> Outcome<usize> {
        self.current()?;
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        Ok(self.add(Object::Event(None)))
    }

    pub fn record(&mut self, event: usize, stream: usize) -> Outcome {
        self.idle_on(stream)?;
        let now = self.counts.nanos();
        match self.objects.get_mut(&event) {
            Some(Object::Event(at)) => *at = Some(now),
            _ => return Err(INVALID_HANDLE),
        }
        Ok(())
    }

    fn recorded(&self, event: usize) -> Outcome<u64> {
        self.current()?;
        match self.objects.get(&event) {
            Some(Object::Event(Some(at))) => Ok(*at),
            _ => Err(INVALID_HANDLE),
        }
    }

    pub fn wait_for(&mut self, event: usize) -> Outcome {
        self.idle()?;
        self.recorded(event).map(drop)
    }

    /// Milliseconds.
    pub fn elapsed(&mut self, start: usize, end: usize) -> Outcome<f32> {
        let nanos = self.recorded(end)?.checked_sub(self.recorded(start)?).ok_or(INVALID_VALUE)?;
        Ok((nanos as f64 / 1e6) as f32)
    }

    pub fn destroy_event(&mut self, event: usize) -> Outcome {
        self.remove(event, |o| matches!(o, Object::Event(_))).map(drop)
    }
}
