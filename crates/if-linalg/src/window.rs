//! How convolutions and pools slide over the planes of an image.

use serde::{Deserialize, Serialize};

/// A window over images of shape `(channels, height, width)`, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Planes of an image.
    pub channels: usize,
    /// Height and width of a plane.
    pub image: [usize; 2],
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Steps between windows.
    pub stride: usize,
    /// Rows and columns beyond each edge.
    pub padding: usize,
}

impl Window {
    /// Numbers of an image.
    pub fn inputs(&self) -> usize {
        self.channels * self.image[0] * self.image[1]
    }

    /// Windows down and across: `(n + 2 padding - kernel) / stride + 1`, rounded down; `None` where the
    /// window is larger than the padded image or a size is zero.
    pub fn steps(&self) -> Option<[usize; 2]> {
        let steps = |axis: usize| {
            let padded = self.padding.checked_mul(2)?.checked_add(self.image[axis])?;
            let room = padded.checked_sub(self.kernel[axis])?;
            let sizes = [self.stride, self.kernel[axis], self.image[axis]];
            sizes.iter().all(|size| *size > 0).then(|| room / self.stride + 1)
        };
        Some([steps(0)?, steps(1)?])
    }

    /// Number of windows in a plane.
    ///
    /// # Panics
    /// Where no window fits, see [`steps`](Self::steps).
    pub fn positions(&self) -> usize {
        let [down, across] = self.steps().expect("the window fits the image");
        down * across
    }

    /// Numbers in a window, over all planes.
    pub fn patch(&self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    /// Image row (or column, by `axis`) under offset `o` of window `w`; `None` in the padding.
    #[inline]
    pub(crate) fn source(&self, axis: usize, w: usize, o: usize) -> Option<usize> {
        (w * self.stride + o).checked_sub(self.padding).filter(|at| *at < self.image[axis])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_torch() {
        let window = |image, kernel, stride, padding| Window { channels: 2, image, kernel, stride, padding };
        assert_eq!(window([7, 5], [3, 3], 2, 1).steps(), Some([4, 3]));
        assert_eq!(window([4, 4], [2, 2], 2, 0).positions(), 4);
        assert_eq!(window([5, 5], [2, 2], 2, 0).positions(), 4);
        assert_eq!(window([1, 1], [3, 3], 1, 1).positions(), 1);
        assert_eq!(window([2, 9], [3, 3], 1, 0).steps(), None);
        assert_eq!(window([2, 2], [1, 1], 0, 0).steps(), None);
        assert_eq!(window([0, 1], [6, 6], 1, 5).steps(), None);
        assert_eq!(window([7, 5], [3, 2], 1, 0).patch(), 12);
    }
}
