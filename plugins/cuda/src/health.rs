//! May work be placed on a GPU?

use divvy_plugin::{Health, HealthState, NodeId};

use crate::discover::Facts;
use crate::identity::{Found, UNLISTED};
use crate::nvml::{Action, Virtualization, Vitals};

impl Facts<'_> {
    /// What its own health is; what is cut of it has the same.
    pub(crate) fn health(&self, found: &Found, nodes: &[(String, NodeId)]) -> Health {
        let gpu = &found.gpu;
        let has = |name: &str| nodes.iter().any(|(path, _)| path == name);
        let own = found.minor.map(|minor| format!("/dev/nvidia{minor}"));
        let mut conditions = self.conditions.iter();
        if let Some(condition) = conditions.find(|condition| condition.gpu == found.id) {
            return ill(condition.reason(self.kept.file()));
        }
        if gpu.lost.as_deref() == Some(UNLISTED) {
            let node = own.unwrap_or_else(|| "its device node".into());
            return ill(format!(
                "the kernel has it and NVML does not list it: {node} may be missing or closed to this user (nvidia-modprobe -c={} makes it), or the driver was told to leave it out",
                found.minor.unwrap_or(0)
            ));
        }
        if let Some(why) = &gpu.lost {
            return ill(format!(
                "NVML cannot use it ({why}): look for `Xid` in dmesg; it may need a reset, or the machine a restart"
            ));
        }
        if let Some(why) = driver_says(gpu.vitals.action) {
            return ill(why.into());
        }
        if gpu.vitals.remap_failed {
            return ill("rows of its memory fail and can be remapped no more: it is to be replaced (nvidia-smi -q -d ROW_REMAPPER)".into());
        }
        if let Some(what) = &gpu.trouble {
            return ill(format!(
                "what must be known of it is not ({what}): nvidia-smi -q says more; it may need a reset"
            ));
        }
        if self.root.under("dev/dxg").exists() {
            return ill(
                "it is reached through /dev/dxg, as WSL does it, which is not supported yet".into(),
            );
        }
        if !own.is_some_and(|own| has(&own)) || !has("/dev/nvidiactl") {
            return ill("the numbers of its device nodes are not to be found in /proc/devices nor /dev; nvidia-modprobe makes them".into());
        }
        if !has("/dev/nvidia-uvm") {
            return ill("the module nvidia-uvm is not loaded, without which no CUDA program runs: nvidia-modprobe -u -c=0, or modprobe nvidia-uvm".into());
        }
        if gpu.prohibited {
            return ill("its compute mode is Prohibited: nvidia-smi -c DEFAULT".into());
        }
        if gpu.waits_for_fabric {
            return ill("it has not joined its NVLink fabric, without which no CUDA program runs: systemctl status nvidia-fabricmanager".into());
        }
        if gpu.virtualization == Some(Virtualization::Host) {
            return ill(
                "it serves virtual machines (vGPU), whose parts are not to be cut again".into(),
            );
        }
        if let Some(bytes) = gpu.vitals.leftover {
            let mib = bytes >> 20;
            // Rounded, so that it does not change with each look.
            let about = mib.next_multiple_of(256);
            return ill(format!(
                "up to {about} MiB of its memory are in use though no program is on it: a program is stuck, or the driver lost count; nvidia-smi --gpu-reset -i {} frees it",
                found.id
            ));
        }
        if let Some(mig) = gpu.mig
            && (mig.on != mig.pending
                || mig.on && gpu.instances.is_empty() && gpu.managed.is_none())
        {
            let reason = match (mig.on, mig.pending) {
                (true, true) => "MIG is on and it has no instances: nvidia-smi mig -cgi PROFILE -C",
                (_, true) => "MIG will be on after its next reset",
                (_, false) => "MIG will be off after its next reset",
            };
            return Health {
                state: HealthState::Degraded,
                reason: Some(reason.into()),
            };
        }
        weak(&found.gpu.vitals)
    }
}

fn ill(reason: String) -> Health {
    Health {
        state: HealthState::Unhealthy,
        reason: Some(reason),
    }
}

/// Why the driver says that it cannot be used, if it does.
fn driver_says(action: Option<Action>) -> Option<&'static str> {
    Some(match action? {
        Action::None | Action::Drain => return None,
        Action::Reset => "the driver says that it needs a reset: nvidia-smi --gpu-reset",
        Action::Reboot => "the driver says that the machine needs a restart",
        Action::DrainAndReset => {
            "the driver says that programs on GPUs linked to it have to end, and that it needs a reset"
        }
        Action::Other => {
            "the driver says that it cannot be used: nvidia-smi -q, GPU Recovery Action"
        }
    })
}

/// Of one that can be used: is it less than it could be?
fn weak(vitals: &Vitals) -> Health {
    let why = if vitals.action == Some(Action::Drain) {
        "the driver says that its links to other GPUs cannot be used: programs that use them have to end"
    } else if vitals.remap_pending {
        "a row of its memory fails and is remapped at its next reset: nvidia-smi --gpu-reset, when it is idle"
    } else if vitals.hot {
        "it runs slower for heat: nvidia-smi -q -d TEMPERATURE,PERFORMANCE"
    } else {
        return Health::healthy();
    };
    Health {
        state: HealthState::Degraded,
        reason: Some(why.into()),
    }
}
