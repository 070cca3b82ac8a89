//! Streams that are captured: what they are asked for becomes a graph.

use std::ptr;

use cudarc::driver::sys::{
    CUgraph, CUgraphEdgeData, CUgraphNode, CUstream, CUstreamCaptureMode, CUstreamCaptureStatus,
    cuuint64_t,
};

use crate::{
    abi::Of,
    call::{handle, id, out, out_if},
    code::{CAPTURE_INVALIDATED, Done, INVALID_VALUE, OUT_OF_MEMORY},
    context::here,
    graph::{Graph, add, nodes},
    memory::wide,
    space,
    state::{State, of, of_mut},
    stream,
    work::Work,
};

/// A stream that is captured.
#[derive(Clone)]
pub(crate) struct Capture {
    graph: usize,
    /// The nodes that the next one comes after.
    last: Vec<usize>,
    /// Is it where the capture began?
    origin: bool,
}

/// Adds the work to the graph that the stream is captured to, if it is.
pub(crate) fn captured(state: &mut State, number: usize, work: Work) -> Done<Option<usize>> {
    let capture = of(&state.streams, number)?.capture.clone();
    match (&work, capture) {
        (Work::Wait(event), capture) => {
            let Some((graph, nodes)) = of(&state.events, *event)?.captured.clone() else {
                // Of work that is not captured: nothing to wait for later.
                return Ok(capture.map(|_| 0));
            };
            let stream = of_mut(&mut state.streams, number)?;
            let capture = stream.capture.get_or_insert(Capture {
                graph,
                last: Vec::new(),
                origin: false,
            });
            if capture.graph != graph {
                return Err(CAPTURE_INVALIDATED);
            }
            capture.last.extend(nodes);
            Ok(Some(0))
        }
        (Work::Record(event), Some(capture)) => {
            of_mut(&mut state.events, *event)?.captured = Some((capture.graph, capture.last));
            Ok(Some(0))
        }
        (_, Some(capture)) => {
            let node = add(state, capture.graph, capture.last, work)?;
            let stream = of_mut(&mut state.streams, number)?;
            if let Some(capture) = &mut stream.capture {
                capture.last = vec![node];
            }
            Ok(Some(node))
        }
        (_, None) => Ok(None),
    }
}

/// An allocation by a stream that is captured: its address is known, its memory comes with
/// the launch.
pub(crate) fn capture_allocation(state: &mut State, number: usize, bytes: u64) -> Done<u64> {
    let address = space::map(bytes).ok_or(OUT_OF_MEMORY)?;
    captured(state, number, Work::Alloc { address, bytes })?;
    Ok(address)
}

fn begin(stream: CUstream, graph: Option<usize>, last: Vec<usize>) -> Done {
    let here = here()?;
    let mut state = here.driver.state();
    if id(stream) < 2 {
        return Err(CAPTURE_INVALIDATED);
    }
    let number = stream::number(&state, stream)?;
    if of(&state.streams, number)?.capture.is_some() {
        return Err(crate::code::INVALID_VALUE);
    }
    let graph = match graph {
        Some(graph) => {
            of(&state.graphs, graph)?;
            graph
        }
        None => {
            let graph = state.number();
            state.graphs.insert(graph, Graph::default());
            graph
        }
    };
    of_mut(&mut state.streams, number)?.capture = Some(Capture {
        graph,
        last,
        origin: true,
    });
    Ok(())
}

fn capture_of(stream: CUstream) -> Done<Option<Capture>> {
    let here = here()?;
    let state = here.driver.state();
    let number = stream::number(&state, stream)?;
    Ok(of(&state.streams, number)?.capture.clone())
}

fn status(capture: Option<&Capture>) -> CUstreamCaptureStatus {
    match capture {
        Some(_) => CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE,
        None => CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE,
    }
}

driver! {
    fn cuStreamBeginCapture_v2(hStream: CUstream, mode: Of<CUstreamCaptureMode>) {
        if mode.number() > 2 {
            return Err(INVALID_VALUE);
        }
        begin(hStream, None, Vec::new())?;
    }

    [older]
    fn cuStreamBeginCapture(hStream: CUstream) {
        begin(hStream, None, Vec::new())?;
    }

    fn cuStreamBeginCaptureToGraph(
        hStream: CUstream,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        dependencyData: *const CUgraphEdgeData,
        numDependencies: usize,
        mode: Of<CUstreamCaptureMode>,
    ) {
        let _ = (dependencyData, mode);
        begin(hStream, Some(id(hGraph)), nodes(dependencies, numDependencies)?)?;
    }

    fn cuStreamEndCapture(hStream: CUstream, phGraph: *mut CUgraph) {
        let here = here()?;
        let mut state = here.driver.state();
        let number = stream::number(&state, hStream)?;
        let capture = of(&state.streams, number)?.capture.clone();
        let capture = capture.filter(|capture| capture.origin).ok_or(INVALID_VALUE)?;
        for stream in state.streams.values_mut() {
            if stream.capture.as_ref().is_some_and(|other| other.graph == capture.graph) {
                stream.capture = None;
            }
        }
        for event in state.events.values_mut() {
            event.captured = None;
        }
        out(phGraph, handle(capture.graph))?;
    }

    fn cuStreamIsCapturing(hStream: CUstream, captureStatus: *mut CUstreamCaptureStatus) {
        out(captureStatus, status(capture_of(hStream)?.as_ref()))?;
    }

    [older]
    fn cuStreamGetCaptureInfo(
        hStream: CUstream,
        captureStatus_out: *mut CUstreamCaptureStatus,
        id_out: *mut cuuint64_t,
    ) {
        let capture = capture_of(hStream)?;
        out(captureStatus_out, status(capture.as_ref()))?;
        out_if(id_out, capture.map_or(0, |capture| wide(capture.graph)));
    }

    [older]
    fn cuStreamGetCaptureInfo_v2(
        hStream: CUstream,
        captureStatus_out: *mut CUstreamCaptureStatus,
        id_out: *mut cuuint64_t,
        graph_out: *mut CUgraph,
        dependencies_out: *mut *const CUgraphNode,
        numDependencies_out: *mut usize,
    ) {
        let capture = capture_of(hStream)?;
        out(captureStatus_out, status(capture.as_ref()))?;
        let graph = capture.map_or(0, |capture| capture.graph);
        out_if(id_out, wide(graph));
        out_if(graph_out, handle(graph));
        out_if(dependencies_out, ptr::null());
        out_if(numDependencies_out, 0);
    }

    fn cuStreamGetCaptureInfo_v3(
        hStream: CUstream,
        captureStatus_out: *mut CUstreamCaptureStatus,
        id_out: *mut cuuint64_t,
        graph_out: *mut CUgraph,
        dependencies_out: *mut *const CUgraphNode,
        edgeData_out: *mut *const CUgraphEdgeData,
        numDependencies_out: *mut usize,
    ) {
        let capture = capture_of(hStream)?;
        out(captureStatus_out, status(capture.as_ref()))?;
        let graph = capture.map_or(0, |capture| capture.graph);
        out_if(id_out, wide(graph));
        out_if(graph_out, handle(graph));
        out_if(dependencies_out, ptr::null());
        out_if(edgeData_out, ptr::null());
        out_if(numDependencies_out, 0);
    }

    fn cuThreadExchangeStreamCaptureMode(mode: *mut CUstreamCaptureMode) {
        if mode.is_null() {
            return Err(INVALID_VALUE);
        }
        // No call is forbidden here while others capture, so all modes are the same.
        mode.cast::<u32>().write(0);
    }
}
