//! The program `bonsai`.
fn main() {}
