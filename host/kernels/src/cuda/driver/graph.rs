//! Work that was recorded from a stream, to be launched as a whole.

use std::ptr;

use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUstreamCaptureMode};

use super::{Stream, check};
use crate::DeviceError;

pub(in crate::cuda) struct Graph {
    handle: CUgraphExec,
}

// SAFETY: a graph may be launched from any thread, from one at a time: it has one owner.
unsafe impl Send for Graph {}

impl Graph {
    /// What `work` puts into `stream`, none of which runs now.
    pub(in crate::cuda) fn capture(
        stream: &Stream,
        work: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<Self, DeviceError> {
        // Other threads of this process may go on as they like.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is valid, and is not being captured: this function ends what it begins.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(stream.handle(), mode) })?;
        let worked = work();
        let mut graph: CUgraph = ptr::null_mut();
        // SAFETY: it writes one handle, or null where `work` has failed.
        let ended = check("cuStreamEndCapture", unsafe { sys::cuStreamEndCapture(stream.handle(), &mut graph) });
        let made = worked.and(ended).and_then(|()| Self::instantiate(graph, stream));
        if !graph.is_null() {
            // SAFETY: it was made above, and what is launched is a copy of it.
            let _ = unsafe { sys::cuGraphDestroy(graph) };
        }
        made
    }

    fn instantiate(graph: CUgraph, stream: &Stream) -> Result<Self, DeviceError> {
        let mut handle: CUgraphExec = ptr::null_mut();
        // SAFETY: it writes one handle, which is given back in `drop`; no flags.
        check("cuGraphInstantiate", unsafe { sys::cuGraphInstantiateWithFlags(&mut handle, graph, 0) })?;
        let made = Self { handle };
        // SAFETY: both handles are valid. The first launch is to be as fast as the others.
        check("cuGraphUpload", unsafe { sys::cuGraphUpload(handle, stream.handle()) })?;
        Ok(made)
    }

    pub(in crate::cuda) fn launch(&self, stream: &Stream) -> Result<(), DeviceError> {
        // SAFETY: both handles are valid.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.handle, stream.handle()) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: it was made once. A launch under way is let end.
        let _ = unsafe { sys::cuGraphExecDestroy(self.handle) };
    }
}
