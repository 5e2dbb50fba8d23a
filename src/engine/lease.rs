//! How long a lease may live. The arithmetic is the host's own (`framework.CalculateTTL` of its SDK), so that the
//! login at the target ends when the lease does.

use std::time::{Duration, SystemTime};

use super::Mount;
use super::database::role::Role;
use super::error::Error;
use super::recent;

/// What the mount allows its leases. An operator may change it at any time and nobody tells us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountTerms {
    default: Duration,
    max: Duration,
}

impl MountTerms {
    /// The longest lease.
    pub fn max(self) -> Duration {
        self.max
    }

    /// Asks the host, unless it has just been asked. The lease itself has the mount's terms of its moment in any case, the
    /// host sees to that: what could be a moment behind is the time after which the target refuses the login.
    pub async fn ask(mount: &Mount) -> Result<Self, Error> {
        let host = mount.ports.host.as_ref();
        let asking = async {
            let (default, max) = tokio::try_join!(host.default_lease_ttl(), host.max_lease_ttl())?;
            Ok(Self { default, max })
        };
        mount.terms.ask(mount.ports.clock.as_ref(), recent::MOMENT, asking, |_| true).await
    }
}

/// What bounds a lease, all taken from role and mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Without an increment asked for.
    pub default: Duration,
    /// Counted from the issue of the lease.
    pub max: Duration,
}

impl Terms {
    /// The terms of a role on a mount.
    pub fn of(role: &Role, mount: MountTerms) -> Self {
        Self::within(role.default_ttl, role.max_ttl, mount.default, mount.max)
    }

    /// The terms of a lease with these bounds on a mount; zero for the mount's own.
    pub fn bounded(default: Duration, max: Duration, mount: MountTerms) -> Self {
        Self::within(default, max, mount.default, mount.max)
    }

    /// Zero role values mean the mount's; the mount's maximum caps both.
    fn within(role_default: Duration, role_max: Duration, mount_default: Duration, mount_max: Duration) -> Self {
        let max = if role_max.is_zero() { mount_max } else { role_max.min(mount_max) };
        let default = if role_default.is_zero() { mount_default } else { role_default };
        Self { default, max }
    }

    /// When a lease issued now ends.
    pub fn at_issue(&self, now: SystemTime) -> SystemTime {
        now + self.default.min(self.max)
    }

    /// When a lease renewed now ends: the increment asked for, else the default, never past the maximum counted from
    /// the issue. A lease whose issue is unknown counts from now.
    pub fn at_renew(&self, now: SystemTime, issued: Option<SystemTime>, increment: Duration) -> SystemTime {
        let wanted = if increment.is_zero() { self.default } else { increment };
        (now + wanted).min(issued.unwrap_or(now) + self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn zero_means_the_mounts_value_and_the_mount_caps() {
        let terms = Terms::within(Duration::ZERO, Duration::ZERO, HOUR, 2 * HOUR);
        assert_eq!(terms, Terms { default: HOUR, max: 2 * HOUR });
        assert_eq!(Terms::within(HOUR, 9 * HOUR, HOUR, 2 * HOUR).max, 2 * HOUR);
        let now = SystemTime::UNIX_EPOCH + 100 * HOUR;
        assert_eq!(Terms::within(5 * HOUR, Duration::ZERO, HOUR, 2 * HOUR).at_issue(now), now + 2 * HOUR);
    }

    #[test]
    fn a_renewal_never_passes_the_maximum_counted_from_issue() {
        let terms = Terms { default: HOUR, max: 2 * HOUR };
        let issued = SystemTime::UNIX_EPOCH + 100 * HOUR;
        let now = issued + HOUR + HOUR / 2;
        assert_eq!(terms.at_renew(now, Some(issued), Duration::ZERO), issued + 2 * HOUR);
        assert_eq!(terms.at_renew(now, Some(issued), Duration::from_secs(60)), now + Duration::from_secs(60));
        assert_eq!(terms.at_renew(issued, Some(issued), 90 * HOUR), issued + 2 * HOUR);
    }
}
