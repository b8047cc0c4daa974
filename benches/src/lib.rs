//! Made-up models and inputs that the benches share.
