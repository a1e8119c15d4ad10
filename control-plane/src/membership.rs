//! etcd's members, as a member is told of them when it starts for the first time.

/// The cluster that a member starts with or joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialCluster {
    /// Name and peer URL of each member, this one included.
    pub members: Vec<(String, String)>,
    pub state: ClusterState,
}

/// etcd's `--initial-cluster-state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// The members start a cluster together.
    New,
    /// The cluster runs, and this member was added to it.
    Existing,
}

impl InitialCluster {
    /// A cluster of one new member.
    #[must_use]
    pub fn single(name: &str, peer_url: &str) -> Self {
        Self { members: vec![(name.into(), peer_url.into())], state: ClusterState::New }
    }

    /// Whether there may be other control planes on this etcd, whose controller managers and schedulers want to lead too.
    #[must_use]
    pub fn has_others(&self) -> bool {
        self.members.len() > 1
    }

    /// etcd's `--initial-cluster`.
    #[must_use]
    pub fn flag(&self) -> String {
        let members: Vec<_> = self.members.iter().map(|(name, url)| format!("{name}={url}")).collect();
        members.join(",")
    }

    /// etcd's `--initial-cluster-state`.
    #[must_use]
    pub const fn state_flag(&self) -> &'static str {
        match self.state {
            ClusterState::New => "new",
            ClusterState::Existing => "existing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_named_with_their_urls() {
        let mut cluster = InitialCluster::single("cp1", "https://10.5.0.10:2380");
        assert_eq!((&*cluster.flag(), cluster.state_flag()), ("cp1=https://10.5.0.10:2380", "new"));
        cluster.members.push(("cp2".into(), "https://10.5.0.11:2380".into()));
        cluster.state = ClusterState::Existing;
        assert_eq!(cluster.flag(), "cp1=https://10.5.0.10:2380,cp2=https://10.5.0.11:2380");
        assert_eq!(cluster.state_flag(), "existing");
    }
}
