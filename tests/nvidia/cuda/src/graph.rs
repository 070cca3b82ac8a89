//! Graphs of work.
//!
//! A graph's work is done in the order in which its nodes were added, in the stream that
//! it is launched in.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{c_uint, c_ulonglong, c_void},
    ptr,
};

use cudarc::driver::sys::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUDA_HOST_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS,
    CUDA_MEM_ALLOC_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CUcontext, CUdevice,
    CUdeviceptr, CUevent, CUgraph, CUgraphEdgeData, CUgraphExec, CUgraphInstantiateResult,
    CUgraphMem_attribute, CUgraphNode, CUgraphNodeType, CUstream, cuuint64_t,
};

use crate::{
    abi::Of,
    bytes::Fill,
    call::{handle, id, out, read},
    capture::captured,
    code::{Done, INVALID_VALUE, OUT_OF_MEMORY},
    context::here,
    copy, driver, function,
    memory::wide,
    space,
    state::{Allocation, Kind, State, of, of_mut, taken},
    stream,
    work::{Work, perform},
};

#[derive(Clone, Default)]
pub(crate) struct Graph {
    nodes: Vec<usize>,
}

pub(crate) struct Node {
    graph: usize,
    pub(crate) work: Work,
    after: Vec<usize>,
}

/// A graph as it was when it was instantiated.
pub(crate) struct Executable {
    work: Vec<(usize, Work)>,
    off: BTreeSet<usize>,
    flags: u64,
}

/// The nodes of a graph, and their work.
fn flat(state: &State, graph: usize) -> Done<Vec<(usize, Work)>> {
    let nodes = &of(&state.graphs, graph)?.nodes;
    let work = |node: &usize| Some((*node, state.nodes.get(node)?.work.clone()));
    Ok(nodes.iter().filter_map(work).collect())
}

/// Adds a node.
pub(crate) fn add(state: &mut State, graph: usize, after: Vec<usize>, work: Work) -> Done<usize> {
    for node in &after {
        if of(&state.nodes, *node)?.graph != graph {
            return Err(INVALID_VALUE);
        }
    }
    let number = state.number();
    of_mut(&mut state.graphs, graph)?.nodes.push(number);
    state.nodes.insert(number, Node { graph, work, after });
    Ok(number)
}

/// # Safety
/// There are so many handles there.
pub(crate) unsafe fn nodes(from: *const CUgraphNode, count: usize) -> Done<Vec<usize>> {
    if from.is_null() && count > 0 {
        return Err(INVALID_VALUE);
    }
    // SAFETY: they are there.
    Ok((0..count)
        .map(|place| id(unsafe { from.add(place).read() }))
        .collect())
}

/// Adds a node as the program says.
///
/// # Safety
/// The pointers are as the driver's API says.
unsafe fn added(
    to: *mut CUgraphNode,
    graph: CUgraph,
    after: *const CUgraphNode,
    count: usize,
    work: Work,
) -> Done {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: who calls gives as many as it says.
    let after = unsafe { nodes(after, count)? };
    let node = add(&mut driver::get()?.state(), id(graph), after, work)?;
    // SAFETY: who calls gives a place for a node.
    unsafe { out(to, handle(node)) }
}

/// Tells some nodes, or how many there are.
///
/// # Safety
/// The pointers are as the driver's API says.
unsafe fn told(to: *mut CUgraphNode, count: *mut usize, all: &[usize]) -> Done {
    if to.is_null() {
        // SAFETY: who calls gives a place for the number.
        return unsafe { out(count, all.len()) };
    }
    // SAFETY: who calls says how many it has room for.
    let room = unsafe { read(count)? };
    for place in 0..room {
        let node = all.get(place).map_or(ptr::null_mut(), |node| handle(*node));
        // SAFETY: there is room.
        unsafe { to.add(place).write(node) };
    }
    // SAFETY: who calls gives a place for the number.
    unsafe { out(count, all.len().min(room)) }
}

fn instantiate(graph: CUgraph, flags: u64) -> Done<CUgraphExec> {
    let driver = driver::get()?;
    let mut state = driver.state();
    let work = flat(&state, id(graph))?;
    let number = state.number();
    state.executables.insert(
        number,
        Executable {
            work,
            off: BTreeSet::new(),
            flags,
        },
    );
    Ok(handle(number))
}

/// # Safety
/// It is null or points to one.
unsafe fn kernel(params: *const CUDA_KERNEL_NODE_PARAMS) -> Done<Work> {
    // SAFETY: it points to one.
    let said = unsafe { read(params)? };
    let grid = [said.gridDimX, said.gridDimY, said.gridDimZ];
    let block = [said.blockDimX, said.blockDimY, said.blockDimZ];
    let function = if said.func.is_null() {
        said.kern.cast()
    } else {
        said.func
    };
    function::launched(&here()?, function, grid, block, said.sharedMemBytes)
}

/// # Safety
/// It is null or points to one.
unsafe fn fill(params: *const CUDA_MEMSET_NODE_PARAMS) -> Done<Work> {
    // SAFETY: it points to one.
    let said = unsafe { read(params)? };
    if !matches!(said.elementSize, 1 | 2 | 4) {
        return Err(INVALID_VALUE);
    }
    Ok(Work::Fill(Fill {
        address: said.dst,
        pitch: wide(said.pitch),
        value: said.value,
        size: said.elementSize.into(),
        width: wide(said.width),
        height: wide(said.height),
    }))
}

/// # Safety
/// It is null or points to one.
unsafe fn host(params: *const CUDA_HOST_NODE_PARAMS) -> Done<Work> {
    // SAFETY: it points to one.
    let said = unsafe { read(params)? };
    let function = said.fn_.ok_or(INVALID_VALUE)?;
    Ok(Work::Host {
        function,
        data: said.userData.expose_provenance(),
    })
}

fn set(node: CUgraphNode, work: Work) -> Done {
    of_mut(&mut driver::get()?.state().nodes, id(node))?.work = work;
    Ok(())
}

fn set_in(executable: CUgraphExec, node: CUgraphNode, work: Work) -> Done {
    let driver = driver::get()?;
    let mut state = driver.state();
    let executable = of_mut(&mut state.executables, id(executable))?;
    let found = executable
        .work
        .iter_mut()
        .find(|(number, _)| *number == id(node));
    found.ok_or(INVALID_VALUE)?.1 = work;
    Ok(())
}

driver! {
    fn cuGraphCreate(phGraph: *mut CUgraph, flags: c_uint) {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        let driver = driver::get()?;
        let mut state = driver.state();
        let number = state.number();
        state.graphs.insert(number, Graph::default());
        out(phGraph, handle(number))?;
    }

    fn cuGraphDestroy(hGraph: CUgraph) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let graph = taken(&mut state.graphs, id(hGraph))?;
        for node in graph.nodes {
            state.nodes.remove(&node);
        }
    }

    fn cuGraphClone(phGraphClone: *mut CUgraph, originalGraph: CUgraph) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let all = of(&state.graphs, id(originalGraph))?.nodes.clone();
        let clone = state.number();
        state.graphs.insert(clone, Graph::default());
        let mut new = BTreeMap::new();
        for node in all {
            let old = of(&state.nodes, node)?;
            let after = old.after.iter().filter_map(|node| new.get(node).copied()).collect();
            let work = old.work.clone();
            new.insert(node, add(&mut state, clone, after, work)?);
        }
        out(phGraphClone, handle(clone))?;
    }

    fn cuGraphAddEmptyNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
    ) {
        added(phGraphNode, hGraph, dependencies, numDependencies, Work::Empty)?;
    }

    fn cuGraphAddKernelNode_v2(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        nodeParams: *const CUDA_KERNEL_NODE_PARAMS,
    ) {
        let work = kernel(nodeParams)?;
        added(phGraphNode, hGraph, dependencies, numDependencies, work)?;
    }

    fn cuGraphKernelNodeSetParams_v2(
        hNode: CUgraphNode,
        nodeParams: *const CUDA_KERNEL_NODE_PARAMS,
    ) {
        set(hNode, kernel(nodeParams)?)?;
    }

    fn cuGraphExecKernelNodeSetParams_v2(
        hGraphExec: CUgraphExec,
        hNode: CUgraphNode,
        nodeParams: *const CUDA_KERNEL_NODE_PARAMS,
    ) {
        set_in(hGraphExec, hNode, kernel(nodeParams)?)?;
    }

    fn cuGraphAddMemcpyNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        copyParams: *const CUDA_MEMCPY3D,
        ctx: CUcontext,
    ) {
        let _ = ctx;
        let work = copy::said_3d(copyParams)?;
        added(phGraphNode, hGraph, dependencies, numDependencies, work)?;
    }

    fn cuGraphExecMemcpyNodeSetParams(
        hGraphExec: CUgraphExec,
        hNode: CUgraphNode,
        copyParams: *const CUDA_MEMCPY3D,
        ctx: CUcontext,
    ) {
        let _ = ctx;
        set_in(hGraphExec, hNode, copy::said_3d(copyParams)?)?;
    }

    fn cuGraphAddMemsetNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        memsetParams: *const CUDA_MEMSET_NODE_PARAMS,
        ctx: CUcontext,
    ) {
        let _ = ctx;
        let work = fill(memsetParams)?;
        added(phGraphNode, hGraph, dependencies, numDependencies, work)?;
    }

    fn cuGraphExecMemsetNodeSetParams(
        hGraphExec: CUgraphExec,
        hNode: CUgraphNode,
        memsetParams: *const CUDA_MEMSET_NODE_PARAMS,
        ctx: CUcontext,
    ) {
        let _ = ctx;
        set_in(hGraphExec, hNode, fill(memsetParams)?)?;
    }

    fn cuGraphAddHostNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        nodeParams: *const CUDA_HOST_NODE_PARAMS,
    ) {
        let work = host(nodeParams)?;
        added(phGraphNode, hGraph, dependencies, numDependencies, work)?;
    }

    fn cuGraphAddChildGraphNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        childGraph: CUgraph,
    ) {
        let within = flat(&driver::get()?.state(), id(childGraph))?;
        let work = Work::Graph(within.into_iter().map(|(_, work)| work).collect());
        added(phGraphNode, hGraph, dependencies, numDependencies, work)?;
    }

    fn cuGraphAddEventRecordNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        event: CUevent,
    ) {
        of(&driver::get()?.state().events, id(event))?;
        let work = Work::Record(id(event));
        added(phGraphNode, hGraph, dependencies, numDependencies, work)?;
    }

    fn cuGraphAddEventWaitNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        event: CUevent,
    ) {
        of(&driver::get()?.state().events, id(event))?;
        let work = Work::Wait(id(event));
        added(phGraphNode, hGraph, dependencies, numDependencies, work)?;
    }

    fn cuGraphAddMemAllocNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        nodeParams: *mut CUDA_MEM_ALLOC_NODE_PARAMS,
    ) {
        if nodeParams.is_null() {
            return Err(INVALID_VALUE);
        }
        let bytes = wide((&raw const (*nodeParams).bytesize).read());
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        let address = space::map(bytes).ok_or(OUT_OF_MEMORY)?;
        let work = Work::Alloc { address, bytes };
        added(phGraphNode, hGraph, dependencies, numDependencies, work)?;
        (&raw mut (*nodeParams).dptr).write(address);
    }

    fn cuGraphAddMemFreeNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        dptr: CUdeviceptr,
    ) {
        let work = Work::Free { address: dptr };
        added(phGraphNode, hGraph, dependencies, numDependencies, work)?;
    }

    fn cuGraphDestroyNode(hNode: CUgraphNode) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let node = taken(&mut state.nodes, id(hNode))?;
        of_mut(&mut state.graphs, node.graph)?.nodes.retain(|other| *other != id(hNode));
        for other in state.nodes.values_mut() {
            other.after.retain(|node| *node != id(hNode));
        }
    }

    fn cuGraphAddDependencies_v2(
        hGraph: CUgraph,
        from: *const CUgraphNode,
        to: *const CUgraphNode,
        edgeData: *const CUgraphEdgeData,
        numDependencies: usize,
    ) {
        let _ = edgeData;
        let driver = driver::get()?;
        let mut state = driver.state();
        of(&state.graphs, id(hGraph))?;
        for (from, to) in nodes(from, numDependencies)?.into_iter().zip(nodes(to, numDependencies)?) {
            of(&state.nodes, from)?;
            of_mut(&mut state.nodes, to)?.after.push(from);
        }
    }

    fn cuGraphGetNodes(hGraph: CUgraph, nodes: *mut CUgraphNode, numNodes: *mut usize) {
        let all = of(&driver::get()?.state().graphs, id(hGraph))?.nodes.clone();
        told(nodes, numNodes, &all)?;
    }

    fn cuGraphGetRootNodes(
        hGraph: CUgraph,
        rootNodes: *mut CUgraphNode,
        numRootNodes: *mut usize,
    ) {
        let driver = driver::get()?;
        let state = driver.state();
        let first = |node: &&usize| state.nodes.get(*node).is_some_and(|node| node.after.is_empty());
        let graph = of(&state.graphs, id(hGraph))?;
        let all: Vec<usize> = graph.nodes.iter().filter(first).copied().collect();
        told(rootNodes, numRootNodes, &all)?;
    }

    fn cuGraphGetEdges_v2(
        hGraph: CUgraph,
        from: *mut CUgraphNode,
        to: *mut CUgraphNode,
        edgeData: *mut CUgraphEdgeData,
        numEdges: *mut usize,
    ) {
        let _ = edgeData;
        let driver = driver::get()?;
        let state = driver.state();
        let mut edges = (Vec::new(), Vec::new());
        for node in &of(&state.graphs, id(hGraph))?.nodes {
            for before in &of(&state.nodes, *node)?.after {
                edges.0.push(*before);
                edges.1.push(*node);
            }
        }
        let mut room = if from.is_null() { 0 } else { read(numEdges)? };
        told(to, &raw mut room, &edges.1)?;
        told(from, numEdges, &edges.0)?;
    }

    fn cuGraphNodeGetDependencies_v2(
        hNode: CUgraphNode,
        dependencies: *mut CUgraphNode,
        edgeData: *mut CUgraphEdgeData,
        numDependencies: *mut usize,
    ) {
        let _ = edgeData;
        let all = of(&driver::get()?.state().nodes, id(hNode))?.after.clone();
        told(dependencies, numDependencies, &all)?;
    }

    fn cuGraphNodeGetType(hNode: CUgraphNode, type_: *mut CUgraphNodeType) {
        use CUgraphNodeType as T;
        let driver = driver::get()?;
        let kind = match of(&driver.state().nodes, id(hNode))?.work {
            Work::Empty => T::CU_GRAPH_NODE_TYPE_EMPTY,
            Work::Kernel { .. } => T::CU_GRAPH_NODE_TYPE_KERNEL,
            Work::Copy(_) => T::CU_GRAPH_NODE_TYPE_MEMCPY,
            Work::Fill(_) => T::CU_GRAPH_NODE_TYPE_MEMSET,
            Work::Host { .. } => T::CU_GRAPH_NODE_TYPE_HOST,
            Work::Record(_) => T::CU_GRAPH_NODE_TYPE_EVENT_RECORD,
            Work::Wait(_) => T::CU_GRAPH_NODE_TYPE_WAIT_EVENT,
            Work::Alloc { .. } => T::CU_GRAPH_NODE_TYPE_MEM_ALLOC,
            Work::Free { .. } => T::CU_GRAPH_NODE_TYPE_MEM_FREE,
            Work::Graph(_) => T::CU_GRAPH_NODE_TYPE_GRAPH,
        };
        out(type_, kind)?;
    }

    fn cuGraphInstantiateWithFlags(
        phGraphExec: *mut CUgraphExec,
        hGraph: CUgraph,
        flags: c_ulonglong,
    ) {
        out(phGraphExec, instantiate(hGraph, flags)?)?;
    }

    fn cuGraphInstantiateWithParams(
        phGraphExec: *mut CUgraphExec,
        hGraph: CUgraph,
        instantiateParams: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
    ) {
        if instantiateParams.is_null() {
            return Err(INVALID_VALUE);
        }
        let flags = (&raw const (*instantiateParams).flags).read();
        out(phGraphExec, instantiate(hGraph, flags)?)?;
        (&raw mut (*instantiateParams).result_out)
            .write(CUgraphInstantiateResult::CUDA_GRAPH_INSTANTIATE_SUCCESS);
    }

    fn cuGraphExecGetFlags(hGraphExec: CUgraphExec, flags: *mut cuuint64_t) {
        out(flags, of(&driver::get()?.state().executables, id(hGraphExec))?.flags)?;
    }

    fn cuGraphExecDestroy(hGraphExec: CUgraphExec) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let executable = taken(&mut state.executables, id(hGraphExec))?;
        for (_, work) in executable.work {
            if let Work::Alloc { address, .. } = work
                && state.allocations.contains_key(&address)
            {
                driver.free(&mut state, address)?;
            }
        }
    }

    fn cuGraphUpload(hGraphExec: CUgraphExec, hStream: CUstream) {
        let here = here()?;
        let state = here.driver.state();
        of(&state.executables, id(hGraphExec))?;
        stream::number(&state, hStream)?;
    }

    fn cuGraphLaunch(hGraphExec: CUgraphExec, hStream: CUstream) {
        let here = here()?;
        let mut state = here.driver.state();
        let number = stream::number(&state, hStream)?;
        let executable = of(&state.executables, id(hGraphExec))?;
        let on = |(node, _): &&(usize, Work)| !executable.off.contains(node);
        let all: Vec<Work> =
            executable.work.iter().filter(on).map(|(_, work)| work.clone()).collect();
        let all = Work::Graph(all);
        if captured(&mut state, number, all.clone())?.is_none() {
            perform(here.driver, &mut state, number, &all)?;
        }
    }

    fn cuGraphNodeSetEnabled(hGraphExec: CUgraphExec, hNode: CUgraphNode, isEnabled: c_uint) {
        let driver = driver::get()?;
        let mut state = driver.state();
        let executable = of_mut(&mut state.executables, id(hGraphExec))?;
        match isEnabled {
            0 => executable.off.insert(id(hNode)),
            _ => executable.off.remove(&id(hNode)),
        };
    }

    fn cuGraphNodeGetEnabled(
        hGraphExec: CUgraphExec,
        hNode: CUgraphNode,
        isEnabled: *mut c_uint,
    ) {
        let driver = driver::get()?;
        let state = driver.state();
        let executable = of(&state.executables, id(hGraphExec))?;
        out(isEnabled, (!executable.off.contains(&id(hNode))).into())?;
    }

    fn cuDeviceGraphMemTrim(device: CUdevice) on device {
        driver::get()?.device(device)?;
    }

    fn cuDeviceGetGraphMemAttribute(
        device: CUdevice,
        attr: Of<CUgraphMem_attribute>,
        value: *mut c_void,
    ) on device {
        let driver = driver::get()?;
        let (device, _) = driver.device(device)?;
        if attr.number() > 3 {
            return Err(INVALID_VALUE);
        }
        let state = driver.state();
        let ours = |found: &&Allocation| found.device == device && found.kind == Kind::Graph;
        let sum: u64 = state.allocations.values().filter(ours).map(|found| found.charge).sum();
        out(value.cast::<u64>(), sum)?;
    }
}
