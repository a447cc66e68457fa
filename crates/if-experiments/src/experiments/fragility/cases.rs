//! The data sets, and the networks on each.

use if_models::{LayerSpec, Lbfgs};

use super::trial::{Case, Setting};
use crate::Context;
use crate::support::{conv, dense, load, resampled};

/// Side of the MNIST images.
const SIDE: usize = 10;

/// Flowers: the one of the gates.
pub fn iris(context: &Context) -> anyhow::Result<Case> {
    let base = Setting { depth: 1, width: 5, decay: 5e-3, examples: 120 };
    let mut grid: Vec<Setting> = [1, 2, 4, 8].map(|depth| Setting { depth, ..base }).to_vec();
    for decay in [1e-4, base.decay] {
        grid.extend([5, 20, 50].map(|width| Setting { width, decay, ..base }));
    }
    grid.push(Setting { decay: 1e-3, ..base });
    grid.extend([30, 60].map(|examples| Setting { examples, ..base }));
    Ok(Case {
        name: "Iris",
        train: load(context, "iris:train")?,
        test: load(context, "iris:test")?,
        input: vec![4],
        hidden: |setting| tanh_layers(setting, Vec::new()),
        base,
        grid: unique(grid),
        left_out: 25,
        lbfgs: Lbfgs {
            gradient_tolerance: 1e-8,
            max_iterations: if context.full { 20_000 } else { 5000 },
            ..Lbfgs::default()
        },
        cold: true,
        lissa: true,
    })
}

/// Digits at 10 x 10 pixels.
pub fn mnist(context: &Context) -> anyhow::Result<Case> {
    let base = Setting { depth: 1, width: 6, decay: 5e-3, examples: 300 };
    let images = |source: &str| anyhow::Ok(resampled(&load(context, source)?, SIDE));
    Ok(Case {
        name: "MNIST",
        train: images("mnist:train[0..2000]")?,
        test: images("mnist:test[0..500]")?,
        input: vec![1, SIDE, SIDE],
        hidden: |setting| tanh_layers(setting, vec![LayerSpec::Flatten {}]),
        base,
        grid: axes(base, &[1, 2, 4], &[6, 12], &[150, 600]),
        left_out: 20,
        lbfgs: Lbfgs { gradient_tolerance: 1e-8, max_iterations: 5000, ..Lbfgs::default() },
        cold: true,
        lissa: context.full,
    })
}

/// Photographs, of means of 2 x 2 pixels, and a convolutional network. By default the largest is the base.
pub fn cifar(context: &Context) -> anyhow::Result<Case> {
    let base = Setting { depth: 2, width: 4, decay: 5e-3, examples: if context.full { 300 } else { 200 } };
    let grid = match context.full {
        true => axes(base, &[1, 2, 3], &[4, 8], &[150, 600]),
        false => axes(base, &[1, 2], &[2, 4], &[100]),
    };
    Ok(Case {
        name: "cifar10-jpeg",
        train: load(context, "cifar10-jpeg:train[0..2000]")?,
        test: load(context, "cifar10-jpeg:test[0..500]")?,
        input: vec![3, 32, 32],
        hidden: convolutions,
        base,
        grid,
        left_out: if context.full { 20 } else { 12 },
        lbfgs: Lbfgs { gradient_tolerance: 1e-5, max_iterations: 1000, ..Lbfgs::default() },
        cold: context.full,
        lissa: context.full,
    })
}

/// Each axis through `base`.
fn axes(base: Setting, depths: &[usize], widths: &[usize], sizes: &[usize]) -> Vec<Setting> {
    let depths = depths.iter().map(|&depth| Setting { depth, ..base });
    let widths = widths.iter().map(|&width| Setting { width, ..base });
    let decays = [1e-3, base.decay].map(|decay| Setting { decay, ..base });
    let sizes = sizes.iter().map(|&examples| Setting { examples, ..base });
    unique(depths.chain(widths).chain(decays).chain(sizes).collect())
}

fn unique(all: Vec<Setting>) -> Vec<Setting> {
    let mut unique: Vec<Setting> = Vec::new();
    for setting in all {
        if !unique.contains(&setting) {
            unique.push(setting);
        }
    }
    unique
}

/// Dense layers with tanh after `first`.
fn tanh_layers(setting: &Setting, first: Vec<LayerSpec>) -> Vec<LayerSpec> {
    let layer = |l: usize| [dense(&l.to_string(), setting.width), LayerSpec::Tanh {}];
    first.into_iter().chain((0..setting.depth).flat_map(layer)).collect()
}

/// 3 x 3 convolutions with tanh, the first of stride 2, and the mean of each plane.
fn convolutions(setting: &Setting) -> Vec<LayerSpec> {
    let layer =
        |l: usize| [conv(&l.to_string(), setting.width, 3, if l == 0 { 2 } else { 1 }), LayerSpec::Tanh {}];
    let mut layers = vec![LayerSpec::AvgPool { size: 2, stride: None, padding: 0 }];
    layers.extend((0..setting.depth).flat_map(layer));
    layers.extend([LayerSpec::GlobalAvgPool {}, LayerSpec::Flatten {}]);
    layers
}
