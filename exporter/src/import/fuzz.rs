//! Any bytes, as a file of a checkpoint: for the fuzz target `torch`, and no part of the interface.

use super::checkpoint;

/// How many tensors a file of `torch.save` has, if it is one.
pub fn torch(bytes: &[u8]) -> Option<usize> {
    checkpoint::torch_tensors(bytes)
}

/// How many tensors a pickle describes, if it does nothing else.
pub fn pickle(bytes: &[u8]) -> Option<usize> {
    checkpoint::pickled_tensors(bytes)
}
