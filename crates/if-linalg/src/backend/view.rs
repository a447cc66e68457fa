//! Strided windows into device memory: how kernels are told where their matrices are.

use crate::Backend;

/// A read-only matrix inside a buffer of backend `B`: element `(i, j)` is at
/// `offset + i * row_stride + j * col_stride`. Every kernel but [`Backend::gemm`] asks for
/// `col_stride = 1`.
pub struct View<'a, B: Backend> {
    /// The memory that holds the matrix.
    pub buffer: &'a B::Buffer,
    /// Index of element (0, 0).
    pub offset: usize,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Distance between rows, in elements.
    pub row_stride: usize,
    /// Distance between columns, in elements.
    pub col_stride: usize,
}

impl<B: Backend> Clone for View<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for View<'_, B> {}

impl<'a, B: Backend> View<'a, B> {
    /// A contiguous row-major `rows x cols` matrix that starts at `offset`.
    pub fn new(buffer: &'a B::Buffer, offset: usize, rows: usize, cols: usize) -> Self {
        Self { buffer, offset, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The same memory with another distance between rows.
    pub fn with_stride(mut self, row_stride: usize) -> Self {
        self.row_stride = row_stride;
        self
    }

    /// The same numbers, which lie one after another, as a `rows x cols` matrix.
    pub fn reshape(self, rows: usize, cols: usize) -> Self {
        debug_assert!(rows * cols == self.rows * self.cols && self.row_stride == self.cols);
        Self::new(self.buffer, self.offset, rows, cols)
    }

    /// The transposed matrix; no data move.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Row `i` alone, read as a contiguous `rows x cols` matrix.
    pub fn row_as(self, i: usize, rows: usize, cols: usize) -> Self {
        debug_assert!(i < self.rows && rows * cols <= self.cols && self.col_stride == 1);
        Self::new(self.buffer, self.offset + i * self.row_stride, rows, cols)
    }

    /// Rows `start..start + rows`.
    pub fn row_range(self, start: usize, rows: usize) -> Self {
        debug_assert!(start + rows <= self.rows);
        Self { offset: self.offset + start * self.row_stride, rows, ..self }
    }

    /// Columns `start..start + cols`.
    pub fn col_range(self, start: usize, cols: usize) -> Self {
        debug_assert!(start + cols <= self.cols);
        Self { offset: self.offset + start * self.col_stride, cols, ..self }
    }
}

/// A writable [`View`]. Always row-major (`col_stride = 1`).
pub struct ViewMut<'a, B: Backend> {
    /// The memory that holds the matrix.
    pub buffer: &'a mut B::Buffer,
    /// Index of element (0, 0).
    pub offset: usize,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Distance between rows, in elements.
    pub row_stride: usize,
}

impl<'a, B: Backend> ViewMut<'a, B> {
    /// A contiguous row-major `rows x cols` matrix that starts at `offset`.
    pub fn new(buffer: &'a mut B::Buffer, offset: usize, rows: usize, cols: usize) -> Self {
        Self { buffer, offset, rows, cols, row_stride: cols }
    }

    /// The same memory with another distance between rows.
    pub fn with_stride(mut self, row_stride: usize) -> Self {
        self.row_stride = row_stride;
        self
    }

    /// The same numbers, which lie one after another, as a `rows x cols` matrix.
    pub fn reshape(self, rows: usize, cols: usize) -> Self {
        debug_assert!(rows * cols == self.rows * self.cols && self.row_stride == self.cols);
        Self::new(self.buffer, self.offset, rows, cols)
    }

    /// The first `cols` columns of the rows `start..start + rows`.
    pub fn part(&mut self, start: usize, rows: usize, cols: usize) -> ViewMut<'_, B> {
        debug_assert!(start + rows <= self.rows && cols <= self.cols);
        let offset = self.offset + start * self.row_stride;
        ViewMut { buffer: &mut *self.buffer, offset, rows, cols, row_stride: self.row_stride }
    }

    /// Columns `start..start + cols`.
    pub fn col_part(&mut self, start: usize, cols: usize) -> ViewMut<'_, B> {
        debug_assert!(start + cols <= self.cols);
        ViewMut { offset: self.offset + start, cols, ..self.reborrow() }
    }

    /// Row `i` alone, as a contiguous `rows x cols` matrix.
    pub fn row_as(&mut self, i: usize, rows: usize, cols: usize) -> ViewMut<'_, B> {
        debug_assert!(i < self.rows && rows * cols <= self.cols);
        let offset = self.offset + i * self.row_stride;
        ViewMut::new(&mut *self.buffer, offset, rows, cols)
    }

    /// The same window, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_, B> {
        self.part(0, self.rows, self.cols)
    }
}
