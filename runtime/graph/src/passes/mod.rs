//! What rewrites a graph or adds to it, and knows nothing of what the graph is for beside encoding texts.

pub mod gelu;
pub mod half;
pub mod head;
