//! The program from outside: what it writes, what it says, how it ends.

mod bad_input;
mod commands;
mod contract;
mod damping;
mod dense;
mod pytorch;
mod support;
mod train_network;
