//! Large copies between host and device, through two pieces of pinned memory in turn: while one is on its way, the host
//! fills or empties the other. What goes to the device has a queue of its own, beside the device's work, and does not run
//! ahead of it: what is streamed past the device takes the memory of two copies, however much there is.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaEvent, CudaStream, DriverError, HostSlice, PinnedHostSlice, result, sys,
};

/// Bytes of a piece.
const PIECE: usize = 4 << 20;
/// What is shorter than this goes the plain way.
pub(super) const LARGE: usize = 1 << 20;

/// The pieces and their queue.
pub(super) struct Staging {
    stream: Arc<CudaStream>,
    pieces: [Option<PinnedHostSlice<u8>>; 2],
    turn: usize,
    /// The work that was queued before the last copy to the device.
    before_last: Option<CudaEvent>,
}

impl Staging {
    /// Nothing is pinned before the first copy.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        Ok(Self { stream: context.new_stream()?, pieces: [None, None], turn: 0, before_last: None })
    }

    /// The queue of copies: memory that is allocated in it need not wait for the device's work.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// To be called before memory is taken for a copy to the device: waits for the `work` that was queued before the last
    /// such copy, which is all that uses the one before that.
    pub fn keep_pace(&mut self, work: &CudaStream) -> Result<(), DriverError> {
        let now = work.record_event(None)?;
        self.before_last.replace(now).map_or(Ok(()), |event| event.synchronize())
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
            let stream = self.stream.clone();
            let piece = self.next_piece()?;
            // Waits until the copy that used it last is done.
            piece.as_mut_slice()?[..bytes.len()].copy_from_slice(bytes);
            // SAFETY: the piece is not written again before the guard's event, recorded after this copy, has passed;
            // the caller vouches for the target.
            unsafe {
                let (source, _recorded_when_dropped) = piece.stream_synced_slice(&stream);
                let target = to + (i * PIECE) as u64;
                result::memcpy_htod_async(target, &source[..bytes.len()], stream.cu_stream())?;
            }
        }
        before.join(&self.stream)
    }

    /// Fills `host` with what is at `from` when all that is in the queue `after` is done.
    ///
    /// # Safety
    /// From `from` on there are as many bytes.
    pub unsafe fn fetch(
        &mut self,
        from: sys::CUdeviceptr,
        host: &mut [u8],
        after: &CudaStream,
    ) -> Result<(), DriverError> {
        let mut on_its_way: Option<(usize, &mut [u8])> = None;
        for (i, bytes) in host.chunks_mut(PIECE).enumerate() {
            let piece = self.next_piece()?;
            // SAFETY: the piece is not read before the guard's event, recorded after this copy, has passed; the caller
            // vouches for the source.
            unsafe {
                let (target, _recorded_when_dropped) = piece.stream_synced_mut_slice(after);
                let source = from + (i * PIECE) as u64;
                result::memcpy_dtoh_async(&mut target[..bytes.len()], source, after.cu_stream())?;
            }
            if let Some(arrived) = on_its_way.replace((self.turn, bytes)) {
                self.take(arrived)?;
            }
        }
        on_its_way.map_or(Ok(()), |arrived| self.take(arrived))
    }

    fn take(&self, (turn, bytes): (usize, &mut [u8])) -> Result<(), DriverError> {
        let piece = self.pieces[turn].as_ref().expect("a copy went there");
        bytes.copy_from_slice(&piece.as_slice()?[..bytes.len()]);
        Ok(())
    }

    fn next_piece(&mut self) -> Result<&mut PinnedHostSlice<u8>, DriverError> {
        self.turn = 1 - self.turn;
        let slot = &mut self.pieces[self.turn];
        if slot.is_none() {
            // Memory that the host reads as well: not write-combined.
            // SAFETY: it is written before it is read.
            *slot = Some(unsafe { self.stream.context().alloc_pinned_with_flags(PIECE, 0)? });
        }
        Ok(slot.as_mut().expect("just made"))
    }
}
