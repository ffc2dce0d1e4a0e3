//! What was chosen and why, as an artifact's manifest says it.

use crate::BuildOptions;
use crate::records::Chosen;
use tilewright_codegen::lower::{Packing, WeightMap};
use tilewright_codegen::pack::{Fragments, Layout, ROWS};
use tilewright_passes::{Activations, Report};
use tilewright_runtime::artifact::Choice;

/// All choices; `code` is that of machine code, where there is one.
pub(crate) fn choices<'a>(
    passes: &Report,
    kernels: impl Iterator<Item = (&'a String, &'a Chosen, &'a str)>,
    weights: &WeightMap,
    options: &BuildOptions,
    code: Option<Choice>,
) -> Vec<Choice> {
    let why = match options.activations {
        Activations::F32 => "single precision".into(),
        Activations::F16 => "f16 with a power of two as scale of each row; sums in f32".into(),
        Activations::F16Pair => {
            "sums of two f16, about 22 bits, with a power of two as scale of each row; sums in f32".into()
        }
        Activations::Q8 | Activations::Bf16 => format!(
            "int8 blocks of {} with one f32 scale where the weight is a block format; f32 elsewhere{}",
            tilewright_ir::graph::Q8_BLOCK,
            if options.activations == Activations::Bf16 { "; bf16 for many tokens at once" } else { "" }
        ),
    };
    let choice = format!("{:?}", options.activations).into();
    let mut out = vec![Choice { what: "activations".into(), choice, why: why.into() }];
    out.extend(code);
    for p in &passes.rows {
        let why = tilewright_passes::manager::find(p.name).map_or("", |pass| pass.doc());
        out.push(Choice { what: format!("pass {}", p.name), choice: p.rewrites.into(), why: why.into() });
    }
    for (name, chosen, backend) in kernels {
        out.push(Choice { what: format!("kernel {name}"), choice: chosen.choice(backend), why: chosen.why() });
    }
    for w in &weights.entries {
        let Packing::Panels(layout) = &w.packing else { continue };
        let what = format!("weight {}", w.weight.name);
        let why = format!("{} bytes, kept in its own format, panels of {ROWS} rows", w.bytes);
        let kind = match layout {
            Layout::Float(s) => format!("{s:?}"),
            Layout::Quant(q) => format!("planes {:?}, groups of {}", q.planes, q.group),
            Layout::Fragments(Fragments::Float { terms, .. }) => {
                format!("{terms} f16 terms in the order of tensor cores")
            }
            Layout::Fragments(Fragments::Quant(q)) => {
                format!("planes {:?}, groups of {}, in the order of tensor cores", q.planes, q.group)
            }
        };
        out.push(Choice { what, choice: format!("{}: {kind}", w.weight.format()).into(), why: why.into() });
    }
    out
}
