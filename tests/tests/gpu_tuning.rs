//! Tuning on a GPU from end to end, on the emulated one: of schedules by themselves, of schedules with candidates that lie or
//! that do not fit, and of a tiny model. The emulator's clock counts work, so nothing here says what is fast.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tilewright_autotune::candidate::params_in;
use tilewright_autotune::fingerprint::of_gpu;
use tilewright_autotune::gpu::Gpu;
use tilewright_autotune::record::Record;
use tilewright_autotune::store;
use tilewright_autotune::tuner::{Level, Outcome, Tuner, compiler};
use tilewright_codegen::emulated::{EmulatedDriver, EmulatedGpu};
use tilewright_codegen::pack::{Layout, Order};
use tilewright_codegen::ptx::assembler::Assembler;
use tilewright_codegen::schedules::gpu::{Attention, F16Rows, Input, Product, Round};
use tilewright_codegen::schedules::{
    self, Axis, Data, Finish, HeadPrep, Operand, Operands, Params, RopeStyle, Schedule, Space, defaults, params_for,
};
use tilewright_codegen::target::Target;
use tilewright_driver::{BuildOptions, Compiled, Progress, TuneEvent, TuneOptions, compile, tune_on_gpu};
use tilewright_ir::kernel::{Kernel, KernelBuilder, Type};
use tilewright_models::format::FormatSet;
use tilewright_models::model::Model;
use tilewright_runtime::cuda::GpuDriver;
use tilewright_tests::e2e;
use tilewright_tests::quant::Quant;
use tilewright_tests::tiny::Golden;

const BUDGET: Duration = Duration::from_secs(3);

fn seed() -> u64 {
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    std::env::var("TILEWRIGHT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(fresh)
}

/// A small GPU with a small cache, so that little has to be read and multiplied.
fn driver(sm: u32) -> EmulatedDriver {
    EmulatedDriver::new(EmulatedGpu { sm, l2_bytes: 32 << 10, multiprocessors: 1, ..EmulatedGpu::default() })
}

fn tuner(target: &str, sm: u32, seed: u64) -> Tuner<Gpu> {
    let target = Target::get(target).expect("a declared target");
    let gpu = Gpu::new(Box::new(driver(sm)), &target, None).expect("a GPU");
    Tuner::on(gpu, Level::Quick, seed)
}

fn tune(tuner: &Tuner<Gpu>, s: &dyn Schedule, seed: u64) -> Outcome {
    tuner.tune(s, BUDGET, None, &mut |_| {}).unwrap_or_else(|e| panic!("seed {seed}: {e}"))
}

fn product(format: &str, rows: u64, cols: u64, max_tokens: u32) -> Product {
    let format = FormatSet::builtin().get(format).expect("a format");
    let Ok(Layout::Fragments(layout)) = Layout::in_order(format, Order::Fragments) else { panic!("no fragments") };
    let x = Input::Rows { stride: cols * 4, norm: Some(1e-5), terms: 1 };
    let finish = Finish::Sum { bias: false, residual: Some(rows * 4) };
    Product { weights: vec![layout], rows, cols, x, finish, out_stride: rows * 4, max_tokens }
}

fn attention(max_tokens: u32, terms: u64) -> Attention {
    let op = schedules::Attention {
        heads: 6,
        kv_heads: 2,
        head_dim: 32,
        q_stride: 768,
        prep: HeadPrep { norm: None, rope: Some((16, RopeStyle::Half)) },
        scale: 0.2,
        window: 0,
        softcap: 0.0,
        out_stride: Some(768),
        max_tokens,
    };
    Attention::new(op, terms).expect("a schedule")
}

#[test]
fn a_record_of_a_gpu() {
    let seed = seed();
    let tuner = tuner("sm_90a", 90, seed);
    let all: [Box<dyn Schedule>; 4] = [
        Box::new(product("q4_1", 128, 256, 1)),
        Box::new(attention(1, 1)),
        Box::new(attention(5, 2)),
        Box::new(Round { width: 200, x_stride: 800, norm: Some(1e-5), terms: 2, max_tokens: 9 }),
    ];
    for s in all {
        let s = s.as_ref();
        let outcome = tune(&tuner, s, seed);
        let (who, r) = (format!("seed {seed}, {}", s.signature()), outcome.record);
        assert_eq!(r.check(), Ok(()), "{who}");
        let device = of_gpu(driver(90).facts());
        assert_eq!((&*r.target, &*r.backend, r.threads, &r.device), ("sm_90a", "ptx", 1, &device), "{who}");
        let params = params_in(&s.space(), &r.params).unwrap_or_else(|e| panic!("{who}: {e}"));
        let default = params_for(s, &Target::get("sm_90a").expect("declared"));
        assert!(s.structural().iter().all(|name| params.get(name) == default.get(name)), "{who}: {params:?}");
        assert!(r.tried > 1 && r.error < 1e-6 && r.history.len() > 1, "{who}: {r:?}");
        assert!(params == default || r.ns < 0.98 * r.default_ns, "{who}: {r:?}");
        eprintln!(
            "{who}: {:.2} x, {} tried, {:?}, error {:.1e}, {params:?}",
            r.gain(),
            r.tried,
            outcome.refused,
            r.error
        );
    }
}

/// A product with candidates that are fast because they leave work out.
struct Planted(Product);

impl Planted {
    fn honest(&self, p: &Params) -> Product {
        let m = self.0.clone();
        match p["lie"] {
            1 => Product { cols: m.cols / 2, ..m },
            2 => Product { rows: m.rows / 2, ..m },
            _ => m,
        }
    }

    fn params(&self, p: &Params) -> Params {
        let all = defaults(&self.0.space());
        all.into_iter().map(|(name, v)| (name, *p.get(name).unwrap_or(&v))).collect()
    }
}

impl Schedule for Planted {
    fn signature(&self) -> String {
        format!("planted {}", self.0.signature())
    }

    fn space(&self) -> Space {
        vec![Axis { name: "warps", values: vec![8, 4] }, Axis { name: "lie", values: vec![0, 1, 2] }]
    }

    fn chunks(&self, p: &Params) -> u32 {
        self.honest(p).chunks(&self.params(p))
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        self.honest(p).build(name, &self.params(p))
    }

    fn operands(&self) -> Operands {
        self.0.operands()
    }
}

#[test]
fn candidates_that_lie_are_refused() {
    let seed = seed();
    let planted =
        Planted(Product { x: Input::Rows { stride: 1024, norm: None, terms: 1 }, ..product("f16", 64, 256, 2) });
    let outcome = tune(&tuner("sm_80", 86, seed), &planted, seed);
    assert_eq!(outcome.record.params["lie"], 0, "seed {seed}: {:?}", outcome.record);
    assert_eq!((outcome.record.tried, outcome.refused["wrong"]), (2, 4), "seed {seed}: {outcome:?}");
    assert!(outcome.record.history.iter().all(|t| t.params["lie"] == 0), "seed {seed}: a liar was timed");
}

/// A product with one axis: tokens of a block. With 256 of them, sums do not fit a thread's registers.
struct Wide(Product);

impl Wide {
    fn params(&self, p: &Params) -> Params {
        let mut all = defaults(&self.0.space());
        all.extend([("high", 2), ("tokens", p["tokens"])]);
        all
    }
}

impl Schedule for Wide {
    fn signature(&self) -> String {
        format!("wide {}", self.0.signature())
    }

    fn space(&self) -> Space {
        vec![Axis { name: "tokens", values: vec![32, 256] }]
    }

    fn chunks(&self, p: &Params) -> u32 {
        self.0.chunks(&self.params(p))
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        self.0.build(name, &self.params(p))
    }

    fn operands(&self) -> Operands {
        self.0.operands()
    }
}

#[test]
fn what_spills_is_not_timed() {
    let Some(assembler) = Assembler::find() else {
        assert!(std::env::var_os("CI").is_none(), "ptxas is not installed: `make cuda-tools`");
        eprintln!("SKIPPED: ptxas is not installed (`make cuda-tools`): no candidate was assembled");
        return;
    };
    let seed = seed();
    let x = Input::Rounded(F16Rows { width: 64, terms: 1 });
    let finish = Finish::Sum { bias: false, residual: None };
    let wide = Wide(Product { x, finish, ..product("q4_0", 16, 64, 256) });
    let target = Target::get("sm_80").expect("a declared target");
    let gpu = Gpu::new(Box::new(driver(80)), &target, Some(assembler)).expect("a GPU");
    let outcome = tune(&Tuner::on(gpu, Level::Quick, seed), &wide, seed);
    assert_eq!(outcome.refused, [("hopeless", 1)].into(), "seed {seed}");
    assert_eq!((outcome.record.params["tokens"], outcome.record.tried), (32, 1), "seed {seed}: {:?}", outcome.record);
}

/// Rows that go through shared memory, with much more of it than they need.
struct Fat;

impl Schedule for Fat {
    fn signature(&self) -> String {
        "fat".into()
    }

    fn space(&self) -> Space {
        vec![Axis { name: "kib", values: vec![1, 90, 120, 200] }]
    }

    fn chunks(&self, _: &Params) -> u32 {
        1
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let mut b = KernelBuilder::of_blocks(name, 32, 1);
        let (x, out, _) = (b.ptr_param("x"), b.ptr_param("out"), b.int_param("tokens"));
        let shared = b.shared(p["kib"] << 10);
        b.wait_prior();
        let thread = b.thread_id();
        let at = |b: &mut KernelBuilder, p| b.index(p, thread, 4);
        let (from, here, to) = (at(&mut b, x), at(&mut b, shared), at(&mut b, out));
        let v = b.load(Type::F32, from, 0);
        b.store(v, here, 0);
        b.barrier();
        let v = b.load(Type::F32, here, 0);
        b.store(v, to, 0);
        b.finish()
    }

    fn operands(&self) -> Operands {
        let row = |written| Operand { data: Data::Rows { width: 32, stride: 128 }, written };
        let tokens = tilewright_runtime::plan::ScalarArg::Tokens;
        Operands::plain(1, vec![row(false), row(true)], vec![tokens])
    }
}

/// The target allows 163 KiB of a block, this device 99.
#[test]
fn what_does_not_fit_is_not_timed() {
    let seed = seed();
    let outcome = tune(&tuner("sm_80", 86, seed), &Fat, seed);
    assert_eq!(outcome.refused, [("unsupported", 2)].into(), "seed {seed}");
    assert_eq!(outcome.record.tried, 2, "seed {seed}: {:?}", outcome.record);
}

#[test]
fn only_where_its_code_runs() {
    let target = Target::get("sm_90a").expect("declared");
    let e = Gpu::new(Box::new(driver(86)), &target, None).err().expect("refused").to_string();
    assert!(e.contains("sm_90a cannot be timed here") && e.contains("sm_86"), "{e}");
}

/// Whence each kernel's parameters are, and what was said.
fn reasons(model: &Model, options: &BuildOptions) -> (Vec<String>, Vec<String>) {
    let mut said = vec![];
    let Compiled { choices, .. } = compile(model, options, &mut |p| {
        if let Progress::Warning(text) = p {
            said.push(text.to_string());
        }
    })
    .unwrap_or_else(|e| panic!("{e}"));
    let kernels = choices.iter().filter(|c| c.what.starts_with("kernel "));
    (kernels.map(|c| c.why["from"].as_str().unwrap_or("?").to_string()).collect(), said)
}

fn append(root: &Path, device: &str, record: Record) {
    store::append(&store::file(root, device), &record).expect("written");
}

#[test]
fn from_tuning_a_model_to_a_build() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("tiny.gguf");
    Golden::load("llama").expect("a golden").write_gguf(&path, Quant::Q8_0).expect("a model");
    let model = Model::open(&path).expect("a model");
    let root = dir.path().join("cache");
    let target = Target::get("sm_90a").expect("declared");
    let options = BuildOptions {
        ctx: Some(64),
        prefill_tokens: 16,
        records: Some(root.clone()),
        ..BuildOptions::for_target(target)
    };
    let of =
        |facts: &tilewright_runtime::cuda::DeviceFacts| BuildOptions { gpu: Some(facts.clone()), ..options.clone() };
    let count = |options: &BuildOptions, from: &str| reasons(&model, options).0.iter().filter(|w| *w == from).count();
    let here = of(driver(90).facts());
    assert_eq!(count(&here, "user") + count(&options, "foreign"), 0);

    let what = TuneOptions { budget: Some(Duration::from_secs(20)), seed: seed(), ..TuneOptions::new(Level::Quick) };
    let what = TuneOptions { filter: Some("blk.0".into()), ..what };
    let mut heard = 0;
    let records = tune_on_gpu(&model, &options, &what, Box::new(driver(90)), &mut |event| {
        if let TuneEvent::Done(..) = event {
            heard += 1;
        }
    })
    .unwrap_or_else(|e| panic!("seed {}: {e}", what.seed));
    assert!(heard == records.len() && records.len() >= 4, "{records:?}");
    assert!(records.iter().any(|r| r.op.contains("attention")) && records.iter().any(|r| r.op.contains("product")));
    // This GPU's records serve it, and builds for whatever device of the target; no other device.
    assert_eq!(count(&here, "user"), records.len());
    assert_eq!(count(&options, "foreign"), records.len());
    let other = of(EmulatedDriver::new(EmulatedGpu { memory_bytes: 1 << 30, ..EmulatedGpu::default() }).facts());
    assert_eq!(count(&other, "user") + count(&other, "foreign"), 0);
    // What lies in this device's file and is another's is said once.
    let device = of_gpu(driver(90).facts());
    for record in records.iter().take(3) {
        append(&root, &device, Record { device: "feed".into(), compiler: compiler(), ..record.clone() });
    }
    let (from, said) = reasons(&model, &here);
    assert_eq!(from.iter().filter(|w| *w == "user").count(), records.len());
    assert!(said.len() == 1 && said[0].contains("3 of another machine"), "{said:?}");

    // The tuned kernels compute what the others do.
    let golden = Golden::load("llama").expect("a golden");
    let logits = |options: &BuildOptions| {
        let built = e2e::gguf(&golden, Quant::Q8_0, options).expect("built");
        let ctx = tilewright_runtime::session::SessionOptions { ctx: Some(64), ..Default::default() };
        let session =
            tilewright_runtime::session::Session::with_driver(built.artifact.clone(), Box::new(driver(90)), ctx);
        let mut session = session.expect("a session");
        let all = e2e::logits(&mut session, &golden.ids[..8]).expect("logits");
        (all, e2e::logits_stepwise(&mut session, &golden.ids[..8]).expect("logits"))
    };
    let (tuned, plain) = (logits(&here), logits(&BuildOptions { records: None, ..options }));
    for (a, b) in [(&tuned.0, &plain.0), (&tuned.1, &plain.1)] {
        let d = e2e::distance(a, b);
        assert!(d < 1e-2, "distance {d}");
    }
}
