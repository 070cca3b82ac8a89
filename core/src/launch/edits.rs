//! The edits of several plugins made one.

use std::collections::BTreeMap;

use crate::model::Edits;

/// Two plugins want different things of one container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plugins {first} and {second} both set {what} of the container")]
pub struct MergeError {
    first: String,
    second: String,
    what: String,
}

/// Merges edits in plugin order. What two plugins set is a conflict, except
/// supplementary groups, which add up, and default variables that agree.
///
/// # Errors
/// [`MergeError`].
pub fn merge(all: &BTreeMap<String, Edits>) -> Result<Edits, MergeError> {
    let mut merged = Edits::default();
    let mut owner: BTreeMap<String, &str> = BTreeMap::new();
    for (plugin, edits) in all {
        let mut claim = |what: String| match owner.insert(what.clone(), plugin) {
            Some(first) => Err(MergeError {
                first: first.into(),
                second: plugin.clone(),
                what,
            }),
            None => Ok(()),
        };
        for var in &edits.env {
            if merged.env.contains(var) {
                continue;
            }
            claim(format!("the variable {}", var.name))?;
            merged.env.push(var.clone());
        }
        for node in &edits.device_nodes {
            claim(format!("the node {}", node.path))?;
            merged.device_nodes.push(node.clone());
        }
        for mount in &edits.mounts {
            claim(format!("the mount {}", mount.target))?;
            merged.mounts.push(mount.clone());
        }
        for folder in &edits.library_paths {
            claim(format!("the loader's folder {folder}"))?;
            merged.library_paths.push(folder.clone());
        }
        for (key, value) in &edits.annotations {
            claim(format!("the annotation {key}"))?;
            merged.annotations.insert(key.clone(), value.clone());
        }
        for gid in &edits.additional_gids {
            if !merged.additional_gids.contains(gid) {
                merged.additional_gids.push(*gid);
            }
        }
        let (to, from) = (&mut merged.resources, &edits.resources);
        if from.cpuset_cpus.is_some() {
            claim("the CPUs".into())?;
            to.cpuset_cpus.clone_from(&from.cpuset_cpus);
        }
        if from.cpuset_mems.is_some() {
            claim("the NUMA nodes".into())?;
            to.cpuset_mems.clone_from(&from.cpuset_mems);
        }
        if from.cpu_quota.is_some() {
            claim("the CPU quota".into())?;
            to.cpu_quota = from.cpu_quota;
        }
        if from.memory_bytes.is_some() {
            claim("the memory limit".into())?;
            to.memory_bytes = from.memory_bytes;
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EnvVar;

    fn env(name: &str, value: &str) -> Edits {
        let var = EnvVar {
            name: name.into(),
            value: value.into(),
            default: true,
        };
        Edits {
            env: vec![var],
            additional_gids: vec![44],
            ..Edits::default()
        }
    }

    #[test]
    fn agreement_is_no_conflict_and_disagreement_names_both() {
        let all = |b: Edits| BTreeMap::from([("a".to_owned(), env("X", "1")), ("b".to_owned(), b)]);
        let merged = merge(&all(env("X", "1"))).unwrap();
        assert_eq!((merged.env.len(), merged.additional_gids), (1, vec![44]));
        let error = merge(&all(env("X", "2"))).unwrap_err().to_string();
        assert_eq!(
            error,
            "plugins a and b both set the variable X of the container"
        );
    }
}
