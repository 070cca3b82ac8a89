//! Who asks: known from the socket, never from what they say.

use std::path::Path;
use tokio::net::UnixStream;

use crate::agent::{AgentError, RootRequest, RunRequest};
use crate::launch::image::lookup_user;
use crate::launch::{self, FileId, Identity, Network, Source, Wanted};
use crate::model::Record;

/// The process at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer(Option<Identity>);

impl Peer {
    /// Whoever is at the other end.
    pub(super) fn of(stream: &UnixStream) -> Self {
        let Ok(credentials) = stream.peer_cred() else {
            return Self(None);
        };
        // Root may everything, in whatever groups it is.
        let known = match credentials.uid() {
            0 => None,
            uid => lookup_user(Path::new("/"), &uid.to_string()).ok(),
        };
        Self(Some(Identity {
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups: known.map(|u| u.additional_gids).unwrap_or_default(),
        }))
    }
}

/// What the configuration says of who may what.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    /// Members may see and end everybody's workloads.
    pub(super) admin_gid: Option<u32>,
    /// May others use the host's network?
    pub(super) host_network: bool,
}

impl Peer {
    /// May it see and do everything?
    pub(super) fn is_admin(&self, rules: &Rules) -> bool {
        self.0.as_ref().is_some_and(|who| {
            let member = |gid| who.gid == gid || who.groups.contains(&gid);
            who.uid == 0 || rules.admin_gid.is_some_and(member)
        })
    }

    /// May it know of this workload, and act on it?
    pub(super) fn may(&self, rules: &Rules, record: &Record) -> bool {
        self.owns(record.owner) || self.is_admin(rules)
    }

    /// Is it this user?
    pub(super) fn owns(&self, uid: u32) -> bool {
        self.0.as_ref().is_some_and(|who| who.uid == uid)
    }

    /// Its user, if the kernel said.
    pub(super) fn uid(&self) -> Option<u32> {
        self.0.as_ref().map(|who| who.uid)
    }

    /// Whose it is: root may ask for others.
    pub(super) fn sign(&self, owner: &mut u32) -> Result<(), AgentError> {
        match &self.0 {
            None => Err(AgentError::Denied("nobody knows who asks".into())),
            Some(who) if who.uid == 0 => Ok(()),
            Some(who) => {
                *owner = who.uid;
                Ok(())
            }
        }
    }

    /// Makes a request this peer's own. Root may ask for others; anybody else
    /// asks for itself: the job runs as the caller, and sees of the host what
    /// the caller can.
    pub(super) fn own(&self, rules: &Rules, request: &mut RunRequest) -> Result<(), AgentError> {
        let Some(who) = &self.0 else {
            return Err(AgentError::Denied("nobody knows who asks".into()));
        };
        for mount in &mut request.mounts {
            mount.id = None;
        }
        if who.uid == 0 {
            return Ok(());
        }
        request.caller = who.clone();
        let own_user = format!("{}:{}", who.uid, who.gid);
        match &request.user {
            Some(user) if *user != own_user && *user != who.uid.to_string() => {
                return Err(AgentError::Denied(format!(
                    "--user {user}: only root may run a job as somebody else"
                )));
            }
            _ => request.user = Some(own_user),
        }
        // A program of their own choosing would be run as root.
        if let Wanted::Program(name) = &request.runtime
            && !launch::is_known_runtime(name)
        {
            return Err(AgentError::Denied(format!(
                "--runtime {name}: others than root have the choice of auto, built-in, and the names of known OCI runtimes"
            )));
        }
        if request.network == Network::Host && !rules.host_network {
            return Err(AgentError::Denied(
                "the host's network is closed to others than root: agent.host_network in the configuration".into(),
            ));
        }
        for mount in &mut request.mounts {
            mount.id = Some(reach(who, &mount.source)?);
        }
        let root = match &request.root {
            RootRequest::Host { current } => Some(current),
            RootRequest::Folder(path) | RootRequest::Image { path, .. } => Some(path),
            RootRequest::Engine { .. } => None,
        };
        request.root_id = root.map(|path| reach(who, path)).transpose()?;
        Ok(())
    }
}

/// What this user could open at the path. What root opens for somebody must be
/// that, and nothing else.
fn reach(who: &Identity, path: &Path) -> Result<FileId, AgentError> {
    match Source::look_as(who, path) {
        Ok(seen) => Ok(seen.id),
        Err(error) => {
            tracing::info!("{}: not for user {}: {error}", path.display(), who.uid);
            let why = format!("{}: you may not read it", path.display());
            Err(AgentError::Denied(why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Peer {
        Peer(Some(Identity {
            uid,
            gid: uid,
            groups: vec![50],
        }))
    }

    #[test]
    fn others_ask_for_themselves_alone() {
        let rules = Rules::default();
        let mut request = RunRequest {
            root: RootRequest::Host {
                current: "/usr".into(),
            },
            ..RunRequest::default()
        };
        user(1234).own(&rules, &mut request).unwrap();
        assert_eq!(request.caller.uid, 1234);
        assert_eq!(request.user.as_deref(), Some("1234:1234"));
        request.user = Some("root".into());
        let refused = user(1234).own(&rules, &mut request).unwrap_err();
        assert_eq!(refused.code(), "denied");
        request.user = None;
        request.network = Network::Host;
        assert!(user(1234).own(&rules, &mut request).is_err());
        request.network = Network::None;
        for (runtime, may) in [
            ("auto", true),
            ("built-in", true),
            ("runc", true),
            ("/home/bob/runc", false),
            ("./runc", false),
            ("sh", false),
        ] {
            request.runtime = Wanted::from(runtime.to_owned());
            assert_eq!(
                user(1234).own(&rules, &mut request).is_ok(),
                may,
                "{runtime}"
            );
        }
        request.runtime = Wanted::Auto;
        request.root = RootRequest::Folder("/root".into());
        let closed = std::fs::metadata("/root").is_ok_and(|m| {
            use std::os::unix::fs::MetadataExt;
            m.mode() & 0o005 == 0
        });
        let closed = closed && crate::sys::is_root();
        assert_eq!(user(1234).own(&rules, &mut request).is_err(), closed);
        // Root may ask for anybody.
        request.user = Some("root".into());
        user(0).own(&rules, &mut request).unwrap();
    }

    #[test]
    fn admins_are_root_and_the_group() {
        let rules = Rules {
            admin_gid: Some(50),
            ..Rules::default()
        };
        assert!(user(0).is_admin(&Rules::default()));
        assert!(!user(7).is_admin(&Rules::default()));
        assert!(user(7).is_admin(&rules));
        assert!(!Peer(None).is_admin(&rules));
    }
}
