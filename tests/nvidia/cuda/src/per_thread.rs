//! Functions for programs that have a default stream for each thread.
//!
//! They are the others: the stream without a handle is the legacy one here all the same, so such
//! programs wait more than they would have to.

use std::arch::naked_asm;

use crate::{abi::Export, capture, copy, event, function, graph, memory, pool, stream};

macro_rules! same {
    ($($name:ident = $module:ident::$other:ident;)*) => {
        $(
            #[allow(non_snake_case)]
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            extern "C" fn $name() {
                // Whatever the arguments: they stay where they are.
                #[cfg(target_arch = "x86_64")]
                naked_asm!("jmp {}", sym $module::$other);
                #[cfg(target_arch = "aarch64")]
                naked_asm!("b {}", sym $module::$other);
            }
        )*
        pub(crate) const EXPORTS: &[Export] = &[$(
            Export { name: stringify!($name), code: $name as *const () }
        ),*];
    };
}

same! {
    cuEventRecordWithFlags_ptsz = event::cuEventRecordWithFlags;
    cuEventRecord_ptsz = event::cuEventRecord;
    cuGraphInstantiateWithParams_ptsz = graph::cuGraphInstantiateWithParams;
    cuGraphLaunch_ptsz = graph::cuGraphLaunch;
    cuGraphUpload_ptsz = graph::cuGraphUpload;
    cuLaunchCooperativeKernel_ptsz = function::cuLaunchCooperativeKernel;
    cuLaunchHostFunc_ptsz = stream::cuLaunchHostFunc;
    cuLaunchKernelEx_ptsz = function::cuLaunchKernelEx;
    cuLaunchKernel_ptsz = function::cuLaunchKernel;
    cuMemAllocAsync_ptsz = pool::cuMemAllocAsync;
    cuMemAllocFromPoolAsync_ptsz = pool::cuMemAllocFromPoolAsync;
    cuMemFreeAsync_ptsz = pool::cuMemFreeAsync;
    cuMemPrefetchAsync_v2_ptsz = memory::cuMemPrefetchAsync_v2;
    cuMemcpy2DAsync_v2_ptsz = copy::cuMemcpy2DAsync_v2;
    cuMemcpy2DUnaligned_v2_ptds = copy::cuMemcpy2DUnaligned_v2;
    cuMemcpy2D_v2_ptds = copy::cuMemcpy2D_v2;
    cuMemcpy3DAsync_v2_ptsz = copy::cuMemcpy3DAsync_v2;
    cuMemcpy3DPeerAsync_ptsz = copy::cuMemcpy3DPeerAsync;
    cuMemcpy3DPeer_ptds = copy::cuMemcpy3DPeer;
    cuMemcpy3D_v2_ptds = copy::cuMemcpy3D_v2;
    cuMemcpyAsync_ptsz = copy::cuMemcpyAsync;
    cuMemcpyAtoA_v2_ptds = copy::cuMemcpyAtoA_v2;
    cuMemcpyAtoD_v2_ptds = copy::cuMemcpyAtoD_v2;
    cuMemcpyAtoHAsync_v2_ptsz = copy::cuMemcpyAtoHAsync_v2;
    cuMemcpyAtoH_v2_ptds = copy::cuMemcpyAtoH_v2;
    cuMemcpyDtoA_v2_ptds = copy::cuMemcpyDtoA_v2;
    cuMemcpyDtoDAsync_v2_ptsz = copy::cuMemcpyDtoDAsync_v2;
    cuMemcpyDtoD_v2_ptds = copy::cuMemcpyDtoD_v2;
    cuMemcpyDtoHAsync_v2_ptsz = copy::cuMemcpyDtoHAsync_v2;
    cuMemcpyDtoH_v2_ptds = copy::cuMemcpyDtoH_v2;
    cuMemcpyHtoAAsync_v2_ptsz = copy::cuMemcpyHtoAAsync_v2;
    cuMemcpyHtoA_v2_ptds = copy::cuMemcpyHtoA_v2;
    cuMemcpyHtoDAsync_v2_ptsz = copy::cuMemcpyHtoDAsync_v2;
    cuMemcpyHtoD_v2_ptds = copy::cuMemcpyHtoD_v2;
    cuMemcpyPeerAsync_ptsz = copy::cuMemcpyPeerAsync;
    cuMemcpyPeer_ptds = copy::cuMemcpyPeer;
    cuMemcpy_ptds = copy::cuMemcpy;
    cuMemsetD16Async_ptsz = copy::cuMemsetD16Async;
    cuMemsetD16_v2_ptds = copy::cuMemsetD16_v2;
    cuMemsetD2D16Async_ptsz = copy::cuMemsetD2D16Async;
    cuMemsetD2D16_v2_ptds = copy::cuMemsetD2D16_v2;
    cuMemsetD2D32Async_ptsz = copy::cuMemsetD2D32Async;
    cuMemsetD2D32_v2_ptds = copy::cuMemsetD2D32_v2;
    cuMemsetD2D8Async_ptsz = copy::cuMemsetD2D8Async;
    cuMemsetD2D8_v2_ptds = copy::cuMemsetD2D8_v2;
    cuMemsetD32Async_ptsz = copy::cuMemsetD32Async;
    cuMemsetD32_v2_ptds = copy::cuMemsetD32_v2;
    cuMemsetD8Async_ptsz = copy::cuMemsetD8Async;
    cuMemsetD8_v2_ptds = copy::cuMemsetD8_v2;
    cuStreamAddCallback_ptsz = stream::cuStreamAddCallback;
    cuStreamAttachMemAsync_ptsz = stream::cuStreamAttachMemAsync;
    cuStreamBeginCaptureToGraph_ptsz = capture::cuStreamBeginCaptureToGraph;
    cuStreamBeginCapture_v2_ptsz = capture::cuStreamBeginCapture_v2;
    cuStreamCopyAttributes_ptsz = stream::cuStreamCopyAttributes;
    cuStreamEndCapture_ptsz = capture::cuStreamEndCapture;
    cuStreamGetCaptureInfo_v3_ptsz = capture::cuStreamGetCaptureInfo_v3;
    cuStreamGetCtx_ptsz = stream::cuStreamGetCtx;
    cuStreamGetCtx_v2_ptsz = stream::cuStreamGetCtx_v2;
    cuStreamGetDevice_ptsz = stream::cuStreamGetDevice;
    cuStreamGetFlags_ptsz = stream::cuStreamGetFlags;
    cuStreamGetId_ptsz = stream::cuStreamGetId;
    cuStreamGetPriority_ptsz = stream::cuStreamGetPriority;
    cuStreamIsCapturing_ptsz = capture::cuStreamIsCapturing;
    cuStreamQuery_ptsz = stream::cuStreamQuery;
    cuStreamSetAttribute_ptsz = stream::cuStreamSetAttribute;
    cuStreamSynchronize_ptsz = stream::cuStreamSynchronize;
    cuStreamWaitEvent_ptsz = stream::cuStreamWaitEvent;
    cuStreamWriteValue32_v2_ptsz = stream::cuStreamWriteValue32_v2;
    cuStreamWriteValue64_v2_ptsz = stream::cuStreamWriteValue64_v2;
}
