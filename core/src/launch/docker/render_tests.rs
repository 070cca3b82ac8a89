use super::*;
use crate::launch::docker::Kind;
use crate::launch::image::ImageConfig;
use crate::launch::{BindMount, Identity};
use crate::model::{CpuQuota, DeviceNode, EnvVar, NodeKind, Resources};
use serde_json::{Value, json};

fn job() -> Job {
    Job {
        id: "0123456789ab".into(),
        name: "train".into(),
        command: vec!["/entry".into(), "serve".into()],
        env: vec![
            ("COLOUR".into(), "green".into()),
            ("PATH".into(), "/bin".into()),
        ],
        image_env: BTreeMap::new(),
        workdir: "/work".into(),
        user: Identity::default(),
        mounts: vec![BindMount {
            source: "/srv/data".into(),
            target: "/data".into(),
            read_only: true,
            id: None,
        }],
        hidden: vec![],
        masked: vec![],
        tty: false,
        stdin: true,
        network: Network::None,
        shm_bytes: 64 << 20,
        stop_signal: "SIGTERM".into(),
    }
}

fn edits() -> Edits {
    let var = |name: &str, value: &str, default| EnvVar {
        name: name.into(),
        value: value.into(),
        default,
    };
    Edits {
        env: vec![
            var("ACME_VISIBLE_DEVICES", "7", false),
            var("OMP_NUM_THREADS", "2", true),
        ],
        device_nodes: vec![DeviceNode {
            device: "a".into(),
            path: "/dev/acme/0".into(),
            kind: NodeKind::Char,
            major: 240,
            minor: 7,
            write: false,
            mode: None,
            gid: Some(44),
        }],
        mounts: vec![crate::model::Mount {
            source: "/usr/lib/libacme.so".into(),
            target: "/opt/libacme.so".into(),
        }],
        additional_gids: vec![44],
        resources: Resources {
            cpuset_cpus: Some("0,2".into()),
            cpuset_mems: Some("0".into()),
            cpu_quota: Some(CpuQuota {
                quota_us: 10_000,
                period_us: 20_000,
            }),
            memory_bytes: Some(64 << 20),
        },
        ..Edits::default()
    }
}

fn hostile() -> Image {
    let env = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Image {
        id: "sha256:00".into(),
        config: ImageConfig {
            env: vec![env("NVIDIA_VISIBLE_DEVICES", "all"), env("PATH", "/bin")],
            ..ImageConfig::default()
        },
        variables: [
            "NVIDIA_VISIBLE_DEVICES",
            "AMD_VISIBLE_DEVICES",
            "acme_visible_devices",
            "ACME_VISIBLE_DEVICES",
            "DOCKER_RESOURCE_GPU",
            "ODD NAME",
            "PATH",
            "LD_PRELOAD",
        ]
        .map(str::to_owned)
        .into(),
    }
}

fn rendered(job: &Job, counts_swap: bool) -> Value {
    let facts = Facts {
        kind: Kind::Docker,
        version: "20.10.24".into(),
        runtime: "runc".into(),
        architecture: "amd64".into(),
        counts_swap,
    };
    let body = render(Parts {
        job,
        user: None,
        image: &hostile(),
        edits: &edits(),
        facts: &facts,
        reserved: &Reserved::default(),
        init: Path::new("/state/init"),
        gate: Path::new("/state/workloads/x/gate"),
        nodes: &["/state/workloads/x/nodes/0".into()],
        labels: HashMap::from([("dev.divvy.id".into(), "x".into())]),
    });
    serde_json::to_value(body.unwrap()).unwrap()
}

/// S9: the whole of what an engine is asked, and nothing else.
#[test]
fn a_container_is_asked_for_whole() {
    let bind = |source: &str, target: &str| {
        json!({
            "Type": "bind", "Source": source, "Target": target, "ReadOnly": true,
            "BindOptions": { "Propagation": "rprivate", "NonRecursive": true },
        })
    };
    let host = json!({
        "Runtime": "runc",
        "Privileged": false,
        "CapAdd": [], "CapDrop": ["MKNOD"],
        "SecurityOpt": ["no-new-privileges"],
        "IpcMode": "private", "PidMode": "", "UTSMode": "",
        "NetworkMode": "none", "PublishAllPorts": false,
        "Devices": [{
            "PathOnHost": "/state/workloads/x/nodes/0",
            "PathInContainer": "/dev/acme/0",
            "CgroupPermissions": "r",
        }],
        "DeviceRequests": [], "DeviceCgroupRules": [],
        "GroupAdd": ["44"],
        "CpusetCpus": "0,2", "CpusetMems": "0",
        "CpuPeriod": 20_000, "CpuQuota": 10_000,
        "Memory": 64 << 20, "MemorySwap": 64 << 20,
        "PidsLimit": 32_768,
        "ShmSize": 64 << 20,
        "Mounts": [
            bind("/state/init", "/dev/divvy-init"),
            bind("/state/workloads/x/gate", "/dev/divvy-go"),
            bind("/usr/lib/libacme.so", "/opt/libacme.so"),
            bind("/srv/data", "/data"),
        ],
        "RestartPolicy": { "Name": "no" },
        "AutoRemove": false, "Init": false, "ReadonlyRootfs": false,
    });
    let expected = json!({
        "Hostname": "train",
        "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
        "Tty": false, "OpenStdin": true, "StdinOnce": true,
        "Env": [
            "ACME_VISIBLE_DEVICES=7",
            "AMD_VISIBLE_DEVICES=",
            "COLOUR=green",
            "DOCKER_RESOURCE_GPU=",
            "NVIDIA_VISIBLE_DEVICES=",
            "ODD NAME=",
            "OMP_NUM_THREADS=2",
            "PATH=/bin",
            "acme_visible_devices=",
        ],
        "Entrypoint": ["/dev/divvy-init", "--gate", "/dev/divvy-go", "--dir", "/work", "--"],
        "Cmd": ["/entry", "serve"],
        "Healthcheck": { "Test": ["NONE"] },
        "Image": "sha256:00",
        "WorkingDir": "/",
        "Labels": { "dev.divvy.id": "x" },
        "StopSignal": "SIGTERM",
        "HostConfig": host,
    });
    let found = rendered(&job(), true);
    assert_eq!(found, expected, "{found:#}");
}

#[test]
fn the_network_is_the_only_namespace_that_may_be_the_machines() {
    for (network, mode) in [
        (Network::None, "none"),
        (Network::Bridge, "bridge"),
        (Network::Host, "host"),
    ] {
        let found = rendered(&Job { network, ..job() }, true);
        let host = &found["HostConfig"];
        assert_eq!(host["NetworkMode"], mode);
        for kind in ["IpcMode", "PidMode", "UTSMode"] {
            assert_ne!(host[kind], "host", "{kind}");
        }
    }
}

#[test]
fn swap_is_limited_where_it_is_counted() {
    assert!(rendered(&job(), false)["HostConfig"]["MemorySwap"].is_null());
}
