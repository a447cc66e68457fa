//! Large copies to the device, beside its work: through two pieces of pinned memory, in a queue of their own.
//!
//! While the device computes with one batch, the host fills one piece with the next batch and the other is on its way.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError, HostSlice, PinnedHostSlice, result, sys};

/// Bytes of a piece.
const PIECE: usize = 16 << 20;
/// What is shorter than this goes the plain way.
pub(super) const LARGE: usize = 1 << 20;

/// The pieces and their queue.
pub(super) struct Staging {
    stream: Arc<CudaStream>,
    pieces: [Option<PinnedHostSlice<u8>>; 2],
    turn: usize,
}

impl Staging {
    /// Nothing is pinned before the first copy.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        Ok(Self { stream: context.new_stream()?, pieces: [None, None], turn: 0 })
    }

    /// The queue of copies: memory that is allocated in it need not wait for the device's work.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Queues a copy of `host` to `to`, and has `before` wait for it.
    ///
    /// # Safety
    /// From `to` on there are as many bytes, allocated in this queue, which nothing else uses yet.
    pub unsafe fn copy(
        &mut self,
        host: &[u8],
        to: sys::CUdeviceptr,
        before: &CudaStream,
    ) -> Result<(), DriverError> {
        for (i, bytes) in host.chunks(PIECE).enumerate() {
            self.turn = 1 - self.turn;
            let slot = &mut self.pieces[self.turn];
            if slot.is_none() {
                // SAFETY: it is written before it is read.
                *slot = Some(unsafe { self.stream.context().alloc_pinned(PIECE)? });
            }
            let piece = slot.as_mut().expect("just made");
            // Waits until the copy that used it last is done.
            piece.as_mut_slice()?[..bytes.len()].copy_from_slice(bytes);
            // SAFETY: the piece is not written again before the guard's event, recorded after this copy, has passed;
            // the caller vouches for the target.
            unsafe {
                let (source, _recorded_when_dropped) = piece.stream_synced_slice(&self.stream);
                let target = to + (i * PIECE) as u64;
                result::memcpy_htod_async(target, &source[..bytes.len()], self.stream.cu_stream())?;
            }
        }
        before.join(&self.stream)
    }
}
