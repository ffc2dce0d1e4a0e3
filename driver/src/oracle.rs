//! The graph interpreter on a whole model: dense f32 weights, f32 activations, the unfused graph, no kernels.
//!
//! Slow, and as near to exact as f32 allows; what compiled models are judged by.

use crate::DriverError;
use tilewright_ir::graph::Graph;
use tilewright_ir::graph::interp::{Interp, Tensor};
use tilewright_models::model::Model;

/// A model run by the interpreter.
pub struct Oracle {
    interp: Interp<f32>,
    vocab: usize,
}

impl Oracle {
    /// Loads all weights of `model`, dense.
    pub fn new(model: &Model) -> Result<Oracle, DriverError> {
        let graph: Graph = model.graph()?;
        let interp = Interp::new(&graph, model).map_err(|e| DriverError::Interp(e.to_string()))?;
        Ok(Oracle { interp, vocab: model.hyper().vocab as usize })
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.interp.truncate(0);
    }

    /// Runs `tokens` after what ran before and hands over the logits of each position.
    pub fn eval_each(&mut self, tokens: &[u32], mut each: impl FnMut(usize, &[f32])) -> Result<(), DriverError> {
        let outputs = self.interp.run(tokens).map_err(|e| DriverError::Interp(e.to_string()))?;
        match outputs.into_iter().next() {
            Some(Tensor::F { data, .. }) => {
                data.chunks_exact(self.vocab).enumerate().for_each(|(i, row)| each(i, row));
                Ok(())
            }
            _ => Err(DriverError::Interp("the graph gives no logits".into())),
        }
    }
}
