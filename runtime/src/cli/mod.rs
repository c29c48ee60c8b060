//! The `overmask` program.
