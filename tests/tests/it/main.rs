//! All end-to-end tests in one program: the networks they instantiate are compiled once.

mod interop;
mod logreg17;
mod logreg17_groups;
mod tiny_networks;
