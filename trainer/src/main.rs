//! The program `bonsai-trainer`.
fn main() {}
