//! The program from outside: what it writes, what it says, how it ends.

mod bad_input;
mod change;
mod clusters;
mod commands;
mod contract;
mod correct;
mod damping;
mod dense;
mod device;
mod fragility;
mod lds;
mod mnist;
mod pytorch;
mod remove;
mod resume;
mod solvers;
mod support;
mod tracing;
mod train_network;
