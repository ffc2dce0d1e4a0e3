//! A GGUF file, cut short and mutated.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tilewright_driver::build;
use tilewright_models::model::Model;
use tilewright_runtime::artifact::Artifact;
use tilewright_runtime::error::RunError;
use tilewright_runtime::session::{Logits, Session, SessionOptions};
use tilewright_tests::e2e;
use tilewright_tests::gguf_out::Meta;
use tilewright_tests::quant::Quant;
use tilewright_tests::tiny::Golden;

use crate::support::{Random, caught, peak, useful};

/// Bytes beyond the file × 4 that opening may take; measured: 9 KiB, for a file cut to nothing.
const OPEN_ALLOWANCE: i64 = 64 << 10;

/// Bytes beyond the file × 4 that building may take on the calling thread: Cranelift's, and the packer's buffer of at most
/// 8 MiB and a panel; measured: 5.4 MiB.
const BUILD_ALLOWANCE: i64 = 16 << 20;

/// Longest time that one case may take; the whole way takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most that any case took beyond its file × 4: opening, building.
static MOST: [AtomicI64; 2] = [AtomicI64::new(i64::MIN), AtomicI64::new(i64::MIN)];

/// Where the parts of the file are.
pub struct Parts {
    /// Magic, version and counts.
    pub header: Range<usize>,
    /// Metadata up to the tokenizer's: names and hyper-parameters.
    pub hyper: Range<usize>,
    /// The numbers among those.
    pub values: Vec<Range<usize>>,
    /// The tokenizer's metadata.
    pub tokenizer: Range<usize>,
    /// Names, shapes, types and offsets of tensors.
    pub infos: Range<usize>,
    /// Dimensions, types and offsets among those.
    pub fields: Vec<Range<usize>>,
    /// The data.
    pub data: Range<usize>,
}

/// A small complete GGUF and its parts.
pub fn sample(name: &str, quant: Quant) -> (Vec<u8>, Parts) {
    let gguf = Golden::load(name).unwrap().gguf(quant).unwrap();
    let bytes = gguf.encode();
    let find = |text: &str| {
        let mut key = (text.len() as u64).to_le_bytes().to_vec();
        key.extend(text.as_bytes());
        bytes.windows(key.len()).position(|w| w == key).expect(text)
    };
    // Behind a key comes its type.
    let numbers = gguf.meta.iter().take_while(|(k, _)| !k.starts_with("tokenizer.")).filter_map(|(k, v)| match v {
        Meta::U32(_) | Meta::F32(_) => Some(find(k) + 12 + k.len()),
        _ => None,
    });
    let values = numbers.map(|at| at..at + 4).collect();
    let mut fields = vec![];
    for t in &gguf.tensors {
        let dims = find(&t.name) + 12 + t.name.len();
        let kind = dims + 8 * t.shape.len();
        fields.extend((dims..kind).step_by(8).map(|at| at..at + 8));
        fields.extend([dims - 4..dims, kind..kind + 4, kind + 4..kind + 12]);
    }
    let tokenizer = find("tokenizer.ggml.model");
    let infos = find(&gguf.tensors[0].name);
    let data = bytes.len() - gguf.tensors.iter().map(|t| t.bytes.len().next_multiple_of(32)).sum::<usize>();
    let end = bytes.len();
    let (hyper, tokenizer, infos, data) = (24..tokenizer, tokenizer..infos, infos..data, data..end);
    let parts = Parts { header: 0..24, hyper, values, tokenizer, infos, fields, data };
    (bytes, parts)
}

/// The models that are damaged.
const SAMPLES: [(&str, Quant); 4] =
    [("llama_tied", Quant::Q4_0), ("qwen2", Quant::Q8_0), ("gemma3", Quant::Q4_0), ("phi3_longrope", Quant::Q8_0)];

/// One of the samples, mutated; where.
pub fn mutated(seed: u64) -> (Vec<u8>, &'static str) {
    static ALL: LazyLock<Vec<(Vec<u8>, Parts)>> = LazyLock::new(|| SAMPLES.iter().map(|s| sample(s.0, s.1)).collect());
    let (good, parts) = &ALL[seed as usize % SAMPLES.len()];
    let mut bytes = good.clone();
    let mut random = Random::new(seed);
    let kind = random.below(100);
    while bytes == *good {
        let mut one = |r: &mut Random, ranges: &[Range<usize>]| {
            let range = &ranges[r.below(ranges.len())];
            r.number(&mut bytes, range);
        };
        match kind {
            0..20 => one(&mut random, &parts.values),
            20..40 => one(&mut random, &parts.fields),
            40..48 => random.mutate(&mut bytes, &parts.header),
            48..65 => random.mutate(&mut bytes, &parts.hyper),
            65..78 => random.mutate(&mut bytes, &parts.tokenizer),
            78..90 => random.mutate(&mut bytes, &parts.infos),
            _ => random.mutate(&mut bytes, &parts.data),
        }
    }
    let what = match kind {
        0..20 => "values",
        20..40 => "fields",
        40..48 => "header",
        48..65 => "hyper",
        65..78 => "tokenizer",
        78..90 => "infos",
        _ => "data",
    };
    (bytes, what)
}

/// How far a file got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Open,
    Build,
    Run,
    Worked,
}

/// Opens, compiles, builds, opens and runs; what went wrong is told by `Err`.
fn drive(dir: &Path, bytes: &[u8]) -> Result<End, String> {
    let file = dir.join("model.gguf");
    std::fs::write(&file, bytes).unwrap();
    let refused = |end: End, message: String| match useful(&message) {
        true => Ok(end),
        false => Err(format!("{end:?}: the message does not help: {message:?}")),
    };
    let room = |most: i64, allowance: i64, what: usize| {
        let beyond = most - 4 * bytes.len() as i64;
        MOST[what].fetch_max(beyond, Ordering::Relaxed);
        match beyond <= allowance {
            true => Ok(()),
            false => Err(format!("{} took {most} bytes for a file of {}", ["opening", "building"][what], bytes.len())),
        }
    };
    let (model, most) = peak(|| Model::open(&file));
    room(most, OPEN_ALLOWANCE, 0)?;
    let model = match model {
        Ok(model) => model,
        Err(e) if e.to_string().contains("model.gguf") => return refused(End::Open, e.to_string()),
        Err(e) => return Err(format!("the message does not name the file: {e}")),
    };
    let out = dir.join("model.tw");
    let (built, most) = peak(|| build(&model, &out, &e2e::options(), &mut |_| {}));
    room(most, BUILD_ALLOWANCE, 1)?;
    if let Err(e) = built {
        return refused(End::Build, e.to_string());
    }
    let artifact = Artifact::open(&out).map_err(|e| format!("what was just built is refused: {e}"))?;
    let ctx = artifact.plan().model.n_ctx.min(16);
    let options = SessionOptions { ctx: Some(ctx), threads: Some(1), profile: false };
    let mut session = match Session::new(Arc::new(artifact), options) {
        Ok(session) => session,
        Err(e) => return refused(End::Run, e.to_string()),
    };
    for tokens in [&[1u32, 70, 71, 72, 5][..], &[80], &[81]] {
        match session.eval(tokens, Logits::All) {
            Ok(_) => {}
            Err(e @ (RunError::Numerical { .. } | RunError::ContextFull { .. } | RunError::BadToken { .. })) => {
                return refused(End::Run, e.to_string());
            }
            Err(e) => return Err(format!("running: {e}")),
        }
    }
    Ok(End::Worked)
}

/// Runs all cases on two threads; panics with all that failed.
fn all(cases: u64, case: impl Fn(u64) -> (Vec<u8>, String) + Sync) {
    let threads = 2;
    let mut ends: BTreeMap<(String, End), u32> = BTreeMap::new();
    let mut failures = vec![];
    let worker = |first: u64| {
        let dir = tempfile::Builder::new().prefix("tilewright-fault").tempdir().unwrap();
        let mut out = vec![];
        for seed in (first..cases).step_by(threads) {
            let (bytes, what) = case(seed);
            let begin = Instant::now();
            let result = caught(|| drive(dir.path(), &bytes)).unwrap_or_else(|panic| Err(format!("panic: {panic}")));
            let result = match begin.elapsed() {
                t if t > PATIENCE => Err(format!("took {t:?}: {result:?}")),
                _ => result,
            };
            out.push((seed, what, result));
        }
        out
    };
    // Tables that are made once are no part of a case.
    drive(tempfile::tempdir().unwrap().path(), &sample("llama_tied", Quant::Q4_0).0).unwrap();
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads as u64).map(|first| scope.spawn(move || worker(first))).collect();
        for (seed, what, result) in handles.into_iter().flat_map(|h| h.join().unwrap()) {
            match result {
                Ok(end) => *ends.entry((what, end)).or_default() += 1,
                Err(e) => failures.push(format!("seed {seed} ({what}): {e}")),
            }
        }
    });
    let most = MOST.each_ref().map(|m| m.load(Ordering::Relaxed) / 1024);
    eprintln!("beyond four files: {} KiB to open, {} KiB to build", most[0], most[1]);
    for ((what, end), n) in ends {
        eprintln!("{what:10} {end:?}: {n}");
    }
    assert!(failures.is_empty(), "{} of {cases}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_samples_work() {
    let dir = tempfile::tempdir().unwrap();
    for (name, quant) in SAMPLES {
        assert_eq!(drive(dir.path(), &sample(name, quant).0), Ok(End::Worked), "{name}");
    }
}

#[test]
fn truncated_models() {
    let (bytes, parts) = sample("llama_tied", Quant::Q4_0);
    // 20 in the header, 60 in metadata, 60 in tensor infos, 60 in the data.
    let cut = |part: &Range<usize>, i: u64, n: u64| part.start + part.len() * i as usize / n as usize;
    all(200, |seed| {
        let at = match seed {
            0..20 => cut(&parts.header, seed, 20),
            20..80 => cut(&(parts.hyper.start..parts.tokenizer.end), seed - 20, 60),
            80..140 => cut(&parts.infos, seed - 80, 60),
            _ => cut(&parts.data, seed - 140, 60),
        };
        (bytes[..at].to_vec(), "cut".into())
    });
}

#[test]
fn mutated_models() {
    all(2000, |seed| {
        let (bytes, what) = mutated(seed);
        (bytes, what.into())
    });
}

#[test]
fn a_seed_is_one_file() {
    assert!(mutated(17) == mutated(17) && mutated(17).0 != mutated(21).0);
}
