use if_linalg::Cpu;
use if_models::layer::Dense;
use if_models::testing::{LayerCheck, check_layer};

#[test]
fn my_layer() {
    check_layer(&Cpu::new(), &Dense::new("fc", 4, 3, true), LayerCheck::new(4));
}
