//! File tests of graph IR.
//!
//! - `graph-roundtrip`: prints what was parsed; also print → parse → print must be the identity
//! - `graph-parse`: only the parser
//! - `graph-verify`: the verifier's errors
//! - `pass: NAME …`: verifies, runs those passes in order, verifies, prints. The graphs before and after must compute
//!   the same, unless a pass says otherwise: [`CHANGES_RESULTS`]. `// activations: q8`, or `bf16`, `f16`, `f16x2`, rounds between
//!   weights; then `// takes-q8: FORMAT …` are the formats whose products can read int8 and bf16. `// few-tokens: yes` is
//!   for passes of programs of few tokens

use super::{Case, Output};
use tilewright_ir::graph::interp::{Interp, KvPrecision, Tensor};
use tilewright_ir::graph::random::RandomWeights;
use tilewright_ir::graph::{Dim, Elem, Graph, OpKind, parse as parse_graph, verify as verify_graph};
use tilewright_passes::{Activations, PassContext, PassManager};

/// Passes that choose precision.
const CHANGES_RESULTS: &[&str] = &["choose-precision"];

/// Mode `graph-roundtrip`.
pub fn roundtrip(case: &Case) -> Result<Output, String> {
    Ok(match parse_graph(&case.source) {
        Ok(graph) => Output { text: printed(&graph)?, errors: vec![] },
        Err(e) => Output { text: String::new(), errors: vec![e.to_string()] },
    })
}

/// Mode `graph-parse`.
pub fn parse(case: &Case) -> Result<Output, String> {
    let errors = parse_graph(&case.source).err().map(|e| e.to_string());
    Ok(Output { text: String::new(), errors: errors.into_iter().collect() })
}

/// Mode `graph-verify`.
pub fn verify(case: &Case) -> Result<Output, String> {
    let graph = parse_graph(&case.source).map_err(|e| e.to_string())?;
    let errors = verify_graph(&graph).err().map_or(vec![], |e| e.0.iter().map(|e| e.to_string()).collect());
    Ok(Output { text: printed(&graph)?, errors })
}

/// Mode `pass`.
pub fn pass(case: &Case) -> Result<Output, String> {
    let before = parse_graph(&case.source).map_err(|e| e.to_string())?;
    verify_graph(&before).map_err(|e| format!("before: {e}"))?;
    let activations = match case.values("activations").next() {
        None | Some("f32") => Activations::F32,
        Some("q8") => Activations::Q8,
        Some("bf16") => Activations::Bf16,
        Some("f16") => Activations::F16,
        Some("f16x2") => Activations::F16Pair,
        Some(other) => return Err(format!("activations are f32, q8, bf16, f16 or f16x2, not {other}")),
    };
    let few_tokens = match case.values("few-tokens").next() {
        None | Some("no") => false,
        Some("yes") => true,
        Some(other) => return Err(format!("few-tokens is yes or no, not {other}")),
    };
    let formats: Vec<&str> = case.values("takes-q8").flat_map(str::split_whitespace).collect();
    let takes_q8 = |format: &str| formats.contains(&format);
    let names: Vec<&str> = case.args.split(|c: char| c == ',' || c.is_whitespace()).filter(|n| !n.is_empty()).collect();
    let mut after = before.clone();
    let context = PassContext { activations, takes_q8: &takes_q8, few_tokens };
    PassManager::new(context).run_named(&mut after, &names).map_err(|e| e.to_string())?;
    verify_graph(&after).map_err(|e| format!("after: {e}"))?;
    if !names.iter().any(|n| CHANGES_RESULTS.contains(n)) {
        same_results(&before, &after)?;
    }
    Ok(Output { text: printed(&after)?, errors: vec![] })
}

/// The text of a graph, which must come back as it is.
pub fn printed(graph: &Graph) -> Result<String, String> {
    let text = graph.to_string();
    let again = parse_graph(&text).map_err(|e| format!("the printed graph does not parse: {e}\n{text}"))?;
    if again.to_string() != text {
        return Err(format!("print → parse → print is not the identity:\n{text}\n{again}"));
    }
    Ok(text)
}

/// Runs both graphs in f64 on made-up weights, in two steps, and compares all outputs.
pub fn same_results(before: &Graph, after: &Graph) -> Result<(), String> {
    let (a, b) =
        (outputs(before).map_err(|e| format!("before: {e}"))?, outputs(after).map_err(|e| format!("after: {e}"))?);
    if a.len() != b.len() {
        return Err(format!("{} outputs became {}", a.len(), b.len()));
    }
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let (x, y) = (a.floats(), b.floats());
        let near = |x: &f64, y: &f64| (x - y).abs() <= 1e-9 * x.abs().max(1.0);
        let is_same =
            if x.is_empty() { a == b } else { x.len() == y.len() && x.iter().zip(&y).all(|(x, y)| near(x, y)) };
        if !is_same {
            return Err(format!("output {i} changed from\n  {a:?} to\n  {b:?}"));
        }
    }
    Ok(())
}

fn outputs(graph: &Graph) -> Result<Vec<Tensor<f64>>, String> {
    let weights = RandomWeights { seed: 1 };
    let mut interp = Interp::with_kv(graph, &weights, KvPrecision::Exact).map_err(|e| e.to_string())?;
    let rows = graph.order().iter().filter(|&&n| graph.node(n).op == OpKind::Embed).map(|&n| {
        let table = graph.operand(n, "table").map(|t| graph.ty(t).shape[0]);
        if let Some(Dim::N(rows)) = table { rows } else { 1 }
    });
    let vocab = rows.min().unwrap_or(1);
    let mut all = vec![];
    for tokens in [5, 2] {
        let ids: Vec<u32> = (0..tokens).map(|i| ((i * 7 + tokens) % vocab) as u32).collect();
        let inputs =
            graph.order().iter().filter(|&&n| graph.node(n).op == OpKind::Input && graph.ty(n).elem == Elem::F32);
        let values: Vec<(&str, Tensor<f64>)> = inputs
            .map(|&n| {
                let width = graph.ty(n).width().unwrap_or(1) as usize;
                let value = |i: usize| ((i * i * 31 + i * 17 + 3) % 101) as f64 / 50.0 - 1.0;
                (graph.node(n).name.as_str(), Tensor::rows(width, (0..width * tokens as usize).map(value).collect()))
            })
            .collect();
        all.extend(interp.run_with(&ids, &values).map_err(|e| e.to_string())?);
    }
    Ok(all)
}
